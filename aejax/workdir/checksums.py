"""Checksums of arrays, which change with any bit and do not depend on how devices share the array.

tensorstore checks its own metadata but not the values of an array, so that a flipped byte would go unnoticed.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_WEIGHTS = np.arange(1, 2**17, 2, dtype=np.uint32)


def compute_checksums(arrays: Mapping[str, Any]) -> dict[str, str]:
    """Returns `"dtype[shape] checksum"` for each array by name, e.g. "float32[3,2] 8a7b6c5d".

    The checksum is the sum of word i times 2i + 1, modulo 2^32: as the weights are odd, every change of a single word
    changes the sum. If devices share an array, each sums its own part, and all processes must call this function.
    """
    shared = {name: a for name, a in arrays.items() if not getattr(a, "is_fully_replicated", True)}
    sums = jax.device_get(_sum_shared(shared)) if shared else {}
    for name in arrays.keys() - shared.keys():
        sums[name] = _sum_words(np.asarray(arrays[name]))
    return {name: f"{a.dtype}[{','.join(map(str, a.shape))}] {sums[name]:08x}" for name, a in arrays.items()}


def _sum_words(a: np.ndarray) -> int:
    """Returns the weighted sum of an array in this process, a block of words at a time."""
    words = np.ascontiguousarray(a).reshape(-1).view(f"u{min(4, a.itemsize)}")
    total = 0
    for i in range(0, len(words), len(_WEIGHTS)):
        part = words[i : i + len(_WEIGHTS)].astype(np.uint32, copy=False)
        total += int(np.dot(part, _WEIGHTS[: len(part)])) + 2 * i * int(part.sum(dtype=np.uint32))
    return total % 2**32


@jax.jit
def _sum_shared(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Computes the weighted sums of arrays that devices share, where they lie."""

    def one(a: jax.Array) -> jax.Array:
        words = jnp.atleast_1d(a).view(f"u{min(4, a.dtype.itemsize)}").astype(jnp.uint32)
        strides = np.cumprod((1, *words.shape[:0:-1]), dtype=np.uint32)[::-1]
        at = [jax.lax.broadcasted_iota(jnp.uint32, words.shape, k) * s for k, s in enumerate(strides[: words.ndim])]
        return jnp.sum(words * (2 * functools.reduce(jnp.add, at) + 1), dtype=jnp.uint32)

    return jax.tree.map(one, arrays)
