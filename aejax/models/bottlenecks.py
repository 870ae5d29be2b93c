"""Bottlenecks: features to the code that the decoder reads, computed in float32."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jax import Array

from aejax.models.layers import activate, flatten, image_shape


class Code(struct.PyTreeNode):
    """What a bottleneck returns.

    Attributes:
      z: what the decoder reads, [batch, *latent], float32.
      losses: unweighted regularisers per example, [batch], summed over latent units, in nats where
        they are likelihoods; `objective.weights` weighs them by name.
      metrics: scalars to log.
    """

    z: Array
    losses: Mapping[str, Array] = struct.field(default_factory=dict)
    metrics: Mapping[str, Array] = struct.field(default_factory=dict)


class IdentityBottleneck(nn.Module):
    """The encoder's output is the code."""

    @nn.compact
    def __call__(self, h: Array, *, train: bool = False) -> Code:
        return Code(z=h.astype(jnp.float32))


class DenseBottleneck(nn.Module):
    """One dense layer: [batch, ...] to [batch, features]."""

    features: int
    activation: str = "linear"

    @nn.compact
    def __call__(self, h: Array, *, train: bool = False) -> Code:
        dense = nn.Dense(self.features, name="dense")
        return Code(z=activate(self.activation, dense(flatten(h).astype(jnp.float32))))


class ConvBottleneck(nn.Module):
    """One convolution, nothing is flattened: [batch, h, w, c] to [batch, h, w, features]."""

    features: int
    kernel: int = 3
    activation: str = "relu"

    @nn.compact
    def __call__(self, h: Array, *, train: bool = False) -> Code:
        image_shape(h, "ConvBottleneck")
        conv = nn.Conv(self.features, (self.kernel, self.kernel), name="conv")
        return Code(z=activate(self.activation, conv(h.astype(jnp.float32))))


BOTTLENECKS: dict[str, type[nn.Module]] = {
    "identity": IdentityBottleneck,
    "dense": DenseBottleneck,
    "conv": ConvBottleneck,
}
