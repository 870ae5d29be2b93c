"""Matching pursuit: units that are chosen one after another, each for what the ones before it have left."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from aejax.models.bottlenecks.code import Code
from aejax.models.bottlenecks.selection import Kept
from aejax.models.bottlenecks.sparse import check_k, make_code
from aejax.models.layers import flatten
from aejax.registry import Natural


class MatchingPursuit(nn.Module):
    """The units of k greedy steps: [batch, ...] to [batch, features].

    In each step, the atom with the largest product with the residual is chosen, relu of this product is added to the
    atom's unit, and the residual loses it times the atom. The atoms are the columns of the kernel, which the decoder
    shares (`decoder.tied`) and which should have length 1 (`decoder.unit_norm`). An atom can be chosen more than once.
    Gradients flow through the values of all steps, not through the choice. Costa et al. 2025, "From flat to
    hierarchical: extracting sparse representations with matching pursuit", algorithm 1.

    Raises InputError if k is not between 1 and `features`.

    Attributes:
      dead_after, resample, axis_name: as in `TopK`.
    """

    features: int
    k: int
    dead_after: Natural = 0
    resample: Natural = 0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, h: Array, *, keys: Array | None = None, train: bool = False) -> Code:
        check_k(self)
        x = flatten(h).astype(jnp.float32)
        layer = nn.Dense(self.features, use_bias=False, name="dense")
        products = layer(x)
        kernel = self.variables["params"]["dense"]["kernel"]
        atoms = kernel.T

        def choose(residual: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
            index = jnp.argmax(jax.lax.stop_gradient(residual @ kernel), -1)
            atom = atoms[index]
            value = nn.relu((residual * atom).sum(-1))
            return residual - value[:, None] * atom, (value, index)

        _, (values, indices) = jax.lax.scan(choose, x, length=self.k)
        kept = Kept(values.T, indices.T)
        return make_code(self, h, products, kept.spread(self.features), kept=kept, train=train)
