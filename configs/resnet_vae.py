"""A VAE of residual convolutions, 28x28 -> 7x7 -> 16, with group normalization.

    python -m experiments.train --config=configs/resnet_vae.py --workdir=runs/resnet_vae

About 94 seconds on two CPU cores; squared error 18.7 a test image, 137 nats.
"""

from aejax.config import module, parse_arg
from configs import common


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = common.resnet(module("gaussian", features=16))
    config.objective.weights.kl = 1.0
    return common.finish(config, flags.tiny)
