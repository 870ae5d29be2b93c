"""Matching pursuit: units that are chosen one after another, each for what the ones before it have left."""

from typing import Any

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
      tolerance: length of the residual below which no further atom is chosen.
      stop_at_repeat: whether the first atom that was chosen before is the last one.
      dead_after, resample, axis_name: as in `TopK`.
    """

    features: int
    k: int
    tolerance: float = 0.0
    stop_at_repeat: bool = False
    dead_after: Natural = 0
    resample: Natural = 0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, h: Array, *, keys: Array | None = None, train: bool = False) -> Code:
        check_k(self)
        x = flatten(h).astype(jnp.float32)
        layer = nn.Dense(self.features, use_bias=False, name="dense")
        products = layer(x)
        kernel = jnp.asarray(self.variables["params"]["dense"]["kernel"])
        atoms = kernel.T

        def choose(state: tuple[Array, Array, Array], step: Array) -> tuple[tuple[Array, Array, Array], Any]:
            residual, done, chosen = state
            index = jnp.argmax(jax.lax.stop_gradient(residual @ kernel), -1)
            atom = atoms[index]
            value = jnp.where(done, 0.0, nn.relu((residual * atom).sum(-1)))
            residual -= value[:, None] * atom
            if self.stop_at_repeat:
                done |= (chosen == index[:, None]).any(-1)
                chosen = chosen.at[:, step].set(index)
            if self.tolerance:
                done |= jnp.linalg.norm(jax.lax.stop_gradient(residual), axis=-1) < self.tolerance
            return (residual, done, chosen), (value, index)

        begin = x, jnp.zeros(x.shape[0], bool), jnp.full((x.shape[0], self.k), -1)
        _, (values, indices) = jax.lax.scan(choose, begin, jnp.arange(self.k))
        kept = Kept(values.T, indices.T)
        return make_code(self, h, products, kept.spread(self.features), kept=kept, train=train)
