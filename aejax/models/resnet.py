"""Residual convolutional encoder and decoder, which down- and upsample by convolutions."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from aejax.errors import InputError
from aejax.models.conv import Conv
from aejax.models.layers import Dense, Normalise, activate, image_shape
from aejax.registry import Natural


class DepthToSpace(nn.Module):
    """Channels to pixels: [b, h, w, k*k*c] to [b, h*k, w*k, c]; channel (i * k + j) * c + l becomes pixel (i, j).

    The periodic shuffling of Shi et al. 2016, section 3.2.

    Attributes:
      crop: pixels to cut from each side of the result.
    """

    window: int = 2
    crop: Natural = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, c = image_shape(x, "DepthToSpace")
        k = self.window
        if c % k**2:
            raise InputError(
                f"DepthToSpace makes {k}x{k} pixels of the channels, which {c} channels do not divide into"
            )
        x = x.reshape(b, h, w, k, k, c // k**2).swapaxes(2, 3).reshape(b, h * k, w * k, c // k**2)
        return x[:, self.crop : h * k - self.crop, self.crop : w * k - self.crop]


class UpsampleConv(nn.Module):
    """Convolution that doubles the sides: [b, h, w, c] to [b, 2h, 2w, features].

    Equal to `nn.ConvTranspose(features, (4, 4), (2, 2))` with its kernel rearranged: a 2x2 convolution to
    four times the channels, at each corner where four pixels meet, and depth to space (Shi et al. 2016).
    """

    features: int
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        # Written so because on CPU its gradient takes a fifth or a tenth of the time of `nn.ConvTranspose`'s,
        # or of its own with padding=1 in `nn.Conv` in place of `jnp.pad`.
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = Conv(4 * self.features, (2, 2), padding="VALID", dtype=self.dtype, name="conv")(x)
        return DepthToSpace(crop=1, name="shuffle")(x)


class ResidualBlock(nn.Module):
    """x + conv(activation(norm(conv(activation(norm(x)))))) with 3x3 convolutions; the shape stays.

    The full pre-activation block of He et al. 2016b, "Identity mappings in deep residual networks", figure 4e.
    """

    activation: str = "relu"
    normalisation: str = "group"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        h = x
        # The last kernel starts at 0 and the block so as the identity: the features' scale then does not grow
        # with the number of blocks, even without normalisation. Goyal et al. 2017, section 5.1, start the last
        # normalisation's scale at 0, which pre-activation blocks do not end in.
        for i, kernel in enumerate((nn.initializers.lecun_normal(), nn.initializers.zeros)):
            h = Normalise(self.normalisation, self.dtype, self.axis_name, name=f"norm_{i}")(h, train=train)
            h = activate(self.activation, h)
            h = Conv(x.shape[-1], (3, 3), dtype=self.dtype, kernel_init=kernel, name=f"conv_{i}")(h)
        return x + h


def halved(h: int, w: int, stages: int, part: str) -> tuple[int, int]:
    """The sides of an image after halving them `stages` times; InputError where they were not whole."""
    factor = 2**stages
    if h % factor or w % factor:
        near = max(factor, round(h / factor) * factor)
        raise InputError(
            f"the resnet {part} has {stages} stages of half the size, so an image's sides must be divisible by "
            f"{factor}, got {h}x{w}; resize with data.size={near} or use fewer {part}.features"
        )
    return h // factor, w // factor


class ResNetEncoder(nn.Module):
    """A stage per entry of `features`: a 3x3 convolution with stride 2, then residual blocks.

    [batch, h, w, c] to [batch, h / 2^n, w / 2^n, features[-1]] with n entries; h and w must be
    divisible by 2^n. Normalisation and activation follow the last block (He et al. 2016b, appendix).

    Attributes:
      blocks: residual blocks in each stage.
    """

    features: Sequence[int] = (64, 128)
    blocks: int = 1
    activation: str = "relu"
    normalisation: str = "group"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, keys: Array | None = None, train: bool = False) -> Array:
        _, h, w, _ = image_shape(x, "ResNetEncoder")
        halved(h, w, len(self.features), "encoder")
        options = (self.activation, self.normalisation, self.dtype, self.axis_name)
        for i, width in enumerate(self.features):
            x = Conv(width, (3, 3), 2, dtype=self.dtype, name=f"downsample_{i}")(x)
            for j in range(self.blocks):
                x = ResidualBlock(*options, name=f"block_{i}_{j}")(x, train=train)
        x = Normalise(self.normalisation, self.dtype, self.axis_name, name="norm")(x, train=train)
        return activate(self.activation, x)


class ResNetDecoder(nn.Module):
    """A stage per entry of `features`: residual blocks, then an `UpsampleConv`, the last of which makes the image.

    [batch, h, w, c] to [batch, h * 2^n, w * 2^n, shape[-1]] with n entries. A code first gets
    `features[0]` channels: an image by a 3x3 convolution, a flat code [batch, d] by a dense layer.

    Attributes:
      shape: shape of one output image, (height, width, channels).
      blocks: residual blocks in each stage.
      output: activation of the last convolution; "linear" gives logits.
    """

    shape: Sequence[int]
    features: Sequence[int] = (128, 64)
    blocks: int = 1
    activation: str = "relu"
    output: str = "linear"
    normalisation: str = "group"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: Array, *, train: bool = False) -> Array:
        if len(self.shape) != 3:
            raise InputError(f"ResNetDecoder makes images (height, width, channels), the input is {tuple(self.shape)}")
        h, w, c = self.shape
        if not self.features:
            raise InputError("ResNetDecoder needs at least one stage in decoder.features")
        small = halved(h, w, len(self.features), "decoder")
        if z.ndim != 2 and z.shape[1:-1] != small:
            raise InputError(
                f"ResNetDecoder upsamples {len(self.features)} times, so a code of {z.shape[1:]} does not "
                f"become an image of {h}x{w}; give encoder.features and decoder.features the same length"
            )
        if z.ndim == 2:
            z = Dense(math.prod(small) * self.features[0], dtype=self.dtype, name="project")(z)
            x = z.reshape(-1, *small, self.features[0])
        else:
            x = Conv(self.features[0], (3, 3), dtype=self.dtype, name="conv")(z)
        options = (self.activation, self.normalisation, self.dtype, self.axis_name)
        for i, width in enumerate(self.features):
            if i:
                x = UpsampleConv(width, self.dtype, name=f"upsample_{i - 1}")(x)
            for j in range(self.blocks):
                x = ResidualBlock(*options, name=f"block_{i}_{j}")(x, train=train)
        x = Normalise(self.normalisation, self.dtype, self.axis_name, name="norm")(x, train=train)
        x = UpsampleConv(c, self.dtype, name=f"upsample_{len(self.features) - 1}")(activate(self.activation, x))
        return activate(self.output, x)
