"""The k-sparse autoencoder: 784-1024-784, linear, with 32 active units per image (Makhzani and Frey 2014).

It has a pre-encoder bias and an auxiliary loss that revives dead units (Gao et al. 2024).

    python -m experiments.train --config=configs/topk.py --workdir=runs/topk

About 40 seconds on two CPU cores; squared error 8.4 a test image.

`topk.py:batch` keeps 32 units an image on average over the batch (Bussmann et al. 2024).
"""

from aejax.config import module, parse_arg
from configs import common


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, batch=False)
    name = "batch_topk" if flags.batch else "topk"
    config = common.mlp(module(name, features=1024, k=32, dead_after=200, revive=64), hidden=())
    config.likelihood = module("squared_error")
    config.objective.weights.revival = 1 / 32
    common.shorten(config, 1_000)
    return common.finish(config, flags.tiny)
