"""What the experiments on MNIST share: no experiment of its own."""

import aejax
from aejax.config import module


def mnist():
    """A config on MNIST, without a model: 2,000 steps of 128 images."""
    config = aejax.config.default()
    config.data.name = "mnist"
    config.steps, config.checkpoint_every, config.log_every = 2_000, 1_000, 50
    config.likelihood = module("bernoulli")
    config.optim.schedule = "cosine"
    return config


def mlp(bottleneck, hidden=(512, 256)):
    """784 - hidden - bottleneck - hidden mirrored - 784, dense."""
    config = mnist()
    config.encoder = module("mlp", features=hidden)
    config.bottleneck = bottleneck
    config.decoder = module("mlp", features=hidden[::-1])
    return config


def resnet(bottleneck, features=(16, 32)):
    """Residual stages down to 7x7 and up again, 500 steps."""
    config = mnist()
    shorten(config, 500)
    config.encoder = module("resnet", features=features)
    config.bottleneck = bottleneck
    config.decoder = module("resnet", features=features[::-1])
    return config


def shorten(config, steps):
    """Fewer steps, for models that take longer for each."""
    config.steps, config.checkpoint_every, config.log_every = steps, steps // 2, 20


def finish(config, tiny):
    """Locks the config; `tiny` first makes it run in seconds, on 8x8 digits with one narrow layer or stage each way."""
    if tiny:
        config.data.name = "digits"
        for part in (config.encoder, config.decoder):
            if not isinstance(part.features, int):
                part.features = (8,)[: len(part.features)]
        aejax.config.shrink(config)
    return aejax.config.lock(config)
