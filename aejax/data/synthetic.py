"""Small data sets that need no download."""

from collections.abc import Callable

import numpy as np

from aejax.data import drawings
from aejax.data.sources import Source, from_array


def digits(size: int) -> Source:
    """1,797 handwritten digits of 8x8 (E. Alpaydin and C. Kaynak, UCI), as scikit-learn carries them."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return from_array(np.round(bunch.images * (255 / 16)).astype(np.uint8), bunch.target, "digits", size)


def plane(size: int) -> Source:
    """2,000 points near a plane through the origin of 3-D space: deviation 1 within it, 0.05 off it."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return from_array(rng.normal(size=(2000, 3)) * (1.0, 0.7, 0.05) @ axes, name="plane", size=size)


def sheet(size: int) -> Source:
    """2,000 points on a curved two-dimensional sheet in 5-D space."""
    u, v = np.random.default_rng(0).uniform(-1, 1, size=(2, 2000))
    return from_array(np.stack([u, v, u * v, np.sin(2 * u), np.cos(2 * v)], 1), name="sheet", size=size)


def shapes(size: int) -> Source:
    """3,072 drawings of 16x16, or of `size`, by known factors: all combinations of their values, once each.

    | factor     | values                                  |
    | ---------- | --------------------------------------- |
    | shape      | 3: disc, square, triangle; also `label` |
    | size       | 4                                       |
    | x          | 8                                       |
    | y          | 8                                       |
    | brightness | 4                                       |

    Any config trains on it, and evaluation then tells how well single units of the code separate the factors:

        python -m experiments.train --config=configs/beta_vae.py --config.data.name=shapes --workdir=runs/shapes
    """
    factors = drawings.combinations()
    return from_array(drawings.draw(factors, size or drawings.SIDE), factors[:, 0], "shapes", factors=factors)


EMBEDDED: dict[str, Callable[[int], Source]] = {"digits": digits, "plane": plane, "sheet": sheet, "shapes": shapes}
