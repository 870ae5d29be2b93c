"""Data: sources by row number, their splits, and batches as a pure function of (seed, step)."""

from aejax.data.batches import Feed, padded, read, rows, stream
from aejax.data.sources import Source, Splits, find, from_array, load, select, split
from aejax.data.spec import Spec, chunks

__all__ = [
    "Feed",
    "Source",
    "Spec",
    "Splits",
    "chunks",
    "find",
    "from_array",
    "load",
    "padded",
    "read",
    "rows",
    "select",
    "split",
    "stream",
]
