"""What the values of the train split say before training starts: their mean and their scale."""

import warnings

import numpy as np

from aejax.data.sources import Source
from aejax.data.spec import Spec, chunks

_ROWS = 1_024  # that the scale is estimated from
_USUAL = (0.1, 30.0)  # root mean squares of the largest feature for which models are initialized


def train_mean(source: Source, spec: Spec) -> np.ndarray:
    """Returns the mean of a split in the units that the model reads, float32 [*shape]; decodes all of the split."""
    total = sum(np.asarray(spec.prepare(x)).sum(0, np.float64) for x in chunks(spec.stored(source)))
    return np.asarray(total / len(source), np.float32)


def needs_standardizing(x: np.ndarray) -> bool:
    """Returns whether features [n, features] have unusual scales, or one ten times the median standard deviation."""
    deviation = x.std(0, dtype=np.float64)
    varying = deviation[deviation > 0]
    largest = np.sqrt(np.square(x, dtype=np.float64).mean(0).max())
    differ = len(varying) and varying.max() > 10 * np.median(varying)
    return bool(differ or not _USUAL[0] <= largest <= _USUAL[1])


def warn_of_scale(source: Source, spec: Spec) -> None:
    """Warns of vectors that are far from the scale that models are initialized for and are not standardized.

    Reads 1,024 rows at most, evenly spaced.
    """
    if len(source.shape) != 1 or spec.mean:
        return
    rows = np.unique(np.linspace(0, len(source) - 1, min(len(source), _ROWS)).astype(int))
    size = np.sqrt(np.square(source.take(rows)["x"], dtype=np.float64).mean(0))  # of each feature
    size = size[size > 0]
    if len(size) and not _USUAL[0] <= size.max() <= _USUAL[1]:
        warnings.warn(
            f"{source.name}: the features have root mean squares from {size.min():.3g} to {size.max():.3g}, far from "
            "1, and the largest ones make up the loss; data.standardize=True would train on features with mean 0 and "
            "standard deviation 1",
            stacklevel=2,
        )
