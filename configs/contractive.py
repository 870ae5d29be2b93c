"""The contractive autoencoder: 784-256-32 with sigmoids, and the exact Jacobian of the encoder penalised
(Rifai et al. 2011).

    python -m experiments.train --config=configs/contractive.py --workdir=runs/contractive
"""

from aejax.config import module, parse_arg
from configs import common


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = common.mlp(module("dense", features=32, activation="sigmoid"), hidden=(256,))
    config.encoder.activation = config.decoder.activation = "sigmoid"
    config.objective.weights.contractive = 1.0
    common.shorten(config, 600)
    return common.finish(config, flags.tiny)
