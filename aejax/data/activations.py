"""Sources of activations: stores of shards, which are never read whole, and streams from a function."""

import dataclasses
import functools
import glob
import inspect
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aejax.data.activation_files import LAYOUT, SUFFIXES, Shard, is_bfloat16, open_shard
from aejax.data.folders import IMAGE_SUFFIXES
from aejax.data.sources import SPLIT_NAMES, STREAMED, Arrays, Rows, Source
from aejax.errors import InputError, kind_and_words, shown
from aejax.files import local

_NOT_FINITE = "holds NaN or infinity in float32; mend it and run the same command again"
BLOCK = 256  # rows that are read together
HELD_OUT = 8_192  # most examples of validation and of test, where a store has no own ones
_MOST = 2**31 - 1  # examples of a store, or of a stream, whose end is not known

Stream = Callable[..., Iterator[np.ndarray]]


def find_shards(name: str) -> list[Path]:
    """Returns the shards of a store: of a folder with shards of activations, or those that a pattern with * matches.

    A file in safetensors, or an .npy file of bfloat16, is a store, too. Returns [] if `name` is none of these, e.g. a
    folder of images. Raises InputError for a pattern that matches no shards.
    """
    if glob.has_magic(name) and not local(name).exists():
        files = sorted(Path(file) for file in glob.glob(str(local(name))))
        if "/" in name or Path(name).suffix in SUFFIXES:
            if others := [file for file in files if file.suffix not in SUFFIXES]:
                raise InputError(f"{name} matches {others[0]}, and shards end with {', '.join(SUFFIXES)}; narrow it")
            if not files:
                raise InputError(f"{name} matches no file; check data.name")
        return files
    folder = local(name)
    if not folder.is_dir():
        return [folder] if folder.is_file() and (folder.suffix == ".safetensors" or is_bfloat16(folder)) else []
    suffixes = SUFFIXES if (folder / LAYOUT).is_file() else SUFFIXES[:2]
    found = []
    with os.scandir(folder) as entries:  # which ends at the first image: a folder may hold 100,000 of them
        for entry in entries:
            if entry.name.startswith("."):
                continue
            suffix = Path(entry.name).suffix
            if suffix.lower() in IMAGE_SUFFIXES or entry.is_dir():
                return []
            if suffix in suffixes:
                found.append(folder / entry.name)
    return sorted(found)


def from_store(name: str, files: Sequence[Path]) -> dict[str, Source]:
    """Returns the splits of a store by the first word of its files' names: train-00000.npy; other names are `train`.

    Without files of their own, validation and test are the last rows of train, a tenth each and at most 8,192.
    """
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(SPLIT_NAMES.get(file.stem.partition("-")[0].lower(), "train"), []).append(file)
    if "train" not in splits:
        raise InputError(f"{name}: all shards are called {', '.join(splits)}; call those to train on train-...")
    sources = {split: _make_source(f"{name}[{split}]", [*map(open_shard, own)]) for split, own in splits.items()}
    whole, rest = sources["train"], len(sources["train"])
    for split in ("test", "validation"):
        if split not in sources:
            count = min(HELD_OUT, len(whole) // 10)
            sources[split] = whole.subset(range(rest - count, rest), f"{name}[last rows, for {split}]")
            rest -= count
    return sources | {"train": whole if rest == len(whole) else whole.subset(range(rest), whole.name)}


def _make_source(name: str, shards: Sequence[Shard]) -> Source:
    """Returns the source of the rows of all shards, float32. Raises InputError if their shapes differ."""
    first = shards[0]
    for shard in shards:
        if shard.shape != first.shape:
            raise InputError(
                f"{shard.path} holds activations of {_width(shard.shape)}, and {first.path} of {_width(first.shape)}; "
                "keep those of one place of the model in one store"
            )
    ends = np.cumsum([shard.length for shard in shards])
    if ends[-1] > _MOST:
        raise InputError(f"{name} has {ends[-1]:,} rows, and a store at most {_MOST:,}; divide it")

    def take(rows: Rows) -> Arrays:
        rows = np.asarray(rows, np.int64)
        order = np.argsort(rows, kind="stable")
        ascending, values = rows[order], np.empty((len(rows), *first.shape), np.float32)
        number = np.searchsorted(ends, ascending, side="right")
        for k in np.unique(number).tolist():
            places = np.flatnonzero(number == k)
            own = ascending[places] - (ends[k] - shards[k].length)
            with np.errstate(over="ignore"):
                part = shards[k].read(own).astype(np.float32)
            if (bad := find_bad_row(part)) is not None:
                raise InputError(f"{shards[k].path}, row {own[bad]:,}, {_NOT_FINITE}")
            values[order[places]] = part
        return {"x": values}

    return Source(name, int(ends[-1]), first.shape, np.dtype(np.float32), take, block=BLOCK)


def _width(shape: Sequence[int]) -> str:
    return f"width {shape[0]:,}" if len(shape) == 1 else f"shape {tuple(shape)}"


def find_bad_row(x: np.ndarray) -> int | None:
    """Returns the number of the first row of x [n, ...] with NaN or infinity, or None if there is none."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(x.sum()):  # one pass without a copy, which overflow alone makes wrong
            return None
    bad = ~np.isfinite(x).reshape(len(x), -1).all(1)
    return int(np.argmax(bad)) if bad.any() else None


def join_target(x: dict[str, Source], target: dict[str, Source]) -> dict[str, Source]:
    """Returns sources of pairs, whose `take` returns the rows of `target` beside those of x.

    Raises InputError unless both have the same splits of the same lengths.
    """
    joined = {}
    for name, source in x.items():
        other = target.get(name)
        if other is None or len(other) != len(source):
            found = "no such split" if other is None else f"{len(other):,}"
            raise InputError(
                f"{source.name} has {len(source):,} examples and data.target has {found}; give the activations of the "
                "same tokens, in the same order"
            )

        def take(rows: Rows, source: Source = source, other: Source = other) -> Arrays:
            return {**source.take(rows), "target": other.take(rows)["x"]}

        joined[name] = dataclasses.replace(source, take=take, target=other.shape)
    return joined


def from_stream(function: Stream, name: str = "stream") -> dict[str, Source]:
    """Returns the splits of a stream of activations, such as those of a model that runs beside the training.

    The first 4,096 examples are validation, the next 4,096 test, and training reads all that follow.

    Args:
      function: returns an iterator of arrays [m, ...] of any lengths m: the same examples each time. If it takes an
        argument, the iterator starts at the example of this number; otherwise a run that resumes reads those before.
      name: used in messages.

    Raises InputError if the stream is shorter, or yields something else.
    """
    reader = _Reader(function, name)
    head = reader.read(0, 2 * STREAMED)
    shape = head.shape[1:]
    held = {}
    for split, x in zip(("validation", "test"), np.split(head, 2), strict=True):
        take = functools.partial(_take_rows, x)
        held[split] = Source(f"{name}[{split}]", STREAMED, shape, np.dtype(np.float32), take, block=BLOCK)
    first = reader.read(2 * STREAMED, 3 * STREAMED)  # for statistics, which would begin the stream anew

    def take_train(rows: Rows) -> Arrays:
        rows = np.asarray(rows)
        if rows.max() < len(first):
            return {"x": first[rows]}
        start, stop = int(rows.min()), int(rows.max()) + 1
        found = reader.read(2 * STREAMED + start, 2 * STREAMED + stop)
        return {"x": found[rows - start]}

    length = _MOST - 2 * STREAMED
    train = Source(f"{name}[train]", length, shape, np.dtype(np.float32), take_train, block=length, stream=True)
    return {"train": train, **held}


def _take_rows(x: np.ndarray, rows: Rows) -> Arrays:
    return {"x": x[rows]}


class _Reader:
    """Examples of a stream by their numbers: an iterator that goes on where it stands, and begins anew elsewhere."""

    def __init__(self, function: Stream, name: str):
        self._function, self._name = function, name
        try:
            self._seeks = any(
                each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
                for each in inspect.signature(function).parameters.values()
            )
        except ValueError:  # of a function without a signature
            self._seeks = False
        self._lock = threading.Lock()
        self._parts: Iterator[Any] = iter(())
        self._left, self._at, self._shape = np.empty(0), -1, None

    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns the examples from number `start` to `stop`, float32. Raises InputError if the stream ends before."""
        with self._lock:
            if start < self._at or self._at < 0 or (self._seeks and start > self._at + len(self._left)):
                self._at, self._left = (start if self._seeks else 0), np.empty(0)
                self._parts = self._begin(start)
            found: list[np.ndarray] = []
            while self._at < stop:
                if not len(self._left):
                    self._left = self._next(stop)
                skipped = min(max(start - self._at, 0), len(self._left))
                taken = self._left[skipped : max(stop - self._at, 0)]
                found.append(taken)
                self._left, self._at = self._left[skipped + len(taken) :], self._at + skipped + len(taken)
            return np.concatenate(found)

    def _begin(self, start: int) -> Iterator[Any]:
        """Calls the function. Raises InputError if it raises anything or returns what cannot be iterated over."""
        try:
            return iter(self._function(start) if self._seeks else self._function())
        except Exception as error:
            raise InputError(
                f"{self._name}: a function that yields arrays (n, features) is needed, and calling this one fails "
                f"({kind_and_words(error)})"
            ) from error

    def _next(self, stop: int) -> np.ndarray:
        part = next(self._parts, None)
        if part is None:
            raise InputError(
                f"{self._name} ended after {self._at:,} examples, and at least {stop:,} are needed; let it begin "
                "again at its end, or train for fewer steps"
            )
        x = np.asarray(part)
        with np.errstate(over="ignore"):
            x = x.astype(np.float32) if x.dtype.kind in "buif" or x.dtype.name == "bfloat16" else x
        if x.dtype != np.float32 or x.ndim < 2 or (self._shape is not None and x.shape[1:] != self._shape):
            wanted = "(n, features)" if self._shape is None else f"(n, {', '.join(map(str, self._shape))})"
            raise InputError(f"{self._name} yielded {shown(part)[:60]} of {x.shape}; yield arrays of numbers {wanted}")
        self._shape = x.shape[1:]
        if (bad := find_bad_row(x)) is not None:
            raise InputError(f"{self._name}: example {self._at + bad:,} {_NOT_FINITE}")
        return x
