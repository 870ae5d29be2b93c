"""The JumpReLU autoencoder: 784-1024, where each unit has a threshold that is learned under an L0 penalty
(Rajamanoharan et al. 2024).

    aejax train --config=jumprelu --workdir=runs/jumprelu

About 48 seconds on two CPU cores; squared error 3.1 a test image.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = presets.mlp(module("jumprelu", features=1024, dead_after=200, revive=64), hidden=())
    config.likelihood = module("squared_error")
    config.objective.weights.l0 = 0.05
    config.objective.weights.revival = 1 / 32
    presets.shorten(config, 1_000)
    return presets.finish(config, flags.tiny)
