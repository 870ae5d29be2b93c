"""An autoencoder whose codes have unit length: 784-512-256-16 on the sphere.

python -m experiments.train --config=configs/spherical.py --workdir=runs/spherical
"""

from aejax.config import module, parse_arg
from configs import common


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    return common.finish(common.mlp(module("spherical", features=16)), flags.tiny)
