"""Finite scalar quantization: 7x7 codes of 8 x 6 x 5 = 240 fixed points, which cannot collapse (Mentzer et al. 2024).

    aejax train --config=fsq --workdir=runs/fsq

About 47 seconds on two CPU cores; squared error 5.3 a test image.

`fsq:residual` quantizes what is left once more, with steps that are finer by the number of values of a unit.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, residual=False)
    bottleneck = module("fsq", levels=(8, 6, 5))
    if flags.residual:
        bottleneck.symmetric = True
        bottleneck = module("residual", quantizer=bottleneck, levels=2)
    return presets.finish(presets.resnet(bottleneck), flags.tiny)
