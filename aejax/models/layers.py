"""Small layers that the blocks are made of."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from aejax.errors import InputError, one_of

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "relu": nn.relu,
    "leaky_relu": nn.leaky_relu,
    "elu": nn.elu,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
    "softplus": nn.softplus,
}


def activate(name: str, x: Array) -> Array:
    """Applies the activation called `name`, computed in float32: a Jacobian's gradient sums over its slopes."""
    if name not in ACTIVATIONS:
        raise one_of("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name](x.astype("float32")).astype(x.dtype)


def flatten(x: Array) -> Array:
    """[batch, ...] to [batch, everything else]."""
    return x.reshape(x.shape[0], -1)


def image_shape(x: Array, reader: str) -> tuple[int, int, int, int]:
    """The four sizes of a batch of images, or an error that names who wanted them."""
    if x.ndim != 4:
        raise InputError(f"{reader} reads images [batch, height, width, channels], got {list(x.shape)}")
    b, h, w, c = x.shape
    return b, h, w, c


def unit(x: Array) -> Array:
    """Vectors along the last axis, scaled to length 1; a zero vector stays zero, with a finite gradient."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))


def normal(keys: Array, shape: Sequence[int]) -> Array:
    """Standard normal noise [batch, *shape] from a key for each example.

    The noise of an example depends on its own key alone, so it is the same on any number of devices.
    """
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def fold(keys: Array, number: int | Array) -> Array:
    """New keys, one for each example, for another purpose."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def require_keys(module: nn.Module, keys: Array | None, train: bool) -> None:
    """Raises InputError where a module that draws in training is trained without keys.

    Its output would be deterministic without a word. In evaluation that is meant, and in `init` nobody reads it.
    """
    if train and keys is None and not module.is_initializing():
        raise InputError(
            f"{type(module).__name__} draws random numbers in training: give keys=, a random key for each example, "
            "e.g. keys=jax.random.split(key, len(x)); rngs= is not read"
        )


def learns(module: nn.Module, collection: str, train: bool) -> bool:
    """Returns whether this call changes `collection`, as every call in training does but that of `init`.

    Raises InputError where the collection is not mutable: what the module learned would be dropped without a word.
    """
    if not train or module.is_initializing():
        return False
    if not module.is_mutable_collection(collection):
        raise InputError(
            f"{type(module).__name__} changes the collection {collection!r} in training: "
            f"call output, updated = apply(..., mutable=[{collection!r}]) and go on with updated[{collection!r}]"
        )
    return True


def axis(module: nn.Module) -> str | None:
    """The devices' axis of a module that has `axis_name`; None in `init`, which runs on one device."""
    return None if module.is_initializing() else module.axis_name  # type: ignore[attr-defined]


def whole_batch(x: Array, axis_name: str | None) -> Array:
    """This device's examples to the examples of all devices, [devices * batch, ...]."""
    return x if axis_name is None else jax.lax.all_gather(x, axis_name, tiled=True)


def keep_bias(x: Array, kernel: Array, bias: Array | None, *, dtype: DTypeLike | None) -> list[Array | None]:
    """Promotes the arrays of a layer as Flax does, but for the bias.

    Adding a bfloat16 bias sums its gradient over rows and pixels in bfloat16, which stands still at 256 equal values.
    """
    return [*nn.dtypes.promote_dtype(x, kernel, dtype=dtype), bias]


class Dense(nn.Dense):
    """`nn.Dense(features)`, same parameters, whose bias is added in float32 before rounding to `dtype`."""

    promote_dtype: Callable[..., Any] = keep_bias

    def __call__(self, x: Array) -> Array:
        return super().__call__(x).astype(self.dtype)


NORMALISATIONS = ("none", "batch", "group", "layer")


class Normalise(nn.Module):
    """Normalisation by name, float32 inside.

    Attributes:
      kind: "none", "batch" (Ioffe and Szegedy 2015, statistics over all devices; their running averages are the
        collection "batch_stats"), "group" (Wu and He 2018, up to 32 groups) or "layer" (Ba et al. 2016).
      axis_name: of the devices, see `build`.
    """

    kind: str = "none"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        if self.kind == "none":
            return x
        if self.kind == "batch":
            learns(self, "batch_stats", train)  # Flax's own error names no cure
            return nn.BatchNorm(not train, momentum=0.9, dtype=self.dtype, axis_name=axis(self), name="batch")(x)
        if self.kind == "group":
            return GroupNorm(math.gcd(32, x.shape[-1]), dtype=self.dtype, name="group")(x)
        if self.kind == "layer":
            return nn.LayerNorm(dtype=self.dtype, name="layer")(x)
        raise one_of("normalisation", self.kind, NORMALISATIONS)


class GroupNorm(nn.Module):
    """`nn.GroupNorm(groups)`, same parameters: [batch, ..., c] to the same, each group of channels over all places.

    Here all sums are of each channel first, which both ways are quicker than those of [places, groups, c / groups].
    """

    groups: int
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, *places, c = x.shape
        scale = self.param("scale", nn.initializers.ones, (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        flat = x.reshape(b, -1, c).astype("float32")
        mean, square = (self._mean(values) for values in (flat, jnp.square(flat)))
        factor = scale * jax.lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0) + 1e-6)
        y = flat * factor[:, None] + (bias - mean * factor)[:, None]
        return y.reshape(b, *places, c).astype(self.dtype)

    def _mean(self, x: Array) -> Array:
        """[batch, places, c] to [batch, c]: that of each channel's group."""
        b, places, c = x.shape
        sums = jnp.einsum("bpc,p->bc", x, jnp.ones(places), precision="highest")  # on CPU quicker than `sum`
        return jnp.repeat(sums.reshape(b, self.groups, -1).mean(-1) / places, c // self.groups, axis=-1)


class Pool(nn.Module):
    """Maximum over non-overlapping windows: [b, h, w, c] to [b, h/k, w/k, c].

    Equal to `nn.max_pool(x, (k, k), (k, k))` with its gradient, that of the first of the largest pixels, which there
    (select-and-scatter) is the slowest operation of a convolutional model on CPU.
    """

    window: int = 2

    @nn.compact
    def __call__(self, x: Array) -> Array:
        _, h, w, _ = image_shape(x, "Pool")
        k = self.window
        if h % k or w % k:
            raise InputError(f"pooling by {k} cannot divide an image of {h}x{w}; choose a size divisible by {k}")
        return _largest(k, x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _largest(k: int, x: Array) -> Array:
    return _windows(k, x).max((2, 4))


@_largest.defjvp
def _largest_jvp(k: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """Not the gradient of `max`, which looks for the pixels that equal the maximum: after a batch normalisation, say,
    XLA computes x anew for that, with other roundings, and finds none of them, or another one."""
    x, dx = _windows(k, *primals), _windows(k, *tangents)
    largest = x[:, :, 0, :, 0]
    place = jnp.zeros(largest.shape, np.min_scalar_type(k * k))
    for n in range(1, k * k):
        pixel = x[:, :, n // k, :, n % k]
        largest, place = jnp.maximum(largest, pixel), jnp.where(pixel > largest, n, place).astype(place.dtype)
    place = jax.lax.optimization_barrier(place)  # found once
    chosen = place[:, :, None, :, None] == np.arange(k * k, dtype=place.dtype).reshape(k, 1, k, 1)
    return largest, jnp.where(chosen, dx, 0).sum((2, 4))


def _windows(k: int, x: Array) -> Array:
    """[b, h, w, c] to [b, h/k, k, w/k, k, c]."""
    b, h, w, c = x.shape
    return x.reshape(b, h // k, k, w // k, k, c)


class Upsample(nn.Module):
    """Nearest neighbour: [b, h, w, c] to [b, h*k, w*k, c]."""

    window: int = 2

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, c = image_shape(x, "Upsample")
        k = self.window
        return jnp.broadcast_to(x[:, :, None, :, None], (b, h, k, w, k, c)).reshape(b, h * k, w * k, c)
