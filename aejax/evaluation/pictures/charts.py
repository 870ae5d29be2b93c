"""Charts of a training and of a code, with lines and bars."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aejax.evaluation.pictures.style import CLASSES, SERIES, new, style, use_log_scale


def curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws each logged term over the steps, training as a line and validation as a line with dots."""
    names = sorted({key.split("/", 1)[1] for record in history for key in record if key.startswith("validation/")})
    names = [n for n in names if not n.endswith("_per_value")]  # the same curves on another scale
    series = {n: [r[f"validation/{n}"] for r in history if f"validation/{n}" in r] for n in names}
    names = [n for n in names if n == "loss" or series[n] != series["loss"]]  # a single term equals the loss
    names.sort(key=lambda n: n != "loss")
    with style():
        columns = min(len(names), 2)
        rows = math.ceil(len(names) / columns)
        figure = new(2.2 * rows + 0.4)
        figure.set_layout_engine("constrained", h_pad=0.08)
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
        spare = panels[len(names) :]
        for axes in spare:
            axes.set_axis_off()
        for axes, name in zip(panels, names, strict=False):
            for k, (part, marker) in enumerate((("train", ""), ("validation", "o"))):
                points = [(r["step"], r[f"{part}/{name}"]) for r in history if f"{part}/{name}" in r]
                if points:
                    axes.plot(*zip(*points, strict=True), marker=marker, ms=4, lw=1.6, color=SERIES[k], label=part)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.set_title(name.replace("_", " "))
            axes.tick_params(labelbottom=True)
            values = [r[k] for r in history for k in (f"train/{name}", f"validation/{name}") if k in r]
            use_log_scale(axes, min(values), max(values))
        for axes in panels[max(len(names) - columns, 0) : len(names)]:
            axes.set_xlabel("step")
        handles = {label: h for axes in panels for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        if len(spare):
            spare[0].legend(handles.values(), handles, loc="center")
        else:
            figure.legend(handles.values(), handles, loc="outside upper right", ncols=2)
    return figure


def usage(counts: Sequence[np.ndarray], size: int) -> Figure:
    """Draws how often each of `size` codes is used, most used first: a line for the counts of each codebook."""
    with style():
        figure = new(3.0)
        axes = figure.subplots()
        for book, used in enumerate(counts):
            percent = 100 * np.sort(used)[::-1] / used.sum()
            edges = np.arange(len(percent) + 1) + 0.5
            color = SERIES[0] if len(counts) == 1 else CLASSES[book % len(CLASSES)]
            axes.stairs(percent, edges, fill=len(counts) == 1, color=color, lw=1.6, label=f"codebook {book + 1}")
        axes.axhline(100 / size, color=SERIES[1], ls="--", lw=1.2, label="uniform usage")
        axes.set(xlabel="code, most used first", ylabel="usage (%)", ylim=(0, None))
        # A code without a codebook can have far more values than are ever used.
        axes.set_xlim(0.5, min(size, 4 * max(map(len, counts))) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.legend(loc="upper right")
    return figure


def activity(deviations: np.ndarray, threshold: float | None = None) -> Figure:
    """Draws the standard deviation of each latent unit [units] over the examples, largest first."""
    with style():
        figure = new(3.0)
        axes = figure.subplots()
        order = np.sort(deviations)[::-1]
        if len(order) <= 64:
            axes.bar(np.arange(len(order)) + 1, order, width=0.8, color=SERIES[0])
        else:
            axes.stairs(order, np.arange(len(order) + 1) + 0.5, fill=True, color=SERIES[0])
        if threshold is not None:
            axes.axhline(threshold, color=SERIES[1], ls="--", lw=1.2, label=f"active above {threshold:g}")
            axes.legend(loc="upper right")
        axes.set(xlabel="unit, most varying first", ylabel="standard deviation", ylim=(0, None))
        axes.set_xlim(0.5, len(order) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure


def firing_frequency(counts: np.ndarray, edges: np.ndarray) -> Figure:
    """Draws how many units fire how often: `counts` between `edges`, the log10 of fractions of the examples."""
    with style():
        figure = new(3.0)
        axes = figure.subplots()
        axes.stairs(counts, 10**edges, fill=True, color=SERIES[0])
        axes.set(xlabel="fraction of the examples", ylabel="units", ylim=(0, None), xscale="log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure
