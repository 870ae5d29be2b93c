"""aejax's configs and the images of the works. aejax is imported only when one is asked for, see `works`."""

from collections.abc import Callable
from typing import Any

import numpy as np


def mnist() -> np.ndarray:
    """All 60,000 of the train split."""
    from aejax import config, data

    section = config.default().data
    section.name = "mnist"
    return data.read(data.find(section)["train"])["x"]


def mnist_few() -> np.ndarray:
    return mnist()[:2_000]


def squares() -> np.ndarray:
    """2,048 images 32x32x3 of 16 x 16 squares in random colors."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (2_048, 16, 16, 3), np.uint8).repeat(2, 1).repeat(2, 2)


def plain(config: Any, batch: int) -> Any:
    """The config with what every library has: Adam at a rate of 1e-3, no schedule, no averaged parameters."""
    config = config.copy_and_resolve_references().unlock()
    config.optim.update({"name": "adam", "lr": 1e-3, "schedule": "constant", "warmup": 0, "clip": 0.0})
    config.update({"batch_size": batch, "ema": 0.0})
    return config


def in_bfloat16(config: Callable[[], Any], batch: int) -> Any:
    """The config with encoder and decoder in bfloat16, and batches of another size."""
    changed = config()
    changed.update({"dtype": "bfloat16", "batch_size": batch})
    return changed


def mlp() -> Any:
    from configs import stacked

    return plain(stacked.get_config("mnist"), 256)


def vae() -> Any:
    from aejax.config import module
    from configs import common

    config = common.mlp(module("gaussian", features=20), hidden=(400,))
    config.objective.weights.kl = 1.0
    return plain(config, 128)


def conv() -> Any:
    from configs import conv

    return plain(conv.get_config("mnist"), 256)


def vq_vae() -> Any:
    from aejax.config import module
    from configs import common

    config = common.resnet(module("vq", codes=256, features=16), features=(64, 128))
    config.likelihood = module("squared_error")
    config.objective.weights.commitment = 0.25
    return plain(config, 64)
