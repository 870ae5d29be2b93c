"""Sources: examples by row number, from arrays."""

import dataclasses
import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from aejax.data.arrays import as_array, as_integers, to_numpy
from aejax.data.column import Column
from aejax.data.images import Crop, Size, find_sides, resize
from aejax.data.kinds import check_kind, guess_kind, has_pixels, kind_of, warn_of_time_last
from aejax.errors import InputError

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SAMPLED = 65_536  # examples of a store whose mean and scale stand for those of all
STREAMED = 4_096  # likewise, the first of a stream
Rows = np.ndarray
Arrays = dict[str, np.ndarray]


@runtime_checkable
class Truth(Protocol):
    """The features that examples are known to be sums of."""

    @property
    def directions(self) -> np.ndarray:
        """Returns the unit vector of each feature, [features, values of an example]."""

    @property
    def parents(self) -> np.ndarray:
        """Returns the number of the feature without which each feature does not fire, or -1: [features]."""

    def activations(self, rows: Rows) -> Any:  # csr_array; SciPy is imported only by what computes them
        """Returns the magnitudes of the features in the examples with these numbers, sparse [n, features]."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Examples by row number.

    Attributes:
      name: used in messages.
      length: number of examples.
      shape: shape of one example, e.g. (height, width, channels) or (features,).
      dtype: uint8 for images and volumes of 0 to 255; float64 for vectors and sequences that float32 would round;
        otherwise float32.
      take: function from row numbers [n] to {"x": [n, *shape]} and, where the data has them, {"label": int32 [n]}
        and {"factors": int32 [n, factors]}, known factors of variation, which only evaluation reads.
      files: the files that the examples are decoded from; empty if nothing is decoded.
      kinds: names of the labels, by number, where the data has names.
      binary: whether the images are stored as 0 and 1 in uint8, which `take` returns as 0 and 255.
      draw: `take` for training images that are cropped at random: function from row numbers and crops, [n, 3] as in
        `images.Crop`. None where nothing is random.
      block: number of consecutive examples that are read together, where reading examples one by one is slow; such a
        source is mixed in a buffer, see `mixing`. 0: each example is read alone.
      stream: whether the examples come from a function, which reads them in their order.
      target: shape of what a transcoder decodes each example to, which `take` returns as "target"; None: x itself.
      truth: the known features that the examples are made of; `take` then returns {"row": [n]}, too, the examples'
        numbers, of which `truth.activations` returns the features. None where they are not known.
      kind: what an example is, see `kinds`; "" becomes the kind that its number of axes had before kinds were stated.
      limits: smallest and largest value of images and volumes of another range than [0, 1]; empty for others.
      padded: whether some sequences end early: their last time steps are NaN.
      genes: names of the genes whose counts an example is; empty for others.
      categories: the number of categories of each column whose combination is the label, the first column's outermost;
        empty where the label is one column.
      cure: what to set if the values should be counts and are not.
      missing: whether NaN stands for missing values, wherever it is.
      columns: the encoding of a table's columns; empty for other data.
      weights: the weight of each example in losses, float64 [n]; None: all count alike.
    """

    name: str
    length: int
    shape: tuple[int, ...]
    dtype: np.dtype
    take: Callable[[Rows], Arrays]
    files: tuple[str | Path, ...] = ()
    kinds: tuple[str, ...] = ()
    binary: bool = False
    draw: Callable[[Rows, np.ndarray], Arrays] | None = None
    block: int = 0
    stream: bool = False
    target: tuple[int, ...] | None = None
    truth: Truth | None = None
    kind: str = ""
    limits: tuple[float, ...] = ()
    padded: bool = False
    genes: tuple[str, ...] = ()
    categories: tuple[int, ...] = ()
    cure: str = ""
    missing: bool = False
    columns: tuple[Column, ...] = ()
    weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", self.kind or kind_of(self.shape))

    def __len__(self) -> int:
        return self.length

    @property
    def nbytes(self) -> int:
        values = math.prod(self.shape) + (0 if self.target is None else math.prod(self.target))
        return self.length * values * self.dtype.itemsize

    def sample(self, count: int) -> "Source":
        """Returns `count` examples sampled without replacement, always the same ones, or all if there are no more.

        Those of a store are evenly spaced, as permuting all rows would take memory, and those of a stream the first.
        """
        if self.stream:
            return self.subset(range(min(count, STREAMED)), self.name)
        if count >= len(self):
            return self
        if self.block:
            return self.subset(np.linspace(0, len(self) - 1, count).astype(np.int64), self.name)
        return self.subset(np.sort(np.random.default_rng(0).permutation(len(self))[:count]), self.name)

    def subset(self, rows: Rows | range, name: str) -> "Source":
        """Returns the examples with the given row numbers, in their order, as a source called `name`."""
        take, draw = self.take, self.draw
        pick = (lambda i: np.asarray(i) + rows.start) if isinstance(rows, range) else rows.__getitem__
        drawn = None if draw is None else lambda i, crops: draw(pick(i), crops)
        weights = None if self.weights is None else self.weights[np.asarray(rows, int)]
        part = dataclasses.replace(self, name=name, length=len(rows), take=lambda i: take(pick(i)), draw=drawn)
        return part if weights is None else dataclasses.replace(part, weights=weights)

    def weigh(self, weights: ArrayLike) -> "Source":
        """Returns the examples with weights [n], at least 0. Raises InputError for others."""
        found = as_array(weights, f"{self.name}: weights")
        if found.shape != (len(self),):
            raise InputError(f"{self.name} has {len(self)} examples, and the weights {found.shape}; give one for each")
        found = found.astype(np.float64)
        for row in np.flatnonzero(~(np.isfinite(found) & (found >= 0))):
            raise InputError(f"{self.name}: the weight of example {row} is {found[row]}; give finite ones from 0")
        return dataclasses.replace(self, weights=found)


def from_array(
    x: ArrayLike | None,
    label: ArrayLike | None = None,
    name: str = "array",
    size: Size = 0,
    factors: ArrayLike | None = None,
    fit: str = "crop",
    binary: bool | None = None,
    layers: int = 0,
    kind: str = "",
    unit: bool = False,
    length: ArrayLike | None = None,
    missing: bool = False,
) -> Source:
    """Returns a source over an array. Raises InputError if an argument is of another kind or shape than these.

    Args:
      x: [n, features] or [n, time, channels], any finite numbers; images [n, height, width] or [n, height, width,
        channels], or volumes [n, depth, height, width, channels], uint8 from 0 to 255 or float in [0, 1].
      label: whole numbers [n] or [n, 1].
      name: used in messages.
      size: with `fit`, resizes uint8 images as `images.resize` does; 0 leaves them.
      factors: whole numbers [n, factors], the value of each factor of variation.
      layers: above 0, x is [n, layers, features], activations of so many layers of a model, and no images.
      binary: whether uint8 images hold only 0 and 1, which become 0 and 255; None looks it up and warns of it.
      kind: one of `kinds.KINDS`. Sequences [n, time] and volumes [n, depth, height, width] of a stated kind have one
        channel, and floats may have any range. The default guesses, see `guess_kind`.
      unit: whether images and volumes of a stated kind must lie in [0, 1], too.
      length: whole numbers [n], the time steps of each sequence. What follows is padding, whatever its values, and
        becomes NaN. Without it, sequences end where all that follows is NaN, see `pad_sequences`.
      missing: whether NaN, and what a masked array masks, are missing values.
    """
    x = as_array(fill_masked(x) if missing else x, name)
    if length is not None:
        x, kind = _cut(x, length, name), kind or "sequence"
    check_kind(x, "" if layers else kind, name)
    if x.size == 0:
        raise InputError(f"{name} has shape {x.shape} and holds no numbers; give at least one example")
    if layers and (x.ndim != 3 or x.shape[1] != layers):
        raise InputError(f"{name} has shape {x.shape}, and data.layers={layers} means [n, {layers}, features]; set it")
    may_end = (not missing and kind == "sequence") or (
        not kind and not layers and x.ndim == 3
    )  # images have no reason to hold NaN
    low, high, padded = _find_limits(x, name, may_end, missing) if x.dtype.kind == "f" else (0.0, 0.0, False)
    limits, kind = (low, high), "sequence" if padded else kind
    kind = "vector" if layers else kind or guess_kind(x, limits, name)
    pixels = has_pixels(kind)
    if x.ndim == {"sequence": 2, "image": 3, "volume": 4}.get(kind):
        x = x[..., None]
    if pixels and x.dtype.kind in "ui" and x.dtype != np.uint8:
        raise InputError(f"{name} has {kind}s of {x.dtype}; give uint8 from 0 to 255, or float in [0, 1]")
    if kind == "sequence":
        warn_of_time_last(x.shape[1:], name)
    outside = pixels and (limits[0] < 0 or limits[1] > 1)
    if outside and unit:
        raise InputError(
            f"{name}: float {kind}s must lie in [0, 1], found {limits[0]} to {limits[1]}; scale them, give uint8 from "
            f"0 to 255, or train with data.kind={kind}, which takes any range"
        )
    more: Arrays = {}
    if label is not None:
        more["label"] = check_label(label, len(x), name)
    if factors is not None:
        more["factors"] = _check_factors(factors, len(x), name)
    if size and not (kind == "image" and x.dtype == np.uint8):
        raise InputError(f"{name}: data.size resizes uint8 images only; this is {x.dtype} of shape {x.shape[1:]}")
    if pixels:
        dtype = np.dtype(np.uint8 if x.dtype == np.uint8 else np.float32)
    else:
        dtype = np.dtype(np.float32 if np.can_cast(x.dtype, np.float32) else np.float64)
    if binary is None and (binary := pixels and is_binary(x)):
        warnings.warn(f"{name}: uint8 {kind}s of only 0 and 1 are read as 0 and 255, black and white", stacklevel=2)

    def draw(rows: Rows, crops: np.ndarray | None) -> Arrays:
        part = x[rows].astype(dtype, copy=False)
        if binary and pixels:
            part = part * np.uint8(255)
        if size:
            part = np.stack(
                [resize(image, size, fit, crop) for image, crop in zip(part, as_crops(crops), strict=False)]
            )
        return {"x": part} | {key: value[rows] for key, value in more.items()}

    return Source(
        name,
        len(x),
        (*find_sides(size), x.shape[3]) if size else x.shape[1:],
        dtype,
        functools.partial(draw, crops=None),
        binary=bool(binary and pixels),
        draw=draw if size and fit == "random" else None,
        kind=kind,
        limits=limits if outside else (),
        padded=padded,
        missing=missing and dtype != np.uint8,
    )


def fill_masked(x: ArrayLike | None) -> ArrayLike | None:
    """Returns a masked array of NumPy with NaN where it is masked, and anything else as it is."""
    if not isinstance(x, np.ma.MaskedArray) or x.dtype.kind not in "buif":
        return x
    return np.ma.filled(x if x.dtype.kind == "f" else x.astype(np.float64), np.nan)


def as_crops(crops: np.ndarray | None) -> Iterable[Crop | None]:
    """Returns one crop per row of [n, 3]; without crops, None again and again."""
    return itertools.repeat(None) if crops is None else [Crop(*crop) for crop in crops.tolist()]


def check_label(label: ArrayLike, examples: int, name: str) -> np.ndarray:
    """Returns labels as int32 [examples], or raises InputError."""
    what = f"{name}: labels"
    label = to_numpy(label, what)
    if label.ndim and len(label) != examples:
        raise InputError(f"{name} has {examples} examples but {len(label)} labels; give one for each")
    if label.shape not in ((examples,), (examples, 1)):
        raise InputError(f"{what} have dtype {label.dtype}, shape {label.shape}; give whole numbers [{examples}]")
    return as_integers(label, what).reshape(examples)


def _check_factors(factors: ArrayLike, examples: int, name: str) -> np.ndarray:
    """Returns factors of variation as int32 [examples, factors], or raises InputError."""
    what = f"{name}: factors"
    factors = to_numpy(factors, what)
    if factors.ndim != 2 or len(factors) != examples or not factors.shape[1] or factors.dtype.kind not in "iu":
        raise InputError(
            f"{what} have dtype {factors.dtype}, shape {factors.shape}; give whole numbers [{examples}, factors]"
        )
    return as_integers(factors, what)


def _find_limits(x: np.ndarray, name: str, may_end: bool = False, missing: bool = False) -> tuple[float, float, bool]:
    """Returns the smallest and the largest value, and whether sequences end early.

    Raises InputError for values that float32 does not hold. With `may_end`, the last time steps of a sequence may be
    NaN in all channels; with `missing`, any values but all of an example.
    """
    low, high, padded = np.inf, -np.inf, False
    for start in range(0, len(x), 4096):  # in parts, because a memory-mapped file may be larger than the memory
        with np.errstate(over="ignore"):
            part = x[start : start + 4096].astype(np.float32)
        bad = ~np.isfinite(part)
        if bad.any() and may_end:
            steps = part.reshape(*part.shape[:2], -1)
            ended = np.logical_and.accumulate(np.isnan(steps).all(-1)[:, ::-1], 1)[:, ::-1]
            ended[ended.all(1)] = False  # of a sequence without any time step, NaN is an error
            padded |= bool(ended.any())
            bad &= ~ended.reshape(*ended.shape, *[1] * (x.ndim - 2))
        if missing:
            nothing = np.isnan(part).reshape(len(part), -1).all(1)
            for row in np.flatnonzero(nothing):
                raise InputError(f"{name}: example {start + row} has no value that is not missing; leave it out")
            bad &= ~np.isnan(part)
        if bad.any():
            row, *place = np.argwhere(bad)[0].tolist()
            cure = "remove or fill such values"
            if np.isnan(part[(row, *place)]):
                cure += ", or set data.missing=True if NaN are missing values"
            cure += "; NaN may fill the last time steps of a sequence" * may_end
            where = place[0] if len(place) == 1 else tuple(place)
            raise InputError(
                f"{name}: example {start + row} holds NaN or infinity in float32, at value {where}; {cure}"
            )
        low, high = min(low, float(np.nanmin(part))), max(high, float(np.nanmax(part)))
    return low, high, padded


def pad_sequences(sequences: Sequence[ArrayLike]) -> np.ndarray:
    """Returns sequences of unequal length, [time] or [time, channels] each, as one array [n, longest, channels].

    What follows the end of a sequence is NaN, which models that read padding leave out.
    """
    parts = [as_array(each, "a sequence") for each in sequences]
    parts = [part[:, None] if part.ndim == 1 else part for part in parts]
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) != 1 or not all(part.ndim == 2 and part.size for part in parts):
        found = ", ".join(sorted({str(part.shape) for part in parts})[:5]) or "none"
        raise InputError(f"sequences must be [time, channels], all with as many channels, got {found}")
    dtype = np.float32 if all(np.can_cast(part.dtype, np.float32) for part in parts) else np.float64
    padded = np.full((len(parts), max(map(len, parts)), *shapes.pop()), np.nan, dtype)
    for row, part in zip(padded, parts, strict=True):
        row[: len(part)] = part
    return padded


def _cut(x: np.ndarray, length: ArrayLike, name: str) -> np.ndarray:
    """Returns sequences [n, time, ...] with NaN after the first `length` [n] time steps of each."""
    length = as_integers(length, f"{name}: lengths")
    if x.ndim not in (2, 3) or length.shape != (len(x),):
        raise InputError(f"{name} has shape {x.shape} and {length.shape} lengths; give sequences and a length for each")
    if length.min() < 1 or length.max() > x.shape[1]:
        raise InputError(f"{name}: lengths from {length.min()} to {length.max()} must be from 1 to {x.shape[1]}")
    beyond = np.arange(x.shape[1]) >= length[:, None]
    dtype = x.dtype if x.dtype.kind == "f" else np.float32 if np.can_cast(x.dtype, np.float32) else np.float64
    return np.where(beyond.reshape(*beyond.shape, *[1] * (x.ndim - 2)), np.asarray(np.nan, dtype), x.astype(dtype))


def is_binary(x: np.ndarray) -> bool:
    """Returns whether `x` holds uint8 images [n, height, width, ...] of only 0 and 1, with at least one 1."""
    if x.dtype != np.uint8 or x.ndim < 3:
        return False
    largest = 0
    for start in range(0, len(x), 4096):
        largest = max(largest, int(x[start : start + 4096].max(initial=0)))
        if largest > 1:  # other images mostly end here, at their first examples
            return False
    return largest == 1
