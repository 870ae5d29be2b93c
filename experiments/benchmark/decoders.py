"""Contenders of `decoding.py`, each of which answers from a process of its own.

`folder` is no contender: it answers by the seconds and CPU seconds that aejax takes from opening a folder to its first
batch.
"""

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

Batches = Generator[np.ndarray, None, None]
WARM, COUNTED = 10, 10  # batches of a turn; fewer than WARM are decoded ahead
_TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds; the kernel counts no less


@dataclasses.dataclass(frozen=True)
class Turn:
    """A folder to stream in batches of pictures of `size`; `step` is the seconds that a step takes."""

    folder: str
    size: int
    batch: int
    workers: int = 1
    step: float = 0.0


def take_turn(batches: Batches, turn: Turn) -> dict[str, float]:
    """Returns the images per second, by the clock and by the processors, and the fraction of time spent waiting."""
    for _ in range(WARM):  # workers start, and a step is compiled
        next(batches)
        time.sleep(turn.step)
    begin, busy, waited = time.perf_counter(), _busy_seconds(), 0.0
    for _ in range(COUNTED):
        asked = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - asked
        time.sleep(turn.step)
    seconds, busy = time.perf_counter() - begin, max(_busy_seconds() - busy, _TICK)
    images = COUNTED * turn.batch
    return {"per_second": images / seconds, "per_cpu_second": images / busy, "waits": waited / seconds}


def _busy_seconds() -> float:
    """Returns the CPU seconds of this process and of all that it has started and that still run."""
    ticks, processes = 0, [os.getpid()]
    for process in processes:
        folder = Path(f"/proc/{process}")
        ticks += sum(map(int, (folder / "stat").read_text().rpartition(")")[2].split()[11:13]))  # see proc(5)
        processes += [int(child) for task in folder.glob("task/*/children") for child in task.read_text().split()]
    return ticks * _TICK


def _stream_aejax(turn: Turn) -> Batches:
    from aejax.data import stream

    source = _open_folder(turn)
    rows = np.resize(np.arange(len(source)), 2**14 * turn.batch).reshape(-1, turn.batch)

    def take(rows: np.ndarray) -> dict[str, np.ndarray]:
        x = source.take(rows)["x"]
        x[rows % 2 == 0] = x[rows % 2 == 0, :, ::-1]
        return {"x": x}

    for arrays in stream(dataclasses.replace(source, take=take), rows.__getitem__, 0, len(rows)):
        yield arrays["x"]


def _stream_grain(turn: Turn) -> Batches:
    import grain

    files = grain.MapDataset.source(_list(turn)).repeat()
    load = functools.partial(_load_mirrored, size=turn.size, draft=False)
    batches = files.map_with_index(load).batch(turn.batch).to_iter_dataset(grain.ReadOptions(1, turn.batch))
    iterator = iter(batches.mp_prefetch(grain.MultiprocessingOptions(turn.workers)))
    try:
        yield from iterator
    finally:
        iterator.close()  # ends the processes at once


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What PyTorch's workers read, which it sends to them."""

    files: list[str]
    turn: Turn
    draft: bool

    def __len__(self) -> int:
        return 2**14 * self.turn.batch

    def __getitem__(self, index: int) -> np.ndarray:
        return _load_mirrored(index, self.files[index % len(self.files)], self.turn.size, self.draft).copy()


def _stream_pytorch(turn: Turn, draft: bool = False) -> Batches:
    import torch.utils.data

    pictures = Pictures(_list(turn), turn, draft)
    yield from torch.utils.data.DataLoader(pictures, turn.batch, num_workers=turn.workers)


def _load_mirrored(index: int, file: str, size: int, draft: bool) -> np.ndarray:
    pixels = _load_draft(file, size) if draft else _load_whole(file, size)
    return pixels if index % 2 else pixels[:, ::-1]


def _load_whole(file: str, size: int) -> np.ndarray:
    with Image.open(file) as picture:
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        box = (left, top, left + side, top + side)
        return np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, box))


def _load_draft(file: str, size: int) -> np.ndarray:
    from aejax.data.images import decode

    return decode(Path(file), file, 3, size)


def _list(turn: Turn) -> list[str]:
    return sorted(entry.path for entry in os.scandir(turn.folder))


def _open_folder(turn: Turn):
    import aejax
    from aejax import data

    config = aejax.config.default().data
    config.update({"name": turn.folder, "size": turn.size, "memory_mb": 0})
    return data.find(config)["train"]


def _time_folder(turn: Turn) -> dict[str, float]:
    """Returns the seconds, and those of the processors, from opening the folder to its first batch."""
    from aejax import data

    begin, busy = time.perf_counter(), time.process_time()
    source = _open_folder(turn)
    next(data.stream(source, data.shuffle_rows(len(source), turn.batch, 0), 0, 100))
    return {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - busy}


# The package that each needs, and its batches.
CONTENDERS: dict[str, tuple[str, Callable[[Turn], Batches]]] = {
    "aejax": ("aejax", _stream_aejax),
    "grain": ("grain", _stream_grain),
    "pytorch": ("torch", _stream_pytorch),
    "pytorch, draft": ("torch", functools.partial(_stream_pytorch, draft=True)),
}


def answer(name: str, turn: Turn) -> dict[str, float]:
    """In the contender's process: what `take_turn` measures of a contender, or `_time_folder` of a folder."""
    if name == "folder":
        return _time_folder(turn)
    flags.FLAGS(["decoders"])  # which grain's workers read
    # Closed, as workers that were left would go on to decode ahead during the next contender's turn.
    with contextlib.closing(CONTENDERS[name][1](turn)) as batches:
        return take_turn(batches, turn)
