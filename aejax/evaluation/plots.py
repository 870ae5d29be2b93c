"""Pictures of a run."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aejax import logs
from aejax.run import Run

INK = "#1a1a2e"
SERIES = ("#4361ee", "#f3722c", "#2a9d8f", "#b5179e")


def save(run: Run, workdir: str | Path) -> list[Path]:
    """Writes curves.png and reconstructions.png to `workdir/evaluation/<step>/`."""
    folder = Path(workdir) / "evaluation" / str(run.step)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {"reconstructions": reconstructions(run.inputs, run.reconstructions)}
    history = logs.read(Path(workdir))
    if any("validation/loss" in record for record in history):
        pictures["curves"] = curves(history)
    paths = []
    for name, figure in pictures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=150, bbox_inches="tight", facecolor="white")
    return paths


def curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Each logged term over the steps, training as a line and validation as dots on a line."""
    names = sorted({key.split("/", 1)[1] for record in history for key in record if key.startswith("validation/")})
    names = [n for n in names if not n.endswith("_per_value")]
    series = {n: [r[f"validation/{n}"] for r in history if f"validation/{n}" in r] for n in names}
    names = [n for n in names if n == "loss" or series[n] != series["loss"]]  # a lone term is the loss
    with _style():
        columns = min(len(names), 4)
        rows = math.ceil(len(names) / columns)
        figure = Figure(figsize=(4.2 * columns, 3.2 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels[len(names) :]:
            axes.set_axis_off()
        for axes, name in zip(panels, names, strict=False):
            for k, (part, marker) in enumerate((("train", ""), ("validation", "o"))):
                points = [(r["step"], r[f"{part}/{name}"]) for r in history if f"{part}/{name}" in r]
                if points:
                    axes.plot(*zip(*points, strict=True), marker=marker, ms=4, lw=1.6, color=SERIES[k], label=part)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set(title=name.replace("_", " "), xlabel="step")
            values = [r[k] for r in history for k in (f"train/{name}", f"validation/{name}") if k in r]
            if min(values) > 0 and max(values) > 20 * min(values):
                axes.set_yscale("log")
            axes.legend(frameon=False)
    return figure


def reconstructions(inputs: np.ndarray, outputs: np.ndarray, columns: int = 12, rows: int = 2) -> Figure:
    """Inputs above their reconstructions: as images, or for vectors as points in their first coordinates."""
    if inputs.ndim == 2:
        return _points(inputs, outputs)
    number = min(len(inputs), columns * rows)
    columns = min(columns, number)
    rows = -(-number // columns)
    with _style():
        figure = Figure(figsize=(columns * 0.8, rows * 1.75), layout="constrained")
        grid = figure.subplots(2 * rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for i in range(number):
            for line, images in enumerate((inputs, outputs)):
                _show(grid[2 * (i // columns) + line, i % columns], images[i])
        figure.suptitle("inputs above, reconstructions below", fontsize=10, color=INK)
    return figure


def samples(drawn: np.ndarray, inputs: np.ndarray) -> Figure:
    """Draws of a run in a grid, row by row; vectors as points over those of `inputs`."""
    if drawn.ndim == 2:
        return _clouds(inputs, drawn)
    n, h, w, c = drawn.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    # One picture of all, with white between: an axes for each takes matplotlib minutes for a thousand.
    tiles = np.ones((rows * columns, h + 1, w + 1, c), np.float32)
    tiles[:n, :h, :w] = drawn
    mosaic = tiles.reshape(rows, columns, h + 1, w + 1, c).swapaxes(1, 2).reshape(rows * (h + 1), columns * (w + 1), c)
    side = max(0.8, 3.2 / columns)
    with _style():
        figure = Figure(figsize=(columns * side, rows * side * h / w), layout="constrained")
        _show(figure.subplots(), mosaic[:-1, :-1])
        figure.axes[0].set_axis_off()
    return figure


def _show(axes: Axes, image: np.ndarray) -> None:
    image = image if image.shape[-1] == 3 else image[..., 0]
    axes.imshow(np.clip(image, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def _pairs(values: int) -> list[tuple[int, int]]:
    """The coordinates that pictures of vectors show against each other."""
    return [(i, i + 1) for i in range(min(values, 4) - 1)] or [(0, 0)]


def _clouds(inputs: np.ndarray, drawn: np.ndarray) -> Figure:
    pairs = _pairs(drawn.shape[1])
    with _style():
        figure = Figure(figsize=(3.8 * len(pairs), 3.6), layout="constrained")
        for axes, (i, j) in zip(np.atleast_1d(figure.subplots(1, len(pairs))), pairs, strict=True):
            for points, label, color in ((inputs, "input", "#bbbbbb"), (drawn, "sample", SERIES[0])):
                axes.scatter(points[:, i], points[:, j], s=8, color=color, label=label)
            axes.set(xlabel=f"coordinate {i + 1}", ylabel=f"coordinate {j + 1}")
            axes.set_aspect("equal", "datalim")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), frameon=False, loc="outside upper center", ncols=2)
    return figure


def _points(inputs: np.ndarray, outputs: np.ndarray) -> Figure:
    pairs = _pairs(inputs.shape[1])
    with _style():
        figure = Figure(figsize=(3.8 * len(pairs), 3.6), layout="constrained")
        for axes, (i, j) in zip(np.atleast_1d(figure.subplots(1, len(pairs))), pairs, strict=True):
            segments = np.stack([inputs[:, [i, j]], outputs[:, [i, j]]])
            axes.plot(segments[..., 0], segments[..., 1], color="#cccccc", lw=0.8, zorder=1)
            for k, (points, label) in enumerate(((inputs, "input"), (outputs, "reconstruction"))):
                axes.scatter(points[:, i], points[:, j], s=12 - 4 * k, color=SERIES[k], label=label, zorder=2)
            axes.set(xlabel=f"coordinate {i + 1}", ylabel=f"coordinate {j + 1}")
            axes.set_aspect("equal", "datalim")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), frameon=False, loc="outside upper center", ncols=2)
    return figure


def _style():
    return matplotlib.rc_context(
        {
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "#888888",
            "axes.labelcolor": INK,
            "axes.titlesize": 10,
            "font.size": 9,
            "text.color": INK,
        }
    )
