"""The variational autoencoder, 784-512-256-16 (Kingma and Welling 2014).

    python -m experiments.train --config=configs/vae.py --workdir=runs/vae

About 21 seconds on two CPU cores; squared error 10.9 a test image, 109 nats.

Options: `vae.py:sigma` for a Gaussian likelihood with the optimal variance (Rybkin et al. 2021).
"""

from aejax.config import module, parse_arg
from configs import common


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, sigma=False)
    config = common.mlp(module("gaussian", features=16))
    config.objective.weights.kl = 1.0
    if flags.sigma:
        config.likelihood = module("gaussian", variance="optimal")
    return common.finish(config, flags.tiny)
