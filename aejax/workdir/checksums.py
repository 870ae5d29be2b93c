"""A number for each array that changes with any of its bits, however the array is divided among devices.

tensorstore checks what it writes of its own, but not the values of an array: a flipped byte was read as another number.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_WEIGHTS = np.arange(1, 2**17, 2, dtype=np.uint32)


def compute_checksums(arrays: Mapping[str, Any]) -> dict[str, str]:
    """Of each array its kind, shape and sum, e.g. "float32[3,2] 8a7b6c5d".

    The sum is that of word i times 2i + 1, modulo 2^32: odd, so that no single word changes without it. Of arrays that
    devices share, each device adds up its own; all processes call this.
    """
    shared = {name: a for name, a in arrays.items() if not getattr(a, "is_fully_replicated", True)}
    sums = jax.device_get(_sum_shared(shared)) if shared else {}
    for name in arrays.keys() - shared.keys():
        sums[name] = _sum_words(np.asarray(arrays[name]))
    return {name: f"{a.dtype}[{','.join(map(str, a.shape))}] {sums[name]:08x}" for name, a in arrays.items()}


def _sum_words(a: np.ndarray) -> int:
    words = np.ascontiguousarray(a).reshape(-1).view(f"u{min(4, a.itemsize)}")
    total = 0
    for i in range(0, len(words), len(_WEIGHTS)):
        part = words[i : i + len(_WEIGHTS)].astype(np.uint32, copy=False)
        total += int(np.dot(part, _WEIGHTS[: len(part)])) + 2 * i * int(part.sum(dtype=np.uint32))
    return total % 2**32


@jax.jit
def _sum_shared(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    def one(a: jax.Array) -> jax.Array:
        words = jnp.atleast_1d(a).view(f"u{min(4, a.dtype.itemsize)}").astype(jnp.uint32)
        strides = np.cumprod((1, *words.shape[:0:-1]), dtype=np.uint32)[::-1]
        at = [jax.lax.broadcasted_iota(jnp.uint32, words.shape, k) * s for k, s in enumerate(strides[: words.ndim])]
        return jnp.sum(words * (2 * functools.reduce(jnp.add, at) + 1), dtype=jnp.uint32)

    return jax.tree.map(one, arrays)
