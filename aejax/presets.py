"""Parts of configs: what the configs that ship share, and what a config file of one's own may start from.

from aejax import presets
from aejax.config import module

def get_config(arg=""):
    config = presets.mlp(module("gaussian", features=16))
    config.objective.weights.kl = 1.0
    return presets.finish(config, tiny=arg == "tiny")
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

from aejax.config import default, lock, module, shrink


def mnist() -> ConfigDict:
    """Returns a config for MNIST without a model: 2,000 steps of 128 images."""
    config = default()
    config.data.name = "mnist"
    config.steps, config.checkpoint_every, config.log_every = 2_000, 1_000, 50
    config.likelihood = module("bernoulli")
    config.optim.schedule = "cosine"
    return config


def mlp(bottleneck: ConfigDict, hidden: Sequence[int] = (512, 256)) -> ConfigDict:
    """Returns `mnist` with a dense model: 784, `hidden`, the bottleneck, `hidden` mirrored, 784."""
    config = mnist()
    config.encoder = module("mlp", features=tuple(hidden))
    config.bottleneck = bottleneck
    config.decoder = module("mlp", features=tuple(hidden[::-1]))
    return config


def resnet(bottleneck: ConfigDict, features: Sequence[int] = (16, 32)) -> ConfigDict:
    """Returns `mnist` with residual stages down to 7x7 and up again, for 500 steps."""
    config = mnist()
    shorten(config, 500)
    config.encoder = module("resnet", features=tuple(features))
    config.bottleneck = bottleneck
    config.decoder = module("resnet", features=tuple(features[::-1]))
    return config


def images(tiny: bool = False, large: bool = False) -> ConfigDict:
    """Returns a config for tokenizers of images, without a model: MNIST enlarged to 32x32, for 500 steps of 32 images.

    `large` is ImageNet at 256x256, cropped at random and mirrored, for 100,000 steps of 16 images, and `tiny` 8x8
    digits, for a few steps.
    """
    config = mnist()
    config.likelihood = module("squared_error")
    config.data.size, config.batch_size = 32, 32
    shorten(config, 500)
    if large:
        config.data.name, config.data.size, config.batch_size, config.optim.lr = "imagenet2012", 256, 16, 1e-4
        config.data.fit, config.data.flip = "random", True
        config.steps, config.checkpoint_every, config.log_every = 100_000, 5_000, 100
    if tiny:
        config.data.name, config.data.size = "digits", 0
        shrink(config)
    return config


def clicks() -> ConfigDict:
    """Returns a config for clicks of users on items without a model: 800 steps of 500 users, divided by their norm."""
    config = default()
    config.data.name = "clicks"
    config.inputs = "unit_norm"
    config.likelihood = module("multinomial")
    config.batch_size, config.steps, config.checkpoint_every, config.log_every = 500, 800, 200, 40
    return config


def series() -> ConfigDict:
    """Returns a config for series without a model: `waves`, standardized, for 600 steps of 64 windows."""
    config = default()
    config.data.name, config.data.standardize = "waves", True
    config.data.held_out = 3  # the windows with an anomaly
    config.batch_size, config.optim.lr, config.optim.schedule = 64, 3e-3, "cosine"
    shorten(config, 600)
    return config


def shorten(config: ConfigDict, steps: int) -> None:
    """Sets fewer steps, for models that take longer for each step."""
    config.steps, config.checkpoint_every, config.log_every = steps, steps // 2, 20


def finish(config: ConfigDict, tiny: bool) -> ConfigDict:
    """Locks the config; `tiny` first makes it run in seconds, on 8x8 digits with one narrow layer or stage each way."""
    if tiny:
        config.data.name = "digits"
        for part in (config.encoder, config.decoder):
            if not isinstance(part.features, int):
                part.features = (8,)[: len(part.features)]
        shrink(config)
    return lock(config)
