"""The contractive autoencoder: 784-64-784 with sigmoid codes and a penalty on the exact Jacobian of the
encoder (Rifai et al. 2011).

    aejax train --config=contractive --workdir=runs/contractive

About 49 seconds on two CPU cores; squared error 14.8 a test image.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = presets.mlp(module("dense", features=64, activation="sigmoid"), hidden=())
    config.objective.weights.contractive = 0.1
    config.optim.lr = 1e-2  # sigmoids learn slowly
    presets.shorten(config, 1_000)
    return presets.finish(config, flags.tiny)
