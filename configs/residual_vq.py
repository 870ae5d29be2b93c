"""Residual VQ: each 7x7 code is a sum of entries of 4 codebooks of 64, each of which codes what the ones before left
(Zeghidour et al. 2021).

    aejax train --config=residual_vq --workdir=runs/residual_vq

About 73 seconds on two CPU cores; squared error 4.3 a test image.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = presets.resnet(module("residual_vq", levels=4, codes=64, features=16, kmeans=True, revive_after=50))
    config.objective.weights.commitment = 0.25
    if flags.tiny:
        config.bottleneck.levels, config.bottleneck.codes = 2, 8
    return presets.finish(config, flags.tiny)
