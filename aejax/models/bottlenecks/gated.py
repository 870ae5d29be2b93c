"""The gated bottleneck, in which one path finds the active units and another one their values."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from aejax.models.bottlenecks.code import Code
from aejax.models.bottlenecks.sparse import get_dense, make_code, project
from aejax.models.layers import flatten
from aejax.registry import Natural


class Gated(nn.Module):
    """Units whose gate is open, with the values of a second path: [batch, ...] to [batch, features].

    z = 1[W h + b > 0] relu(exp(r) W h + m): both paths share the kernel W, and r and m have a value for each unit.
    The step function has no gradient: the gates are trained by the terms `gate_l1` and `gate_reconstruction` alone.
    Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse autoencoders", equations 6 to 8.

    Attributes:
      dead_after, revive, resample, axis_name: as in `TopK`.
    """

    features: int
    dead_after: Natural = 0
    revive: Natural = 0
    resample: Natural = 0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, h: Array, *, keys: Array | None = None, train: bool = False) -> Code:
        gates = project(self, h)
        kernel, _ = get_dense(self)
        scale = self.param("log_scale", nn.initializers.zeros, (self.features,))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        # The same product, which the compiler computes once.
        shared = flatten(h).astype(jnp.float32) @ kernel
        z = nn.relu(jnp.exp(scale) * shared + bias) * (gates > 0)
        code = make_code(self, h, gates, z, train=train)
        return code.replace(units=code.units.replace(gates=True))  # type: ignore[union-attr]
