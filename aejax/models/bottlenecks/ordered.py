"""Codes that are ordered by nested dropout."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from aejax.errors import InputError
from aejax.models.bottlenecks.code import Code
from aejax.models.layers import require_keys


class OrderedCodes(nn.Module):
    """Nested dropout of any bottleneck, so that each prefix of z can be decoded: z [batch, n] or [batch, n, features].

    Rippel et al. 2014, "Learning ordered representations with nested dropout", section 3: in training, only the first k
    of an example's n units or tokens are kept, with k uniform from 1 to n, and the others are 0. Without keys all are
    kept. To decode a prefix, set the others to 0. Indices, losses and metrics are those of the whole code.

    Attributes:
      bottleneck: bottleneck that makes the code, e.g. FSQ.
    """

    bottleneck: nn.Module
    axis_name: str | None = None

    def setup(self):
        axis: dict[str, Any] = {"axis_name": self.axis_name} if hasattr(self.bottleneck, "axis_name") else {}
        self.inner = self.bottleneck.clone(name=None, **axis)

    @property
    def size(self) -> int | None:
        return getattr(self.bottleneck, "size", None)

    @property
    def codebooks(self) -> int:
        return getattr(self.bottleneck, "codebooks", 0)

    def __call__(self, h: Array, *, keys: Array | None = None, train: bool = False) -> Code:
        require_keys(self, keys, train)
        code = self.inner(h, keys=keys, train=train)
        if code.samples or code.z.ndim not in (2, 3):
            raise InputError(f"bottleneck 'ordered' orders units or tokens, not a code of {code.z.shape[1:]}")
        if keys is None or not train:
            return code
        n = code.z.shape[1]
        length = jax.vmap(lambda key: jax.random.randint(jax.random.fold_in(key, n), (), 1, n + 1))(keys)
        kept = jnp.arange(n) < length[:, None]
        return code.replace(z=jnp.where(kept.reshape(*kept.shape, *(1,) * (code.z.ndim - 2)), code.z, 0))

    def lookup(self, indices: Array) -> Array:
        """Returns z [..., n, features] of indices [..., n]."""
        return self.inner.lookup(indices)
