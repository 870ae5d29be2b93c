"""The regularized autoencoder: penalties on codes and decoder instead of noise (Ghosh et al. 2020).

    python -m experiments.train --config=configs/rae.py --workdir=runs/rae

About 153 seconds on two CPU cores; squared error 15.9 a test image.

The decoder's gradient is penalized. `rae.py:spectral` instead divides the decoder's kernels by their largest singular
values, and `:l2` penalizes the kernels.
"""

from aejax.config import module, parse_arg
from configs import common


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, spectral=False, l2=False)
    config = common.mlp(module("dense", features=16))
    config.likelihood = module("squared_error")
    config.objective.weights.code_l2 = 1e-2
    if flags.spectral:
        config.decoder.spectral = True
    elif flags.l2:
        config.objective.weights.decoder_l2 = 1e-4
    else:
        config.objective.weights.gradient_penalty = 1e-3
        common.shorten(config, 600)
    return common.finish(config, flags.tiny)
