"""Pictures of examples: images and their reconstructions, and points."""

from collections.abc import Sequence

import matplotlib.cm
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from aejax.evaluation.pictures.style import MUTED, SERIES, WIDTH, height_of, in_rows, new, show, style
from aejax.evaluation.reconstruction import squared_errors

COLUMNS = 8
MAPPED = 4  # examples with maps of their errors
_TILE, _GAP = 224, 8  # pixels: side of small images' tiles, gaps between tiles
_DPI = 128  # a power of two, so that dividing by it rounds no number of pixels
_ABOVE, _BELOW, _BESIDE = 36, 60, 24  # pixels: margins


def reconstructions(
    inputs: np.ndarray, outputs: np.ndarray, columns: int = COLUMNS, errors: np.ndarray | None = None
) -> Figure:
    """Draws inputs above their reconstructions: the first, and those of the largest and the smallest squared error.

    The examples are images [n, h, w, c], each with its error, summed over values, below it; or vectors [n, d]. `errors`
    are those of what the images are pictures of, by default of the images themselves.
    """
    if inputs.ndim == 2:
        return points(inputs, outputs, ("input", "reconstruction"), joined=True)
    columns = min(columns, len(inputs))
    errors = squared_errors(inputs, outputs) if errors is None else errors
    order = np.argsort(-errors, kind="stable")
    bands = {"first": np.arange(min(2 * columns, len(inputs)))}
    if len(inputs) > columns:
        bands |= {"worst": order[:columns], "best": order[-columns:][::-1]}
    rows = [(name, chosen[k : k + columns]) for name, chosen in bands.items() for k in range(0, len(chosen), columns)]
    tiles = [in_rows(np.concatenate([inputs[r], outputs[r]]), len(r)) for _, r in rows]
    tiles = [np.pad(t, [(0, 0), (0, columns - t.shape[1]), *[(0, 0)] * 3], constant_values=np.nan) for t in tiles]
    with style():
        figure = new(sum(height_of(t) for t in tiles) + 0.3 * len(tiles))
        for axes, band, (name, chosen) in zip(np.atleast_1d(figure.subplots(len(tiles))), tiles, rows, strict=True):
            below = [f"{e:.0f}" if 10 <= e < 1e5 else f"{e:.2g}" for e in errors[chosen]]
            show(axes, band, columns=below)
            # No wider than their images: a digit is about 0.64 of its size wide.
            tile = 72 * (WIDTH - 0.8) / columns
            axes.tick_params(axis="x", labelsize=min(9, tile / (0.7 * max(map(len, below)))))
            if chosen[0] == bands[name][0]:  # the first row of its band
                axes.set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


def enlarge(shape: Sequence[int]) -> int:
    """Returns how many pixels wide a pixel of an image (height, width, ...) is in `error_maps`: 1 for large images."""
    return max(1, round(_TILE / max(shape[:2])))


def error_maps(inputs: np.ndarray, outputs: np.ndarray) -> Figure:
    """Draws images [n, h, w, c] beside their reconstructions and the absolute errors, at full resolution.

    An error is the mean over channels; the color scale ends at the largest one shown. Each pixel takes a whole number
    of pixels of a PNG by `as_png`, so that nothing is resampled.
    """
    times, n = enlarge(inputs.shape[1:]), len(inputs)
    h, w = (times * side for side in inputs.shape[1:3])
    outputs = np.clip(outputs, 0, 1)
    errors = np.abs(inputs - outputs).mean(-1)
    largest = max(float(errors.max()), 1 / 255)
    colors = matplotlib.cm.ScalarMappable(Normalize(0, largest), "magma")
    columns = {"input": inputs, "reconstruction": outputs, "absolute error": colors.cmap(errors / largest)[..., :3]}
    width, height = 3 * w + 2 * _GAP + 2 * _BESIDE, n * h + (n - 1) * _GAP + _ABOVE + _BELOW
    canvas = np.zeros((height, width, 4), np.uint8)  # transparent
    with style():
        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
        size = max(5, min(10, 72 * w / _DPI / 8))  # points, so that a column holds its title
        for column, (name, images) in enumerate(columns.items()):
            left = _BESIDE + column * (w + _GAP)
            for row, image in enumerate(np.rint(255 * images).astype(np.uint8)):
                place = canvas[_ABOVE + row * (h + _GAP) :, left:][:h, :w]
                place[..., :3], place[..., 3] = image.repeat(times, 0).repeat(times, 1), 255
            figure.text((left + w / 2) / width, 1 - 26 / height, name, size=size, ha="center")
        # One image as large as the figure, since Matplotlib may move parts of it by a pixel.
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.imshow(canvas, interpolation="nearest", aspect="auto")
        scale = figure.add_axes((left / width, (_BELOW - 22) / height, w / width, 14 / height))
        figure.colorbar(colors, cax=scale, orientation="horizontal", ticks=[0, largest])
        scale.set_xticks([0, largest], ["0", f"{largest:.2g}"], size=size)
    return figure


def points(
    first: np.ndarray, second: np.ndarray, names: tuple[str, str], joined: bool = False, limit: int = 500
) -> Figure:
    """Draws the first `limit` of two sets of vectors [n, d] in pairs of their first coordinates.

    With `joined`, a line connects each vector of the first set to its counterpart in the second.
    """
    first, second = first[:limit], second[:limit]
    pairs = [(i, i + 1) for i in range(min(first.shape[1], 3) - 1)] or [(0, 0)]
    with style():
        figure = new(3.3 if len(pairs) > 1 else 5.0)
        for axes, (i, j) in zip(np.atleast_1d(figure.subplots(1, len(pairs))), pairs, strict=True):
            if joined:
                segments = np.stack([first[:, [i, j]], second[:, [i, j]]])
                axes.plot(segments[..., 0], segments[..., 1], color=MUTED, lw=0.6, alpha=0.6, zorder=1)
            for k, (values, name) in enumerate(zip((first, second), names, strict=True)):
                axes.scatter(values[:, i], values[:, j], s=14 - 6 * k, color=SERIES[k], lw=0, label=name, zorder=2)
            axes.set(xlabel=f"coordinate {i + 1}", ylabel=f"coordinate {j + 1}")
            axes.set_aspect("equal", "datalim")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure
