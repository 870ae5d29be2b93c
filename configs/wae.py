"""The Wasserstein autoencoder, WAE-MMD: deterministic codes whose distribution is pulled toward N(0, I)
(Tolstikhin et al. 2018).

    aejax train --config=wae --workdir=runs/wae

About 40 seconds on two CPU cores; squared error 11.6 a test image.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False)
    config = presets.mlp(module("dense", features=16))
    config.likelihood = module("squared_error")
    config.objective.weights.mmd = 10.0
    return presets.finish(config, flags.tiny)
