"""Data: sources of examples by row number, their splits, and batches as a pure function of (seed, step)."""

from aejax.data.arrays import as_array
from aejax.data.identity import check_identity, identify
from aejax.data.loader import Feed, draw_crops, pad_rows, read, shuffle_rows, stream
from aejax.data.scale import compute_geometric_median, compute_mean, needs_standardizing, warn_of_scale
from aejax.data.shards import write_shards
from aejax.data.sources import Source, from_array
from aejax.data.spec import Spec, read_chunks
from aejax.data.splits import Splits, check_same, find, load, read_labels, select, split

__all__ = [
    "Feed",
    "Source",
    "Spec",
    "Splits",
    "as_array",
    "check_identity",
    "check_same",
    "compute_geometric_median",
    "compute_mean",
    "draw_crops",
    "find",
    "from_array",
    "identify",
    "load",
    "needs_standardizing",
    "pad_rows",
    "read",
    "read_chunks",
    "read_labels",
    "select",
    "shuffle_rows",
    "split",
    "stream",
    "warn_of_scale",
    "write_shards",
]
