"""FactorVAE: a discriminator estimates the total correlation, which has a weight of 10 (Kim and Mnih 2018).

    aejax train --config=factor_vae --workdir=runs/factor_vae

About 40 seconds on two CPU cores; squared error 10.4 a test image, 109 nats.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = presets.mlp(module("gaussian", features=16))
    config.objective.weights = {"kl": 1.0, "density_ratio": 10.0}
    config.adversary = module("factor_vae", features=(256, 256), lr=1e-4)
    return presets.finish(config, flags.tiny)
