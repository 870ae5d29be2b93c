"""A causal transformer over discrete codes, in place of the PixelCNN of van den Oord et al. 2017, section 3.3."""

import dataclasses
import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from aejax.errors import InputError
from aejax.models.layers import fold
from aejax.samplers.likelihood import maximize

_LARGEST = 2**14  # vocabulary: there is a logit for each code at every position of a batch
_LOGITS = 2**22  # logits of one example: 16 MB
_BATCH = 256

Cache = tuple[Array, Array]  # keys and values of all positions, [batch, length, heads, features of a head]
Caches = tuple[Cache, ...]  # one for each layer


class Block(nn.Module):
    """A pre-norm transformer block on x [batch, n, width] at positions `place` ... `place + n - 1`.

    A position attends to itself and to those before it, in x or, if given, in `cache`, to which the keys and values of
    x are written first.
    """

    heads: int

    @nn.compact
    def __call__(self, x: Array, place: int | Int[Array, ""] = 0, cache: Cache | None = None) -> tuple[Array, Cache]:
        b, n, c = x.shape
        qkv = nn.Dense(3 * c, name="qkv")(nn.LayerNorm(name="norm_0")(x)).reshape(b, n, 3, self.heads, -1)
        q, k, v = (qkv[:, :, i] for i in range(3))
        if cache is not None:
            write = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=place, axis=1)
            k, v = write(cache[0], k), write(cache[1], v)
        mask = jnp.arange(k.shape[1]) <= place + jnp.arange(n)[:, None]
        h = jax.nn.dot_product_attention(q, k, v, mask=mask[None, None]).reshape(b, n, c)
        x = x + nn.Dense(c, name="out")(h)
        h = nn.gelu(nn.Dense(4 * c, name="dense_0")(nn.LayerNorm(name="norm_1")(x)))
        return x + nn.Dense(c, name="dense_1")(h), (k, v)


class CausalTransformer(nn.Module):
    """A transformer that predicts each code from those before it.

    Attributes:
      size: number of codes; the index `size` itself marks the start.
      length: number of positions, each with `width` features.
    """

    size: int
    length: int
    width: int
    layers: int
    heads: int

    @nn.compact
    def __call__(
        self, before: Array, place: int | Int[Array, ""] = 0, caches: Caches | None = None
    ) -> tuple[Array, Caches]:
        """Returns the logits of the codes at positions `place` ... `place + n - 1`, and the caches, one per layer.

        The logits are [batch, n, size]; `before`, int32 [batch, n], holds the code before each of these positions.
        """
        positions = self.param("places", nn.initializers.normal(0.02), (self.length, self.width))
        x = nn.Embed(self.size + 1, self.width, name="codes")(before)
        x = x + jax.lax.dynamic_slice_in_dim(positions, place, before.shape[1])
        updated = []
        for i in range(self.layers):
            x, cache = Block(self.heads, name=f"block_{i}")(x, place, None if caches is None else caches[i])
            updated.append(cache)
        return nn.Dense(self.size, name="logits")(nn.LayerNorm(name="norm")(x)), tuple(updated)

    def make_caches(self, batch: int) -> Caches:
        """Returns empty caches, one per layer."""
        zeros = jnp.zeros((batch, self.length, self.heads, self.width // self.heads))
        return ((zeros, zeros),) * self.layers


@dataclasses.dataclass(frozen=True)
class Autoregressive:
    """A causal transformer, p(c) = prod_i p(c_i | c_1 ... c_{i-1}), over codes in their stored order, row by row.

    Attributes:
      size: number of codes, the bottleneck's `size`; at most 16,384.
      width: number of features of a position, a multiple of `heads`.
      layers: number of transformer blocks.
      heads: number of attention heads.
      steps, batch_size, lr: number of training steps, examples per step and highest learning rate, see `maximize`.
    """

    size: int
    width: int = 64
    layers: int = 3
    heads: int = 4
    steps: int = 2_000
    batch_size: int = 64
    lr: float = 2e-3

    discrete: ClassVar[bool] = True

    def __post_init__(self):
        if self.size > _LARGEST:
            raise InputError(f"the autoregressive sampler takes up to {_LARGEST:,} codes; the run has {self.size:,}")
        if self.width % self.heads:
            raise InputError(f"sampler.heads={self.heads} cannot share sampler.width={self.width}; choose a divisor")

    def fit(self, x: np.ndarray, seed: int) -> dict[str, Any]:
        self._check(x)
        model = self._build_model(x.shape[1])
        params = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, x.shape[1]), jnp.int32))["params"]
        log_prob = functools.partial(_log_prob, model)
        return maximize(log_prob, params, x.astype(np.int32), seed, self.steps, self.batch_size, self.lr)

    def sample(self, params: dict[str, Any], num: int, seed: int) -> np.ndarray:
        """Samples `num` codes [num, length], each with its own key, so that it does not depend on `num`."""
        model, batch = self._build_model(len(params["places"])), min(_BATCH, 1 << (num - 1).bit_length())
        padded = -(-num // batch) * batch  # whole batches, so that one program samples them all
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), np.arange(padded))
        parts = [np.asarray(_sample(model, params, keys[i : i + batch])) for i in range(0, num, batch)]
        return np.concatenate(parts)[:num]

    def log_prob(self, params: dict[str, Any], x: np.ndarray) -> np.ndarray:
        self._check(x)
        x, model = x.astype(np.int32), self._build_model(x.shape[1])
        batch = max(min(_BATCH, 2**26 // (self.size * x.shape[1])), 1)
        parts = [np.asarray(_log_prob(model, params, x[i : i + batch])) for i in range(0, len(x), batch)]
        return np.concatenate(parts)

    def _build_model(self, length: int) -> CausalTransformer:
        return CausalTransformer(self.size, length, self.width, self.layers, self.heads)

    def _check(self, x: np.ndarray) -> None:
        if self.size * x.shape[1] > _LOGITS:
            raise InputError(
                f"{x.shape[1]:,} positions of {self.size:,} codes have too many logits for the autoregressive sampler: "
                f"{_LOGITS:,} at most; choose fewer codes or a smaller grid of them"
            )
        if x.min() < 0 or x.max() >= self.size:
            raise InputError(f"codes must be from 0 to {self.size - 1}, got {x.min()} to {x.max()}; see sampler.size")


@functools.partial(jax.jit, static_argnums=0)
def _log_prob(model: CausalTransformer, params: Any, x: Array) -> Array:
    before = jnp.pad(x[:, :-1], ((0, 0), (1, 0)), constant_values=model.size)
    logits: Any = model.apply({"params": params}, before)[0]
    return jnp.take_along_axis(jax.nn.log_softmax(logits), x[..., None], -1).sum((1, 2))


@functools.partial(jax.jit, static_argnums=0)
def _sample(model: CausalTransformer, params: Any, keys: Array) -> Array:
    def step(carry: Any, place: Array) -> Any:
        before, caches = carry
        logits: Any
        logits, caches = model.apply({"params": params}, before[:, None], place, caches)
        code = jax.vmap(jax.random.categorical)(fold(keys, place), logits[:, 0]).astype(jnp.int32)
        return (code, caches), code

    first = jnp.full(len(keys), model.size, jnp.int32)
    _, codes = jax.lax.scan(step, (first, model.make_caches(len(keys))), jnp.arange(model.length))
    return codes.T
