"""What aejax and its peers are compared on.

Importing this imports neither, so that no process pays for the other: configs and images import aejax when called.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Work:
    """The same work for every contender.

    Attributes:
      what: words for the table, which begin with a letter.
      kind: what is timed, "train", "encode" or "likelihood": the function of a contender's module.
      model: name of the peers' model, where something is trained.
      config: of aejax's model, objective and optimizer.
      images: uint8 [n, height, width, channels].
      batch: images in a step, or in a call where nothing is trained.
      steps: of a round, where something is trained.
      contenders: names in `contenders.CONTENDERS`, aejax first.
      goals: how many times as fast as the best variant of a peer aejax is to be, by peer, or as one of its variants.
      tolerance: how far apart, as a share, two contenders' values may be, by value; see `contest.verify`.
    """

    name: str
    what: str
    config: Callable[[], Any]
    images: Callable[[], np.ndarray]
    batch: int
    contenders: tuple[str, ...]
    goals: Mapping[str, float]
    tolerance: Mapping[str, float]
    kind: str = "train"
    model: str = ""
    steps: int = 0


def mnist() -> np.ndarray:
    """All 60,000 of the train split."""
    from aejax import config, data

    section = config.default().data
    section.name = "mnist"
    return data.read(data.find(section)["train"])["x"]


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


SAE_K = 32  # units that the sparse autoencoder keeps


def activations() -> np.ndarray:
    """8,192 vectors of 768 random values, as images of 16 x 16 x 3."""
    return np.random.default_rng(0).integers(0, 256, (8_192, 16, 16, 3), np.uint8)


def sae() -> Any:
    from aejax.config import default, module

    config = default()
    config.bottleneck = module("topk", features=16_384, k=SAE_K)
    config.decoder = module("dictionary")
    return plain(config, 4_096)


def burda(arg: str = "") -> Any:
    from configs import burda

    config = plain(burda.get_config(arg), 20)
    config.optim.options = {}  # Adam's own epsilon
    config.data.train = config.data.validation = ""  # of the images that are given
    return config


def vq_vae() -> Any:
    from aejax.config import module
    from configs import common

    config = common.resnet(module("vq", codes=256, features=16), features=(64, 128))
    config.likelihood = module("squared_error")
    config.objective.weights.commitment = 0.25
    return plain(config, 64)


def series() -> np.ndarray:
    """2,048 random series of 256 time steps and 8 channels."""
    return np.random.default_rng(0).integers(0, 256, (2_048, 256, 8), np.uint8)


def volumes() -> np.ndarray:
    """The 2,304 solids of 16 x 16 x 16 voxels."""
    from aejax.data.synthetic import make_volumes

    return make_volumes(0).take(np.arange(2_304))["x"]


def conv_axes(features: tuple[int, ...], batch: int) -> Any:
    from aejax.config import default, module

    config = default()
    config.encoder, config.decoder = module("conv", features=features), module("conv", features=features[::-1])
    config.bottleneck = module("conv", features=features[-1])
    return plain(config, batch)


_PYTORCH = ("pytorch, eager", "pytorch, compiled", "pytorch, fused Adam", "pytorch, huge pages")
_PYTORCH_IMAGES = ("pytorch, eager", "pytorch, channels_last", *_PYTORCH[1:])
# Before any step only the order of float32 sums differs. Adam divides a gradient by its own size, so that where it is
# nearly 0 rounding says which way its weight moves: later losses agree less well. The convolutions' losses swing in
# these steps, and PyTorch in float32 differs from itself in float64 by 0.3%.
_DETERMINISTIC = {"first loss": 1e-4, "last loss": 1e-3}
_SWINGING = {"first loss": 1e-4, "last loss": 1e-2}
# Binary images are drawn, too, of 20 a step: five times the deviation of the difference between two seeds.
_DRAWN = {"first loss": 2e-2, "last loss": 0.12}

_ALL = (
    Work(
        "mlp",
        "(a) train an MLP autoencoder 784-1000-500-250-30",
        mlp,
        mnist,
        256,
        ("aejax", *_PYTORCH),
        {"pytorch": 1.0},
        _DETERMINISTIC,
        model="mlp",
        steps=100,
    ),
    Work(
        "vae",
        "(b) train an MLP VAE 784-400-20",
        vae,
        mnist,
        128,
        ("aejax", *_PYTORCH, "pythae", "flax", "flax, huge pages"),
        {"pytorch": 1.0, "pythae": 1.0},
        # Each draws its own noise: five times the deviation of the difference between two seeds, 0.4% of either.
        {"first loss": 2e-2, "last loss": 2e-2},
        model="vae",
        steps=400,
    ),
    Work(
        "conv",
        "(c) train the convolutional autoencoder `conv`",
        conv,
        mnist,
        256,
        ("aejax", *_PYTORCH_IMAGES, "keras", "keras, huge pages"),
        {"pytorch": 1.0, "keras": 1.0},
        _SWINGING,
        model="conv",
        steps=6,
    ),
    Work(
        "vq_vae",
        "(d) train a residual VQ-VAE on 32x32x3",
        vq_vae,
        squares,
        64,
        ("aejax", *_PYTORCH_IMAGES),
        {"pytorch": 1.0},
        _DETERMINISTIC,
        model="vq_vae",
        steps=10,
    ),
    Work(
        "encode",
        "(e) encode 60,000 images with the VAE",
        vae,
        mnist,
        256,
        ("aejax", "pythae", "bare forward, 256", "bare forward, 1024"),
        {"pythae": 1.0, "bare forward": 0.9},
        {"mean square of the codes": 1e-4},  # of the posteriors' means: no noise, but another order of sums
        kind="encode",
    ),
    Work(
        "likelihood",
        "(f) log p(x) by 200 importance samples with the VAE",
        vae,
        lambda: mnist()[:2_000],
        100,
        ("aejax", "pythae"),
        {"pythae": 1.0},
        # Five times the deviation of the difference between two seeds, 0.2%.
        {"nats of 50 images": 1e-2},
        kind="likelihood",
    ),
)
ON_CPU = {work.name: work for work in _ALL}
# Of binary images that are drawn anew in each step (Burda et al. 2016), which the goals of likelihoods are about.
LIKELIHOODS = {
    work.name: work
    for work in (
        Work(
            "burda",
            "(h) train the VAE 784-200-200-50 on images binarized anew",
            burda,
            mnist,
            20,
            ("aejax", "aejax, no binarization", *_PYTORCH),
            {"pytorch": 1.3, "aejax": 0.95},
            _DRAWN,
            model="burda",
            steps=3_000,
        ),
        Work(
            "importance_weighted",
            "(i) train the importance weighted autoencoder of 50 samples",
            functools.partial(burda, "k50"),
            mnist,
            20,
            ("aejax", *_PYTORCH),
            {"pytorch, eager": 2.0},  # the usual form, which repeats each example and is not compiled
            _DRAWN,
            model="burda_50",
            steps=200,
        ),
        Work(
            "evidence",
            "(j) log p(x) by 5,000 importance samples with that VAE",
            burda,
            lambda: mnist()[:200],
            200,
            ("aejax", "pytorch, eager", "pytorch, compiled"),
            {"pytorch, eager": 3.0},
            {"nats of 50 images": 1e-2},
            kind="evidence",
        ),
    )
}
# Over one axis and three, likewise (python -m experiments.benchmark --work=conv1d,conv3d).
AXES = {
    work.name: work
    for work in (
        Work(
            "conv1d",
            "(k) train a convolutional autoencoder of series of 256 x 8",
            functools.partial(conv_axes, (32, 64), 128),
            series,
            128,
            ("aejax", "pytorch, eager", "pytorch, compiled", "pytorch, fused Adam"),
            {"pytorch": 1.0},
            _SWINGING,
            model="conv_axes",
            steps=8,
        ),
        Work(
            "conv3d",
            "(l) train a convolutional autoencoder of volumes of 16 x 16 x 16",
            functools.partial(conv_axes, (16, 32), 32),
            volumes,
            32,
            ("aejax", "pytorch, eager", "pytorch, channels_last", "pytorch, compiled", "pytorch, fused Adam"),
            {"pytorch": 1.0},
            _SWINGING,
            model="conv_axes",
            steps=4,
        ),
    )
}
# Measured where it is named: a step of its peers takes seconds.
SPARSE = {
    "sae": Work(
        "sae",
        "(g) train a TopK sparse autoencoder 768-16,384, k = 32, batch 4,096",
        sae,
        activations,
        4_096,
        ("aejax", "pytorch, eager", "pytorch, compiled", "pytorch, embedding bag", "sae_lens"),
        {"pytorch": 1.3, "sae_lens": 1.5},
        _DETERMINISTIC,
        model="sae",
        steps=2,
    )
}


def _in_bfloat16(work: Work, **changes: Any) -> Work:
    return dataclasses.replace(
        work,
        # Parameters and losses are in float32 on both sides: what bfloat16 rounds differs little, Adam magnifies it.
        tolerance={
            "first loss": max(1e-3, work.tolerance["first loss"]),
            "last loss": max(1e-2, work.tolerance["last loss"]),
        },
        **changes,
    )


def _on_cpu_in_bfloat16(name: str) -> Work:
    """A work for processors that have instructions for bfloat16."""
    work = ON_CPU[name]
    return _in_bfloat16(
        work,
        name=f"{name}_bfloat16",
        what=f"{work.what}, bfloat16",
        config=functools.partial(in_bfloat16, work.config, work.batch),
        contenders=("aejax", "aejax, float32", "pytorch, bfloat16", "pytorch, bfloat16 compiled"),
        goals={"pytorch": 1.2, "aejax": 1.8},
    )


ON_CPU_IN_BFLOAT16 = {work.name: work for work in map(_on_cpu_in_bfloat16, ("mlp", "conv", "vq_vae"))}


def _accelerated(name: str, batch: int, steps: int) -> Work:
    """(a) to (d) in bfloat16, as they are trained on an accelerator; at a goal of 1."""
    work = ON_CPU[name]
    return _in_bfloat16(
        work,
        name=f"{name}_{batch}",
        what=f"{work.what}, batch {batch:,}, bfloat16",
        config=functools.partial(in_bfloat16, work.config, batch),
        batch=batch,
        contenders=("aejax", "pytorch, bfloat16 compiled", "pytorch, bfloat16 CUDA graphs"),
        goals={"pytorch": 1.0},
        steps=steps,
    )


# As on CPU, and with a batch that fills an accelerator.
ON_ACCELERATOR = {
    work.name: work
    for work in (
        _accelerated("mlp", 256, 1_024),
        _accelerated("mlp", 4_096, 256),
        _accelerated("vae", 128, 1_024),
        _accelerated("vae", 4_096, 256),
        _accelerated("conv", 256, 256),
        _accelerated("conv", 2_048, 64),
        _accelerated("vq_vae", 64, 256),
        _accelerated("vq_vae", 1_024, 64),
    )
}
WORKS: dict[str, Work] = ON_CPU | LIKELIHOODS | AXES | SPARSE | ON_CPU_IN_BFLOAT16 | ON_ACCELERATOR
