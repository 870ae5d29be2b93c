"""Tiny autoencoders: plain convolutions that stand in for a large autoencoder of latent diffusion.

The networks of TAESD and TAEF2 (O. Boer Bohan, github.com/madebyollin/taesd), and of AutoencoderTiny of diffusers.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from aejax.errors import InputError
from aejax.models.conv import Conv
from aejax.models.layers import GroupNorm, Upsample, activate, divide_sides, require_images, run_block


class PooledBranch(nn.Module):
    """What a block adds to its input at first: 1x1 convolutions to 4c channels and back, around a normalization.

    Its groups of channels are averaged over all pixels, so that it sees the whole image.
    """

    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c = x.shape[-1]
        h = Conv(4 * c, (1, 1), use_bias=False, dtype=self.dtype, name="conv_0")(x)
        h = activate("relu", GroupNorm(4, epsilon=1e-5, dtype=self.dtype, name="norm")(h))
        return Conv(c, (1, 1), use_bias=False, dtype=self.dtype, name="conv_1")(h)


class TinyBlock(nn.Module):
    """A residual block of three 3x3 convolutions, without normalization, that ends in relu; the shape stays.

    Attributes:
      pooled: whether a `PooledBranch` is added to x first.
    """

    activation: str = "relu"
    pooled: bool = False
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.pooled:
            x = x + PooledBranch(self.dtype, name="pooled")(x)
        h = x
        for i in range(3):
            h = activate(self.activation, h) if i else h
            h = Conv(x.shape[-1], (3, 3), dtype=self.dtype, name=f"conv_{i}")(h)
        return activate("relu", x + h)


class TinyEncoder(nn.Module):
    """Encoder without normalization: images [batch, h, w, c] to [batch, h / 2^(n-1), w / 2^(n-1), channels].

    Each of the n entries of `blocks` stands for a stage, a 3x3 convolution followed by as many `TinyBlock`s. The
    convolutions of all stages but the first have stride 2 and no bias.

    Attributes:
      channels: number of output channels.
      features: width of all stages.
      blocks: number of blocks of each stage, outermost first.
      pooled: whether the blocks of the last stage have a `PooledBranch`, as in TAEF2.
    """

    channels: int = 4
    features: int = 64
    blocks: Sequence[int] = (1, 3, 3, 3)
    activation: str = "relu"
    pooled: bool = False
    dtype: DTypeLike = "float32"
    remat: bool = False

    any_size = True

    @nn.compact
    def __call__(self, x: Array, *, keys: Array | None = None, train: bool = False) -> Array:
        _, h, w, _ = require_images(x, "TinyEncoder")
        _check_blocks("encoder", self.blocks)
        divide_sides(h, w, 2 ** (len(self.blocks) - 1), "encoder.blocks")
        for i in range(len(self.blocks)):
            # "SAME" would pad an even side on the right and at the bottom only.
            x = Conv(
                self.features, (3, 3), 2 if i else 1, padding=1, use_bias=i == 0, dtype=self.dtype, name=f"conv_{i}"
            )(x)
            x = _run_stage(self, x, i, self.pooled and i == len(self.blocks) - 1)
        return Conv(self.channels, (3, 3), dtype=self.dtype, name="conv_out")(x)


class TinyDecoder(nn.Module):
    """Decoder without normalization: codes [batch, h, w, d] to images [batch, h * 2^(n-1), w * 2^(n-1), shape[-1]].

    The code is squashed to 3 tanh(z / 3). A 3x3 convolution and an activation are followed by the n stages of `blocks`,
    all of which but the last end in nearest-neighbor upsampling and a 3x3 convolution without bias.

    Attributes:
      shape: shape of one output image, (height, width, channels), of which the channels are read.
      blocks: number of blocks of each stage, innermost first.
      pooled: whether the blocks of the first stage have a `PooledBranch`.
    """

    shape: Sequence[int]
    features: int = 64
    blocks: Sequence[int] = (3, 3, 3, 1)
    activation: str = "relu"
    pooled: bool = False
    dtype: DTypeLike = "float32"
    remat: bool = False

    any_size = True

    @nn.compact
    def __call__(self, z: Array, *, train: bool = False) -> Array:
        require_images(z, "TinyDecoder")
        _check_blocks("decoder", self.blocks)
        x = Conv(self.features, (3, 3), dtype=self.dtype, name="conv_in")(3 * jnp.tanh(z / 3))
        x = activate(self.activation, x)
        for i in range(len(self.blocks)):
            x = _run_stage(self, x, i, self.pooled and i == 0)
            if i < len(self.blocks) - 1:
                x = Conv(self.features, (3, 3), enlarged=True, use_bias=False, dtype=self.dtype, name=f"conv_{i}")(
                    Upsample()(x)
                )
        return Conv(self.shape[-1], (3, 3), dtype=self.dtype, name="conv_out")(x).astype(jnp.float32)


def _check_blocks(name: str, blocks: Sequence[int]) -> None:
    if not blocks:
        raise InputError(f"{name}.blocks must hold the number of blocks of at least one stage, got {tuple(blocks)}")


def _run_stage(part: TinyEncoder | TinyDecoder, x: Array, i: int, pooled: bool) -> Array:
    """Applies the blocks of stage i."""
    for j in range(part.blocks[i]):
        make = lambda _, x, j=j: TinyBlock(part.activation, pooled, part.dtype, name=f"block_{i}_{j}")(x)  # noqa: E731
        x = run_block(part, make, x)
    return x
