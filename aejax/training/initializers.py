"""Initial parameters other than those that the modules draw: Glorot's, PyTorch's, tied dictionaries, and biases that
depend on the data.
"""

import functools
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from ml_collections import ConfigDict

from aejax.data import Source, Spec, compute_geometric_median, compute_mean, compute_mean_target
from aejax.errors import InputError
from aejax.models import LibraryGaussian, pre_encoder
from aejax.models.decoders import MLPDecoder
from aejax.models.dictionary import DictionaryDecoder
from aejax.objectives.likelihoods import Bernoulli
from aejax.training import paths
from aejax.training.step import Task

Adjust = Callable[[PyTree], PyTree]


def choose(config: ConfigDict, task: Task, spec: Spec, train: Source) -> Adjust | None:
    """Returns what maps random parameters to the initial ones that the config asks for, or None for these themselves.

    Raises InputError if `output_bias` does not fit the model.
    """
    maps: list[Adjust] = []
    if draw := {"glorot": draw_glorot, "pytorch": draw_pytorch}.get(config.get("init", "modules")):
        maps.append(functools.partial(draw, jax.random.key(config.seed)))
    if isinstance(task.model.decoder, DictionaryDecoder):
        maps.append(functools.partial(pre_encoder.tie, task.model.decoder))
    if task.model.target:
        means = compute_mean(train, spec), compute_mean_target(train)
        maps.append(functools.partial(pre_encoder.start_transcoder, *means))
    kind = getattr(task.model.decoder, "initial_bias", "mean")
    if task.model.pre_bias and kind != "zeros":
        center = compute_mean if kind == "mean" else compute_geometric_median
        maps.append(functools.partial(pre_encoder.start_at, center(train, spec)))
    if isinstance(task.model.bottleneck, LibraryGaussian):
        maps.append(functools.partial(start_library, *compute_library(train, spec, task.model.bottleneck.classes)))
    if config.get("output_bias", "zero") == "mean":
        decoder, likelihood = task.model.decoder, task.objective.likelihood
        if not (isinstance(likelihood, Bernoulli) and isinstance(decoder, MLPDecoder) and decoder.output == "linear"):
            raise InputError(
                "output_bias=mean sets the logits of a decoder 'mlp' with output 'linear' under the likelihood "
                "'bernoulli'; set it to zero for other models"
            )
        layer = f"dense_{len(decoder.features)}"
        maps.append(functools.partial(start_at_log_odds, compute_mean(train, spec), layer))
    return functools.partial(functools.reduce, lambda params, each: each(params), maps) if maps else None


def compute_library(train: Source, spec: Spec, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation of the log totals of the train split's counts, float32 [classes] each, or of
    all of them, [1], without classes. Those of labels without two examples are those of all.
    """
    logs, labels = [], []
    for start in range(0, len(train), 1_024):
        arrays = train.take(np.arange(start, min(start + 1_024, len(train))))
        logs.append(np.log(np.maximum(arrays["x"].reshape(len(arrays["x"]), -1).sum(1, dtype=np.float64), 1)))
        labels.append(arrays["label"] if classes else np.zeros(len(logs[-1]), int))
    log, label = np.concatenate(logs), np.concatenate(labels)
    parts = [log[label == each] for each in range(max(classes, 1))]
    parts = [part if len(part) > 1 else log for part in parts]
    mean, deviation = [part.mean() for part in parts], [max(part.std(), 1e-3) for part in parts]
    return np.array(mean, np.float32), np.array(deviation, np.float32)


def start_library(mean: np.ndarray, deviation: np.ndarray, params: Any) -> Any:
    """Returns parameters whose prior of the log library size has this mean and standard deviation of each label."""
    own = {"library_mean": jnp.asarray(mean), "library_log_std": jnp.asarray(np.log(deviation))}
    return {**params, "bottleneck": {**params["bottleneck"], **own}}


def draw_glorot(key: jax.Array, params: PyTree) -> PyTree:
    """Returns parameters whose kernels are uniform as in Glorot and Bengio 2010, equation 16; others stay.

    A kernel's values depend on the key and on its path alone.
    """

    def draw(key: jax.Array, path: str, a: Any) -> Any:
        if path.split("/")[-1] != "kernel" or a.ndim < 2:
            return a
        return nn.initializers.glorot_uniform()(key, a.shape, a.dtype)

    return _draw_each(draw, key, paths.flatten(params))


def draw_pytorch(key: jax.Array, params: PyTree) -> PyTree:
    """Returns parameters whose kernels, and the biases beside them, are those of PyTorch's layers; others stay.

    Both are uniform within 1 / sqrt(inputs of a unit), so that kernels have a standard deviation of 0.58 of that of
    Flax's. Values depend on the key and on their path alone.
    """
    flat = paths.flatten(params)
    kernels = {path: a for path, a in flat.items() if path.split("/")[-1] == "kernel" and a.ndim >= 2}

    def draw(key: jax.Array, path: str, a: Any) -> Any:
        kernel = kernels.get(f"{path.rpartition('/')[0]}/kernel")
        if kernel is None or path.split("/")[-1] not in ("kernel", "bias"):
            return a
        limit = math.prod(kernel.shape[:-1]) ** -0.5
        return jax.random.uniform(key, a.shape, a.dtype, -limit, limit)

    return _draw_each(draw, key, flat)


def _draw_each(draw: Callable[..., Any], key: jax.Array, flat: Mapping[str, Any]) -> PyTree:
    """Returns the parameters `draw(key, path, array)`, nested, whose keys depend on `key` and on the path alone."""
    key_of = lambda path: jax.random.fold_in(key, zlib.crc32(path.encode()))  # noqa: E731
    return paths.nest({path: draw(key_of(path), path, a) for path, a in flat.items()})


def start_at_log_odds(mean: np.ndarray, layer: str, params: Any) -> Any:
    """Returns parameters whose decoder's last bias is the log-odds of the data's mean, kept within 0.001 and 0.999.

    So does the code of Burda et al. 2016: pixels that are nearly always black need not be learned.
    """
    p = np.clip(mean.ravel(), 1e-3, 1 - 1e-3)
    bias = jnp.asarray(np.log(p) - np.log1p(-p), jnp.float32)
    return {**params, "decoder": {**params["decoder"], layer: {**params["decoder"][layer], "bias": bias}}}
