"""Small layers and functions that the encoders, bottlenecks and decoders share."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from aejax.distributed.processor import computes_bfloat16
from aejax.errors import InputError, one_of

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "relu": nn.relu,
    "leaky_relu": nn.leaky_relu,
    "elu": nn.elu,
    "gelu": nn.gelu,
    "exact_gelu": functools.partial(nn.gelu, approximate=False),  # PyTorch's default
    "silu": nn.silu,
    "mish": jax.nn.mish,
    "tanh": nn.tanh,
    "sigmoid": nn.sigmoid,
    "softplus": nn.softplus,
}


def activate(name: str, x: Array) -> Array:
    """Returns `ACTIVATIONS[name](x)`, computed in float32, since the gradient of a Jacobian sums over its slopes."""
    if name not in ACTIVATIONS:
        raise one_of("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name](x.astype("float32")).astype(x.dtype)


def run_block(module: nn.Module, block: Callable[[Any, Array], Array], x: Array) -> Array:
    """Returns `block(module, x)`, which makes submodules of `module`.

    If `module.remat` is set, the backward pass keeps only x and computes the block once more. Parameters keep their
    names.
    """
    return nn.remat(block)(module, x) if module.remat else block(module, x)  # type: ignore[attr-defined]


def flatten(x: Array) -> Array:
    """Reshapes [batch, ...] to [batch, features]."""
    return x.reshape(x.shape[0], -1)


def require_images(x: Array, reader: str) -> tuple[int, int, int, int]:
    """Returns (batch, height, width, channels) of images; raises InputError, which names `reader`, for other arrays."""
    if x.ndim != 4:
        raise InputError(f"{reader} reads images [batch, height, width, channels], got {list(x.shape)}")
    b, h, w, c = x.shape
    return b, h, w, c


def divide_sides(h: int, w: int, factor: int, option: str) -> tuple[int, int]:
    """Returns the sides of an image divided by `factor`.

    Raises InputError, which names the config's `option` behind `factor`, if they would not be whole numbers.
    """
    if h % factor or w % factor:
        nearest = max(factor, round(h / factor) * factor)
        raise InputError(f"{h}x{w} is not divisible by {factor}; resize with data.size={nearest} or change {option}")
    return h // factor, w // factor


def require_grid(x: Array, reader: str) -> tuple[int, ...]:
    """Returns the sizes of the one to three axes between batch and channels; raises InputError for other arrays."""
    if x.ndim not in (3, 4, 5):
        raise InputError(
            f"{reader} reads images [batch, height, width, channels], sequences [batch, time, channels] or volumes "
            f"[batch, depth, height, width, channels], got {list(x.shape)}"
        )
    return x.shape[1:-1]


def require_grid_shape(shape: Sequence[int], maker: str) -> tuple[tuple[int, ...], int]:
    """Returns the sizes and the channels of a decoder's `shape`; raises InputError, which names it, for vectors."""
    if len(shape) not in (2, 3, 4):
        raise InputError(
            f"{maker} makes images (height, width, channels), sequences (time, channels) or volumes (depth, height, "
            f"width, channels), the input is {tuple(shape)}"
        )
    *sizes, channels = shape
    return tuple(sizes), channels


def write_sizes(sizes: Sequence[int]) -> str:
    """Returns e.g. "28x28" for messages."""
    return "x".join(map(str, sizes))


def divide_up(sizes: Sequence[int], factor: int) -> tuple[int, ...]:
    """Returns the sizes divided by `factor`, rounded up."""
    return tuple(-(-size // factor) for size in sizes)


def pad_to_multiple(x: Array, factor: int) -> Array:
    """Adds zeros at the ends of the axes between batch and channels, until `factor` divides their sizes."""
    missing = [(0, -size % factor) for size in x.shape[1:-1]]
    return jnp.pad(x, [(0, 0), *missing, (0, 0)]) if any(after for _, after in missing) else x


def crop(x: Array, sizes: Sequence[int]) -> Array:
    """Cuts the ends off that `pad_to_multiple` added to an array of these sizes."""
    return x if x.shape[1:-1] == tuple(sizes) else x[(slice(None), *map(slice, sizes))]


def pad_convolution(causal: bool, axes: int, normalisation: str = "none") -> str:
    """Returns the padding of convolutions over so many axes: "SAME" or, for time, "CAUSAL".

    Raises InputError where nothing is causal: over several axes, and in a normalization over all times.
    """
    if not causal:
        return "SAME"
    if axes != 1:
        raise InputError(f"causal=True pads the past of one axis, time, and the data has {axes}; set causal=False")
    if normalisation == "group":
        raise InputError("normalisation='group' averages over all times, also later ones; with causal=True set 'layer'")
    return "CAUSAL"


def scale_to_unit(x: Array) -> Array:
    """Scales the vectors along the last axis to length 1; a zero vector stays zero, with a finite gradient."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))


def normal(keys: Array, shape: Sequence[int]) -> Array:
    """Returns standard normal noise [batch, *shape], given one key per example.

    The noise of an example depends only on its own key, so it is the same on any number of devices.
    """
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def fold(keys: Array, number: int | Array) -> Array:
    """Returns new keys [batch], one per example, that differ for each `number`."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def stack_noise(keys: Array, samples: int, size: int) -> Array:
    """Returns standard normal noise [batch, size], or [samples, batch, size] of several samples, by key."""
    if samples == 1:
        return normal(keys, (size,))
    return jnp.stack([normal(fold(keys, k), (size,)) for k in range(samples)])


def split_sizes(x: Array, sizes: Sequence[int]) -> list[Array]:
    """Splits the last axis of x into parts of `sizes`."""
    return jnp.split(x, np.cumsum(sizes)[:-1], -1)


def require_keys(module: nn.Module, keys: Array | None, train: bool) -> None:
    """Raises InputError if a module that is stochastic in training is trained without keys.

    Otherwise its output would silently be deterministic, as is intended in evaluation and harmless in `init`.
    """
    if train and keys is None and not module.is_initializing():
        raise InputError(
            f"{type(module).__name__} uses random numbers in training: give keys=, a random key for each example, "
            "e.g. keys=jax.random.split(key, len(x)); rngs= is not read"
        )


def must_update(module: nn.Module, collection: str, train: bool) -> bool:
    """Returns whether this call updates `collection`: true in training, except in `init`.

    Raises InputError if the collection is not mutable, since the update would be lost.
    """
    if not train or module.is_initializing():
        return False
    if not module.is_mutable_collection(collection):
        raise InputError(
            f"{type(module).__name__} changes the collection {collection!r} in training: "
            f"call output, updated = apply(..., mutable=[{collection!r}]) and give updated to the next call"
        )
    return True


def get_axis(module: nn.Module) -> str | None:
    """Returns the `axis_name` of a module, or None in `init`, which runs on one device."""
    return None if module.is_initializing() else module.axis_name  # type: ignore[attr-defined]


def whole_batch(x: Array, axis_name: str | None) -> Array:
    """Gathers the examples of all devices, [devices * batch, ...], from those of this one, [batch, ...]."""
    return x if axis_name is None else jax.lax.all_gather(x, axis_name, tiled=True)


def promote_all_but_bias(x: Array, kernel: Array, bias: Array | None, *, dtype: DTypeLike | None) -> list[Array | None]:
    """Promotes the arrays of a layer to `dtype` as Flax does, but leaves the bias in float32.

    The gradient of a bfloat16 bias is a bfloat16 sum over examples and pixels, which stops growing after 256 ones.
    Where the backend multiplies bfloat16 no faster, x and the kernel are rounded to it and widened again.
    """
    x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=dtype)
    return [*(widen(x, kernel) if not computes_bfloat16() else (x, kernel)), bias]


def widen(*arrays: Array) -> list[Array]:
    """Converts bfloat16 arrays to float32, and leaves others as they are."""
    return [a.astype("float32") if a.dtype == jnp.bfloat16 else a for a in arrays]


class Dense(nn.Dense):
    """`nn.Dense`, with the same parameters, that adds its bias in float32 before it rounds to `dtype`."""

    promote_dtype: Callable[..., Any] = promote_all_but_bias

    def __call__(self, x: Array) -> Array:
        return super().__call__(x).astype(self.dtype)


UNITS = ("dense", "gated", "maxout")
_PIECES = 4  # linear functions whose largest value a maxout unit is


def make_units(kind: str, width: int, dtype: DTypeLike, i: int, x: Array) -> Array:
    """Returns layer `i` of `width` units before its activation: [batch, inputs] to [batch, width].

    "gated" units are multiplied by a sigmoid of another dense layer (Dauphin et al. 2017, equation 1), and "maxout"
    units are the largest of four linear functions (Goodfellow et al. 2013). Must be called in a compact method.
    """
    if kind not in UNITS:
        raise one_of("units", kind, UNITS)
    if kind == "maxout":
        pieces = Dense(width * _PIECES, dtype=dtype, name=f"dense_{i}")(x)
        return pieces.reshape(*pieces.shape[:-1], width, _PIECES).max(-1)
    linear = Dense(width, dtype=dtype, name=f"dense_{i}")(x)
    if kind == "dense":
        return linear
    return linear * activate("sigmoid", Dense(width, dtype=dtype, name=f"gate_{i}")(x))


class TiedDense(nn.Module):
    """A dense layer with its own bias whose kernel is the transpose of a given one: y = x W^T + b."""

    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array, kernel: Array) -> Array:
        bias = self.param("bias", nn.initializers.zeros, (kernel.shape[0],))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return (x @ kernel.T + bias).astype(self.dtype)


NORMALIZATIONS = ("none", "batch", "slow_batch", "group", "layer")


class Normalization(nn.Module):
    """A normalization layer chosen by name, computed in float32; the shape stays.

    Attributes:
      kind: "none", "batch" (Ioffe and Szegedy 2015; statistics over all devices, running averages in the collection
        "batch_stats"), "slow_batch" (the same with the defaults of Keras: averages over 100 steps instead of 10, and an
        epsilon of 1e-3 instead of 1e-5), "group" (Wu and He 2018; up to 32 groups) or "layer" (Ba et al. 2016).
      axis_name: name of the device axis, see `build`.
    """

    kind: str = "none"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        if self.kind == "none":
            return x
        if self.kind in ("batch", "slow_batch"):
            must_update(self, "batch_stats", train)  # for its error: Flax's own does not say what to change
            kept: dict[str, Any] = {"dtype": self.dtype, "axis_name": get_axis(self), "name": "batch"}
            kept |= {"momentum": 0.9} if self.kind == "batch" else {"momentum": 0.99, "epsilon": 1e-3}
            return nn.BatchNorm(not train, **kept)(x)
        if self.kind == "group":
            return GroupNorm(math.gcd(32, x.shape[-1]), dtype=self.dtype, name="group")(x)
        if self.kind == "layer":
            return nn.LayerNorm(dtype=self.dtype, name="layer")(x)
        raise one_of("normalisation", self.kind, NORMALIZATIONS)


class GroupNorm(nn.Module):
    """`nn.GroupNorm(groups, epsilon)`, with the same parameters, for x [batch, ..., c].

    It sums each channel over all positions before it averages the channels of a group, which is faster, forward and
    backward, than Flax's sum over positions and channels at once.
    """

    groups: int
    dtype: DTypeLike = "float32"
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, *positions, c = x.shape
        scale = self.param("scale", nn.initializers.ones, (c,))
        bias = self.param("bias", nn.initializers.zeros, (c,))
        flat = x.reshape(b, -1, c).astype("float32")
        mean, mean_square = self._average(flat), self._average(jnp.square(flat))
        factor = scale * jax.lax.rsqrt(jnp.maximum(mean_square - jnp.square(mean), 0) + self.epsilon)
        y = flat * factor[:, None] + (bias - mean * factor)[:, None]
        return y.reshape(b, *positions, c).astype(self.dtype)

    def _average(self, x: Array) -> Array:
        """Returns for each channel the mean of its group, [batch, c], of x [batch, positions, c]."""
        b, positions, c = x.shape
        return jnp.repeat(x.sum(1).reshape(b, self.groups, -1).mean(-1) / positions, c // self.groups, axis=-1)


class Pool(nn.Module):
    """Max pooling over non-overlapping windows of k positions along each axis: [b, *sizes, c] to [b, *(sizes / k), c].

    Equal to `nn.max_pool(x, (k, k), (k, k))` for images [b, h, w, c]. So is its gradient, which goes to the first of
    the largest positions of a window, but without select-and-scatter, the slowest operation of a convolutional model
    on CPU.

    Attributes:
      causal: whether the windows of a sequence end where they would begin, so that no position of the result, enlarged
        by `Upsample`, reads a later one. The first window repeats the first position.
    """

    window: int = 2
    causal: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        k, sizes = self.window, require_grid(x, "Pool")
        if any(size % k for size in sizes):
            raise InputError(f"Pool divides {write_sizes(sizes)} by {k}, which leaves a rest; pad or crop the input")
        if self.causal:
            pad_convolution(True, len(sizes))
            x = jnp.concatenate([*[x[:, :1]] * (k - 1), x[:, : sizes[0] - (k - 1)]], 1)
        return _max_pool(k, x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _max_pool(k: int, x: Array) -> Array:
    return split_windows(k, x).max(window_axes(x))


@_max_pool.defjvp
def _max_pool_jvp(k: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """Passes on the tangent of the first of the largest positions of each window, found by its index.

    The gradient of `max` compares x with the maximum instead. Where XLA recomputes x for that, for example after a
    batch normalization, it rounds differently, so that no position may equal the maximum, or another one.
    """
    axes = len(window_axes(*primals))
    x, dx = split_windows(k, *primals), split_windows(k, *tangents)
    places = [
        x[(slice(None), *(part for i in place for part in (slice(None), i)))]
        for place in itertools.product(range(k), repeat=axes)
    ]
    largest = places[0]
    index = jnp.zeros(largest.shape, np.min_scalar_type(k**axes))
    for n, values in enumerate(places[1:], 1):
        index = jnp.where(values > largest, n, index).astype(index.dtype)
        largest = jnp.maximum(largest, values)
    index = jax.lax.optimization_barrier(index)  # keeps XLA from searching once more for each use
    apart = index[(slice(None), *(slice(None), None) * axes)]
    chosen = apart == np.arange(k**axes, dtype=index.dtype).reshape((k, 1) * axes)
    return largest, jnp.where(chosen, dx, 0).sum(window_axes(*primals))


def window_axes(x: Array) -> tuple[int, ...]:
    """Returns the axes of the windows of `split_windows`."""
    return tuple(range(2, 2 * x.ndim - 3, 2))


def split_windows(k: int, x: Array) -> Array:
    """Reshapes [b, h, w, c] to [b, h/k, k, w/k, k, c], and likewise for other numbers of axes."""
    b, *sizes, c = x.shape
    return x.reshape(b, *(part for size in sizes for part in (size // k, k)), c)


class Upsample(nn.Module):
    """Nearest-neighbor upsampling: [b, *sizes, c] to [b, *(sizes * k), c]."""

    window: int = 2

    @nn.compact
    def __call__(self, x: Array) -> Array:
        k, sizes, (b, *_, c) = self.window, require_grid(x, "Upsample"), x.shape
        apart = x[(slice(None), *(slice(None), None) * len(sizes))]
        apart = jnp.broadcast_to(apart, (b, *(part for size in sizes for part in (size, k)), c))
        return apart.reshape(b, *(size * k for size in sizes), c)
