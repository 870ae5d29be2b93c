"""Mean and scale of the training examples, looked at before training starts."""

import warnings

import numpy as np

from aejax.data.sources import Source
from aejax.data.spec import Spec, read_chunks

_ROWS = 1_024  # number of examples that the scale is estimated from
_USUAL = (0.1, 30.0)  # range of the largest feature's root mean square for which models are initialized


def compute_mean(source: Source, spec: Spec) -> np.ndarray:
    """Returns the mean of all examples in the model's units, float32 [*shape]."""
    total = sum(np.asarray(spec.prepare(x)).sum(0, np.float64) for x in read_chunks(spec.standardize_source(source)))
    return np.asarray(total / len(source), np.float32)


def compute_geometric_median(source: Source, spec: Spec, rows: int = 10_000, rounds: int = 100) -> np.ndarray:
    """Returns the point with the least mean distance to the examples in the model's units, float32 [*shape].

    It is computed from at most `rows` evenly spaced examples, by the iteration of Weiszfeld (1937), until it moves by
    less than a millionth of the mean distance.
    """
    chosen = np.unique(np.linspace(0, len(source) - 1, min(len(source), rows)).astype(int))
    x = np.asarray(spec.prepare(spec.standardize_source(source).take(chosen)["x"]), np.float64)
    flat = x.reshape(len(x), -1)
    median = flat.mean(0)
    for _ in range(rounds):
        distance = np.linalg.norm(flat - median, axis=1)
        weight = 1 / np.maximum(distance, 1e-12 * max(distance.max(), 1e-300))
        moved = weight @ flat / weight.sum()
        step, median = np.linalg.norm(moved - median), moved
        if step <= 1e-6 * distance.mean():
            break
    return median.reshape(x.shape[1:]).astype(np.float32)


def needs_standardizing(x: np.ndarray) -> bool:
    """Returns whether features [n, features] have unusual scales, or one ten times the median standard deviation."""
    deviation = x.std(0, dtype=np.float64)
    varying = deviation[deviation > 0]
    largest = np.sqrt(np.square(x, dtype=np.float64).mean(0).max())
    differ = len(varying) and varying.max() > 10 * np.median(varying)
    return bool(differ or not _USUAL[0] <= largest <= _USUAL[1])


def warn_of_scale(source: Source, spec: Spec) -> None:
    """Warns of vectors that are not standardized and far from the scale for which models are initialized.

    The scale is that of at most 1,024 evenly spaced examples.
    """
    if len(source.shape) != 1 or spec.mean:
        return
    rows = np.unique(np.linspace(0, len(source) - 1, min(len(source), _ROWS)).astype(int))
    scales = np.sqrt(np.square(source.take(rows)["x"], dtype=np.float64).mean(0))
    scales = scales[scales > 0]
    if len(scales) and not _USUAL[0] <= scales.max() <= _USUAL[1]:
        warnings.warn(
            f"{source.name}: the features have root mean squares from {scales.min():.3g} to {scales.max():.3g}, far "
            "from 1, and the largest ones make up the loss; data.standardize=True would train on features with mean 0 "
            "and standard deviation 1",
            stacklevel=2,
        )
