"""The sparse autoencoder: 784-512 sigmoids, each of which should be active in 5% of the images (Ng 2011).

    aejax train --config=sparse --workdir=runs/sparse

About 10 seconds on two CPU cores; squared error 10.7 a test image.

The mean activation is 0.100 after these 2,000 steps and 0.070 after 10,000, with a squared error of 3.4
(`aejax evaluate --workdir=runs/sparse --groups=reconstruction,codes`, experiments/results/sparse).

`sparse:l1` has ReLUs with an L1 penalty, the squared error and a pre-encoder bias instead.
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, l1=False)
    config = presets.mlp(module("dense", features=512, activation="relu" if flags.l1 else "sigmoid"), hidden=())
    if flags.l1:
        config.likelihood = module("squared_error")
        config.objective.weights.l1 = 0.5
    else:
        config.objective.weights.kl_sparsity = 1.0
        config.objective.options.kl_sparsity = {"target": 0.05}
    return presets.finish(config, flags.tiny)
