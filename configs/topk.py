"""The k-sparse autoencoder: 784-1024-784, linear, with 32 active units (Makhzani and Frey 2014), a pre-encoder bias
and an auxiliary loss that revives dead units (Gao et al. 2024).

    aejax train --config=topk --workdir=runs/topk

About 40 seconds on two CPU cores; squared error 8.4 a test image.

`topk:batch` keeps 32 units per image on average over the batch (Bussmann et al. 2024).
"""

from aejax import presets
from aejax.config import module, parse_arg


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, batch=False)
    name = "batch_topk" if flags.batch else "topk"
    config = presets.mlp(module(name, features=1024, k=32, dead_after=200, revive=64), hidden=())
    config.likelihood = module("squared_error")
    config.objective.weights.revival = 1 / 32
    presets.shorten(config, 1_000)
    return presets.finish(config, flags.tiny)
