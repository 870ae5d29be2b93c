"""InfoVAE, or MMD-VAE: instead of the KL, an MMD between aggregate posterior and prior (Zhao et al. 2019).

    python -m experiments.train --config=configs/info_vae.py --workdir=runs/info_vae

About 56 seconds on two CPU cores; squared error 19.9 a test image, 148 nats.
"""

from aejax.config import module, parse_arg
from configs import common


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = common.mlp(module("gaussian", features=16))
    config.objective.weights.mmd = 1_000.0
    config.objective.options.mmd = {"kernel": "rbf"}
    return common.finish(config, flags.tiny)
