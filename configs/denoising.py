"""The denoising autoencoder: 784-512-256-32, trained to remove noise from its input (Vincent et al. 2010).

    python -m experiments.train --config=configs/denoising.py --workdir=runs/denoising

About 14 seconds on two CPU cores; squared error 10.6 a test image.

A fraction of 0.3 of the pixels is set to 0. `denoising.py:gaussian` adds noise of standard deviation 0.3 instead,
`:salt_and_pepper` sets that fraction to 0 or 1.
"""

from aejax.config import module, parse_arg
from configs import common


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, gaussian=False, salt_and_pepper=False)
    config = common.mlp(module("dense", features=32))
    config.corruption = {"name": "masking", "level": 0.3}
    for name in ("gaussian", "salt_and_pepper"):
        if flags[name]:
            config.corruption.name = name
    return common.finish(config, flags.tiny)
