"""How the cost of training grows with the batch, the examples, the width and the devices.

Each point is a process of its own that runs the trainer as a user would, on random images of 28x28 in a memory-mapped
.npy: no point meets another's memory, programs or devices. The file was just written, so that streaming reads it from
memory, not from a disk. All points take turns, so that what else the machine does meets them alike. Two models: `mlp`,
a VAE of 784-400-20 at width 1; `conv`, configs/conv.py:mnist at width 4.
"""

import dataclasses
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aejax import data
from aejax.config import module
from aejax.evaluation.pictures import style
from aejax.training.loop import train
from aejax.workdir.metrics_log import read
from configs import common, conv
from experiments.machine import peak_gib

WIDTH = {"mlp": 1, "conv": 4}  # where another is not asked for
IMAGES = {"mlp": 65_536, "conv": 8_192}  # of a round at width 1: a few seconds on two cores


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of the trainer; 0 devices: those that are there, else so many of the host; 0 steps: `IMAGES` a round."""

    model: str
    batch: int = 128
    examples: int = 16_384
    width: int = 0
    devices: int = 0
    streamed: bool = False
    steps: int = 0  # of a round


# By what grows: the axis of a panel.
POINTS = {
    "batch": [Point("mlp", batch=b) for b in (32, 128, 512, 2_048, 4_096)]
    + [Point("conv", batch=b) for b in (32, 128, 512, 1_024)],
    "examples": [
        Point("mlp", examples=n, streamed=streamed)
        for streamed in (False, True)
        for n in (1_000, 10_000, 100_000, 1_000_000)
    ],
    "width": [Point(model, width=w) for model in WIDTH for w in (1, 2, 4, 8)],
    "devices": [Point(model, devices=n) for model in WIDTH for n in (1, 2, 4)],
}


def growth(rounds: int, points: dict[str, list[Point]] = POINTS) -> dict[str, list[dict]]:
    """Of each point, by what grows: what `measure` finds, the median of its turns' rates and the highest peak."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npy"
        _write_images(file, max(point.examples for panel in points.values() for point in panel))
        turns = [[_in_a_process(p, file) for panel in points.values() for p in panel] for _ in range(rounds)]
    found = map(_together, zip(*turns, strict=True))
    return {axis: [next(found) for _ in panel] for axis, panel in points.items()}


def _together(turns: Sequence[dict]) -> dict[str, Any]:
    rates = [turn["images_per_second"] for turn in turns]
    rate, peak = statistics.median(rates), max(turn["peak_gib"] for turn in turns)
    share = turns[0]["permutation_seconds"] * rate / turns[0]["examples"]
    return {**turns[0], "images_per_second": rate, "rates": rates, "peak_gib": peak, "permutation_share": share}


def _write_images(file: Path, count: int) -> None:
    images = np.lib.format.open_memmap(file, "w+", np.uint8, (count, 28, 28))
    for start in range(0, count, 4_096):
        part = images[start : start + 4_096]
        part[:] = np.random.default_rng(start).integers(0, 256, part.shape, np.uint8)


def _in_a_process(point: Point, file: Path) -> dict[str, Any]:
    env = dict(os.environ)
    if point.devices:
        flags = f"{env.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={point.devices}"
        env |= {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    arguments = [json.dumps(dataclasses.asdict(point)), str(file)]
    command = [sys.executable, "-W", "ignore", "-m", "experiments.benchmark.growth", *arguments]
    output = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def measure(point: Point, file: Path) -> dict[str, Any]:
    """Trains for one round that compiles and one that counts.

    Returns:
      The point, and: `images_per_second` of the trainer's own log; `permutation_seconds` that each new epoch's order
      takes; `peak_gib`, the largest resident memory of the process; `loaded_gib` and `mapped_gib`, how much of the file
      was in it when the data was loaded and at the end. The system takes these pages back when it needs them: no cost.
    """
    config = _config(point, file)
    splits = data.load(config.data)
    loaded = _resident_gib(file)
    with tempfile.TemporaryDirectory() as workdir:
        train(config, workdir, data=splits, quiet=True)
        rates = [r["images_per_second"] for r in read(Path(workdir)) if "images_per_second" in r]
    return {
        **dataclasses.asdict(point),
        "width": point.width or WIDTH[point.model],
        "devices": jax.local_device_count(),
        "steps": config.log_every,
        "images_per_second": rates[-1],
        "permutation_seconds": _permutation_seconds(point),
        "peak_gib": peak_gib(),
        "loaded_gib": loaded,
        "mapped_gib": _resident_gib(file),
    }


def _config(point: Point, file: Path) -> Any:
    width = point.width or WIDTH[point.model]
    if point.model == "mlp":
        config = common.mlp(module("gaussian", features=20), hidden=(400 * width,))
        config.objective.weights.kl = 1.0
    else:
        config = conv.get_config("mnist").unlock()
        config.encoder.features, config.decoder.features = (16 * width, 32 * width), (32 * width, 16 * width)
        config.bottleneck.features = 64 * width
    config.batch_size = point.batch
    config.log_every = point.steps or max(2, IMAGES[point.model] // width // point.batch)
    config.steps = config.checkpoint_every = 2 * config.log_every
    config.data.update({"name": str(file), "train": f"train[:{point.examples}]"})
    config.data.update({part: f"train[-{min(1_000, point.examples)}:]" for part in ("validation", "test")})
    if point.streamed:
        config.data.memory_mb = 0
    return config


def _permutation_seconds(point: Point) -> float:
    seconds = []
    for seed in range(1, 6):  # not the run's: an order is kept once it was made
        begin = time.perf_counter()
        data.shuffle_rows(point.examples, point.batch, seed)(0)
        seconds.append(time.perf_counter() - begin)
    return round(statistics.median(seconds), 6)


def _resident_gib(file: Path) -> float:
    """How much of a mapped file is in this process's memory."""
    maps = Path("/proc/self/smaps").read_text()
    kib = re.findall(rf"{re.escape(str(file))}\n(?:.*\n)*?Rss:\s+(\d+) kB", maps)
    return round(sum(map(int, kib)) / 2**20, 4)


def plot(results: dict[str, list[dict]]) -> Figure:
    """A row for what grows: images per second at the left, peak memory without the mapped file at the right."""
    with style.style():
        figure = style.new(8.6)
        grid = figure.subplots(len(POINTS), 2, sharey="col")
        for row, (axis, label) in zip(
            grid,
            {
                "batch": "images in a batch",
                "examples": "examples of the data set",
                "width": "width, times the narrowest",
                "devices": "devices of the host",
            }.items(),
            strict=True,
        ):
            for panel, value in zip(row, (_rate, _own_gib), strict=True):
                _lines(panel, axis, results[axis], value)
                panel.set_xlabel(label)
        grid[0, 0].set_title("images / second")
        grid[0, 1].set_title("peak memory, GiB")
    return figure


def _rate(point: dict) -> float:
    return point["images_per_second"]


def _own_gib(point: dict) -> float:
    return point["peak_gib"] - point["mapped_gib"]


def _lines(axes: Axes, axis: str, points: list[dict], value: Any) -> None:
    for model, color in zip(WIDTH, style.SERIES, strict=True):
        for streamed in (False, True):
            mine = [p for p in points if (p["model"], p["streamed"]) == (model, streamed)]
            x, y = [p[axis] for p in mine], [value(p) for p in mine]
            name = f"{model}, streamed" if streamed else model
            if mine:
                axes.plot(x, y, "o--" if streamed else "o-", color=color, label=name, markersize=4)
    ticks = sorted({p[axis] for p in points})
    axes.set(xscale="log")
    axes.set_xticks(ticks, map(_short, ticks))
    if value is _rate:
        axes.set(yscale="log")
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
        axes.legend(fontsize=8)
    else:
        axes.set_ylim(0)
    axes.minorticks_off()


def _short(number: int) -> str:
    """1000000 as 1M, 4096 as 4k: room for the ticks of a narrow panel."""
    size, unit = next((s, u) for s, u in ((1_000_000, "M"), (1_000, "k"), (1, "")) if number >= s)
    return f"{number // size}{unit}"


if __name__ == "__main__":
    given, file = sys.argv[1:]
    print(json.dumps(measure(Point(**json.loads(given)), Path(file))))
