"""The convolutional networks of WAE and RAE, after DCGAN (Radford et al. 2016)."""

import functools
import math
from collections.abc import Sequence

import flax.linen as nn
from jax import Array
from jax.typing import DTypeLike

from aejax.errors import InputError
from aejax.models.conv import Conv
from aejax.models.layers import Dense, Normalization, activate, divide_sides, flatten, require_images, run_block
from aejax.models.resnet import UpsampleConv


class DCGANEncoder(nn.Module):
    """Convolutions of 4x4 with stride 2: [batch, h, w, c] to [batch, h / 2^n, w / 2^n, features[-1]], rounded up.

    Each of the n entries of `features` stands for convolution, normalization and activation (Tolstikhin et al. 2018,
    appendix D; Ghosh et al. 2020, appendix C).
    """

    features: Sequence[int] = (128, 256, 512, 1024)
    activation: str = "relu"
    normalisation: str = "batch"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, *, keys: Array | None = None, train: bool = False) -> Array:
        require_images(x, "DCGANEncoder")
        for i in range(len(self.features)):
            x = run_block(self, functools.partial(DCGANEncoder._stage, i=i, train=train), x)
        return x

    def _stage(self, x: Array, i: int, train: bool) -> Array:
        x = Conv(self.features[i], (4, 4), (2, 2), dtype=self.dtype, name=f"conv_{i}")(x)
        x = Normalization(self.normalisation, self.dtype, self.axis_name, name=f"norm_{i}")(x, train=train)
        return activate(self.activation, x)


class DCGANDecoder(nn.Module):
    """A dense layer and transposed convolutions of 4x4: [batch, ...] to [batch, *shape] (ibid.).

    Attributes:
      shape: shape of one output image, (height, width, channels).
      features: channels of the image that the dense layer makes, and then of each transposed convolution, which doubles
        its sides, with normalization and activation; one more convolution of 4x4 makes the image's channels.
      output: activation of the last convolution; "linear" gives logits.
    """

    shape: Sequence[int]
    features: Sequence[int] = (1024, 512, 256)
    activation: str = "relu"
    output: str = "linear"
    normalisation: str = "batch"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, z: Array, *, train: bool = False) -> Array:
        if len(self.shape) != 3:
            raise InputError(f"DCGANDecoder makes images (height, width, channels), the input is {tuple(self.shape)}")
        h, w, c = self.shape
        small = divide_sides(h, w, 2 ** (len(self.features) - 1), "decoder.features")
        x = Dense(math.prod(small) * self.features[0], dtype=self.dtype, name="project")(flatten(z))
        x = x.reshape(-1, *small, self.features[0])
        for i in range(1, len(self.features)):
            x = run_block(self, functools.partial(DCGANDecoder._stage, i=i, train=train), x)
        return activate(self.output, Conv(c, (4, 4), dtype=self.dtype, name="conv")(x))

    def _stage(self, x: Array, i: int, train: bool) -> Array:
        x = UpsampleConv(self.features[i], self.dtype, name=f"up_{i - 1}")(x)
        x = Normalization(self.normalisation, self.dtype, self.axis_name, name=f"norm_{i - 1}")(x, train=train)
        return activate(self.activation, x)
