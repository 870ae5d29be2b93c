"""How the cost of training grows with the batch, the examples, the width and the devices.

Each point is a process of its own that runs the trainer as a user would, on random images of 28x28 in a memory-mapped
.npy: no point meets another's memory, programs or devices. The file was just written, so that streaming reads it from
memory, not from a disk. All points take turns, so that what else the machine does meets them alike. Two models: `mlp`,
a VAE of 784-400-20 at width 1; `conv`, configs/conv.py:mnist at width 4.
"""

import dataclasses
import os
import re
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from aejax.config import module
from aejax.evaluation.pictures import style
from aejax.training.loop import train
from aejax.workdir.metrics_log import read
from configs import common, conv
from experiments.machine import fresh_process, peak_gib

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
    """Returns what `measure` finds for each point, with the median of its turns' rates and the highest peak."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npy"
        _write_images(file, max(point.examples for panel in points.values() for point in panel))
        turns = [[_in_a_process(p, file) for panel in points.values() for p in panel] for _ in range(rounds)]
    found = map(_summarize, zip(*turns, strict=True))
    return {axis: [next(found) for _ in panel] for axis, panel in points.items()}


def _summarize(turns: Sequence[dict]) -> dict[str, Any]:
    rates = [turn["images_per_second"] for turn in turns]
    peak = max(turn["peak_gib"] for turn in turns)
    return {**turns[0], "images_per_second": statistics.median(rates), "rates": rates, "peak_gib": peak}


def _write_images(file: Path, count: int) -> None:
    images = np.lib.format.open_memmap(file, "w+", np.uint8, (count, 28, 28))
    for start in range(0, count, 4_096):
        part = images[start : start + 4_096]
        part[:] = np.random.default_rng(start).integers(0, 256, part.shape, np.uint8)


def _in_a_process(point: Point, file: Path) -> dict[str, Any]:
    env = {"PYTHONWARNINGS": "ignore"}
    if point.devices:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={point.devices}"
        env |= {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    with fresh_process(env) as process:
        return process.submit(measure, point, file).result()


def measure(point: Point, file: Path) -> dict[str, Any]:
    """Trains for one round that compiles and one that counts.

    Returns:
      The point, and: `images_per_second` of the trainer's own log; `peak_gib`, the largest resident memory of the
      process; `mapped_gib`, how much of the file was in it at the end. The system takes these pages back when it needs
      them: no cost.
    """
    config = _config(point, file)
    with tempfile.TemporaryDirectory() as workdir:
        train(config, workdir, quiet=True)
        rates = [r["images_per_second"] for r in read(Path(workdir)) if "images_per_second" in r]
    return {
        **dataclasses.asdict(point),
        "width": point.width or WIDTH[point.model],
        "devices": jax.local_device_count(),
        "steps": config.log_every,
        "images_per_second": rates[-1],
        "peak_gib": peak_gib(),
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


def _resident_gib(file: Path) -> float:
    """Returns how much of a mapped file is in this process's memory."""
    maps = Path("/proc/self/smaps").read_text()
    kib = re.findall(rf"{re.escape(str(file))}\n(?:.*\n)*?Rss:\s+(\d+) kB", maps)
    return round(sum(map(int, kib)) / 2**20, 4)


def plot(results: dict[str, list[dict]]) -> Figure:
    """Draws a row for each thing that grows: images per second, and peak memory without the mapped file."""
    with style.style():
        figure = style.new(8.6)
        grid = figure.subplots(len(POINTS), 2, sharey="col")
        labels = ("images in a batch", "examples of the data set", "width, times the narrowest", "devices of the host")
        for (rate, memory), axis, label in zip(grid, POINTS, labels, strict=True):
            _draw_lines(rate, axis, label, results[axis], lambda p: p["images_per_second"])
            _draw_lines(memory, axis, label, results[axis], lambda p: p["peak_gib"] - p["mapped_gib"])
            rate.set(yscale="log")
            rate.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
            rate.legend(fontsize=8)
            memory.set_ylim(0)
            rate.minorticks_off()
        grid[0, 0].set_title("images / second")
        grid[0, 1].set_title("peak memory, GiB")
    return figure


def _draw_lines(axes: Axes, axis: str, label: str, points: list[dict], value: Callable[[dict], float]) -> None:
    for model, color in zip(WIDTH, style.SERIES, strict=True):
        for streamed in (False, True):
            mine = [p for p in points if (p["model"], p["streamed"]) == (model, streamed)]
            x, y = [p[axis] for p in mine], [value(p) for p in mine]
            name = f"{model}, streamed" if streamed else model
            if mine:
                axes.plot(x, y, "o--" if streamed else "o-", color=color, label=name, markersize=4)
    ticks = sorted({p[axis] for p in points})
    axes.set(xscale="log", xlabel=label)
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(EngFormatter(places=0, sep=""))  # 1M and 4k, as the panels are narrow
    axes.minorticks_off()
