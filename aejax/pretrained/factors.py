"""Scale and shift of latents in config.json: read as diffusers applies them, and written for all that read them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from aejax.errors import InputError, shown

_KEYS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
_KNOWN = {"AutoencoderKL": _KEYS, "AutoencoderTiny": _KEYS[:2]}  # of the classes that know more than the first


def from_factors(
    settings: Mapping[str, Any], channels: int, where: str
) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
    """Returns the mean and the deviation by which diffusers normalizes latents: (z - mean) / deviation.

    They are `latents_mean` and `latents_std / scaling_factor` where config.json has both, as the pipelines of SDXL
    apply them, and otherwise `shift_factor` and `1 / scaling_factor`. Raises InputError for what are no such numbers.
    """
    scale = _parse("scaling_factor", settings.get("scaling_factor", 1.0), 1, where)
    if not scale.all():
        raise InputError(f"{where}: scaling_factor must not be 0")
    both = [settings.get(key) for key in _KEYS[2:]]
    if all(each is not None for each in both):
        mean, deviation = (_parse(key, each, channels, where) for key, each in zip(_KEYS[2:], both, strict=True))
    else:
        mean, deviation = _parse("shift_factor", settings.get("shift_factor") or 0.0, 1, where), np.ones(1)
    if not (deviation / scale > 0).all():
        raise InputError(f"{where}: scaling_factor and latents_std must be above 0")
    return np.broadcast_to(mean, channels), np.broadcast_to(deviation / scale, channels)


def to_factors(name: str, mean: ArrayLike, deviation: ArrayLike) -> dict[str, Any]:
    """Returns the settings of the class `name` for latents with this mean and deviation of each channel, [channels].

    Some pipelines read the scaling factor alone, some the shift, too, and those of SDXL the values of each channel. All
    are written, so that each of these gives latents of deviation 1: the factors are those of all channels together, and
    `latents_std` is relative to them.
    """
    mean, deviation = np.asarray(mean, np.float64), np.asarray(deviation, np.float64)
    scale = 1 / math.sqrt(np.square(deviation).mean() + mean.var())
    values = (scale, float(mean.mean()), mean.tolist(), (deviation * scale).tolist())
    return {key: value for key, value in zip(_KEYS, values, strict=True) if key in _KNOWN.get(name, _KEYS[:1])}


def _parse(key: str, value: Any, count: int, where: str) -> np.ndarray:
    """Returns `count` numbers, [count]. Raises InputError for anything else."""
    values = value if isinstance(value, list | tuple) else [value]
    if len(values) != count or not all(type(v) in (int, float) and math.isfinite(v) for v in values):
        wanted = "a number" if count == 1 else f"a list of {count} numbers, one for each channel"
        raise InputError(f"{where}: {key} must be {wanted}, got {shown(value)}")
    return np.array(values, np.float64)
