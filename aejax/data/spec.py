"""The user's units and the model's: what one example looks like, and the way between the two."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from aejax.arguments import array
from aejax.data.sources import Source, from_array
from aejax.errors import InputError


def chunks(source: Source, size: int = 4096) -> Iterator[np.ndarray]:
    """The examples of a source, `size` at a time."""
    for start in range(0, len(source), size):
        yield source.take(np.arange(start, min(start + size, len(source))))["x"]


@dataclasses.dataclass(frozen=True)
class Spec:
    """One example, and how the model reads it.

    The user's units are [0, 1] for images (uint8 is divided by 255) and the data's own for vectors.

    Attributes:
      shape: of one example, without the batch.
      mean, deviation: per feature, of standardised vectors; empty where nothing is standardised.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    @classmethod
    def of(cls, source: Source, standardize: bool) -> "Spec":
        """The spec of a train split. A feature that is constant keeps a deviation of 1."""
        if not standardize:
            return cls(source.shape)
        if len(source.shape) != 1:
            raise InputError(f"data.standardize is for vectors; {source.name} holds images of {source.shape}")
        mean = np.sum([x.sum(0, np.float64) for x in chunks(source)], 0) / len(source)
        variance = np.sum([np.square(x - mean).sum(0) for x in chunks(source)], 0) / len(source)
        deviation = np.sqrt(variance)
        deviation = np.where(deviation > 1e-6 * np.abs(mean), deviation, 1.0)
        return cls(source.shape, tuple(mean.tolist()), tuple(deviation.tolist()))

    def prepare(self, x: Array | np.ndarray) -> Array:
        """Stored values (uint8, or float in the user's units) to what the model reads, float32."""
        if x.dtype == jnp.uint8:
            return jnp.asarray(x, jnp.float32) / 255
        x = jnp.asarray(x, jnp.float32)
        return (x - jnp.array(self.mean)) / jnp.array(self.deviation) if self.mean else x

    def restore(self, x: Array) -> Array:
        """The model's values to the user's units."""
        return x * jnp.array(self.deviation) + jnp.array(self.mean) if self.mean else x

    def check(self, x: Any) -> np.ndarray:
        """The user's array as `prepare` wants it, or InputError."""
        x = array("the input", x)
        if x.shape in (self.shape, self.shape[:2]):
            raise InputError(f"the input {x.shape} is one example without its batch axis; give [n, ...], e.g. x[None]")
        source = from_array(x, name="the input")
        if source.shape != self.shape:
            raise InputError(f"the run reads examples of {self.shape}, the input holds examples of {source.shape}")
        return np.asarray(x).reshape(-1, *self.shape).astype(source.dtype, copy=False)

    def to_dict(self) -> dict[str, Any]:
        return {key: list(value) for key, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Spec":
        return cls(**{key: tuple(value) for key, value in values.items()})
