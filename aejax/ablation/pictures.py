"""Pictures of an ablation: all settings, the curves of the loss, and each metric along each axis."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from aejax.ablation.plan import short
from aejax.ablation.statistics import deviation, direction
from aejax.ablation.table import Row, read_finite
from aejax.ablation.trials import Ablation, Setting, show
from aejax.evaluation.pictures import Picture
from aejax.evaluation.pictures.style import CLASSES, INK, MUTED, new, style, use_log_scale
from aejax.evaluation.subject import Skipped

LINES = {"o": "-", "s": "--", "^": "-.", "D": (0, (3, 1)), "v": (0, (1, 1)), "P": (0, (5, 1, 1, 1))}  # by marker
COLORS = tuple(c for k, c in enumerate(CLASSES) if k not in (3, 8))  # the two left out are nearly gray
Points = dict[str, dict[int, float]]  # a metric by value of an axis and seed
_BARS: dict[str, Any] = {"capsize": 3, "elinewidth": 1.2, "ms": 5, "lw": 1.6}


def draw(ablation: Ablation, rows: Sequence[Row]) -> dict[str, Picture | Skipped]:
    """Draws all pictures; returns them by name, those along an axis by its key."""
    pictures: dict[str, Picture | Skipped] = {"settings": settings(ablation, rows), "curves": curves(ablation, rows)}
    return pictures | {axis: along(ablation, rows, axis) for axis in ablation.axes if axis != "run"}


def colors(rows: Sequence[Row]) -> dict[str, str]:
    """Returns the color that each setting has in every picture, by its label.

    The baseline comes first, then the settings of the lowest loss at the end; of more than eight the others are gray.
    """
    last = {row.setting.label: _curve(row.setting)[1][-1:] for row in rows if row.setting.trials}
    first = [row.setting.label for row in rows if row.is_baseline and row.setting.label in last]
    best = sorted((label for label, loss in last.items() if len(loss)), key=lambda label: last[label][0])
    named = dict(zip(dict.fromkeys([*first, *best]), COLORS, strict=False))
    return named | {row.setting.label: MUTED for row in rows if row.setting.label not in named}


def settings(ablation: Ablation, rows: Sequence[Row]) -> Picture | Skipped:
    """Draws the mean, standard deviation and seeds of each setting in a line, with a panel for each metric."""
    if len(rows) < 2:
        return Skipped("there is only one setting")
    if len(rows) > 40:
        return Skipped(f"{len(rows)} settings are more than a picture of 40 lines holds")
    metrics, color = list(rows[0].cells), colors(rows)
    with style():
        figure = new(len(metrics) * (0.24 * len(rows) + 0.75) + 0.1)
        panels = figure.subplots(len(metrics), 1, squeeze=False).ravel()
        for axes, metric in zip(panels, metrics, strict=True):
            for i, row in enumerate(rows):
                cell, own = row.cells[metric], color[row.setting.label]
                if cell.mean is None:
                    continue
                seeds = list(cell.values.values())
                axes.plot(seeds, [i + 0.3] * len(seeds), ls="", marker="o", ms=3, color=own, alpha=0.7)
                axes.errorbar(cell.mean, i, xerr=cell.deviation or 0, color=own, marker="o", **_BARS)
            axes.set_yticks(range(len(rows)), [_cut(_name(row, rows)) for row in rows], fontsize=9)
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.tick_params(axis="y", length=0)
            axes.set_title(_title(ablation, metric))
    caption = "The mean and the standard deviation of each setting over its seeds; small dots are single seeds."
    return Picture(figure, f"{caption} An arrow points to where a metric is better.")


def along(ablation: Ablation, rows: Sequence[Row], axis: str) -> Picture | Skipped:
    """Draws each metric along an axis: a line for each setting of the other axes if they are few, else their mean."""
    metrics, name = list(rows[0].cells), short(ablation.axes)[axis]
    values = list({show(v): v for v in (row.setting.values[axis] for row in rows)}.values())
    if numbers := all(map(_is_number, values)):
        values.sort()
    lines = _lines(rows, axis)
    if not lines:
        return Skipped(f"no two settings differ in {axis} alone")
    several, color = len(lines) > len(LINES), colors(rows)
    # Nothing lies between two categories, but a reader must see which dots belong together.
    dashes = [dash if numbers else ":" for dash in LINES.values()]
    with style():
        columns = min(len(metrics), 2)
        count = math.ceil(len(metrics) / columns)
        figure = new(2.4 * count + (0.2 + 0.2 * math.ceil(len(lines) / 2) if 1 < len(lines) <= len(LINES) else 0))
        figure.set_layout_engine("constrained", h_pad=0.08, w_pad=0.08)
        panels = figure.subplots(count, columns, squeeze=False).ravel()
        for panel in panels[len(metrics) :]:
            panel.set_axis_off()
        for panel, metric in zip(panels, metrics, strict=False):
            place = _scale(panel, values)
            if several:
                _line(panel, place, _marginal(list(lines.values()), axis, metric), {}, ls=dashes[0], marker="o")
            for k, (label, group) in enumerate(() if several else lines.items()):
                # Lines side by side, so that error bars do not hide each other.
                shift = (k - (len(lines) - 1) / 2) * 0.06
                points = {show(r.setting.values[axis]): read_finite(r.setting, metric) for r in group}
                own = {show(r.setting.values[axis]): color[r.setting.label] for r in group}
                _line(panel, place, points, own, shift, ls=dashes[k], marker=list(LINES)[k], label=label)
            panel.set_title(_title(ablation, metric), fontsize=10)
            panel.set_xlabel(name)
        if 1 < len(lines) <= len(LINES):
            # A metric may have been measured for some settings only.
            named = {n: h[0] for p in panels for h, n in zip(*p.get_legend_handles_labels(), strict=True)}
            known = [n for n in lines if n in named]
            figure.legend([named[n] for n in known], map(_cut, known), loc="outside upper left", ncols=2)
    others = f"mean over {len(lines)} settings of the other axes" if several else "mean"
    same = "" if several else "; each setting has the color that it has in the other pictures"
    return Picture(figure, f"Along {axis}: {others} and standard deviation over seeds{same}.")


def curves(ablation: Ablation, rows: Sequence[Row]) -> Picture | Skipped:
    """Draws the validation loss over the steps: the mean over seeds and a band of one standard deviation."""
    found = {row.setting.label: (row, _curve(row.setting)) for row in rows if row.setting.trials}
    color = colors(rows)
    handles: dict[str, tuple[Any, str]] = {}
    named = [label for label in color if label in found and color[label] != MUTED]
    with style():
        figure = new(3.0 + 0.17 * len(named))
        axes = figure.subplots()
        for label, (row, (steps, mean, spread)) in found.items():
            if label not in named:
                axes.plot(steps, mean, color=MUTED, lw=0.8, alpha=0.5, zorder=1)
                continue
            marker = "o" if len(steps) < 2 else ""
            (line,) = axes.plot(steps, mean, color=color[label], lw=1.6, marker=marker, zorder=3)
            handles[label] = line, _cut(_name(row, rows), 72)
            axes.fill_between(steps, mean - spread, mean + spread, color=color[label], alpha=0.18, lw=0, zorder=2)
        means = np.concatenate([mean for _, (_, mean, _) in found.values()])
        use_log_scale(axes, means.min(), means.max())
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set(xlabel="step", ylabel="validation loss")
        figure.legend(*zip(*(handles[n] for n in named), strict=True), loc="outside upper left", fontsize=8)
    rest = f"; named: the baseline and the {len(COLORS) - 1} lowest at the end" if len(found) > len(named) else ""
    return Picture(figure, f"Validation loss: mean over seeds and a band of one standard deviation{rest}.")


def _curve(setting: Setting) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the steps at which all seeds were validated, and the mean and standard deviation of their losses."""
    runs = setting.trials.values()
    losses = [{r["step"]: r["validation/loss"] for r in t.history if "validation/loss" in r} for t in runs]
    steps = sorted(set.intersection(*(set(seed) for seed in losses)))
    each = np.array([[seed[step] for step in steps] for seed in losses])
    spread = each.std(0, ddof=1) if len(each) > 1 else np.zeros(len(steps))
    return np.array(steps), each.mean(0), spread


def _name(row: Row, rows: Sequence[Row]) -> str:
    """Returns the name of a setting: the values in which it differs from the baseline."""
    base = next(r.setting for r in rows if r.is_baseline)
    names = short(list(base.values))
    if len(names) == 1:
        return row.setting.label + " (baseline)" * row.is_baseline
    if row.is_baseline:
        return "baseline"
    return ", ".join(f"{names[a]}={show(v)}" for a, v in row.setting.values.items() if v != base.values[a])


def _lines(rows: Sequence[Row], axis: str) -> dict[str, list[Row]]:
    """Returns groups of at least two rows that differ in this axis alone, by the values that they share."""
    lines: dict[str, list[Row]] = {}
    for row in rows:
        shared = {a: v for a, v in row.setting.values.items() if a != axis}
        names = short(list(row.setting.values))
        if row.setting.trials:
            lines.setdefault(", ".join(f"{names[a]}={show(v)}" for a, v in shared.items()), []).append(row)
    return {label: group for label, group in lines.items() if len(group) > 1}


def _marginal(lines: Sequence[Sequence[Row]], axis: str, metric: str) -> Points:
    """Returns the mean over the complete lines, those with all values of the axis, by value and seed."""
    values = dict.fromkeys(show(row.setting.values[axis]) for line in lines for row in line)
    whole = [line for line in lines if len(line) == len(values)] or list(lines)
    found: dict[str, dict[int, list[float]]] = {value: {} for value in values}
    for line in whole:
        for row in line:
            for seed, v in read_finite(row.setting, metric).items():
                found[show(row.setting.values[axis])].setdefault(seed, []).append(v)
    # Where some settings lack a seed, its mean would be over other settings.
    return {
        value: {seed: fmean(vs) for seed, vs in seeds.items() if len(vs) == max(map(len, seeds.values()))}
        for value, seeds in found.items()
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _scale(axes: Axes, values: Sequence[Any]) -> dict[str, float]:
    """Sets the ticks of the axis and returns the position of each value: a log scale where numbers span decades."""
    if not all(_is_number(v) for v in values):
        names = [_cut(show(v), 14) for v in values]
        slanted = len(values) * max(map(len, names)) > 24
        axes.set_xticks(range(len(values)), names, rotation=30 * slanted, ha="right" if slanted else "center")
        axes.set_xlim(-0.4, len(values) - 0.6)
        return {show(v): float(i) for i, v in enumerate(values)}
    least = min((v for v in values if v > 0), default=0)
    if least and min(values) >= 0 and max(values) >= 10 * least:
        # Zero has no logarithm: it is drawn one step below the smallest positive value.
        axes.set_xscale("log") if min(values) else axes.set_xscale("symlog", linthresh=least)
    if len(values) <= 6:
        if sum(len(show(v)) for v in values) > 20:
            axes.tick_params(axis="x", rotation=30)
        axes.xaxis.set_major_locator(FixedLocator(values))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    return {show(v): float(v) for v in values}


def _line(
    axes: Axes, place: dict[str, float], points: Points, colors: dict[str, str], shift: float = 0, **look: Any
) -> None:
    """Draws means and standard deviations over seeds; `shift` moves them by a fraction of a step of the axis."""
    known = sorted((place[value], list(seeds.values()), value) for value, seeds in points.items() if seeds)
    if not known:
        return
    ends = sorted(place.values())
    if axes.get_xscale() == "log":
        x = [p * (ends[-1] / ends[0]) ** (shift / len(ends)) for p, *_ in known]
    else:
        x = [p + shift * (ends[-1] - ends[0]) / len(ends) * (axes.get_xscale() == "linear") for p, *_ in known]
    y, spread = [fmean(v) for _, v, _ in known], [deviation(v) or 0 for _, v, _ in known]
    own = [colors.get(value, INK) for *_, value in known]
    axes.errorbar(x, y, yerr=spread, color=MUTED, **(_BARS | look | {"capsize": 0, "ecolor": own}))
    axes.scatter(x, y, s=_BARS["ms"] ** 2, c=own, marker=look["marker"], zorder=3)


def _title(ablation: Ablation, metric: str) -> str:
    """Returns the last part of a metric's name, with an arrow to where it is better."""
    return metric.split("/")[-1].replace("_", " ") + {-1: " ↓", 0: "", 1: " ↑"}[direction(metric, ablation.keys)]


def _cut(text: str, most: int = 44) -> str:
    """Returns the text, shortened to at most `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"
