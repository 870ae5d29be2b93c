"""Batches as a pure function of (seed, step), from arrays kept on device or from a stream."""

import dataclasses
import functools
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from aejax.data.mixing import Order
from aejax.data.sources import Arrays, Rows, Source
from aejax.errors import AejaxError, InputError, kind_and_words

AHEAD = 8  # batches that are read before they are asked for


def shuffle_rows(length: int, batch_size: int, seed: int) -> Callable[[int], Rows]:
    """Returns a function that maps a step, counted from 0, to the rows of its training batch, int32 [batch_size].

    Each epoch is a new permutation of all rows, and its incomplete last batch is dropped. Raises InputError if there
    are fewer rows than a batch needs.
    """
    if batch_size > length:
        raise InputError(f"batch_size={batch_size} is larger than the {length} training examples; lower it")

    @functools.lru_cache(maxsize=2)  # the steps that are dispatched together may belong to two epochs
    def permute(epoch: int) -> Rows:
        return np.random.default_rng([seed, epoch]).permutation(length).astype(np.int32)

    def rows(step: int) -> Rows:
        epoch, place = divmod(step, length // batch_size)
        return permute(epoch)[place * batch_size : (place + 1) * batch_size]

    return rows


def pad_rows(length: int, batch_size: int, step: int) -> tuple[Rows, np.ndarray]:
    """Returns the row numbers of evaluation batch `step` and their weights, both [batch_size].

    The last batch is padded with the first rows, which get the weight 0. Padding with copies of one row would distort
    terms of the whole batch, such as covariances.
    """
    numbers = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int32)
    return numbers % length, (numbers < length).astype(np.float32)


def count_threads(source: Source) -> int:
    """Returns the number of threads that read `source` fastest.

    Small images in few files are read twice as fast by one thread, since several contend for Python's global lock.
    """
    small, packed = math.prod(source.shape) < 2**14, 0 < len(source.files) < len(source)
    return 1 if small and packed else max(4, os.cpu_count() or 1)


def read(source: Source, chunk: int = 512) -> Arrays:
    """Reads all examples of `source` into memory, `chunk` at a time per thread."""
    first = source.take(np.arange(1))
    arrays = {key: np.empty((len(source), *value.shape[1:]), value.dtype) for key, value in first.items()}

    def fill(rows: Rows) -> None:
        for key, value in source.take(rows).items():
            arrays[key][rows] = value

    rows = np.arange(len(source))
    with ThreadPoolExecutor(count_threads(source)) as pool:
        list(pool.map(fill, np.split(rows, range(chunk, len(source), chunk))))  # `list` raises the threads' errors
    return arrays


def stream(source: Source, rows_of: Callable[[int], Rows], start: int, stop: int) -> Iterator[Arrays]:
    """Yields `source.take(rows_of(step))` for each step from `start` to `stop`, read AHEAD batches ahead by threads.

    The threads share each batch of examples that are decoded, so that the first batch comes soon.
    """
    threads = count_threads(source)
    parts = threads if source.files else 1
    pool, ahead = ThreadPoolExecutor(threads), deque[tuple[Arrays, list[Future[None]]]]()
    try:
        for step in range(start, stop):
            rows, arrays = rows_of(step), Arrays()
            places = [part for part in np.array_split(np.arange(len(rows)), parts) if len(part)]
            ahead.append((arrays, [pool.submit(_fill, arrays, part, source, rows) for part in places]))
            if len(ahead) > AHEAD:
                yield _wait(*ahead.popleft())
        while ahead:
            yield _wait(*ahead.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _fill(arrays: Arrays, part: Rows, source: Source, rows: Rows) -> None:
    """Reads a part of the batch `rows` into its place in the batch's arrays, which the first part creates."""
    for key, value in source.take(rows[part]).items():
        whole = np.empty((len(rows), *value.shape[1:]), value.dtype) if len(part) < len(rows) else value
        array = arrays.setdefault(key, whole)
        if array is not value:
            array[part[0] : part[-1] + 1] = value


def _wait(arrays: Arrays, parts: Sequence[Future[None]]) -> Arrays:
    """Returns the arrays when all parts are there. Raises the error of a part that could not be read."""
    for part in parts:
        part.result()
    return arrays


def draw_crops(seed: int, step: int, rows: Rows, zoom: float) -> np.ndarray:
    """Returns a random crop for each row, [n, 3] as in `images.Crop`: a function of seed, step and row alone."""
    uniform = np.array([np.random.default_rng([seed, step, row]).random(3) for row in rows.tolist()]).reshape(-1, 3)
    return uniform * [zoom - 1, 1, 1] + [1, 0, 0]


class Feed:
    """Batches of a split, which is kept on device if it fits in the budget and streamed otherwise.

    Factors of variation are left out, because no step reads them, and labels unless a step does. A split whose images
    are cropped at random is always streamed.

    Attributes:
      source: the split without what is left out.
      held: the arrays of the whole split, on device; empty if the split is streamed.
      zoom: the largest zoom of random crops.
    """

    def __init__(
        self,
        source: Source,
        budget: int,
        put: Callable[[Arrays], Any],
        labels: bool = True,
        zoom: float = 1.0,
        buffer: int = 0,
    ):
        """Loads the split onto the devices, by `put`, if it has at most `budget` bytes.

        `buffer` is the number of examples that a store or a stream is mixed in, see `mixing`.
        """
        self._names, self._buffer = ("x", "target", "label") if labels else ("x", "target"), buffer
        self.source, self.zoom = dataclasses.replace(source, take=functools.partial(_take, source, self._names)), zoom
        self.held = put(read(self.source) if source.nbytes <= budget and not source.draw else {})

    def order(self, batch_size: int, seed: int) -> Callable[[int], Rows]:
        """Returns a function that maps a step to the rows of its training batch, as `shuffle_rows` or `Order` does."""
        if self.source.block:
            return Order(self.source, batch_size, seed, self._buffer)
        return shuffle_rows(len(self.source), batch_size, seed)

    def batches(
        self,
        rows_of: Callable[[int], Rows],
        start: int,
        stop: int,
        crops_of: Callable[[int], np.ndarray] | None = None,
    ) -> Iterator[Arrays]:
        """Yields {"index": rows} for each step from `start` to `stop`, plus the rows' arrays if they are streamed.

        `crops_of` returns the crops of a step, [n, 3], for a source that draws.
        """
        if self.held:
            return ({"index": rows_of(step)} for step in range(start, stop))
        source, items_of = self.source, rows_of
        if source.draw and crops_of:
            # Each row travels with its crop.
            source = dataclasses.replace(
                source, take=lambda a: _take(self.source, self._names, a[:, 0].astype(int), a[:, 1:])
            )
            items_of = lambda step: np.column_stack([rows_of(step), crops_of(step)])  # noqa: E731
        taken = stream(source, items_of, start, stop)
        return ({"index": rows_of(step), **arrays} for step, arrays in zip(range(start, stop), taken, strict=True))


def _take(source: Source, names: Sequence[str], rows: Rows, crops: np.ndarray | None = None) -> Arrays:
    """Reads the named arrays of `rows`. Raises InputError if an example cannot be read."""
    try:
        arrays = source.draw(rows, crops) if source.draw and crops is not None else source.take(rows)
        found = {key: value for key, value in arrays.items() if key in names}
        return found if source.weights is None else {**found, "sample_weight": source.weights[rows].astype(np.float32)}
    except AejaxError:
        raise
    except Exception as error:  # whatever a reader raises for a file that was damaged in the meantime
        examples = ", ".join(map(str, rows[:4])) + (", ..." if len(rows) > 4 else "")
        raise InputError(
            f"{source.name}: one of the examples {examples} cannot be read ({kind_and_words(error)}); mend the data "
            "and run the same command again"
        ) from error
