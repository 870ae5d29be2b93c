"""Batches as a pure function of (seed, step), whether the data is held on the device or streamed."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grain
import numpy as np

from aejax.data.sources import Arrays, Rows, Source
from aejax.errors import AejaxError, InputError, kind_and_words


def order(length: int, batch_size: int, seed: int) -> Callable[[int], Rows]:
    """A function of a step (from 0): the row numbers of its training batch, [batch_size] int32.

    Each epoch passes a new permutation and leaves out its last incomplete batch. Two permutations are kept: a dispatch
    may lie between two epochs.
    """
    if batch_size > length:
        raise InputError(f"batch_size={batch_size} is larger than the {length} training examples; lower it")

    @functools.lru_cache(maxsize=2)
    def permutation(epoch: int) -> Rows:
        return np.random.default_rng([seed, epoch]).permutation(length).astype(np.int32)

    def rows(step: int) -> Rows:
        epoch, place = divmod(step, length // batch_size)
        return permutation(epoch)[place * batch_size : (place + 1) * batch_size]

    return rows


def padded(length: int, batch_size: int, step: int) -> tuple[Rows, np.ndarray]:
    """The rows of evaluation batch `step` and their weights: 1, or 0 where the last batch is filled up.

    It is filled with the first examples, in turn: terms of the whole batch read these, too.
    """
    numbers = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int32)
    return numbers % length, (numbers < length).astype(np.float32)


def threads(source: Source) -> int:
    """How many read a source fastest.

    Small images packed into fewer files are decoded by one, in half the time of several, who wait for Python's lock.
    """
    small, packed = math.prod(source.shape) < 2**14, 0 < len(source.files) < len(source)
    return 1 if small and packed else max(4, os.cpu_count() or 1)


def read(source: Source, chunk: int = 512) -> Arrays:
    """All of a source, decoded once, into arrays that hold it once."""
    one = source.take(np.arange(1))
    arrays = {key: np.empty((len(source), *value.shape[1:]), value.dtype) for key, value in one.items()}

    def fill(rows: Rows) -> None:
        for key, value in source.take(rows).items():
            arrays[key][rows] = value

    numbers = np.arange(len(source))
    with ThreadPoolExecutor(threads(source)) as pool:
        list(pool.map(fill, [numbers[i : i + chunk] for i in range(0, len(source), chunk)]))  # list: raises theirs
    return arrays


def stream(source: Source, rows_of: Callable[[int], Rows], start: int, stop: int) -> Iterator[Arrays]:
    """`source.take(rows_of(step))` for each step, read ahead by grain's threads."""

    def take(step: int) -> Arrays | Exception:
        try:
            return source.take(rows_of(step))
        except Exception as error:  # grain would add lines of its own to it
            return error

    batches = grain.MapDataset.range(start, stop).map(take)
    for taken in batches.to_iter_dataset(grain.ReadOptions(num_threads=threads(source), prefetch_buffer_size=8)):
        if isinstance(taken, Exception):
            raise taken
        yield taken


class Feed:
    """A split on its way to the devices: held there, or streamed where it is over the budget.

    Factors of variation stay behind: no step reads them.

    Attributes:
      held: the whole split's arrays, decoded once, on the devices; empty when streamed.
    """

    def __init__(self, source: Source, budget: int, put: Callable[[Arrays], Any]):
        """`budget` in bytes; `put` places arrays on the devices."""
        self.source = dataclasses.replace(source, take=functools.partial(_take, source))
        self.held = put(read(self.source) if source.nbytes <= budget else {})

    def batches(self, rows_of: Callable[[int], Rows], start: int, stop: int) -> Iterator[Arrays]:
        """For each step {"index": rows}, with the rows' arrays where they are not held."""
        if self.held:
            return ({"index": rows_of(step)} for step in range(start, stop))
        taken = stream(self.source, rows_of, start, stop)
        return ({"index": rows_of(step), **arrays} for step, arrays in zip(range(start, stop), taken, strict=True))


def _take(source: Source, rows: Rows) -> Arrays:
    try:
        return {key: value for key, value in source.take(rows).items() if key != "factors"}
    except AejaxError:
        raise
    except Exception as error:  # whatever a file that was spoilt in the meantime makes its reader raise
        raise InputError(
            f"{source.name}: one of the examples {', '.join(map(str, rows[:4]))}{', ...' if len(rows) > 4 else ''} "
            f"cannot be read ({kind_and_words(error)}); mend the data and run the same command again"
        ) from error
