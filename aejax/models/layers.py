"""Small layers that the blocks are made of."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

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
    """`x` through the activation called `name`."""
    if name not in ACTIVATIONS:
        raise one_of("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name](x)


def flatten(x: Array) -> Array:
    """[batch, ...] to [batch, everything else]."""
    return x.reshape(x.shape[0], -1)


def image_shape(x: Array, reader: str) -> tuple[int, int, int, int]:
    """The four sizes of a batch of images, or an error that names who wanted them."""
    if x.ndim != 4:
        raise InputError(f"{reader} reads images [batch, height, width, channels], got {list(x.shape)}")
    b, h, w, c = x.shape
    return b, h, w, c


class Pool(nn.Module):
    """Maximum over non-overlapping windows: [b, h, w, c] to [b, h/k, w/k, c].

    Equal to `nn.max_pool(x, (k, k), (k, k))`. A reshape and a maximum, because the gradient of
    `nn.max_pool` (select-and-scatter) is the slowest operation of a convolutional model on CPU.
    """

    window: int = 2

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, c = image_shape(x, "Pool")
        k = self.window
        if h % k or w % k:
            raise InputError(f"pooling by {k} cannot divide an image of {h}x{w}; choose a size divisible by {k}")
        return x.reshape(b, h // k, k, w // k, k, c).max((2, 4))


class Upsample(nn.Module):
    """Nearest neighbour: [b, h, w, c] to [b, h*k, w*k, c]."""

    window: int = 2

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, c = image_shape(x, "Upsample")
        k = self.window
        return jnp.broadcast_to(x[:, :, None, :, None], (b, h, k, w, k, c)).reshape(b, h * k, w * k, c)
