"""The beta-TCVAE: the KL is split into three parts, with a weight of 4 on the total correlation (Chen et al. 2018).

    aejax train --config=beta_tcvae --workdir=runs/beta_tcvae

About 60 seconds on two CPU cores; squared error 17.9 a test image, 124 nats.

`beta_tcvae:paper` is the dense model of the paper for dSprites: 1200-1200-10 with relu and 1200-1200-1200 with tanh, a
weight of 6, and 50 epochs of 360 steps of 2,048 images. It reads `--config.data.name=dsprites.npz`, the published file,
and without it `shapes` at 64x64.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, paper=False)
    config = presets.mlp(module("gaussian", features=16))
    config.objective.weights = {"mutual_information": 1.0, "total_correlation": 4.0, "dimension_kl": 1.0}
    if flags.paper:
        config.data.name, config.data.size = "shapes", 0 if flags.tiny else 64
        config.encoder = module("mlp", features=(1200, 1200))
        config.decoder = module("mlp", features=(1200, 1200, 1200), activation="tanh")
        config.bottleneck.features = 10
        config.objective.weights.total_correlation = 6.0
        config.optim.schedule = "constant"
        config.batch_size, config.steps = 2_048, 50 * 360
        config.checkpoint_every, config.log_every = 3_600, 360
    return presets.finish(config, flags.tiny)
