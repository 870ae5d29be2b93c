"""Finite scalar quantization: 7x7 codes of 8 x 6 x 5 = 240 fixed points, which cannot collapse (Mentzer et al. 2024).

    aejax train --config=fsq --workdir=runs/fsq

About 47 seconds on two CPU cores; squared error 5.3 a test image.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    return presets.finish(presets.resnet(module("fsq", levels=(8, 6, 5))), flags.tiny)
