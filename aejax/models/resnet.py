"""Residual convolutional encoder and decoder, which downsample and upsample by convolutions."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from aejax.errors import InputError
from aejax.models.conv import Conv
from aejax.models.layers import (
    Dense,
    Normalization,
    activate,
    crop,
    divide_up,
    pad_convolution,
    pad_to_multiple,
    require_grid,
    require_grid_shape,
    run_block,
    write_sizes,
)
from aejax.registry import Natural


class DepthToSpace(nn.Module):
    """Rearrangement of channels into pixels: [b, h, w, k*k*c] to [b, h*k, w*k, c], and likewise over one or three axes.

    Channel (i * k + j) * c + l becomes channel l of pixel (i, j) of a k x k window, the periodic shuffling of
    Shi et al. 2016, section 3.2.

    Attributes:
      window: k.
      crop: number of pixels to cut from each side of the result.
    """

    window: int = 2
    crop: Natural = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        sizes, (b, *_, c) = require_grid(x, "DepthToSpace"), x.shape
        k, n = self.window, len(sizes)
        if c % k**n:
            window = write_sizes([k] * n)
            raise InputError(f"DepthToSpace needs a multiple of {k**n} channels for {window} pixels, got {c} channels")
        apart = x.reshape(b, *sizes, *[k] * n, c // k**n)
        apart = apart.transpose(0, *(axis for i in range(n) for axis in (1 + i, 1 + n + i)), 1 + 2 * n)
        large = apart.reshape(b, *(size * k for size in sizes), c // k**n)
        return large[(slice(None), *(slice(self.crop, size * k - self.crop) for size in sizes))]


class UpsampleConv(nn.Module):
    """A convolution that doubles the sides: [b, h, w, c] to [b, 2h, 2w, features], and likewise over one or three axes.

    Equal to `nn.ConvTranspose(features, (4, 4), (2, 2))` with its kernel rearranged: a 2x2 convolution to four times
    the channels, centered on the corners where four pixels meet, followed by depth to space (Shi et al. 2016). Without
    the future, `causal`, the two new time steps of a position read it and the one before it.
    """

    features: int
    dtype: DTypeLike = "float32"
    causal: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        axes = len(require_grid(x, "UpsampleConv"))
        pad_convolution(self.causal, axes)
        # On CPU its gradient takes a fifth to a tenth of the time that the gradient of `nn.ConvTranspose` takes, or of
        # `nn.Conv` with padding=1 instead of `jnp.pad`.
        x = jnp.pad(x, ((0, 0), *[(1, int(not self.causal))] * axes, (0, 0)))
        x = Conv(2**axes * self.features, (2,) * axes, padding="VALID", dtype=self.dtype, name="conv")(x)
        return DepthToSpace(crop=int(not self.causal), name="shuffle")(x)


class ResidualBlock(nn.Module):
    """A pre-activation residual block: x + conv(activation(norm(conv(activation(norm(x)))))); the shape stays.

    Both convolutions read 3 positions along each axis. He et al. 2016b, "Identity mappings in deep residual networks",
    figure 4e.
    """

    activation: str = "relu"
    normalisation: str = "group"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None
    causal: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        h, kernel_size = x, (3,) * (x.ndim - 2)
        padding = pad_convolution(self.causal, len(kernel_size), self.normalisation)
        # The last kernel starts at 0, so that the block starts as the identity and the scale of the features does not
        # grow with the number of blocks, even without normalization. Goyal et al. 2017, section 5.1, instead start the
        # scale of the last normalization at 0, but a pre-activation block does not end in one.
        for i, kernel in enumerate((nn.initializers.lecun_normal(), nn.initializers.zeros)):
            h = Normalization(self.normalisation, self.dtype, self.axis_name, name=f"norm_{i}")(h, train=train)
            h = activate(self.activation, h)
            conv = Conv(
                x.shape[-1], kernel_size, padding=padding, dtype=self.dtype, kernel_init=kernel, name=f"conv_{i}"
            )
            h = conv(h)
        return x + h


def _add_block(options: Sequence[Any], name: str, parent: nn.Module, x: Array, train: bool) -> Array:
    """Applies a `ResidualBlock` as a submodule of the module whose compact method runs."""
    return ResidualBlock(*options, name=name)(x, train=train)


class ResNetEncoder(nn.Module):
    """Residual encoder: [batch, h, w, c] to [batch, h / 2^n, w / 2^n, features[-1]].

    Each of the n entries of `features` stands for a stage, a 3x3 convolution with stride 2 followed by residual blocks.
    Normalization and activation follow the last block (He et al. 2016b, appendix). The same holds for sequences
    [batch, time, c] and volumes [batch, depth, h, w, c]. Sizes are rounded up: zeros are added at the end of an axis
    until 2^n divides it, and `ResNetDecoder` crops them.

    Attributes:
      blocks: number of residual blocks per stage.
      causal: whether no position of a sequence's code reads the future: of time steps later than 2^n times its own.
      whole_frames: whether a position of a causal code reads all of its own frame, the 2^n time steps from 2^n times
        its own on, which the decoder then need not predict: the delay of a codec.
    """

    features: Sequence[int] = (64, 128)
    blocks: int = 1
    activation: str = "relu"
    normalisation: str = "group"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None
    remat: bool = False
    causal: bool = False
    whole_frames: bool = False

    @property
    def receptive_field(self) -> int:
        """Returns how many positions along an axis a position of the code reads."""
        return 1 + (2 + 8 * self.blocks) * (2 ** len(self.features) - 1)

    @nn.compact
    def __call__(self, x: Array, *, keys: Array | None = None, train: bool = False) -> Array:
        kernel = (3,) * len(require_grid(x, "ResNetEncoder"))
        padding = pad_convolution(self.causal, len(kernel), self.normalisation)
        x = pad_to_multiple(x, frame := 2 ** len(self.features))
        if self.whole_frames:
            if not self.causal:
                raise InputError("encoder.whole_frames is for causal codes; set encoder.causal=True, too, or leave it")
            x = jnp.pad(x[:, frame - 1 :], ((0, 0), (0, frame - 1), (0, 0)))
        options = (self.activation, self.normalisation, self.dtype, self.axis_name, self.causal)
        for i, width in enumerate(self.features):
            x = Conv(width, kernel, 2, padding=padding, dtype=self.dtype, name=f"downsample_{i}")(x)
            for j in range(self.blocks):
                x = run_block(self, functools.partial(_add_block, options, f"block_{i}_{j}", train=train), x)
        x = Normalization(self.normalisation, self.dtype, self.axis_name, name="norm")(x, train=train)
        return activate(self.activation, x)


class ResNetDecoder(nn.Module):
    """Residual decoder: [batch, h, w, c] to [batch, h * 2^n, w * 2^n, shape[-1]].

    Each of the n entries of `features` stands for a stage, residual blocks followed by an `UpsampleConv`, the last of
    which makes the image. The code is first projected to `features[0]` channels, by a 3x3 convolution or, if it is flat
    [batch, d], by a dense layer. Sequences and volumes are made likewise. Sizes that 2^n does not divide are rounded up
    and then cropped.

    Attributes:
      shape: shape of one output, (height, width, channels), (time, channels) or (depth, height, width, channels).
      blocks: number of residual blocks per stage.
      output: activation of the last convolution; "linear" gives logits.
      causal: whether no time step reads positions of the code that are later, see `ResNetEncoder`.
    """

    shape: Sequence[int]
    features: Sequence[int] = (128, 64)
    blocks: int = 1
    activation: str = "relu"
    output: str = "linear"
    normalisation: str = "group"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None
    remat: bool = False
    causal: bool = False

    @property
    def receptive_field(self) -> int:
        """Returns how many positions of the code on either side of its own a position of the output reads, at most."""
        return 2 + math.ceil((4 * self.blocks + 1) * (2 - 2.0 ** (1 - len(self.features))))

    @nn.compact
    def __call__(self, z: Array, *, train: bool = False) -> Array:
        sizes, c = require_grid_shape(self.shape, "ResNetDecoder")
        if not self.features:
            raise InputError("ResNetDecoder needs at least one stage in decoder.features")
        small = divide_up(sizes, 2 ** len(self.features))
        if z.ndim != 2 and z.shape[1:-1] != small:
            raise InputError(
                f"ResNetDecoder upsamples {len(self.features)} times, so that a code of {z.shape[1:]} does not "
                f"become an output of {write_sizes(sizes)}; give encoder.features and decoder.features the same length"
            )
        if z.ndim == 2:
            z = Dense(math.prod(small) * self.features[0], dtype=self.dtype, name="project")(z)
            x = z.reshape(-1, *small, self.features[0])
        else:
            padding = pad_convolution(self.causal, len(sizes), self.normalisation)
            x = Conv(self.features[0], (3,) * len(sizes), padding=padding, dtype=self.dtype, name="conv")(z)
        options = (self.activation, self.normalisation, self.dtype, self.axis_name, self.causal)
        for i, width in enumerate(self.features):
            if i:
                x = UpsampleConv(width, self.dtype, self.causal, name=f"upsample_{i - 1}")(x)
            for j in range(self.blocks):
                x = run_block(self, functools.partial(_add_block, options, f"block_{i}_{j}", train=train), x)
        x = Normalization(self.normalisation, self.dtype, self.axis_name, name="norm")(x, train=train)
        last = UpsampleConv(c, self.dtype, self.causal, name=f"upsample_{len(self.features) - 1}")
        return activate(self.output, crop(last(activate(self.activation, x)), sizes))
