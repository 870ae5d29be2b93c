"""Convolutional encoder and decoder of latent diffusion and VQGAN, as in AutoencoderKL and VQModel of diffusers.

Esser et al. 2021, "Taming transformers for high-resolution image synthesis", table 7, after Ho et al. 2020.
Layer for layer they are the networks of Stable Diffusion, SDXL, Stable Diffusion 3 and Flux, whose parameters
`aejax.load_pretrained` reads. Images have any sides that the downsampling divides.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from aejax.errors import InputError
from aejax.models.conv import Conv
from aejax.models.layers import Dense, GroupNorm, Upsample, activate, divide_sides, require_images, run_block
from aejax.registry import Natural


class KLBlock(nn.Module):
    """A residual block of two 3x3 convolutions: [b, h, w, c] to [b, h, w, features].

    Each convolution follows a normalization and an activation. If c is not `features`, a 1x1 convolution maps x to the
    shape of the sum.
    """

    features: int
    groups: int = 32
    activation: str = "silu"
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = x
        for i in range(2):
            h = activate(self.activation, GroupNorm(self.groups, dtype=self.dtype, name=f"norm_{i}")(h))
            h = Conv(self.features, (3, 3), dtype=self.dtype, name=f"conv_{i}")(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, (1, 1), dtype=self.dtype, name="shortcut")(x)
        return x + h


class PixelAttention(nn.Module):
    """Self-attention with one head among all pixels, added to x: the shape [b, h, w, c] stays."""

    groups: int = 32
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        y = GroupNorm(self.groups, dtype=self.dtype, name="norm")(x).reshape(b, h * w, c)
        q, k, v = (Dense(c, dtype=self.dtype, name=name)(y)[:, :, None] for name in ("query", "key", "value"))
        y = jax.nn.dot_product_attention(q, k, v)[:, :, 0]
        return x + Dense(c, dtype=self.dtype, name="out")(y).reshape(b, h, w, c)


class KLEncoder(nn.Module):
    """Convolutional encoder: images [batch, h, w, c] to [batch, h / 2^(n-1), w / 2^(n-1), channels].

    Each of the n entries of `features` stands for a stage of residual blocks. All stages but the last end in a 3x3
    convolution with stride 2. Two more blocks follow, with attention between them.

    Attributes:
      channels: number of output channels: twice the latent channels for `SpatialGaussian` without a projection.
      features: width of each stage, outermost first.
      blocks: number of residual blocks per stage.
      groups: number of groups of the normalizations, which divides each width.
      attention: whether there is attention between the last two blocks.
      attention_stages: numbers of the stages, from 1, in which attention follows each block.
      symmetric: whether images, which are read in [0, 1], are scaled to [-1, 1] before the first convolution.
    """

    channels: int = 8
    features: Sequence[int] = (128, 256, 512, 512)
    blocks: int = 2
    groups: int = 32
    activation: str = "silu"
    attention: bool = True
    attention_stages: Sequence[int] = ()
    symmetric: bool = True
    dtype: DTypeLike = "float32"
    remat: bool = False

    any_size = True

    @nn.compact
    def __call__(self, x: Array, *, keys: Array | None = None, train: bool = False) -> Array:
        _, h, w, _ = require_images(x, "KLEncoder")
        _check_stages("encoder", self)
        divide_sides(h, w, 2 ** (len(self.features) - 1), "encoder.features")
        x = 2 * x - 1 if self.symmetric else x
        x = Conv(self.features[0], (3, 3), dtype=self.dtype, name="conv_in")(x)
        for i in range(len(self.features)):
            x = _run_stage(self, x, i)
            if i < len(self.features) - 1:
                # Pads on the right and at the bottom only.
                padding = ((0, 1), (0, 1))
                x = Conv(self.features[i], (3, 3), 2, padding=padding, dtype=self.dtype, name=f"downsample_{i}")(x)
        return _finish(self, _run_middle(self, x), self.channels)


class KLDecoder(nn.Module):
    """Convolutional decoder: codes [batch, h, w, d] to images [batch, h * 2^(n-1), w * 2^(n-1), shape[-1]].

    Two residual blocks with attention between them are followed by the n stages of `features`. All stages but the last
    end in nearest-neighbor upsampling and a 3x3 convolution.

    Attributes:
      shape: shape of one output image, (height, width, channels), of which the channels are read.
      project: number of channels that a 1x1 convolution first maps the code to; 0: no such convolution.
      features: width of each stage, innermost first.
      attention_stages: numbers of the stages, from 1, innermost first, in which attention follows each block.
      symmetric: whether the last convolution gives values in [-1, 1], which are scaled to [0, 1].
    """

    shape: Sequence[int]
    project: Natural = 0
    features: Sequence[int] = (512, 512, 256, 128)
    blocks: int = 3
    groups: int = 32
    activation: str = "silu"
    attention: bool = True
    attention_stages: Sequence[int] = ()
    symmetric: bool = True
    dtype: DTypeLike = "float32"
    remat: bool = False

    any_size = True

    @nn.compact
    def __call__(self, z: Array, *, train: bool = False) -> Array:
        require_images(z, "KLDecoder")
        _check_stages("decoder", self)
        x = Dense(self.project, dtype=self.dtype, name="project")(z) if self.project else z
        x = _run_middle(self, Conv(self.features[0], (3, 3), dtype=self.dtype, name="conv_in")(x))
        for i in range(len(self.features)):
            x = _run_stage(self, x, i)
            if i < len(self.features) - 1:
                x = Upsample()(x)
                x = Conv(self.features[i], (3, 3), enlarged=True, dtype=self.dtype, name=f"upsample_{i}")(x)
        x = _finish(self, x, self.shape[-1]).astype(jnp.float32)
        return (x + 1) / 2 if self.symmetric else x


Part = KLEncoder | KLDecoder


def _check_stages(name: str, part: Part) -> None:
    """Raises InputError if the widths are missing or not divisible by the groups."""
    if not part.features:
        raise InputError(f"{name}.features must name the width of at least one stage, got {tuple(part.features)}")
    if odd := [width for width in part.features if width % part.groups]:
        raise InputError(f"{name}.groups={part.groups} does not divide the {odd[0]} channels of {name}.features")


def _run(part: Part, name: str, make: Callable[..., nn.Module], x: Array) -> Array:
    """Applies the module that `make` returns, as a submodule of `part`, whose backward pass may compute it again."""
    return run_block(part, lambda _, x: make(name=name, groups=part.groups, dtype=part.dtype)(x), x)


def _run_block(part: Part, name: str, features: int, x: Array) -> Array:
    return _run(part, name, lambda **options: KLBlock(features, activation=part.activation, **options), x)


def _run_stage(part: Part, x: Array, i: int) -> Array:
    """Applies the residual blocks of stage i, each with attention if `attention_stages` says so."""
    for j in range(part.blocks):
        x = _run_block(part, f"block_{i}_{j}", part.features[i], x)
        if i + 1 in part.attention_stages:
            x = _run(part, f"attention_{i}_{j}", PixelAttention, x)
    return x


def _run_middle(part: Part, x: Array) -> Array:
    """Applies the two blocks nearest to the code, and the attention between them."""
    x = _run_block(part, "middle_0", x.shape[-1], x)
    if part.attention:
        x = _run(part, "middle_attention", PixelAttention, x)
    return _run_block(part, "middle_1", x.shape[-1], x)


def _finish(part: Part, x: Array, channels: int) -> Array:
    """Applies the last normalization, silu whatever the activation of the blocks is, and the last convolution."""
    x = activate("silu", GroupNorm(part.groups, dtype=part.dtype, name="norm")(x))
    return Conv(channels, (3, 3), dtype=part.dtype, name="conv_out")(x)
