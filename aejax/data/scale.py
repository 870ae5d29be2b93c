"""Mean and scale of the training examples, looked at before training starts."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from aejax.data.sources import SAMPLED, Source
from aejax.data.sparse_rows import is_sparse
from aejax.data.spec import Spec, read_chunks
from aejax.errors import InputError

_ROWS = 1_024  # number of examples that the scale is estimated from
# The least weights that count, as parts of the largest ones: 2 |x| and |x|^2. Published ones are 10 times as large.
_PENALTIES = {"l1": 1e-4, "l0": 1e-7}
_USUAL = (0.1, 30.0)  # range of the largest feature's root mean square for which models are initialized


def compute_mean_target(source: Source) -> np.ndarray:
    """Returns the mean of the targets of a transcoder's examples, float32 [*target], see `compute_mean`."""
    assert source.target is not None
    of_target = dataclasses.replace(
        source, shape=source.target, target=None, take=lambda rows: {"x": source.take(rows)["target"]}
    )
    return compute_mean(of_target, Spec(source.target))


def compute_mean(source: Source, spec: Spec, rows: int = 1_000_000) -> np.ndarray:
    """Returns the mean of the examples in the model's units, float32 [*shape].

    Of more than `rows` examples, or than SAMPLED ones of a store, so many count, see `_thin_out`.
    """
    source = _thin_out(source, SAMPLED if source.block else rows)
    total, count, add = np.zeros(()), np.zeros(()), np.nansum if source.missing else np.sum
    for x in map(np.asarray, map(spec.prepare, read_chunks(spec.standardize_source(source)))):
        total = total + add(x, 0, np.float64)
        count = count + ((~np.isnan(x)).sum(0) if source.missing else len(x))
    return np.asarray(total / np.maximum(count, 1), np.float32)


def _thin_out(source: Source, rows: int) -> Source:
    """Returns at most `rows` evenly spaced examples, or as many of the first ones of a stream."""
    if source.stream:
        return source.sample(rows)
    chosen = np.unique(np.linspace(0, len(source) - 1, min(len(source), rows)).astype(int))
    return source.subset(chosen, source.name)


def compute_geometric_median(source: Source, spec: Spec, rows: int = 10_000, rounds: int = 100) -> np.ndarray:
    """Returns the point with the least mean distance to the examples in the model's units, float32 [*shape].

    It is computed from at most `rows` examples, see `_thin_out`, by the iteration of Weiszfeld (1937), until it moves
    by less than a millionth of the mean distance.
    """
    if source.missing:
        raise InputError(f"{source.name} has missing values, and no geometric median; set decoder.initial_bias=mean")
    source = _thin_out(source, rows)
    x = np.asarray(spec.prepare(spec.standardize_source(source).take(np.arange(len(source)))["x"]), np.float64)
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


def measure_columns(x: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the standard deviation of each column of [n, features], which may be a sparse matrix."""
    if not is_sparse(x):
        return x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    wide = x.astype(np.float64)
    mean, square = (np.asarray(each.mean(0)).reshape(-1) for each in (wide, wide.multiply(wide)))
    return mean, np.sqrt(np.maximum(square - mean**2, 0))


def needs_standardizing(x: Any, measured: tuple[np.ndarray, np.ndarray] | None = None) -> bool:
    """Returns whether features [n, features] have unusual scales, or one ten times the median standard deviation.

    x may be a sparse matrix of SciPy. `measured` is what `measure_columns` has returned for x, if it is known.
    """
    mean, deviation = measure_columns(x) if measured is None else measured
    varying = deviation[deviation > 0]
    largest = np.sqrt((mean**2 + deviation**2).max())
    differ = len(varying) and varying.max() > 10 * np.median(varying)
    return bool(differ or not _USUAL[0] <= largest <= _USUAL[1])


def warn_of_penalty(source: Source, spec: Spec, weights: Mapping[str, float]) -> None:
    """Warns of an l1 or l0 penalty of the code that outweighs any squared error, or that is lost beside it.

    With a decoder of unit columns, a unit of value v lowers the squared error of x by at most 2 v |x - mean| - v^2, and
    costs v times the weight of l1, or the weight of l0. Above 2 |x - mean|, or |x - mean|^2, a code of 0 is best.
    """
    given = {name: weights[name] for name in _PENALTIES if weights.get(name, 0) > 0}
    if not given or source.kind != "vector":
        return
    source = spec.standardize_source(source.sample(_ROWS))
    x = np.asarray(spec.prepare(source.take(np.arange(len(source)))["x"]), np.float64).reshape(len(source), -1)
    norm = float(np.sqrt(np.nansum(np.square(x - np.nanmean(x, 0)), 1).mean()))
    for name, weight in given.items():
        best = 2 * norm if name == "l1" else norm**2
        if not _PENALTIES[name] * best <= weight <= best:
            what = "a code of 0 is best" if weight > best else "it hardly counts beside the error"
            warnings.warn(
                f"objective.weights.{name}={weight:g} and activations of a root mean squared norm of {norm:.3g} about "
                f"their mean: {what}; choose a weight between {_PENALTIES[name] * best:.2g} and {best:.2g}, or scale x",
                stacklevel=2,
            )


def warn_of_scale(source: Source, spec: Spec) -> None:
    """Warns of vectors that are not standardized and far from the scale for which models are initialized.

    The scale is that of at most 1,024 evenly spaced examples.
    """
    if (spec.bounds and not spec.limits) or spec.layers or spec.mean or spec.per_token:
        return
    thinned = _thin_out(source, _ROWS)
    x = thinned.take(np.arange(len(thinned)))["x"].reshape(-1, source.shape[-1])
    scales = np.sqrt(np.nanmean(np.square(x, dtype=np.float64), 0))
    scales = scales[scales > 0]
    if len(scales) and not _USUAL[0] <= scales.max() <= _USUAL[1]:
        warnings.warn(
            f"{source.name}: the features have root mean squares from {scales.min():.3g} to {scales.max():.3g}, far "
            "from 1, and the largest ones make up the loss; data.standardize=True would train on features with mean 0 "
            "and standard deviation 1",
            stacklevel=2,
        )
