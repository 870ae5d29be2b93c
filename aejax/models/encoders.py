"""Encoders: from an input [batch, ...] to features, which a bottleneck turns into a code.

Each is called as `encoder(x, keys=..., train=...)`; for the arguments see `Autoencoder`.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from aejax.errors import InputError
from aejax.models.conv import Conv
from aejax.models.dc import DCEncoder
from aejax.models.kl import KLEncoder
from aejax.models.layers import (
    Dense,
    Normalization,
    Pool,
    activate,
    divide_sides,
    flatten,
    fold,
    require_images,
    require_keys,
    run_block,
)
from aejax.models.resnet import ResNetEncoder
from aejax.models.taesd import TinyEncoder
from aejax.models.vit import ViTEncoder

_DROPOUT = 2**20  # what keys are folded with, since bottlenecks fold them with small numbers


class MLPEncoder(nn.Module):
    """Dense layers, each followed by normalization and activation: [batch, ...] to [batch, features[-1]].

    The input is flattened first; without `features` that is all.

    Attributes:
      features: widths of the layers.
      dropout: fraction of the flattened input that is set to 0 in training, the rest being scaled up; a one-hot label
        is part of the input.
    """

    features: Sequence[int] = ()
    activation: str = "relu"
    normalisation: str = "none"
    dropout: float = 0.0
    dtype: DTypeLike = "float32"
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, *, keys: Array | None = None, train: bool = False) -> Array:
        x = flatten(x)
        if not 0 <= self.dropout < 1:
            raise InputError(f"encoder.dropout must be in [0, 1), got {self.dropout}")
        if self.dropout and train:
            require_keys(self, keys, train)
        if self.dropout and train and keys is not None:
            kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.dropout, x.shape[1:]))(fold(keys, _DROPOUT))
            x = jnp.where(kept, x / (1 - self.dropout), 0)
        for i in range(len(self.features)):
            x = run_block(self, functools.partial(MLPEncoder._layer, i=i, train=train), x)
        return x

    def _layer(self, x: Array, i: int, train: bool) -> Array:
        x = Dense(self.features[i], dtype=self.dtype, name=f"dense_{i}")(x)
        x = Normalization(self.normalisation, self.dtype, self.axis_name, name=f"norm_{i}")(x, train=train)
        return activate(self.activation, x)


class ConvEncoder(nn.Module):
    """Convolutional encoder with 2x2 max pooling: [batch, h, w, c] to [batch, h / 2^n, w / 2^n, features[-1]].

    Each of the n entries of `features` stands for convolution, normalization, activation and pooling; h and w must be
    divisible by 2^n.
    """

    features: Sequence[int] = (64, 128)
    kernel: int = 3
    activation: str = "relu"
    normalisation: str = "none"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, *, keys: Array | None = None, train: bool = False) -> Array:
        _, h, w, _ = require_images(x, "ConvEncoder")
        divide_sides(h, w, 2 ** len(self.features), "encoder.features")
        for i in range(len(self.features)):
            x = run_block(self, functools.partial(ConvEncoder._stage, i=i, train=train), x)
        return x

    def _stage(self, x: Array, i: int, train: bool) -> Array:
        x = Conv(self.features[i], (self.kernel, self.kernel), dtype=self.dtype, name=f"conv_{i}")(x)
        x = Normalization(self.normalisation, self.dtype, self.axis_name, name=f"norm_{i}")(x, train=train)
        return Pool(name=f"pool_{i}")(activate(self.activation, x))


ENCODERS: dict[str, type[nn.Module]] = {
    "mlp": MLPEncoder,
    "conv": ConvEncoder,
    "resnet": ResNetEncoder,
    "vit": ViTEncoder,
    "kl": KLEncoder,
    "taesd": TinyEncoder,
    "dc": DCEncoder,
}
