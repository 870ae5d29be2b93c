"""The adversarial autoencoder: a discriminator pulls deterministic codes toward N(0, I) (Makhzani et al. 2016).

    aejax train --config=aae --workdir=runs/aae

About 45 seconds on two CPU cores; squared error 9.0 a test image.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = presets.mlp(module("dense", features=16))
    config.objective.weights.adversarial = 1.0
    config.adversary = module("aae", features=(256, 256), lr=2e-4)
    return presets.finish(config, flags.tiny)
