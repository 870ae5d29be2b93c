"""Data: sources by row number, their splits, and batches as a pure function of (seed, step)."""

from aejax.data.arrays import as_array
from aejax.data.identity import check_identity, identity
from aejax.data.loader import Feed, order, padded, read, stream
from aejax.data.scale import needs_standardizing, train_mean, warn_of_scale
from aejax.data.sources import Source, from_array
from aejax.data.spec import Spec, chunks
from aejax.data.splits import Splits, check_same, find, labels, load, select, split

__all__ = [
    "Feed",
    "Source",
    "Spec",
    "Splits",
    "as_array",
    "check_identity",
    "check_same",
    "chunks",
    "find",
    "from_array",
    "identity",
    "labels",
    "load",
    "needs_standardizing",
    "order",
    "padded",
    "read",
    "select",
    "split",
    "stream",
    "train_mean",
    "warn_of_scale",
]
