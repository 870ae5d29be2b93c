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
from aejax.models.dcgan import DCGANEncoder
from aejax.models.kl import KLEncoder
from aejax.models.ladder import PyramidEncoder
from aejax.models.layers import (
    Normalization,
    Pool,
    activate,
    flatten,
    fold,
    make_units,
    pad_convolution,
    pad_to_multiple,
    require_grid,
    require_keys,
    run_block,
)
from aejax.models.resnet import ResNetEncoder
from aejax.models.sequence import RNNEncoder, SequenceEncoder
from aejax.models.taesd import TinyEncoder
from aejax.models.vit import ViTEncoder

_DROPOUT = 2**20  # what keys are folded with, since bottlenecks fold them with small numbers


class MLPEncoder(nn.Module):
    """Dense layers, each followed by normalization and activation: [batch, ...] to [batch, features[-1]].

    The input is flattened first; without `features` that is all. `units` are "dense", "gated" or "maxout", see
    `make_units`, of which the last two usually go with `activation="linear"`.

    Attributes:
      features: widths of the layers.
      dropout: fraction of the flattened input that is set to 0 in training, the rest being scaled up; a one-hot label
        is part of the input.
      hidden_dropout: fraction of each layer's units that is set to 0 in training, likewise.
    """

    features: Sequence[int] = ()
    activation: str = "relu"
    normalisation: str = "none"
    dropout: float = 0.0
    dtype: DTypeLike = "float32"
    axis_name: str | None = None
    remat: bool = False
    units: str = "dense"
    hidden_dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, *, keys: Array | None = None, train: bool = False) -> Array:
        x = flatten(x)
        for name in ("dropout", "hidden_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"encoder.{name} must be in [0, 1), got {getattr(self, name)}")
        drops = train and bool(self.dropout or self.hidden_dropout)
        if drops:
            require_keys(self, keys, train)
        x = _drop(self.dropout, keys, 0, x) if drops else x
        for i in range(len(self.features)):
            x = run_block(self, functools.partial(MLPEncoder._layer, i=i, train=train), x)
            x = _drop(self.hidden_dropout, keys, i + 1, x) if drops else x
        return x

    def _layer(self, x: Array, i: int, train: bool) -> Array:
        x = make_units(self.units, self.features[i], self.dtype, i, x)
        x = Normalization(self.normalisation, self.dtype, self.axis_name, name=f"norm_{i}")(x, train=train)
        return activate(self.activation, x)


def _drop(fraction: float, keys: Array | None, place: int, x: Array) -> Array:
    """Returns x [batch, features] with a fraction of its values set to 0 by a key for each example, at this place of a
    model, and the others scaled up. Without keys, while a model is initialized, returns x.
    """
    if not fraction or keys is None:
        return x
    draw = lambda key: jax.random.bernoulli(key, 1 - fraction, x.shape[1:])  # noqa: E731
    return jnp.where(jax.vmap(draw)(fold(keys, _DROPOUT + place)), x / (1 - fraction), 0)


class ConvEncoder(nn.Module):
    """Convolutional encoder with max pooling: [batch, h, w, c] to [batch, h / 2^n, w / 2^n, features[-1]].

    Each of the n entries of `features` stands for convolution, normalization, activation and pooling over windows of 2.
    The same holds for sequences [batch, time, c] and volumes [batch, depth, h, w, c]. Sizes are rounded up: zeros are
    added at the end of an axis until 2^n divides it, and `ConvDecoder` crops them.

    Attributes:
      kernel: number of positions that a convolution reads along each axis.
      causal: whether no position of a sequence's code reads the future: of time steps later than 2^n times its own.
    """

    features: Sequence[int] = (64, 128)
    kernel: int = 3
    activation: str = "relu"
    normalisation: str = "none"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None
    remat: bool = False
    causal: bool = False

    @property
    def receptive_field(self) -> int:
        """Returns how many positions along an axis a position of the code reads."""
        return 1 + self.kernel * (2 ** len(self.features) - 1)

    @nn.compact
    def __call__(self, x: Array, *, keys: Array | None = None, train: bool = False) -> Array:
        require_grid(x, "ConvEncoder")
        x = pad_to_multiple(x, 2 ** len(self.features))
        for i in range(len(self.features)):
            x = run_block(self, functools.partial(ConvEncoder._stage, i=i, train=train), x)
        return x

    def _stage(self, x: Array, i: int, train: bool) -> Array:
        kernel = (self.kernel,) * (x.ndim - 2)
        padding = pad_convolution(self.causal, len(kernel), self.normalisation)
        x = Conv(self.features[i], kernel, padding=padding, dtype=self.dtype, name=f"conv_{i}")(x)
        x = Normalization(self.normalisation, self.dtype, self.axis_name, name=f"norm_{i}")(x, train=train)
        return Pool(causal=self.causal, name=f"pool_{i}")(activate(self.activation, x))


ENCODERS: dict[str, type[nn.Module]] = {
    "mlp": MLPEncoder,
    "conv": ConvEncoder,
    "resnet": ResNetEncoder,
    "vit": ViTEncoder,
    "rnn": RNNEncoder,
    "transformer": SequenceEncoder,
    "kl": KLEncoder,
    "taesd": TinyEncoder,
    "dc": DCEncoder,
    "pyramid": PyramidEncoder,
    "dcgan": DCGANEncoder,
}
