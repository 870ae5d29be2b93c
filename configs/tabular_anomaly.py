"""A denoising autoencoder of rows, whose error tells anomalies from what it was trained on (Vincent et al. 2010).

    aejax train --config=tabular_anomaly --workdir=runs/tabular_anomaly
    aejax evaluate --workdir=runs/tabular_anomaly

About 6 seconds of CPU time; the AUROC of the zeros is about 0.87. Trains on `digits` without the zeros
(`data.held_out`), which `aejax evaluate` tells from the other digits by their reconstruction;
`--config.data.name=FILE.npz --config.data.standardize=True` reads rows `x` and a `label` of one's own. `python -m
experiments.anomaly` compares this model, under the scores of `aejax.sklearn.AutoencoderOutlierDetector`, with the
detectors of pyod.
"""

from aejax.config import default, lock, module, parse_arg, shrink


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = default()
    config.data.held_out = 0
    config.encoder = module("mlp", features=(64,))
    config.bottleneck = module("dense", features=8)
    config.decoder = module("mlp", features=(64,))
    config.corruption = module("gaussian", level=0.1)
    config.batch_size, config.steps, config.checkpoint_every, config.log_every = 128, 1_000, 500, 50
    config.optim.schedule = "cosine"
    if flags.tiny:
        config.encoder.features = config.decoder.features = (8,)
        shrink(config)
    return lock(config)
