"""Small data sets that need no download: scikit-learn's digits, and synthetic points, drawings and solids."""

import math

import numpy as np

from aejax.data.images import Size
from aejax.data.sources import Source, from_array

# The factors of variation of `shapes` and how many values each has.
FACTORS = {"shape": 3, "size": 4, "x": 8, "y": 8, "brightness": 4}
SIDE = 16  # of the drawings, in the units in which shapes are placed
# Likewise of `volumes`; the last is an angle about the first axis.
SOLID_FACTORS = {"shape": 3, "size": 3, "z": 4, "y": 4, "x": 4, "angle": 4}


def make_digits(size: Size) -> Source:
    """Loads 1,797 handwritten digits of 8x8 pixels (E. Alpaydin and C. Kaynak, UCI) from scikit-learn."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return from_array(np.round(bunch.images * (255 / 16)).astype(np.uint8), bunch.target, "digits", size)


def make_plane(size: int) -> Source:
    """Samples 2,000 points near a plane through the origin of 3-D, with standard deviations of 1, 0.7 and 0.05."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return from_array(rng.normal(size=(2000, 3)) * (1.0, 0.7, 0.05) @ axes, name="plane", size=size)


def make_sheet(size: int) -> Source:
    """Samples 2,000 points on a curved two-dimensional sheet in 5-D."""
    u, v = np.random.default_rng(0).uniform(-1, 1, size=(2, 2000))
    return from_array(np.stack([u, v, u * v, np.sin(2 * u), np.cos(2 * v)], 1), name="sheet", size=size)


def make_shapes(size: int) -> Source:
    """Draws a gray image of 16x16 pixels, or of `size`, for each of the 3,072 combinations of `FACTORS`.

    Shape 0 is a disc, 1 a square and 2 a triangle; it is the `label`, too. Any config trains on these images, and
    evaluation then tells how well single units of the code separate the factors:

        aejax train --config=beta_vae --config.data.name=shapes --workdir=runs/shapes
    """
    factors = combine_factors()
    return from_array(draw(factors, size or SIDE), factors[:, 0], "shapes", factors=factors)


def combine_factors() -> np.ndarray:
    """Returns every combination of the factors' values, int32 [3072, 5], the last factor changing fastest."""
    return np.indices(tuple(FACTORS.values()), np.int32).reshape(len(FACTORS), -1).T


def draw(factors: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Draws an image of each row of `factors` [n, 5], in the order of `FACTORS`: uint8 [n, side, side, 1].

    Discs, squares and triangles have the same area, so that only size and brightness change an image's mean. Edges
    are one pixel wide and about as bright as the shape covers the pixel, so that steps smaller than a pixel show.
    """
    shape, size, x, y, brightness = np.asarray(factors).T[..., None, None]
    pixels = ((np.arange(side) + 0.5) * (SIDE / side)).astype(np.float32)
    across, down = pixels - np.float32(5 + x * 6 / 7), pixels[:, None] - np.float32(5 + y * 6 / 7)
    slanted = math.sqrt(3) / 2 * np.abs(across) - down / 2
    # Each shape's edge is where this distance equals the radius of the disc.
    from_center = np.choose(
        shape,
        [
            np.hypot(across, down),
            np.maximum(np.abs(across), np.abs(down)) * (2 / math.sqrt(math.pi)),
            np.maximum(slanted, down) * math.sqrt(math.sqrt(27) / math.pi),
        ],
    )
    radius = 1.5 + 0.45 * size
    covered = np.clip(0.5 + (radius - from_center) * (side / SIDE), 0, 1)
    return np.round(covered * (51 * (2 + brightness))).astype(np.uint8)[..., None]


def make_volumes(size: int) -> Source:
    """Draws a gray volume of 16x16x16, or of `size`, for each of the 2,304 combinations of `SOLID_FACTORS`.

    Shape 0 is an ellipsoid, 1 a box and 2 a cylinder; it is the `label`, too. They are twice as long as they are wide,
    along an axis that the angle turns in steps of 45 degrees in the plane of the last two axes.

        aejax train --config=volume_vae --workdir=runs/volumes
    """
    factors = np.indices(tuple(SOLID_FACTORS.values()), np.int32).reshape(len(SOLID_FACTORS), -1).T
    return from_array(draw_solids(factors, size or SIDE), factors[:, 0], "volumes", factors=factors)


def draw_solids(factors: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Draws a volume of each row of `factors` [n, 6], in the order of `SOLID_FACTORS`: uint8 [n, side, side, side, 1].

    Solids have the same volume, and edges that are one voxel wide, about as bright as the solid covers the voxel.
    """
    shape, size, z, y, x, angle = np.asarray(factors).T[..., None, None, None]
    at = ((np.arange(side) + 0.5) * (SIDE / side)).astype(np.float32)
    place = [(6.5 + k).astype(np.float32) for k in (z, y, x)]
    up, down, across = at[:, None, None] - place[0], at[:, None] - place[1], at - place[2]
    turn = angle.astype(np.float32) * np.float32(math.pi / 4)
    along, aside = across * np.cos(turn) + down * np.sin(turn), down * np.cos(turn) - across * np.sin(turn)
    along = along / 2  # so that a solid of equal sides is twice as long
    solid = np.choose(
        shape,
        [
            np.sqrt(along**2 + aside**2 + up**2),
            np.maximum(np.maximum(np.abs(along), np.abs(aside)), np.abs(up)) * np.float32((6 / math.pi) ** (1 / 3)),
            np.maximum(np.abs(along), np.hypot(aside, up)) * np.float32(1.5 ** (1 / 3)),
        ],
    )
    covered = np.clip(0.5 + (1.5 + 0.45 * size.astype(np.float32) - solid) * (side / SIDE), 0, 1)
    return np.round(255 * covered).astype(np.uint8)[..., None]


BUILT_IN = {
    "digits": make_digits,
    "plane": make_plane,
    "sheet": make_sheet,
    "shapes": make_shapes,
    "volumes": make_volumes,
}
