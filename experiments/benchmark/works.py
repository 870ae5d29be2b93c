"""What aejax and its peers are compared on. Importing this imports neither, so that no process pays for the other."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Work:
    """The same work for every contender.

    Attributes:
      what: the table's words for it.
      kind: what is timed, "train", "encode" or "likelihood": the function of a contender's module.
      config: of aejax's model, objective and optimizer.
      images: uint8 [n, height, width, channels].
      batch: images in a step, or in a call where nothing is trained.
      steps: of a round, where something is trained.
      contenders: names in `contenders.CONTENDERS`, aejax first.
      goals: how many times as fast as the best variant of a peer aejax is to be, by peer.
      tolerance: how far apart, as a share, two contenders' values may be, by value; see `contest.verify`.
    """

    name: str
    letter: str
    what: str
    config: Callable[[], Any]
    images: Callable[[], np.ndarray]
    batch: int
    contenders: tuple[str, ...]
    goals: Mapping[str, float]
    tolerance: Mapping[str, float]
    kind: str = "train"
    steps: int = 0


def _mnist() -> np.ndarray:
    """All 60,000 of the train split."""
    from aejax import config, data

    section = config.default().data
    section.name = "mnist"
    return data.read(data.find(section)["train"])["x"]


def _mnist_few() -> np.ndarray:
    return _mnist()[:2_000]


def _squares() -> np.ndarray:
    """2,048 images 32x32x3 of 16 x 16 squares in random colours."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (2_048, 16, 16, 3), np.uint8).repeat(2, 1).repeat(2, 2)


def plain(config: Any, batch: int) -> Any:
    """The config with what every library has: Adam at a rate of 1e-3, no schedule, no averaged parameters."""
    config = config.copy_and_resolve_references().unlock()
    config.optim.update({"name": "adam", "lr": 1e-3, "schedule": "constant", "warmup": 0, "clip": 0.0})
    config.update({"batch_size": batch, "ema": 0.0})
    return config


def _mlp() -> Any:
    from configs import stacked

    return plain(stacked.get_config("mnist"), 256)


def _vae() -> Any:
    from aejax.config import module
    from configs import common

    config = common.mlp(module("gaussian", features=20), hidden=(400,))
    config.objective.weights.kl = 1.0
    return plain(config, 128)


def _conv() -> Any:
    from configs import conv

    return plain(conv.get_config("mnist"), 256)


def _vq_vae() -> Any:
    from aejax.config import module
    from configs import common

    config = common.resnet(module("vq", codes=256, features=16), features=(64, 128))
    config.likelihood = module("squared_error")
    config.objective.weights.commitment = 0.25
    return plain(config, 64)


_PYTORCH = ("pytorch, eager", "pytorch, compiled", "pytorch, huge pages")
_PYTORCH_IMAGES = ("pytorch, eager", "pytorch, channels_last", "pytorch, compiled", "pytorch, huge pages")
# Before any step only the order of float32 sums differs. Adam divides a gradient by its own size, so that where it is
# nearly 0 rounding says which way its weight moves: later losses agree less well. The convolutions' losses swing in
# these steps, and PyTorch in float32 differs from itself in float64 by 0.3%.
_DETERMINISTIC = {"first loss": 1e-4, "last loss": 1e-3}
_SWINGING = {"first loss": 1e-4, "last loss": 1e-2}

_ALL = (
    Work(
        "mlp",
        "a",
        "train an MLP autoencoder 784-1000-500-250-30",
        _mlp,
        _mnist,
        256,
        ("aejax", *_PYTORCH),
        {"pytorch": 1.3},
        _DETERMINISTIC,
        steps=100,
    ),
    Work(
        "vae",
        "b",
        "train an MLP VAE 784-400-20",
        _vae,
        _mnist,
        128,
        ("aejax", *_PYTORCH, "pythae", "flax"),
        {"pytorch": 2.0, "pythae": 3.0},
        # Each draws its own noise: five times the deviation of the difference between two seeds, 0.4% of either.
        {"first loss": 2e-2, "last loss": 2e-2},
        steps=400,
    ),
    Work(
        "conv",
        "c",
        "train the convolutional autoencoder `conv`",
        _conv,
        _mnist,
        256,
        ("aejax", *_PYTORCH_IMAGES, "keras"),
        {"pytorch": 1.0, "keras": 2.0},
        _SWINGING,
        steps=6,
    ),
    Work(
        "vq_vae",
        "d",
        "train a residual VQ-VAE on 32x32x3",
        _vq_vae,
        _squares,
        64,
        ("aejax", *_PYTORCH_IMAGES),
        {"pytorch": 1.0},
        _DETERMINISTIC,
        steps=10,
    ),
    Work(
        "encode",
        "e",
        "encode 60,000 images with the VAE",
        _vae,
        _mnist,
        256,
        ("aejax", "pythae", "bare forward, 256", "bare forward, 1024"),
        {"pythae": 5.0, "bare forward": 0.9},
        {"mean square of the codes": 1e-4},  # of the posteriors' means: no noise, but another order of sums
        kind="encode",
    ),
    Work(
        "likelihood",
        "f",
        "log p(x) by 200 importance samples with the VAE",
        _vae,
        _mnist_few,
        100,
        ("aejax", "pythae"),
        {"pythae": 20.0},
        # Five times the deviation of the difference between two seeds, 0.2%.
        {"nats of 50 images": 1e-2},
        kind="likelihood",
    ),
)
WORKS: dict[str, Work] = {work.name: work for work in _ALL}
