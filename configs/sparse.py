"""The sparse autoencoder: 784-512-784, with sigmoid units pulled toward a mean activation of 5% (Ng 2011).

    python -m experiments.train --config=configs/sparse.py --workdir=runs/sparse

About 10 seconds on two CPU cores; squared error 10.7 a test image.

`sparse.py:l1` has relu units with an l1 penalty, squared error and a pre-encoder bias instead.
"""

from aejax.config import module, parse_arg
from configs import common


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, l1=False)
    config = common.mlp(module("dense", features=512, activation="relu" if flags.l1 else "sigmoid"), hidden=())
    if flags.l1:
        config.likelihood = module("squared_error")
        config.objective.weights.l1 = 0.5
    else:
        config.objective.weights.kl_sparsity = 1.0
        config.objective.options.kl_sparsity = {"target": 0.05}
    return common.finish(config, flags.tiny)
