"""Batches of examples for the methods of a trained model: their size, their labels, and a map over them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree
from numpy.typing import ArrayLike

from aejax.data import as_array
from aejax.errors import InputError, shown

VALUES = 2**20  # of a batch, 4 MB; the activations of a convolutional model take some hundred times as much


def limit_batch(shape: Sequence[int], most: int = 1_024) -> int:
    """Returns the number of examples of `shape` in a batch: at most `most`, and fewer if they are large."""
    return max(min(VALUES // math.prod(shape), most), 1)


def check_labels(label: ArrayLike | None, length: int, classes: int) -> tuple[np.ndarray, ...]:
    """Returns the labels as a tuple of one int32 array, or () for a run that is not conditional."""
    if not classes:
        if label is not None:
            raise InputError("the run is not conditional (classes=0): leave the labels out")
        return ()
    if label is None:
        raise InputError(f"the run is conditional: give label=, {length} whole numbers from 0 to {classes - 1}")
    label = as_array(label, "label")
    if label.shape != (length,) or label.dtype.kind not in "iu" or label.min() < 0 or label.max() >= classes:
        wanted = f"{length} whole numbers from 0 to {classes - 1}"
        raise InputError(f"label must be {wanted}, got {label.shape} {shown(label)}")
    return (label.astype(np.int32),)


def map_batches(
    function: Callable[..., PyTree], x: np.ndarray, more: tuple[np.ndarray | Array, ...], size: int
) -> PyTree:
    """Applies `function` to batches of `x` and `more` [n, ...] and concatenates its results.

    All batches have the same size: `size`, or a power of two below it for fewer examples, so that few are compiled.
    """
    size = min(size, 1 << (len(x) - 1).bit_length())
    parts: list[Any] = []
    for i in range(0, len(x), size):
        # The last batch repeats an example to reach the size; slices of the others are views, not copies.
        rows = slice(i, i + size) if i + size <= len(x) else np.minimum(np.arange(i, i + size), len(x) - 1)
        parts.append(function(x[rows], *(a[rows] for a in more)))
        parts[-2:-1] = map(jax.device_get, parts[-2:-1])  # fetched while the next batch is computed
    return jax.tree.map(lambda *a: np.concatenate(a)[: len(x)], *jax.device_get(parts))


def check_finite(values: np.ndarray, message: str) -> None:
    """Raises InputError with the index of the first example whose values are not all finite."""
    for row in np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(1)):
        raise InputError(message.format(row))
