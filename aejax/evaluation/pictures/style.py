"""What all pictures share: few colours, one width, images as one mosaic."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

INK = "#1a1a2e"
MUTED = "#8b8f9a"  # of frames and what is beside the point, legible on white and on black
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
    """The context that every figure is made in."""
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
    return Figure(figsize=(WIDTH, height), layout="constrained")


def drawable(shape: Sequence[int]) -> bool:
    """Is an example of this shape an image of 1 or 3 channels?"""
    return len(shape) == 3 and shape[-1] in (1, 3)


def mosaic(tiles: np.ndarray) -> np.ndarray:
    """[rows, columns, h, w, 1 or 3] to one RGBA image in [0, 1], with clear gaps; tiles of NaN are clear too."""
    rows, columns, h, w, _ = tiles.shape
    gap = gap_of(tiles)
    image = np.zeros((rows * (h + gap) - gap, columns * (w + gap) - gap, 4), np.float32)
    for i in range(rows):
        for j in range(columns):
            tile = np.broadcast_to(tiles[i, j], (h, w, 3))
            place = image[i * (h + gap) :, j * (w + gap) :][:h, :w]
            place[..., :3] = np.clip(np.nan_to_num(tile), 0, 1)
            place[..., 3] = np.isfinite(tile).all(-1)
    return image


def gap_of(tiles: np.ndarray) -> int:
    """Pixels between the tiles of a mosaic."""
    return max(1, tiles.shape[2] // 14)


def show(axes: Axes, tiles: np.ndarray, rows: Sequence[str] = (), columns: Sequence[str] = ()) -> None:
    """A mosaic of tiles [rows, columns, h, w, c], its rows named at the left and its columns below."""
    h, w = tiles.shape[2:4]
    gap = gap_of(tiles)
    axes.imshow(mosaic(tiles), interpolation="none")
    axes.set_yticks(np.arange(len(rows)) * (h + gap) + (h - 1) / 2, rows)
    axes.set_xticks(np.arange(len(columns)) * (w + gap) + (w - 1) / 2, columns)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def in_rows(images: np.ndarray, columns: int) -> np.ndarray:
    """[n, h, w, c] to tiles [rows, columns, h, w, c], row by row; what is missing in the last row is NaN."""
    rows = -(-len(images) // columns)
    padding = np.full((rows * columns - len(images), *images.shape[1:]), np.nan, np.float32)
    return np.concatenate([images, padding]).reshape(rows, columns, *images.shape[1:])


def height_of(tiles: np.ndarray, width: float = WIDTH - 0.8) -> float:
    """Inches that a mosaic of these tiles takes where it is `width` wide."""
    rows, columns, h, w, _ = tiles.shape
    return width * rows * h / (columns * w)
