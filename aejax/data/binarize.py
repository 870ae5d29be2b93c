"""Binarization of values in [0, 1], each of which is the probability of a 1.

Papers on MNIST draw anew each time that an image is seen ("dynamic", Burda et al. 2016, section 5), once for all
("static", Salakhutdinov and Murray 2008, section 4), or set a threshold.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aejax import arguments
from aejax.data.sources import Arrays, Rows, Source
from aejax.data.spec import read_chunks
from aejax.errors import InputError, one_of

WAYS = ("none", "dynamic", "static", "threshold")
_PARTS = ("train", "validation", "test")


def binarize_parts(parts: Mapping[str, Source], way: str, seed: int = 0) -> dict[str, Source]:
    """Returns the parts of a data set by name, with values of 0 and 1, images of 0 and 255.

    With `threshold`, values from one half on are 1. With `static`, a value is drawn once: a function of the seed, the
    part and the row. With `dynamic`, so are validation and test, and the train part is left as it is, for `draw_binary`
    in each step. With `none`, all are left.

    Raises InputError for another way, part or seed, for values outside [0, 1], and for other ways than `dynamic` of a
    part whose images are cropped at random.
    """
    if way not in WAYS:
        raise one_of("data.binarize", way, WAYS)
    if way == "none":
        return dict(parts)
    changed, seed = dict(parts), arguments.check_seed(seed)
    for name, source in parts.items():
        if name not in _PARTS:
            raise one_of("part", name, _PARTS)
        _check_range(source)
        if name == "train" and way == "dynamic":
            continue
        if source.draw:
            raise InputError(f"data.binarize={way} needs fixed images, and data.fit=random crops them; use dynamic")
        draw = _at_half if way == "threshold" else _drawer(seed, _PARTS.index(name))
        changed[name] = dataclasses.replace(source, take=_binarized(source.take, draw))
    return changed


def draw_binary(keys: Array, x: Array) -> Array:
    """Draws each value of x [batch, ...] in [0, 1] as a Bernoulli variable, with a key for each example: 0.0 or 1.0.

    A probability is rounded up to a multiple of 2^-16; 0 and 1 stay exact.
    """
    size = x[0].size

    def one(key: Array, x: Array) -> Array:
        # Two draws from each word that the generator makes, which takes most of the time.
        words = jax.random.bits(key, (-(-size // 2),), jnp.uint32).view(jnp.uint16)[:size]
        return (words.reshape(x.shape).astype(x.dtype) < 65536 * x).astype(x.dtype)

    return jax.vmap(one)(keys, x)


def _binarized(take: Callable[[Rows], Arrays], draw: Callable[[Rows, np.ndarray], np.ndarray]) -> Callable:
    """Returns `take` with examples for which `draw`, of their rows and values, returns booleans."""

    def binarized(rows: Rows) -> Arrays:
        arrays = take(rows)
        x = arrays["x"]
        return {**arrays, "x": draw(rows, x).astype(x.dtype) * x.dtype.type(_one(x.dtype))}

    return binarized


def _one(dtype: np.dtype) -> int:
    """Returns the value that stands for 1."""
    return 255 if dtype == np.uint8 else 1


def _at_half(rows: Rows, x: np.ndarray) -> np.ndarray:
    return x >= _one(x.dtype) / 2


def _drawer(seed: int, part: int) -> Callable[[Rows, np.ndarray], np.ndarray]:
    """Returns a function that draws values by their row."""

    def draw(rows: Rows, x: np.ndarray) -> np.ndarray:
        drawn = np.empty(x.shape, bool)
        for place, row in enumerate(rows.tolist()):
            random = np.random.default_rng([seed, part, row])
            if x.dtype == np.uint8:
                drawn[place] = random.integers(0, 255, x.shape[1:], np.uint8) < x[place]  # v is above v of 0 to 254
            else:
                drawn[place] = random.random(x.shape[1:]) < x[place]
        return drawn

    return draw


def _check_range(source: Source) -> None:
    """Raises InputError for values outside [0, 1], which images of bytes cannot have."""
    for x in read_chunks(source) if source.dtype != np.uint8 else ():
        if np.isnan(x).any():
            raise InputError(
                f"data.binarize draws each value, and {source.name} holds NaN, as the padding of shorter sequences is; "
                "cut the sequences to one length, or set it to none"
            )
        if x.min() < 0 or x.max() > 1:
            raise InputError(
                f"data.binarize takes values as probabilities, and {source.name} holds {x.min():g} to {x.max():g}; "
                "scale them to [0, 1], or set it to none"
            )
