"""What the values of the train split say before training starts: their mean and their scale."""

import warnings

import numpy as np

from aejax.data.sources import Source
from aejax.data.spec import Spec, chunks

_ROWS = 1_024  # that the scale is estimated from
_FAR = 10.0  # from values near 1, for which models are initialized


def train_mean(source: Source, spec: Spec) -> np.ndarray:
    """Returns the mean of a split in the units that the model reads, float32 [*shape]; decodes all of the split."""
    total = sum(np.asarray(spec.prepare(x)).sum(0, np.float64) for x in chunks(source))
    return np.asarray(total / len(source), np.float32)


def warn_of_scale(source: Source, spec: Spec) -> None:
    """Warns of vectors that are far from the scale that models are initialized for and are not standardized.

    Reads 1,024 rows at most, evenly spaced.
    """
    if len(source.shape) != 1 or spec.mean:
        return
    rows = np.unique(np.linspace(0, len(source) - 1, min(len(source), _ROWS)).astype(int))
    size = np.sqrt(np.square(source.take(rows)["x"], dtype=np.float64).mean(0))  # of each feature
    size = size[size > 0]
    if len(size) and not 1 / _FAR <= size.max() <= _FAR:
        warnings.warn(
            f"{source.name}: the features have root mean squares from {size.min():.3g} to {size.max():.3g}, far from "
            "1, and the largest ones make up the loss; data.standardize=True would train on features with mean 0 and "
            "standard deviation 1",
            stacklevel=2,
        )
