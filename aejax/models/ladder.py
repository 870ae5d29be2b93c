"""Layers of hierarchical VAEs: features at several scales, residual blocks, and the image or vector that they end in.

A vector is an image of one pixel, [batch, 1, 1, features]: blocks have no neighbors to read there and are dense.
"""

import functools
import math
from collections.abc import Sequence

import flax.linen as nn
from jax import Array
from jax.typing import DTypeLike

from aejax.errors import InputError
from aejax.models.conv import Conv
from aejax.models.layers import Dense, Normalization, activate, divide_sides, run_block
from aejax.registry import Natural


class ResidualBlock(nn.Module):
    """x + f(x) for x [b, h, w, c] in float32, where f has half as many channels (Child 2021, figure 3).

    It starts as the identity. f is activation and 1x1, 3x3 and 1x1 convolution; of one pixel, without the second. It
    reads x after a layer normalization, as the sum of many blocks and layers grows.
    """

    activation: str = "silu"
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        _, h, w, c = x.shape
        y = activate(self.activation, Normalization("layer", self.dtype, name="norm")(x))
        y = Dense(max(c // 2, 1), dtype=self.dtype, name="dense_in")(y)
        if (h, w) != (1, 1):
            y = Conv(y.shape[-1], (3, 3), dtype=self.dtype, name="conv")(activate(self.activation, y))
        y = activate(self.activation, y)
        y = Dense(c, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="dense_out")(y)
        return x + y.astype("float32")


class Blocks(nn.Module):
    """Residual blocks one after another, which keep the shape; with 0 of them, the identity."""

    number: Natural
    activation: str = "silu"
    dtype: DTypeLike = "float32"
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(self.number):
            x = run_block(self, functools.partial(Blocks._block, i=i), x)
        return x

    def _block(self, x: Array, i: int) -> Array:
        return ResidualBlock(self.activation, self.dtype, name=f"block_{i}")(x)


def merge_patches(x: Array, side: int) -> Array:
    """Reshapes [b, h, w, c] to [b, h / side, w / side, side * side * c]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // side, side, w // side, side, c).swapaxes(2, 3)
    return x.reshape(b, h // side, w // side, side * side * c)


def spread_patches(x: Array, side: int) -> Array:
    """Reshapes [b, h, w, side * side * c] to [b, h * side, w * side, c], the inverse of `merge_patches`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, side, side, c // side**2).swapaxes(2, 3)
    return x.reshape(b, h * side, w * side, c // side**2)


class PyramidEncoder(nn.Module):
    """Features at several scales, the finest first: a tuple of arrays [batch, h_i, w_i, features[i]] in float32.

    Each scale merges patches of the one before, by a dense layer, and has residual blocks. Inputs that are no images
    are vectors.

    Attributes:
      features: channels at each scale.
      strides: side of the patches that each scale merges; (28, 1) makes vectors of images of 28x28.
      blocks: number of residual blocks at each scale.
      activation: that of the blocks.
    """

    features: Sequence[int]
    strides: Sequence[int]
    blocks: Natural = 1
    activation: str = "silu"
    dtype: DTypeLike = "float32"
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, *, keys: Array | None = None, train: bool = False) -> tuple[Array, ...]:
        if not len(self.features) == len(self.strides) > 0:
            raise InputError(
                f"encoder.features={tuple(self.features)} and encoder.strides={tuple(self.strides)} must have one "
                "entry for each scale"
            )
        if x.ndim == 4:
            divide_sides(x.shape[1], x.shape[2], math.prod(self.strides), "encoder.strides, whose product it is")
        elif math.prod(self.strides) > 1:
            raise InputError(
                f"encoder.strides={tuple(self.strides)} merges the pixels of images, and examples of {x.shape[1:]} are "
                f"none; set it to {(1,) * len(self.strides)}"
            )
        x = x if x.ndim == 4 else x.reshape(x.shape[0], 1, 1, -1)
        scales: list[Array] = []
        for i, (width, stride) in enumerate(zip(self.features, self.strides, strict=True)):
            x = Dense(width, dtype=self.dtype, name=f"merge_{i}")(merge_patches(x, stride)).astype("float32")
            x = Blocks(self.blocks, self.activation, self.dtype, self.remat, name=f"blocks_{i}")(x)
            scales.append(x)
        return tuple(scales)


class PyramidDecoder(nn.Module):
    """Residual blocks at the scale of what it reads, [batch, h, w, c], whose pixels then spread to patches of `shape`.

    Attributes:
      shape: shape of one output example; for one that is no image, h and w must be 1.
      blocks: number of residual blocks.
      activation: that of the blocks.
    """

    shape: Sequence[int]
    blocks: Natural = 1
    activation: str = "silu"
    dtype: DTypeLike = "float32"
    remat: bool = False

    @nn.compact
    def __call__(self, z: Array, *, train: bool = False) -> Array:
        x = z if z.ndim == 4 else z.reshape(z.shape[0], 1, 1, -1)
        x = Blocks(self.blocks, self.activation, self.dtype, self.remat, name="blocks")(x.astype("float32"))
        x = activate(self.activation, x) if self.blocks else x
        h, w = x.shape[1:3]
        if (h, w) == (1, 1):
            x = Dense(math.prod(self.shape), dtype=self.dtype, name="output")(x)
            return x.reshape(x.shape[0], *self.shape)
        side = self.shape[0] // h
        if len(self.shape) != 3 or (h * side, w * side) != tuple(self.shape[:2]):
            raise InputError(
                f"PyramidDecoder makes a patch of each pixel of {(h, w)}, which do not fill {tuple(self.shape)}; "
                "choose encoder.strides with which sides are whole numbers"
            )
        return spread_patches(Dense(side**2 * self.shape[-1], dtype=self.dtype, name="output")(x), side)
