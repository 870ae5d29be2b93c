"""The contract of quantizers, and functions that all discrete bottlenecks share.

Features become vectors [batch, *positions, features], each of which is replaced by one code. A position is a pixel of
an image [b, h, w, c], a token of [b, n, c], or one of the `positions` that flat features [b, d] are projected to.
Indices are int32 [batch, *positions], from 0 to `size` - 1; the caller of `lookup` checks that range.
"""

from typing import Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aejax.errors import InputError
from aejax.losses import categorical_entropy
from aejax.models.bottlenecks.code import Code
from aejax.models.layers import whole_batch


@runtime_checkable
class Quantizer(Protocol):
    """A bottleneck that quantizes each vector by itself, so that `composed` can use it for levels and groups.

    Attributes:
      width: size of a vector.
      size: number of codes of a codebook.
      codebooks: length of the last axis of the indices if it is one of codebooks; 0 if there is no such axis.
    """

    @property
    def width(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def codebooks(self) -> int: ...

    def get_step(self) -> float | np.ndarray:
        """Returns the scale of a level's codes relative to the level before it, a number or [width]."""

    def bound(self, x: Array) -> Array:
        """Maps vectors [batch, *positions, width] to the region where the codes are."""

    def quantize(self, x: Array, keys: Array | None, train: bool) -> Code:
        """Returns the code of vectors that `bound` returned, before `pass_gradient`."""

    def pass_gradient(self, x: Array, z: Array) -> Array:
        """Returns exactly z, with its gradient with respect to x."""

    def lookup(self, indices: Array) -> Array:
        """Returns z [batch, *positions, width] of `indices`."""


def find_least(x: Array) -> Array:
    """Returns the first index of the least value of the last axis, int32; of an axis with a NaN any index."""
    if jax.default_backend() != "cpu":
        return x.argmin(-1).astype(jnp.int32)
    # XLA:CPU computes two plain reductions in a fifth of the time of one that returns an index.
    n = x.shape[-1]
    first = jnp.where(x == x.min(-1, keepdims=True), jnp.arange(n, dtype=jnp.int32), n).min(-1)
    return jnp.minimum(first, n - 1)


def quantize_vectors(quantizer: Quantizer, x: Array, keys: Array | None, train: bool) -> Code:
    """Returns the code of vectors [batch, *positions, width], with its gradients."""
    x = quantizer.bound(x)
    code = quantizer.quantize(x, keys, train)
    return code.replace(z=quantizer.pass_gradient(x, code.z))


class VectorModule(nn.Module):
    """A module that quantizes each vector by itself: the methods of `Quantizer` that most of them share.

    `setup` makes `dense`, with positions * width outputs.
    """

    @property
    def width(self) -> int:
        return self.features

    @property
    def size(self) -> int:
        return self.codes

    @property
    def codebooks(self) -> int:
        return 0

    def get_step(self) -> float | np.ndarray:
        return 1.0

    def __call__(self, h: Array, *, keys: Array | None = None, train: bool = False) -> Code:
        return quantize_vectors(self, project(h, self.dense, self.positions), keys, train)

    def bound(self, x: Array) -> Array:
        return x

    def pass_gradient(self, x: Array, z: Array) -> Array:
        return straight_through(x, z)


def project(h: Array, dense: nn.Dense, positions: int) -> Array:
    """Projects features to vectors [batch, *positions, features], float32.

    `dense` has positions * features outputs; on the last axis of an image it acts as a 1x1 convolution.
    """
    x = dense(h.astype(jnp.float32))
    if h.ndim == 2:
        return x.reshape(h.shape[0], positions, -1)
    if positions != 1:
        raise InputError(f"bottleneck.positions is for flat features; these have {list(h.shape[1:-1])}: leave it at 1")
    return x


def straight_through(x: Array, z: Array) -> Array:
    """Returns exactly z, with the gradient of x: the straight-through estimator (Bengio et al. 2013)."""
    return jax.lax.stop_gradient(z) + (x - jax.lax.stop_gradient(x))


def measure_usage(indices: Array, size: int, axis_name: str | None) -> dict[str, Array]:
    """Returns metrics of how the whole batch uses the codes.

    `perplexity` is the exponential of the entropy of the codes' frequencies, from 1 to `size`; `dead_codes` is the
    fraction of the codes that do not occur.
    """
    # Sorts the indices, since implicit codebooks have too many codes for a histogram. `jnp.unique` would need a
    # constant batch size, which is symbolic in `Run.export`.
    ordered = jnp.sort(whole_batch(indices, axis_name).ravel())
    rank = jnp.cumsum(jnp.diff(ordered, prepend=-1) != 0) - 1  # of the code among the codes that occur
    counts = jnp.zeros_like(ordered).at[rank].add(1)
    frequencies = counts / ordered.size
    return {
        "perplexity": jnp.exp(jax.scipy.special.entr(frequencies).sum()),
        "dead_codes": 1 - (counts > 0).sum() / size,
    }


def measure_mean_entropy(log_p: Array, axis_name: str | None) -> Array:
    """Returns the entropy in nats of exp(log_p) [vectors, ..., codes] averaged over the vectors of the whole batch.

    Independent distributions, between the first axis and the last, add their entropies.
    """
    log_mean = _log_mean_exp(whole_batch(_log_mean_exp(log_p)[None], axis_name))
    return categorical_entropy(log_mean).sum()


def _log_mean_exp(log_p: Array) -> Array:
    """Returns the logarithm of the mean of exp(log_p) over the first axis."""
    return jax.nn.logsumexp(log_p, 0) - jnp.log(log_p.shape[0])
