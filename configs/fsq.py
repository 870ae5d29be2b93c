"""Finite scalar quantization: 7x7 codes out of 8 x 6 x 5 = 240 fixed points (Mentzer et al. 2024).

    python -m experiments.train --config=configs/fsq.py --workdir=runs/fsq

About 47 seconds on two CPU cores; squared error 5.3 a test image.
"""

from aejax.config import module, parse_arg
from configs import common


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    return common.finish(common.resnet(module("fsq", levels=(8, 6, 5))), flags.tiny)
