"""The regularized autoencoder: penalties on the codes and on the decoder's gradients replace noise (Ghosh et al. 2020).

    aejax train --config=rae --workdir=runs/rae

About 153 seconds on two CPU cores; squared error 15.9 a test image.

`rae:spectral` divides the decoder's kernels by their largest singular value, `:l2` penalizes them.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, spectral=False, l2=False)
    config = presets.mlp(module("dense", features=16))
    config.likelihood = module("squared_error")
    config.objective.weights.code_l2 = 1e-2
    if flags.spectral:
        config.decoder.spectral = True
    elif flags.l2:
        config.objective.weights.decoder_l2 = 1e-4
    else:
        config.objective.weights.gradient_penalty = 1e-3
        presets.shorten(config, 600)
    return presets.finish(config, flags.tiny)
