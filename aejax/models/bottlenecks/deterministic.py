"""Bottlenecks with deterministic codes."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from aejax.models.bottlenecks.code import Code
from aejax.models.conv import Conv
from aejax.models.layers import activate, flatten, pad_convolution, require_grid, scale_to_unit


class IdentityBottleneck(nn.Module):
    """The identity: the encoder's output is the code."""

    @nn.compact
    def __call__(self, h: Array, *, keys: Array | None = None, train: bool = False) -> Code:
        return Code(z=h.astype(jnp.float32))


class DenseBottleneck(nn.Module):
    """One dense layer: [batch, ...] to [batch, features]."""

    features: int
    activation: str = "linear"

    @nn.compact
    def __call__(self, h: Array, *, keys: Array | None = None, train: bool = False) -> Code:
        dense = nn.Dense(self.features, name="dense")
        return Code(z=activate(self.activation, dense(flatten(h).astype(jnp.float32))))


class ConvBottleneck(nn.Module):
    """One convolution, without flattening: [batch, h, w, c] to [batch, h, w, features].

    The convolution is computed in `dtype`, and the code is float32. Codes of sequences and volumes are read likewise,
    those of sequences without the future if it is `causal`.
    """

    features: int
    kernel: int = 3
    activation: str = "relu"
    dtype: DTypeLike = "float32"
    causal: bool = False

    @nn.compact
    def __call__(self, h: Array, *, keys: Array | None = None, train: bool = False) -> Code:
        axes = len(require_grid(h, "ConvBottleneck"))
        padding = pad_convolution(self.causal, axes)
        conv = Conv(self.features, (self.kernel,) * axes, padding=padding, dtype=self.dtype, name="conv")
        return Code(z=activate(self.activation, conv(h).astype(jnp.float32)))


class SphericalBottleneck(nn.Module):
    """One dense layer and scaling to unit length: [batch, ...] to [batch, features] on the unit sphere.

    The deterministic form of Zhao et al. 2019, "Latent variables on spheres", of the hyperspherical autoencoder of
    Davidson et al. 2018.
    """

    features: int

    @nn.compact
    def __call__(self, h: Array, *, keys: Array | None = None, train: bool = False) -> Code:
        z = nn.Dense(self.features, name="dense")(flatten(h).astype(jnp.float32))
        return Code(z=scale_to_unit(z))
