"""A causal transformer over discrete codes (van den Oord et al. 2017, section 3.3, with the transformer of
Vaswani et al. 2017 for the PixelCNN)."""

import dataclasses
import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aejax.errors import InputError
from aejax.models.layers import fold
from aejax.samplers.likelihood import maximise

_LARGEST = 2**14  # vocabulary: every place of a batch has a logit for each of it
_LOGITS = 2**22  # of one example: 16 MB
_BATCH = 256

Cache = tuple[Array, Array]  # keys and values of all places, [batch, length, heads, features of a head]


class Block(nn.Module):
    """Pre-norm attention and two dense layers, x [batch, n, width] at `place` ... `place + n - 1`.

    A place reads itself and those before it: in x, or in `cache`, which x's keys and values are written to.
    """

    heads: int

    @nn.compact
    def __call__(self, x: Array, place: Any = 0, cache: Cache | None = None) -> tuple[Array, Cache]:
        b, n, c = x.shape
        qkv = nn.Dense(3 * c, name="qkv")(nn.LayerNorm(name="norm_0")(x)).reshape(b, n, 3, self.heads, -1)
        q, *new = (qkv[:, :, i] for i in range(3))
        if cache is not None:
            write = jax.lax.dynamic_update_slice_in_dim
            new = [write(old, part, place, axis=1) for old, part in zip(cache, new, strict=True)]
        k, v = new
        mask = jnp.arange(k.shape[1]) <= place + jnp.arange(n)[:, None]
        h = jax.nn.dot_product_attention(q, k, v, mask=mask[None, None]).reshape(b, n, c)
        x = x + nn.Dense(c, name="out")(h)
        h = nn.gelu(nn.Dense(4 * c, name="dense_0")(nn.LayerNorm(name="norm_1")(x)))
        return x + nn.Dense(c, name="dense_1")(h), (k, v)


class CausalTransformer(nn.Module):
    """Logits of the codes at `place` ... `place + n - 1` from the codes one place before each.

    Attributes:
      size: codes; the number `size` itself stands before the first.
      length: places.
    """

    size: int
    length: int
    width: int
    layers: int
    heads: int

    @nn.compact
    def __call__(self, before: Array, place: Any = 0, caches: Any = None) -> tuple[Array, Any]:
        """before: int32 [batch, n]; gives logits [batch, n, size] and the caches, one for each layer."""
        where = self.param("places", nn.initializers.normal(0.02), (self.length, self.width))
        x = nn.Embed(self.size + 1, self.width, name="codes")(before)
        x = x + jax.lax.dynamic_slice_in_dim(where, place, before.shape[1])
        written = []
        for i in range(self.layers):
            x, cache = Block(self.heads, name=f"block_{i}")(x, place, caches and caches[i])
            written.append(cache)
        return nn.Dense(self.size, name="logits")(nn.LayerNorm(name="norm")(x)), tuple(written)

    def empty(self, batch: int) -> Any:
        """The caches before the first place."""
        zeros = jnp.zeros((batch, self.length, self.heads, self.width // self.heads))
        return ((zeros, zeros),) * self.layers


@dataclasses.dataclass(frozen=True)
class Autoregressive:
    """p(c) = prod_i p(c_i | c_1 ... c_{i-1}) of the codes in the order in which they are stored, row by row.

    Attributes:
      size: codes that there are: the bottleneck's `size`, at most 16,384.
      width: of a place, a multiple of `heads`.
      layers: transformer blocks.
      heads: of attention.
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
        model = self._model(x.shape[1])
        params = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, x.shape[1]), jnp.int32))["params"]
        log_prob = functools.partial(_log_prob, model)
        return maximise(log_prob, params, x.astype(np.int32), seed, self.steps, self.batch_size, self.lr)

    def sample(self, params: dict[str, Any], num: int, seed: int) -> np.ndarray:
        """Each draw has a key of its own, so that it does not depend on how many there are."""
        model, batch = self._model(len(params["places"])), min(_BATCH, 1 << (num - 1).bit_length())
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), np.arange(-(-num // batch) * batch))
        parts = [np.asarray(_draw(model, params, keys[i : i + batch])) for i in range(0, num, batch)]
        return np.concatenate(parts)[:num]

    def log_prob(self, params: dict[str, Any], x: np.ndarray) -> np.ndarray:
        self._check(x)
        x, model = x.astype(np.int32), self._model(x.shape[1])
        batch = max(min(_BATCH, 2**26 // (self.size * x.shape[1])), 1)
        parts = [np.asarray(_log_prob(model, params, x[i : i + batch])) for i in range(0, len(x), batch)]
        return np.concatenate(parts)

    def _model(self, length: int) -> CausalTransformer:
        return CausalTransformer(self.size, length, self.width, self.layers, self.heads)

    def _check(self, x: np.ndarray) -> None:
        if self.size * x.shape[1] > _LOGITS:
            raise InputError(
                f"{x.shape[1]:,} places of {self.size:,} codes have too many logits for the autoregressive sampler: "
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
def _draw(model: CausalTransformer, params: Any, keys: Array) -> Array:
    def step(carry: Any, place: Array) -> Any:
        before, caches = carry
        logits: Any
        logits, caches = model.apply({"params": params}, before[:, None], place, caches)
        code = jax.vmap(jax.random.categorical)(fold(keys, place), logits[:, 0]).astype(jnp.int32)
        return (code, caches), code

    first = jnp.full(len(keys), model.size, jnp.int32)
    _, codes = jax.lax.scan(step, (first, model.empty(len(keys))), jnp.arange(model.length))
    return codes.T
