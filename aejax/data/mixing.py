"""Mixing of stores and streams in a buffer: batches as a pure function of (seed, step), read in large parts.

An epoch is a sequence of all examples: the blocks of a store in a random order, or a stream as it comes. The buffer
holds a window of this sequence, whose examples are dealt to batches at random, and then the next window. A run that
resumes thus reads its current window again, and nothing before it.
"""

import functools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from aejax.data.sources import Arrays, Rows, Source
from aejax.errors import InputError

_THREADS, _PART = 4, 8_192  # that read a window, and the rows that each reads at a time
_AHEAD = 2**27  # bytes of batches that are made before they are asked for


class Order:
    """The rows of the training batch of each step, by `order(step)`, int32 [batch_size].

    Each epoch has all examples once, in another order, but for an incomplete last batch.
    """

    def __init__(self, source: Source, batch_size: int, seed: int, buffer: int):
        """Takes the source, which has blocks, and the number of examples in a window."""
        if batch_size > len(source):
            raise InputError(f"batch_size={batch_size} is larger than the {len(source)} training examples; lower it")
        self._length, self._block, self._batch_size, self._seed = len(source), source.block, batch_size, seed
        self._steps = len(source) // batch_size  # of an epoch
        self._window = max(buffer // batch_size, 1)  # in steps
        self._blocks = functools.lru_cache(maxsize=2)(self._permute_blocks)
        self._rows = functools.lru_cache(maxsize=4)(self._permute_window)

    def __call__(self, step: int) -> Rows:
        span = self.span(step)
        place = (step - span.start) * self._batch_size
        return self._rows(span.start)[place : place + self._batch_size]

    def span(self, step: int) -> range:
        """Returns the steps whose batches come from the same window as that of `step`."""
        epoch, place = divmod(step, self._steps)
        first = place // self._window * self._window
        last = min(first + self._window, self._steps)
        return range(epoch * self._steps + first, epoch * self._steps + last)

    def _permute_blocks(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the first row of each block, in the order of the epoch, and its place in the epoch's sequence."""
        starts = np.arange(0, self._length, self._block)
        if len(starts) > 1:
            starts = starts[np.random.default_rng([self._seed, epoch]).permutation(len(starts))]
        lengths = np.minimum(self._block, self._length - starts)
        return starts, np.cumsum(lengths) - lengths

    def _permute_window(self, first: int) -> Rows:
        """Returns the rows of the window that begins at step `first`, in the order in which batches get them."""
        epoch, place = divmod(first, self._steps)
        starts, places = self._blocks(epoch)
        own = np.arange(place * self._batch_size, (place + len(self.span(first))) * self._batch_size)
        block = np.searchsorted(places, own, side="right") - 1
        rows = starts[block] + own - places[block]
        rows = rows[np.random.default_rng([self._seed, epoch, place]).permutation(len(rows))]
        return rows.astype(np.int32)


def stream_mixed(source: Source, order: Order, own: slice, at_once: int, start: int, stop: int) -> Iterator[Arrays]:
    """Yields the batches of the dispatches from `start` to `stop`, `at_once` steps each, one after the other.

    Holds the rows `own` of the batches of the current window and of the next one, which a thread reads meanwhile.
    """
    last = stop * at_once
    windows: dict[int, Future[tuple[Rows, Arrays]]] = {}

    def load(steps: range) -> tuple[Rows, Arrays]:
        rows = np.sort(np.concatenate([order(step)[own] for step in steps]))
        parts = [range(i, min(i + _PART, len(rows))) for i in range(0, len(rows), _PART)]
        arrays: Arrays = {}

        def fill(part: range) -> None:
            for key, value in source.take(rows[part.start : part.stop]).items():
                if part.start == 0:
                    arrays[key] = np.empty((len(rows), *value.shape[1:]), value.dtype)
                arrays[key][part.start : part.stop] = value

        fill(parts[0])
        list((map if source.stream else pool.map)(fill, parts[1:]))  # `list` raises the threads' errors
        return rows, arrays

    def window(step: int) -> tuple[Rows, Arrays]:
        span = order.span(step)
        for old in [key for key in windows if key < span.start]:
            del windows[old]
        for each in (span, order.span(span.stop)):
            steps = range(max(each.start, start * at_once), min(each.stop, last))
            if each.start not in windows and steps:
                windows[each.start] = loader.submit(load, steps)
        return windows[span.start].result()

    def make(dispatch: int) -> Arrays:
        found: dict[str, list[np.ndarray]] = {"index": []}
        for step in range(dispatch * at_once, (dispatch + 1) * at_once):
            rows, arrays = window(step)
            wanted = order(step)[own]
            places = np.searchsorted(rows, wanted)
            found["index"].append(wanted)
            for key, value in arrays.items():
                found.setdefault(key, []).append(value[places])
        return {key: np.concatenate(value) for key, value in found.items()}

    ahead: deque[Future[Arrays]] = deque()
    count = max(1, _AHEAD // (at_once * max(len(order(0)[own]), 1) * max(source.nbytes // len(source), 1)))
    pool, loader, maker = ThreadPoolExecutor(_THREADS), ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    try:
        for dispatch in range(start, stop):
            ahead.append(maker.submit(make, dispatch))
            if len(ahead) > min(count, 8):
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        for each in (maker, loader, pool):
            each.shutdown(cancel_futures=True)
