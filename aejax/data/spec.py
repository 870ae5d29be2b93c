"""Shape and units of an example: conversion between the user's units and the model's."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from aejax.data.arrays import as_array
from aejax.data.sources import SAMPLED, Arrays, Rows, Source, from_array, is_binary
from aejax.data.sparse_rows import DenseRows, as_csr, is_sparse
from aejax.errors import InputError, one_of

# Bounds of standard deviations whose squares float32 holds, even summed over many values.
_SMALLEST, _LARGEST = 1e-18, 1e15
NORMALIZATIONS = ("none", "expected_norm", "per_token")


def read_chunks(source: Source, size: int = 4096) -> Iterator[np.ndarray]:
    """Yields the examples of `source`, `size` at a time."""
    for start in range(0, len(source), size):
        yield source.take(np.arange(start, min(start + size, len(source))))["x"]


@dataclasses.dataclass(frozen=True)
class Spec:
    """Shape of one example, and how the model reads it.

    The user's units are [0, 1] for images (uint8 is divided by 255) and the data's own for vectors.

    Attributes:
      shape: shape of one example, without the batch axis.
      mean, deviation: mean and standard deviation of each feature; empty if nothing is standardized.
      target: shape of what a transcoder decodes an example to; empty where that is the example itself.
      per_token: whether each example is scaled to length sqrt(features). Its own length is not part of its code, and
        reconstructions stay in these units.
      binary: whether the run was trained on uint8 images of 0 and 1, which were read as 0 and 255.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    binary: bool = False
    target: tuple[int, ...] = ()
    per_token: bool = False

    @property
    def decoded(self) -> tuple[int, ...]:
        """Returns the shape of what the model decodes an example to."""
        return self.target or self.shape

    @property
    def layers(self) -> int:
        """Returns the number of layers of a model whose activations make one example; 0: examples are no such pairs."""
        return self.shape[0] if len(self.shape) == 2 else 0

    @classmethod
    def of(cls, source: Source, standardize: bool, normalize: str = "none") -> "Spec":
        """Returns the spec of a train split. Features that only vary by rounding get a standard deviation of 1.

        `normalize` scales vectors of many features, such as activations: "expected_norm" divides all of them by one
        number, after which their mean length is sqrt(features), and "per_token" each by its own.
        """
        if normalize not in NORMALIZATIONS:
            raise one_of("data.normalize", normalize, NORMALIZATIONS)
        if normalize != "none":
            if source.target is not None:
                raise InputError("data.normalize scales x alone, and a transcoder has a target, too; set it to 'none'")
            return cls._normalize(source.sample(SAMPLED) if source.block else source, standardize, normalize)
        if not standardize:
            return cls(source.shape, binary=source.binary, target=source.target or ())
        if source.target is not None:
            raise InputError("data.standardize scales x alone, and a transcoder has a target, too; set it to False")
        if len(source.shape) != 1:
            raise InputError(f"data.standardize is for vectors; {source.name} holds images of {source.shape}")
        source = source.sample(SAMPLED) if source.block else source
        # Subtracting the first example keeps the digits of sums of values far from 0.
        first = source.take(np.arange(1))["x"].astype(np.float64)
        mean = first[0] + np.sum([(x - first).sum(0) for x in read_chunks(source)], 0) / len(source)
        variance = np.sum([np.square(x - mean).sum(0) for x in read_chunks(source)], 0) / len(source)
        deviation = np.sqrt(variance)
        constant = deviation <= np.finfo(source.dtype).eps * np.abs(mean)
        for i in np.flatnonzero(~constant & ((deviation < _SMALLEST) | (deviation > _LARGEST))):
            raise InputError(
                f"{source.name}: feature {i} has a standard deviation of {deviation[i]:.3g}, and float32 holds the "
                f"squares of values from {_SMALLEST:g} to {_LARGEST:g}; give it in another unit"
            )
        return cls(source.shape, tuple(mean.tolist()), tuple(np.where(constant, 1.0, deviation).tolist()))

    @classmethod
    def _normalize(cls, source: Source, standardize: bool, normalize: str) -> "Spec":
        if standardize or len(source.shape) != 1:
            what = "set data.standardize=False" if standardize else f"{source.name} holds images of {source.shape}"
            raise InputError(f"data.normalize={normalize} is for vectors that are not standardized; {what}")
        if normalize == "per_token":
            return cls(source.shape, per_token=True, target=source.target or ())
        if source.target is not None:
            raise InputError(f"data.normalize={normalize} scales x alone, and a transcoder has a target, too; set none")
        source = source.sample(SAMPLED) if source.block else source
        total = sum(np.linalg.norm(np.asarray(x, np.float64), axis=1).sum() for x in read_chunks(source))
        scale = float(total) / len(source) / np.sqrt(source.shape[0])
        if not _SMALLEST < scale < _LARGEST:
            raise InputError(f"{source.name}: the mean length of an example is {scale:.3g} times sqrt(features)")
        return cls(source.shape, (0.0,) * source.shape[0], (float(scale),) * source.shape[0])

    def standardize_source(self, source: Source) -> Source:
        """Returns `source` with the examples that `prepare` reads: uint8, or standardized as the spec says, float32."""
        if source.dtype == np.uint8:
            return source

        def take(rows: Rows) -> Arrays:
            arrays = source.take(rows)
            return {**arrays, "x": self._standardize(arrays["x"])}

        return dataclasses.replace(source, dtype=np.dtype(np.float32), take=take)

    def _standardize(self, x: np.ndarray) -> np.ndarray:
        if self.mean:  # in float64, because float32 would round away what varies beside a large mean
            x = (np.asarray(x, np.float64) - np.array(self.mean)) / np.array(self.deviation)
        if self.per_token:
            length = np.linalg.norm(np.asarray(x, np.float64), axis=-1, keepdims=True)
            x = x * (np.sqrt(x.shape[-1]) / np.maximum(length, np.finfo(np.float32).tiny))
        with np.errstate(over="ignore"):
            return x.astype(np.float32, copy=False)

    def prepare(self, x: Array | np.ndarray) -> Array:
        """Returns what the model reads of examples from `standardize_source` or `check`, float32: uint8 over 255."""
        return jnp.asarray(x, jnp.float32) / 255 if x.dtype == jnp.uint8 else jnp.asarray(x, jnp.float32)

    def standardize(self, x: Array | np.ndarray) -> Array | np.ndarray:
        """Standardizes float32 values in the user's units, within exported programs."""
        if self.per_token:
            length = jnp.linalg.norm(x, axis=-1, keepdims=True)
            return x * (np.sqrt(x.shape[-1]) / jnp.maximum(length, np.finfo(np.float32).tiny))
        if not self.mean:
            return x
        high = np.array(self.mean, np.float32)
        low = (np.array(self.mean) - high) / np.array(self.deviation)  # the part of the mean that float32 rounds away
        return (x - high) / jnp.array(self.deviation, jnp.float32) - jnp.array(low, jnp.float32)

    def restore(self, x: Array) -> Array:
        """Converts the model's values to the user's units."""
        return x * jnp.array(self.deviation) + jnp.array(self.mean) if self.mean else x

    def check(self, x: ArrayLike) -> Any:
        """Returns the user's array as `prepare` reads it, or raises InputError if the model cannot read it.

        Of a sparse matrix, returns `DenseRows`, which makes the rows of a batch dense.
        """
        if is_sparse(x):
            rows = as_csr(x, "the input")
            if rows.shape[1:] != self.shape:
                raise InputError(
                    f"the run reads examples of {self.shape}, the input holds examples of {rows.shape[1:]}"
                )
            return DenseRows(rows, self._standardize)
        x = as_array(x, "the input")
        if x.shape in (self.shape, self.shape[:2]):
            raise InputError(f"the input {x.shape} is one example without its batch axis; give [n, ...], e.g. x[None]")
        source = from_array(x, name="the input", binary=self.binary and is_binary(x), layers=self.layers)
        if source.shape != self.shape:
            raise InputError(f"the run reads examples of {self.shape}, the input holds examples of {source.shape}")
        found = source.take(np.arange(len(source)))["x"]
        if source.dtype == np.uint8:
            return found
        found = self._standardize(found)
        if not np.isfinite(found).all():
            row = int(np.argwhere(~np.isfinite(found))[0][0])
            raise InputError(f"the input: example {row} is too far from the training data's mean for float32")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Returns the spec as JSON holds it."""
        values = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Spec":
        """Returns the spec that `to_dict` wrote."""
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return cls(**values)
