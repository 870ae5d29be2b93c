"""Corruption of the encoder's input in training: denoising autoencoders (Vincent et al. 2010)."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from aejax.errors import InputError, one_of


def _salt_and_pepper(key: Array, x: Array, level: float) -> Array:
    chosen, value = (
        jax.random.bernoulli(k, p, x.shape) for k, p in zip(jax.random.split(key), (level, 0.5), strict=True)
    )
    return jnp.where(chosen, value.astype(x.dtype), x)


CORRUPTIONS: dict[str, Callable[[Array, Array, float], Array]] = {
    "none": lambda key, x, level: x,
    # Isotropic noise of standard deviation `level` (section 3.3).
    "gaussian": lambda key, x, level: x + level * jax.random.normal(key, x.shape),
    # A fraction `level` of the values is set to 0 (masking noise, ibid.).
    "masking": lambda key, x, level: x * jax.random.bernoulli(key, 1 - level, x.shape),
    # A fraction `level` of the values is set to 0 or to 1, by a fair coin (ibid.).
    "salt_and_pepper": _salt_and_pepper,
}


@dataclasses.dataclass(frozen=True)
class Corruption:
    """Noise on the encoder's input in training. The noise of an example depends on its key alone."""

    name: str = "none"
    level: float = 0.0

    def __post_init__(self):
        if self.name not in CORRUPTIONS:
            raise one_of("corruption.name", self.name, CORRUPTIONS)
        if isinstance(self.level, Array):
            return  # traced, in runs that train together, which have checked it
        if self.level < 0 or (self.name in ("masking", "salt_and_pepper") and self.level >= 1):
            raise InputError(f"corruption.level must be at least 0, and below 1 for a fraction; got {self.level}")
        if self.name != "none" and self.level == 0:
            raise InputError(f"corruption {self.name!r} needs corruption.level above 0, e.g. 0.3")

    def __call__(self, keys: Array, x: Array) -> Array:
        """Adds noise to x [batch, ...], with a random key for each example."""
        return jax.vmap(lambda k, v: CORRUPTIONS[self.name](k, v, self.level))(keys, x)
