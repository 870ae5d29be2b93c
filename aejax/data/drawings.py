"""Drawings with known factors of variation: one shape in each, grey on black."""

import math

import numpy as np

# Factors and how many values each has. All combinations are drawn, so the factors are independent.
FACTORS = {"shape": 3, "size": 4, "x": 8, "y": 8, "brightness": 4}
SIDE = 16  # of an image, in units of the drawing: the shape's corners stay inside


def combinations() -> np.ndarray:
    """Every combination of the factors' values, int32 [3072, 5], the last factor changing fastest."""
    return np.indices(tuple(FACTORS.values()), np.int32).reshape(len(FACTORS), -1).T


def draw(factors: np.ndarray, side: int = SIDE) -> np.ndarray:
    """The images of factors [n, 5], in the order of `FACTORS`: uint8 [n, side, side, 1].

    Shapes are a disc, a square and a triangle of the same area, so that only size and brightness change
    an image's mean. An edge is one pixel wide: a pixel is as bright as the shape covers it, nearly, and
    steps smaller than a pixel are seen.
    """
    shape, size, x, y, brightness = np.asarray(factors).T[..., None, None]
    pixels = ((np.arange(side) + 0.5) * (SIDE / side)).astype(np.float32)
    across, down = pixels - np.float32(5 + x * 6 / 7), pixels[:, None] - np.float32(5 + y * 6 / 7)
    slanted = math.sqrt(3) / 2 * np.abs(across) - down / 2
    from_centre = np.choose(
        shape,
        [
            np.hypot(across, down),
            np.maximum(np.abs(across), np.abs(down)) * (2 / math.sqrt(math.pi)),
            np.maximum(slanted, down) * math.sqrt(math.sqrt(27) / math.pi),
        ],
    )
    radius = 1.5 + 0.45 * size  # of the disc
    covered = np.clip(0.5 + (radius - from_centre) * (side / SIDE), 0, 1)
    return np.round(covered * (51 * (2 + brightness))).astype(np.uint8)[..., None]
