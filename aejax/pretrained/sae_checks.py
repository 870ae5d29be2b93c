"""Checks of what files of sparse autoencoders hold, whatever their layout."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aejax.errors import InputError, shown
from aejax.pretrained.hub import DTYPES


def require_whole(config: Mapping[str, Any], key: str, where: str) -> int:
    """Returns a whole number above 0 in a config. Raises InputError for anything else."""
    if key not in config:
        raise InputError(f"{where} has no {key}; add it")
    value = config[key]
    if type(value) not in (int, float) or not math.isfinite(value) or value != int(value) or value < 1:
        raise InputError(f"{where}: {key} must be a whole number above 0, got {shown(value)}")
    return int(value)


def check_tensors(
    file: Path, tensors: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[str, ...]], sizes: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Returns the tensors, float32. Raises InputError if names, shapes or dtypes differ, or a value is not finite."""
    problems = [
        f"{what}: {', '.join(sorted(differ)[:4])}{', ...' if len(differ) > 4 else ''}"
        for what, differ in (("missing", wanted.keys() - tensors.keys()), ("superfluous", tensors.keys() - wanted))
        if differ
    ]
    if problems:
        raise InputError(f"{file} must hold the tensors {', '.join(wanted)}; {'; '.join(problems)}")
    found = {}
    for name, axes in wanted.items():
        value = tensors[name]
        shape = tuple(sizes.get(axis, -1) for axis in axes)
        if value.shape != shape or not value.size:
            described = ", ".join(f"{axis}={sizes[axis]}" for axis in axes if axis in sizes) or "numbers above 0"
            raise InputError(f"{file}: {name} has the shape {value.shape}, not [{', '.join(axes)}] with {described}")
        if value.dtype.name not in DTYPES and not (axes == () and value.dtype == np.float64):
            raise InputError(f"{file}: {name} is {value.dtype.name}; convert it to float16, bfloat16 or float32")
        found[name] = np.ascontiguousarray(value, np.float32).reshape(shape)
        if not np.isfinite(found[name]).all():
            at = np.argwhere(~np.isfinite(found[name]))[0].tolist()
            raise InputError(f"{file}: {name} holds {found[name][tuple(at)]} at {at}; copy or download it again")
    return found


def fold_norm(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns tensors with unit-norm decoder rows that give the activations of `rescale_acts_by_decoder_norm`.

    Where the norms are 1 up to rounding, as in all models that SAELens saves for inference, the tensors are as given.
    """
    norm = np.linalg.norm(tensors["W_dec"].astype(np.float64), axis=1)
    if abs(norm - 1).max() < 1e-6:
        return tensors
    if not norm.all():
        raise InputError(f"W_dec has a row of zeros, number {int(norm.argmin())}, which cannot be scaled to norm 1")
    folded = {
        "W_enc": tensors["W_enc"] * norm,
        "b_enc": tensors["b_enc"] * norm,
        "W_dec": tensors["W_dec"] / norm[:, None],
    }
    return tensors | {name: value.astype(np.float32) for name, value in folded.items()}
