"""JPEGs as training streams them, compared with grain's processes and PyTorch's DataLoader; and a large folder.

decoding: images per second. Each contender crops the center of each picture, resizes it (bicubic) and mirrors every
other one, into batches of uint8, with a worker for each core. aejax decodes a picture at a fraction of its size where
that is at least twice the size asked for. Its peers decode all of it, as their examples do; "pytorch, draft" uses
aejax's function instead, so that only the workers differ. The contenders are processes of their own that take turns.
Then a step takes half as long again as the decoding, and the share of its time that it waits for data is measured.
About 4 minutes on two CPU cores.

streaming: images per second of a folder of 2,000 such JPEGs to crops of 256x256, compared with PyTorch's DataLoader
with PIL and a worker for each core. A turn reads all of them once. About 3 minutes.

folder: the seconds from opening a folder of 100,000 small JPEGs to its first batch, after the imports: cold, without
remembered sizes, and warm. The files were just written, so they are read from memory, not from a disk. CPU seconds
count, which other programs disturb less.
"""

import contextlib
import dataclasses
import io
import itertools
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.benchmark import goals
from experiments.benchmark.contest import ask, present
from experiments.benchmark.decoders import CONTENDERS, COUNTED, WARM, Turn, answer
from experiments.machine import fresh_process

# Height and width, number of different pictures, and batch size.
PICTURES = {"500x375": (375, 500, 256, 16), "1600x1200": (1200, 1600, 32, 4)}
SIZES = (64, 256)
FILES = 100_000
_MOST = {"cold": 10, "warm": 2}  # seconds
_RATES = ("per_second", "per_cpu_second")


def decoding(
    rounds: int, pictures: Mapping[str, tuple[int, int, int, int]] = PICTURES, sizes: Sequence[int] = SIZES
) -> dict[str, Any]:
    """Measures all contenders on each kind of pictures and each size, in turns, and returns what was found."""
    names, found = present("decoding", {name: package for name, (package, _) in CONTENDERS.items()}), {}
    with tempfile.TemporaryDirectory() as root, contextlib.ExitStack() as stack:
        children = {name: stack.enter_context(fresh_process({})) for name in names}
        for (kind, (height, width, count, batch)), size in itertools.product(pictures.items(), sizes):
            folder = Path(root, kind)
            if not folder.exists():
                write_pictures(folder, height, width, count)
            turn = Turn(str(folder), size, batch, len(os.sched_getaffinity(0)))
            found[f"{kind} to {size}x{size}"] = _compare(children, turn, rounds)
    return {"works": found, "goals": [goal for work, of in found.items() for goal in _set_goals(work, of)]}


def streaming(rounds: int, count: int = 2_000, size: int = 256) -> dict[str, Any]:
    """Measures aejax and PyTorch's DataLoader on a folder of `count` JPEGs, in turns, and returns what was found."""
    needs = {name: CONTENDERS[name][0] for name in ("aejax", "pytorch")}
    with tempfile.TemporaryDirectory() as root, contextlib.ExitStack() as stack:
        children = {name: stack.enter_context(fresh_process({})) for name in present("streaming", needs)}
        write_pictures(Path(root, "pictures"), 375, 500, count)
        turn = Turn(f"{root}/pictures", size, count // (WARM + COUNTED), len(os.sched_getaffinity(0)))
        rates = _measure(children, turn, rounds)
    ratios = {key: {name: _ratio(of["aejax"], of[name]) for name in children} for key, of in rates.items()}
    found: dict[str, Any] = {"files": count, "size": size, "images": rates, "ratios": ratios}
    if "pytorch" in children:
        value = min(ratios[key]["pytorch"] for key in _RATES)
        what = f"streaming a folder of {count:,} JPEGs (about 500x375) to {size}x{size} crops: times as fast as"
        found["goals"] = [goals.at_least(f"{what} torch's DataLoader", value, 1.3)]
    return found


def _measure(children: Mapping[str, Executor], turn: Turn, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Returns the images per second of each contender in each round, by the clock and by the processors."""
    rates: dict[str, dict[str, list[float]]] = {key: {name: [] for name in children} for key in _RATES}
    for _ in range(rounds):
        for name, child in children.items():
            answered = ask(child, name, answer, name, turn)
            for key, of in rates.items():
                of[name].append(round(answered[key], 1))
    return rates


def _compare(children: Mapping[str, Executor], turn: Turn, rounds: int) -> dict[str, Any]:
    """Returns the images per second, how many times as fast aejax is, and what a longer step waits."""
    rates: dict[str, dict[str, list[float]]] = {key: {name: [] for name in children} for key in _RATES}
    waits = []
    for _ in range(rounds):
        for name, child in children.items():
            found = ask(child, name, answer, name, turn)
            for key, of in rates.items():
                of[name].append(round(found[key], 1))
        longer = dataclasses.replace(turn, step=1.5 * turn.batch / rates["per_second"]["aejax"][-1])
        waits.append(round(ask(children["aejax"], "aejax", answer, "aejax", longer)["waits"], 4))
    ratios = {key: {name: _ratio(of["aejax"], of[name]) for name in children} for key, of in rates.items()}
    return {"images": rates, "ratios": ratios, "waits": waits}


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Returns the median over rounds, whose neighbors in time share what else the machine does."""
    return round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3)


def _set_goals(work: str, found: Mapping[str, Any]) -> list[goals.Goal]:
    """Returns the entries of one work. A ratio is the lower of those by the clock and by the processors.

    On a busy machine, the clock favors whoever has more threads.
    """
    set_goals = []
    for peer, goal in (("grain", 1.0), ("pytorch", 1.3)):
        if peer in found["ratios"]["per_second"]:
            value = min(found["ratios"][key][peer] for key in _RATES)
            set_goals.append(goals.at_least(f"JPEGs, {work}: times as fast as {peer}", value, goal))
    waits = statistics.median(found["waits"])
    return [*set_goals, goals.at_most(f"JPEGs, {work}: fraction of time that a longer step waits", waits, 0.01)]


def folder(rounds: int, files: int = FILES) -> dict[str, Any]:
    """Measures the seconds to the first batch of a folder of `files` JPEGs, each time in a process of its own."""
    found: dict[str, dict[str, list[float]]] = {kind: {"seconds": [], "cpu_seconds": []} for kind in _MOST}
    with tempfile.TemporaryDirectory() as root:
        write_small(Path(root, "pictures"), files)
        turn = Turn(f"{root}/pictures", size=64, batch=64)
        for number, kind in itertools.product(range(rounds), _MOST):
            with fresh_process({"XDG_CACHE_HOME": f"{root}/cache{number}"}) as process:
                for key, value in ask(process, "folder", answer, "folder", turn).items():
                    found[kind][key].append(round(value, 2))
    medians = {kind: statistics.median(of["cpu_seconds"]) for kind, of in found.items()}
    figure = f"folder of {files:,} JPEGs: CPU seconds from opening it to the first batch"
    return {
        "files": files,
        **medians,
        "rounds": found,
        "goals": [goals.at_most(f"{figure}, {kind}", medians[kind], most) for kind, most in _MOST.items()],
    }


def write_pictures(folder: Path, height: int, width: int, count: int) -> None:
    """Writes JPEGs of about this size, a third of them upright, whose spectrum and edges are those of photographs."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(count):
        h, w = (side + int(rng.integers(-20, 21)) for side in ((height, width) if i % 3 else (width, height)))
        frequency = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w))
        frequency[0, 0] = 1
        gray, color = (
            np.fft.irfft2(np.exp(2j * np.pi * rng.random(frequency.shape)) / frequency**power, (h, w))
            for power in (1.1, 1.5)
        )
        pixels = 120 + 45 * (gray / gray.std())[..., None] + 15 * (color / color.std())[..., None] * [1, 0, -1]
        for _ in range(12):
            top, left = rng.integers(0, (h, w))
            pixels[top : top + h // 3, left : left + w // 3] += rng.normal(0, 40, 3)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{i:05d}.jpg", quality=90)


def write_small(folder: Path, count: int) -> None:
    """Writes JPEGs of 24x16 pixels into 100 folders."""
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)).save(content, "JPEG")
    for i in range(count):
        file = folder / f"{i % 100:02d}" / f"{i:06d}.jpg"
        if i < 100:
            file.parent.mkdir(parents=True)
        file.write_bytes(content.getvalue())
