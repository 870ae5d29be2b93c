"""Shape and units of an example: conversion between the user's units and the model's."""

import dataclasses
import math
import warnings
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from aejax.data.arrays import as_array
from aejax.data.column import Column
from aejax.data.columns import NUMBERS, describe_columns, encode_frame, is_frame
from aejax.data.kinds import describe_kind, has_pixels, kind_of
from aejax.data.sources import SAMPLED, Arrays, Rows, Source, fill_masked, from_array, is_binary
from aejax.data.sparse_rows import DenseRows, as_csr, is_sparse
from aejax.errors import InputError, one_of

# Bounds of standard deviations whose squares float32 holds, even summed over many values.
_SMALLEST, _LARGEST = 1e-18, 1e15
NORMALIZATIONS = ("none", "expected_norm", "per_token")


def read_chunks(source: Source, size: int = 4096) -> Iterator[np.ndarray]:
    """Yields the examples of `source`, `size` at a time."""
    for start in range(0, len(source), size):
        yield source.take(np.arange(start, min(start + size, len(source))))["x"]


def _check_deviation(source: Source, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Returns the standard deviations, and 1 for features that only vary by rounding.

    Raises InputError for a feature whose squares float32 does not hold.
    """
    constant = deviation <= np.finfo(source.dtype).eps * np.abs(mean)
    for i in np.flatnonzero(~constant & ((deviation < _SMALLEST) | (deviation > _LARGEST))):
        raise InputError(
            f"{source.name}: feature {i} has a standard deviation of {deviation[i]:.3g}, and float32 holds the "
            f"squares of values from {_SMALLEST:g} to {_LARGEST:g}; give it in another unit"
        )
    return np.where(constant, 1.0, deviation)


def _measure_observed(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation [features] of the values of each feature, or channel, that are not missing.

    Raises InputError for a feature without any.
    """
    features = source.shape[-1]

    def add(function: Any) -> np.ndarray:
        return np.sum([function(x.reshape(-1, features).astype(np.float64)) for x in read_chunks(source)], 0)

    count = add(lambda x: (~np.isnan(x)).sum(0))
    for i in np.flatnonzero(count == 0):
        which = f"column {source.columns[i].name!r}" if source.columns else f"feature {i}"
        raise InputError(f"{source.name}: {which} has no value that is not missing; leave it out")
    about = add(lambda x: np.nansum(x, 0)) / count
    # The mean again, about the first one, which keeps the digits of values far from 0.
    mean = about + add(lambda x: np.nansum(x - about, 0)) / count
    variance = add(lambda x: np.nansum(np.square(x - mean), 0)) / count
    return mean, _check_deviation(source, mean, np.sqrt(variance))


@dataclasses.dataclass(frozen=True)
class Spec:
    """Shape of one example, and how the model reads it.

    The user's units are [0, 1] for images and volumes (uint8 is divided by 255), unless their kind was stated and they
    have another range, and the data's own for all others.

    Attributes:
      shape: shape of one example, without the batch axis.
      mean, deviation: mean and standard deviation of each feature, or channel; empty if nothing is standardized.
      target: shape of what a transcoder decodes an example to; empty where that is the example itself.
      per_token: whether each example is scaled to length sqrt(features). Its own length is not part of its code, and
        reconstructions stay in these units.
      binary: whether the run was trained on uint8 images of 0 and 1, which were read as 0 and 255.
      kind: what an example is: "vector", "sequence", "image" or "volume", see `kinds`.
      limits: smallest and largest value of images and volumes whose units are not [0, 1]; empty for others.
      padded: whether sequences may end early, and their last time steps are NaN.
      genes, batches: names of the genes whose counts an example is, and of the labels, for cells; else empty.
      missing: whether NaN stands for missing values, which the model reads as 0: as the mean of what is standardized.
      columns: the encoding of a table's columns, of which numbers are standardized; empty for other data.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    binary: bool = False
    target: tuple[int, ...] = ()
    per_token: bool = False
    kind: str = ""  # becomes that of the number of axes, as in runs from before kinds were stated
    limits: tuple[float, ...] = ()
    padded: bool = False
    genes: tuple[str, ...] = ()
    batches: tuple[str, ...] = ()
    missing: bool = False
    columns: tuple[Column, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", self.kind or kind_of(self.shape))

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Returns the range of images and volumes in the user's units; None for other kinds."""
        low, high = self.limits or (0.0, 1.0)
        return (low, high) if has_pixels(self.kind) else None

    @property
    def masked(self) -> bool:
        """Returns whether values may be NaN, which no loss counts: missing ones, unknown categories, and padding."""
        return self.padded or self.missing or bool(self.columns)

    @property
    def likelihoods(self) -> tuple[str, ...]:
        """Returns the likelihood of each column of a table, see `Mixed.columns`; empty for other data."""
        return tuple(column.likelihood for column in self.columns)

    @property
    def units(self) -> str:
        """Returns the user's units in a few words."""
        return f"{self.kind}s in [0, 1]" if self.bounds and not self.limits else "the data's own units"

    def describe(self) -> str:
        """Returns what an example is taken for, in a few words."""
        if self.columns:
            return describe_columns(self.columns) + ", some values missing" * self.missing
        more = ", padded where they are shorter" if self.padded else ", NaN where values are missing" * self.missing
        return describe_kind(self.kind, self.shape, self.limits) + more

    @property
    def decoded(self) -> tuple[int, ...]:
        """Returns the shape of what the model decodes an example to."""
        return self.target or self.shape

    @property
    def layers(self) -> int:
        """Returns the number of layers of a model whose activations make one example; 0: examples are no such pairs."""
        return self.shape[0] if self.kind == "vector" and len(self.shape) == 2 else 0

    @classmethod
    def of(cls, source: Source, standardize: bool, normalize: str = "none") -> "Spec":
        """Returns the spec of a train split. Features that only vary by rounding get a standard deviation of 1.

        `normalize` scales vectors of many features, such as activations: "expected_norm" divides all of them by one
        number, after which their mean length is sqrt(features), and "per_token" each by its own.
        """
        if normalize not in NORMALIZATIONS:
            raise one_of("data.normalize", normalize, NORMALIZATIONS)
        if (source.missing or source.columns) and source.target is not None:
            raise InputError("missing values and tables are for models that reconstruct x; leave out data.target")
        if normalize != "none":
            if source.missing or source.columns:
                what = "tables" if source.columns else "missing values"
                raise InputError(f"data.normalize={normalize} is for data without {what}; set it to 'none'")
            if source.target is not None:
                raise InputError("data.normalize scales x alone, and a transcoder has a target, too; set it to 'none'")
            return cls._normalize(source.sample(SAMPLED) if source.block else source, standardize, normalize)
        meaning: dict[str, Any] = {"kind": source.kind, "limits": source.limits}
        meaning |= {"padded": source.padded, "missing": source.missing}
        meaning |= {"genes": source.genes, "batches": source.kinds} if source.genes else {}
        if source.columns:
            scaled = np.array([column.kind in NUMBERS for column in source.columns])
            mean, deviation = np.where(scaled, _measure_observed(source), [[0.0], [1.0]])
            return cls(source.shape, tuple(mean.tolist()), tuple(deviation.tolist()), columns=source.columns, **meaning)
        if not standardize:
            return cls(source.shape, binary=source.binary, target=source.target or (), **meaning)
        if source.target is not None:
            raise InputError("data.standardize scales x alone, and a transcoder has a target, too; set it to False")
        if (has_pixels(source.kind) and not source.limits) or (source.kind == "vector" and len(source.shape) != 1):
            what = "activations of layers" if source.kind == "vector" else f"{source.kind}s in [0, 1]"
            raise InputError(
                f"data.standardize is for vectors, sequences and values of other ranges; {source.name} holds {what} of "
                f"{source.shape}"
            )
        source = source.sample(SAMPLED) if source.block else source
        features = source.shape[-1]  # each channel is standardized over all positions
        if source.missing:
            mean, deviation = _measure_observed(source)
            return cls(source.shape, tuple(mean.tolist()), tuple(deviation.tolist()), **meaning)
        # Subtracting the first example keeps the digits of sums of values far from 0.
        first = source.take(np.arange(1))["x"].astype(np.float64).reshape(-1, features)[:1]

        def rows() -> Iterator[np.ndarray]:
            for x in read_chunks(source):
                x = x.reshape(-1, features)
                yield x[~np.isnan(x).any(1)] if source.padded else x

        count = sum(map(len, rows())) if source.padded else len(source) * math.prod(source.shape[:-1])
        mean = first[0] + np.sum([(x - first).sum(0) for x in rows()], 0) / count
        variance = np.sum([np.square(x - mean).sum(0) for x in rows()], 0) / count
        deviation = _check_deviation(source, mean, np.sqrt(variance))
        return cls(source.shape, tuple(mean.tolist()), tuple(deviation.tolist()), **meaning)

    @classmethod
    def _normalize(cls, source: Source, standardize: bool, normalize: str) -> "Spec":
        if standardize or len(source.shape) != 1:
            held = f"{source.name} holds {source.kind}s of {source.shape}"
            what = "set data.standardize=False" if standardize else held
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

    def read(
        self, x: ArrayLike, label: ArrayLike | None = None, name: str = "array", binary: bool | None = None
    ) -> Source:
        """Returns a source over the user's array, of the kind and in the units of the data; see `from_array`."""
        x = self.encode(x, name)
        x = as_array(fill_masked(x) if self.missing else x, name)
        if self.limits and x.dtype == np.uint8:
            x = x.astype(np.float32)  # in the data's own units, which are not those of 0 to 255
        kind = self.kind if x.ndim in (len(self.shape), len(self.shape) + 1) else ""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*time is assumed")  # as was said when the run was trained
            unit = not self.limits
            return from_array(
                x,
                label,
                name,
                binary=binary,
                layers=self.layers,
                kind=kind,
                unit=unit,
                missing=self.missing or bool(self.columns),
            )

    def encode(self, x: ArrayLike, name: str = "the input") -> ArrayLike:
        """Returns a DataFrame as numbers, encoded as the table that the run was trained on, and other arrays as is."""
        return encode_frame(x, self.columns, self.missing, name) if self.columns and is_frame(x) else x

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
        x = as_array(fill_masked(self.encode(x)) if self.missing else self.encode(x), "the input")
        if x.shape == self.shape or (len(self.shape) > 1 and x.shape == self.shape[:-1]):
            raise InputError(f"the input {x.shape} is one example without its batch axis; give [n, ...], e.g. x[None]")
        source = self.read(x, name="the input", binary=self.binary and is_binary(x))
        if source.shape != self.shape:
            raise InputError(f"the run reads examples of {self.shape}, the input holds examples of {source.shape}")
        found = source.take(np.arange(len(source)))["x"]
        if source.dtype == np.uint8:
            return found
        if source.padded and not self.padded:
            raise InputError("the input: sequences end early, and the run was trained on whole ones; cut or fill them")
        padding = np.isnan(found)
        found = self._standardize(found)
        if (self.missing or self.columns) and padding.any():
            found = np.where(padding, np.float32(np.nan), found)  # of one bit pattern, as random keys depend on it
        if not (np.isfinite(found) | padding).all():
            row = int(np.argwhere(~np.isfinite(found) & ~padding)[0][0])
            raise InputError(f"the input: example {row} is too far from the training data's mean for float32")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Returns the spec as JSON holds it."""
        values = dataclasses.asdict(self)
        values["columns"] = [{**each, "categories": list(each["categories"])} for each in values["columns"]]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Spec":
        """Returns the spec that `to_dict` wrote."""
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        columns = [Column(**{**each, "categories": tuple(each["categories"])}) for each in values.get("columns", ())]
        values["columns"] = tuple(columns)
        return cls(**values)
