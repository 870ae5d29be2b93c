"""A VAE of tables, whose columns have likelihoods of their own (Nazabal et al. 2020, HI-VAE).

    aejax train --config=table --workdir=runs/table --config.data.name=FILE.parquet

About 10 seconds on two CPU cores for `people`, the data without `--config.data.name`.

The dtypes of a .parquet or .csv file, or of a DataFrame in `aejax.fit(aejax.load_config("table"), frame)`, say what a
column is: numbers, booleans, categories or levels. `--config.data.missing=True` allows empty values, and `run.impute`
fills them.
"""

from aejax.config import default, lock, module, parse_arg, shrink


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = default()
    config.data.name = "people"
    config.likelihood = module("mixed")
    config.encoder = module("mlp", features=(64, 64))
    config.bottleneck = module("gaussian", features=4)
    config.decoder = module("mlp", features=(64, 64))
    config.objective.weights.kl = 1.0
    config.batch_size, config.steps, config.checkpoint_every, config.log_every = 128, 2_000, 500, 50
    config.optim.lr, config.optim.schedule = 2e-3, "cosine"
    if flags.tiny:
        config.encoder.features = config.decoder.features = (8,)
        shrink(config)
    return lock(config)
