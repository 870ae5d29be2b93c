"""Kinds of data: what the axes of an example mean."""

import warnings
from collections.abc import Sequence

import numpy as np

from aejax.errors import InputError, one_of

# The number of axes of one example, with its channels, and how an array of examples is written.
AXES = {
    "vector": (1, "[n, features]"),
    "sequence": (2, "[n, time] or [n, time, channels]"),
    "image": (3, "[n, height, width] or [n, height, width, channels]"),
    "volume": (4, "[n, depth, height, width] or [n, depth, height, width, channels]"),
}
KINDS = tuple(AXES)
_ROUNDED = 0.01
_COLORS = 4  # channels at most of images that nobody takes for gray volumes


def kind_of(shape: Sequence[int]) -> str:
    """Returns the kind that examples of `shape` had before kinds were stated, by their number of axes.

    Two axes are the layers and features of a crosscoder's activations, which are vectors.
    """
    return {3: "image", 4: "volume"}.get(len(shape), "vector")


def has_pixels(kind: str) -> bool:
    """Returns whether examples are images or volumes, of which uint8 values from 0 to 255 are read as [0, 1]."""
    return kind in ("image", "volume")


def guess_kind(x: np.ndarray, limits: tuple[float, float], name: str) -> str:
    """Returns the kind of examples x [n, ...] whose values lie within `limits`. Raises InputError if it is ambiguous.

    Arrays with three axes are gray images if they are uint8 or lie in [0, 1], and else sequences, unless they have as
    many time steps as channels, which may be standardized images. Those with four axes are images with channels, and
    those with five are volumes.
    """
    low, high = limits
    outside = x.dtype.kind == "f" and not (low >= 0 and high <= 1)
    # Values that hardly leave [0, 1] are those of images that were rounded.
    if x.ndim == 3 and x.shape[1] != x.shape[2] and outside and not (low > -_ROUNDED and high < 1 + _ROUNDED):
        return "sequence"
    if outside and x.ndim in (3, 4):
        other = "sequence for [n, time, channels]" if x.ndim == 3 else "volume for [n, depth, height, width]"
        raise InputError(
            f"{name}: float images must lie in [0, 1], found {low} to {high}; scale them, give uint8 from 0 to 255, or "
            f"set data.kind: image for images of any range, {other}"
        )
    if x.ndim == 4 and x.shape[3] > _COLORS and x.shape[1] == x.shape[2] == x.shape[3]:
        warnings.warn(
            f"{name} has shape {x.shape}, images of {x.shape[3]} channels or gray volumes: taken for images; for "
            "volumes set data.kind=volume",
            stacklevel=3,
        )
    return {2: "vector", 3: "image", 4: "image", 5: "volume"}[x.ndim]


def check_kind(x: np.ndarray, kind: str, name: str) -> None:
    """Raises InputError if an array of examples has another number of axes than `kind`, which may be "" for any."""
    if kind and kind not in AXES:
        raise one_of("data.kind", kind, KINDS)
    axes, written = AXES.get(kind, (0, ""))
    if kind and x.ndim not in ((1 + axes,) if kind == "vector" else (axes, 1 + axes)):
        raise InputError(f"{name} has shape {x.shape}, and data.kind={kind} means {written}; change one of them")
    if not kind and x.ndim not in (2, 3, 4, 5):
        known = ", ".join(shape for _, shape in AXES.values())
        raise InputError(f"{name} has shape {x.shape}; give {known}")


def warn_of_time_last(shape: Sequence[int], name: str) -> None:
    """Warns of a sequence with fewer time steps than channels, whose time may be the last axis."""
    steps, channels = shape
    if steps < channels:
        warnings.warn(
            f"{name}: sequences of {steps} time steps and {channels} channels; time is assumed to be the first axis of "
            "an example, and if it is the last, give x.swapaxes(1, 2)",
            stacklevel=3,
        )


def describe_kind(kind: str, shape: Sequence[int], limits: Sequence[float]) -> str:
    """Returns what an example is taken for, in a few words, e.g. "sequences of 128 time steps, 6 channels"."""
    *axes, channels = shape
    of_channels = f"{channels:,} channel{'s' if channels > 1 else ''}"
    if kind == "vector":
        layers = f" in each of {axes[0]:,} layers" if axes else ""
        return f"vectors of {channels:,} features{layers}"
    if kind == "sequence":
        return f"sequences of {axes[0]:,} time steps, {of_channels}"
    where = f"from {limits[0]:g} to {limits[1]:g}" if limits else "in [0, 1]"
    return f"{kind}s of {'x'.join(map(str, axes))}, {of_channels}, {where}"
