"""Pictures of examples of each kind: images, slices of volumes, and curves of sequences."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aejax.data import Spec
from aejax.evaluation.pictures.style import MUTED, SERIES, draw_mosaics, drawable, in_rows, new, style
from aejax.evaluation.subject import Skipped

CHANNELS = 6  # of a sequence that are drawn at most
_COLUMNS = {"sequence": 4, "volume": 4}  # examples beside each other; of images twice as many
_PANEL = 0.62  # inches: height of the curves of one example
_WIDE, _HIGH = 64, 32  # pixels of small curves


def find_kind(spec: Spec) -> str:
    """Returns the kind of what the model decodes to; "" for vectors and for what has no picture."""
    kind = spec.kind if not spec.target or spec.target == spec.shape else ""
    return kind if kind != "vector" else ""


def refuse(spec: Spec) -> Skipped | None:
    """Returns why examples have no picture, or None if they have one."""
    if find_kind(spec) or drawable(spec.decoded):
        return None
    return Skipped(f"examples of {spec.decoded} are not images, volumes or sequences")


def count_columns(spec: Spec) -> int:
    """Returns how many examples stand beside each other."""
    return _COLUMNS.get(find_kind(spec), 8)


def describe(spec: Spec) -> str:
    """Returns words for a caption on how examples are drawn; "" for images of 1 or 3 channels in [0, 1]."""
    kind, channels = find_kind(spec), spec.decoded[-1]
    if kind == "sequence":
        several = f"; the first {CHANNELS} of {channels} channels" if channels > CHANNELS else ""
        return f" Time goes to the right, and channels stand one below the other{several}."
    how = " Of each volume, the three slices through its middle: first, second and last axis." * (kind == "volume")
    how += f" Gray: the mean of {channels} channels." * (channels not in (1, 3))
    return how + (f" Black is {spec.limits[0]:.4g}, white {spec.limits[1]:.4g}." if spec.limits else "")


def as_tiles(values: np.ndarray, spec: Spec) -> np.ndarray:
    """Returns images and volumes [n, ..., c] as tiles [n, h, w, 1 or 3], scaled from the run's range to [0, 1].

    Other numbers of channels become their mean. Of a volume [depth, height, width] the tile has three slices through
    the middle side by side, across the first, the second and the last axis; what they leave free is white.
    """
    low, high = spec.bounds or (0.0, 1.0)
    values = (np.asarray(values, np.float32) - np.float32(low)) / np.float32(high - low or 1)
    if values.shape[-1] not in (1, 3):
        values = values.mean(-1, keepdims=True)
    if values.ndim == 4:
        return values
    _, d, h, w, _ = values.shape
    slices = [values[:, d // 2], values[:, :, h // 2], values[:, :, :, w // 2]]
    gap = max(1, w // 14)
    tallest = max(part.shape[1] for part in slices)
    padded = [
        np.pad(part, [(0, 0), (0, tallest - part.shape[1]), (0, gap * (k < 2)), (0, 0)], constant_values=1)
        for k, part in enumerate(slices)
    ]
    return np.concatenate(padded, 2)


def as_thumbnails(values: np.ndarray, spec: Spec) -> np.ndarray:
    """Returns small pictures [n, h, w, 1 or 3] in [0, 1] of examples of any kind that has pictures.

    Curves are dark on white, 64 pixels wide, on one scale for all examples; channels stand one below the other.
    """
    if find_kind(spec) != "sequence":
        return as_tiles(values, spec)
    values = np.asarray(values, np.float32)[..., :CHANNELS]
    n, steps, channels = values.shape
    high = _HIGH // channels
    low, top = np.nanmin(values, (0, 1)), np.nanmax(values, (0, 1))
    places = np.linspace(0, steps - 1, _WIDE)
    left = np.minimum(places.astype(int), max(steps - 2, 0))
    right = np.minimum(left + 1, steps - 1)
    part = (places - left)[:, None].astype(np.float32)
    curves = values[:, left] * (1 - part) + values[:, right] * part
    rows = (high - 1) * (1 - (curves - low) / np.where(top > low, top - low, 1))  # of pixels, from the top
    following = np.concatenate([rows[:, 1:], rows[:, -1:]], 1)
    begin, end = np.minimum(rows, following).round(), np.maximum(rows, following).round()
    pixels = np.arange(high)[:, None, None]
    inked = (pixels >= begin[:, None]) & (pixels <= end[:, None])  # [n, high, wide, channels]
    stacked = inked.transpose(0, 3, 1, 2).reshape(n, channels * high, _WIDE)
    return np.where(stacked, 0.15, 1.0).astype(np.float32)[..., None]


def draw(groups: Sequence[np.ndarray], spec: Spec, rows: Sequence[str] = (), columns: Sequence[str] = ()) -> Figure:
    """Draws groups of examples [rows, columns, *shape] below each other, with names of rows and columns."""
    if find_kind(spec) == "sequence":
        return _draw_curves(groups, rows, columns)
    return draw_mosaics([_tile(group, spec) for group in groups], rows, columns)


def draw_rows(values: np.ndarray, columns: int, spec: Spec, rows: Sequence[str] = ()) -> Figure:
    """Draws examples [n, *shape] row by row."""
    return draw([in_rows(values, columns)], spec, rows)


def _tile(group: np.ndarray, spec: Spec) -> np.ndarray:
    tiles = as_tiles(group.reshape(-1, *group.shape[2:]), spec)
    return tiles.reshape(*group.shape[:2], *tiles.shape[1:])


def _draw_curves(groups: Sequence[np.ndarray], rows: Sequence[str], columns: Sequence[str]) -> Figure:
    apart = spread(np.concatenate([group.reshape(-1, *group.shape[2:]) for group in groups]))
    panels = np.concatenate(groups)
    with style():
        figure = new(_PANEL * len(panels) + 0.2)
        grid = figure.subplots(*panels.shape[:2], squeeze=False, sharex=True, sharey=True)
        for i, line in enumerate(grid):
            for j, axes in enumerate(line):
                plot(axes, panels[i, j], apart, SERIES[0])
                bare(axes)
                if j == 0 and rows:
                    axes.set_ylabel(rows[i % len(rows)], rotation=0, ha="right", va="center", size=8)
                if i == len(panels) - 1 and columns:
                    axes.set_xlabel(columns[j], size=8)
    return figure


def draw_reconstructions(inputs: np.ndarray, outputs: np.ndarray, errors: np.ndarray) -> Figure:
    """Draws sequences [n, time, c] with their reconstructions over them and the errors [n] below.

    Shows the first ones and, of more than a row, those of the largest and of the smallest error.
    """
    columns = min(_COLUMNS["sequence"], len(inputs))
    order = np.argsort(-errors, kind="stable")
    bands = {"first": np.arange(min(2 * columns, len(inputs)))}
    if len(inputs) > columns:
        bands |= {"worst": order[:columns], "best": order[-columns:][::-1]}
    lines = [(name, chosen[k : k + columns]) for name, chosen in bands.items() for k in range(0, len(chosen), columns)]
    apart = spread(np.concatenate([inputs, outputs]))
    with style():
        figure = new((_PANEL + 0.25) * len(lines) + 0.5)
        grid = figure.subplots(len(lines), columns, squeeze=False, sharex=True, sharey=True)
        for row, (name, chosen) in zip(grid, lines, strict=True):
            for axes, k in zip(row, chosen, strict=False):
                plot(axes, inputs[k], apart, SERIES[0], "input")
                plot(axes, outputs[k], apart, SERIES[1], "reconstruction")
                axes.set_xlabel(f"{errors[k]:.3g}", size=8)
            for axes in row:
                bare(axes)
            if chosen[0] == bands[name][0]:
                row[0].set_ylabel(name, rotation=0, ha="right", va="center")
        lines_of = [grid[0, 0].lines[0], grid[0, 0].lines[min(inputs.shape[-1], CHANNELS)]]
        figure.legend(lines_of, ["input", "reconstruction"], loc="outside upper right", ncols=2)
    return figure


def spread(values: np.ndarray) -> np.ndarray:
    """Returns how far each channel of sequences [n, time, c] is shifted, so that none lies over another one."""
    shown = values[..., :CHANNELS]
    low, high = np.nanmin(shown, (0, 1)), np.nanmax(shown, (0, 1))
    below = np.concatenate([[0], np.cumsum((high - low)[1:] + 0.1 * (high - low).mean())])
    return np.asarray(-below - (high - high[0]), np.float32)


def plot(axes: Axes, series: np.ndarray, apart: np.ndarray, color: str, label: str = "") -> None:
    """Draws the channels of a sequence [time, c], each shifted by its part of `apart`."""
    for channel, shift in enumerate(apart):
        axes.plot(series[:, channel] + shift, color=color, lw=0.9, label=label if channel == 0 else "")


def bare(axes: Axes) -> None:
    """Hides the ticks of small panels."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    axes.spines[:].set(color=MUTED, lw=0.4)
