"""The contractive autoencoder: 784-64-784 with sigmoid codes and a penalty on the encoder's Jacobian.

The Jacobian is exact (Rifai et al. 2011).

    python -m experiments.train --config=configs/contractive.py --workdir=runs/contractive

About 49 seconds on two CPU cores; squared error 14.8 a test image.
"""

from aejax.config import module, parse_arg
from configs import common


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = common.mlp(module("dense", features=64, activation="sigmoid"), hidden=())
    config.objective.weights.contractive = 0.1
    config.optim.lr = 1e-2  # sigmoids learn slowly
    common.shorten(config, 1_000)
    return common.finish(config, flags.tiny)
