"""The style that all pictures share: few colors, one width, images as one mosaic."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, NullFormatter
from skimage.util import montage

INK = "#1a1a2e"
MUTED = "#8b8f9a"  # for frames and minor elements, legible on white and on black
SERIES = ("#2f7fd1", "#e76300")
# Ten colors that color-blind people tell apart (Petroff 2021, "Accessible color sequences for data visualization").
CLASSES = tuple(to_hex(c) for c in matplotlib.color_sequences["petroff10"])
# On dark pages Petroff's red, violet and grays are hard to see. These ten have a contrast of at least 4.4 with the card
# behind them, and any two are at least 0.12 apart in OKLab (for protanopes and deuteranopes 0.083).
CLASSES_IN_THE_DARK = (
    *("#5d84c8", "#e4f36a", "#ef3d7a", "#ffeae1", "#f055fa"),
    *("#e292b3", "#fbb003", "#ad9837", "#92d081", "#b8d0d1"),
)
WIDTH = 5.2  # inches: narrow, so that text of 10 points can still be read where a phone shrinks it


def style() -> Any:
    """Returns the Matplotlib context that every figure is drawn in."""
    return matplotlib.rc_context(
        {
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": MUTED,
            "axes.labelcolor": INK,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "font.size": 10,
            "text.parse_math": False,  # names of runs and keys may hold $
            "text.color": INK,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "legend.frameon": False,
        }
    )


def new(height: float) -> Figure:
    """Returns an empty figure of the common width; `height` is in inches."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def drawable(shape: Sequence[int]) -> bool:
    """Returns whether an example of this shape is an image of 1 or 3 channels."""
    return len(shape) == 3 and shape[-1] in (1, 3)


def mosaic(tiles: np.ndarray) -> np.ndarray:
    """Returns tiles [rows, columns, h, w, 1 or 3] as one RGBA image with transparent gaps and tiles of NaN."""
    rows, columns, h, w, _ = tiles.shape
    gap = gap_of(tiles)
    colors = np.broadcast_to(tiles, (rows, columns, h, w, 3)).reshape(-1, h, w, 3).astype(np.float32)
    opaque = np.isfinite(colors).all(-1, keepdims=True)
    colored = np.concatenate([np.clip(np.nan_to_num(colors), 0, 1), opaque], -1)
    whole = montage(colored, (0,) * 4, grid_shape=(rows, columns), padding_width=gap, channel_axis=-1)
    return whole[gap:-gap, gap:-gap]


def gap_of(tiles: np.ndarray) -> int:
    """Returns the number of pixels between the tiles of a mosaic."""
    return max(1, tiles.shape[2] // 14)


def show(axes: Axes, tiles: np.ndarray, rows: Sequence[str] = (), columns: Sequence[str] = ()) -> None:
    """Draws a mosaic of tiles [rows, columns, h, w, c], with the names of rows at the left and of columns below."""
    h, w = tiles.shape[2:4]
    gap = gap_of(tiles)
    axes.imshow(mosaic(tiles), interpolation="none")
    axes.set_yticks(np.arange(len(rows)) * (h + gap) + (h - 1) / 2, rows)
    axes.set_xticks(np.arange(len(columns)) * (w + gap) + (w - 1) / 2, columns)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def draw_mosaics(mosaics: Sequence[np.ndarray], rows: Sequence[str] = (), columns: Sequence[str] = ()) -> Figure:
    """Draws mosaics, each as `show` does, below each other."""
    with style():
        figure = new(sum(height_of(tiles) + 0.12 for tiles in mosaics))
        for axes, tiles in zip(np.atleast_1d(figure.subplots(len(mosaics))), mosaics, strict=True):
            show(axes, tiles, rows, columns)
    return figure


def use_log_scale(axes: Axes, low: float, high: float) -> None:
    """Sets a log scale for values from `low` to `high` where they differ too much for a linear one."""
    if low > 0 and high > 20 * low:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())


def in_rows(images: np.ndarray, columns: int) -> np.ndarray:
    """Returns images [n, h, w, c] as tiles [rows, columns, h, w, c], row by row; the last row ends in NaN."""
    rows = -(-len(images) // columns)
    padding = np.full((rows * columns - len(images), *images.shape[1:]), np.nan, np.float32)
    return np.concatenate([images, padding]).reshape(rows, columns, *images.shape[1:])


def height_of(tiles: np.ndarray, width: float = WIDTH - 0.8) -> float:
    """Returns the height in inches of a mosaic of these tiles that is `width` inches wide."""
    rows, columns, h, w, _ = tiles.shape
    return width * rows * h / (columns * w)
