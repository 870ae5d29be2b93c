"""Residual VQ: 7x7 codes, each the sum of one code from each of 4 codebooks of 64 (Zeghidour et al. 2021).

Each codebook quantizes the remainder of the one before it.

    python -m experiments.train --config=configs/residual_vq.py --workdir=runs/residual_vq

About 73 seconds on two CPU cores; squared error 4.3 a test image.
"""

from aejax.config import module, parse_arg
from configs import common


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = common.resnet(module("residual_vq", levels=4, codes=64, features=16, kmeans=True, revive_after=50))
    config.objective.weights.commitment = 0.25
    if flags.tiny:
        config.bottleneck.levels, config.bottleneck.codes = 2, 8
    return common.finish(config, flags.tiny)
