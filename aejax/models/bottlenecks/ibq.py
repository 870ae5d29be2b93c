"""Index backpropagation quantization."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from aejax.losses import categorical_entropy, codebook_loss, commitment_loss
from aejax.models.bottlenecks.code import Code
from aejax.models.bottlenecks.discrete import check_positive
from aejax.models.bottlenecks.quantizer import (
    VectorModule,
    find_least,
    measure_mean_entropy,
    measure_usage,
    straight_through,
)
from aejax.models.layers import flatten, get_axis


class IBQ(VectorModule):
    """Index backpropagation quantization, which trains all codes at every step: z [batch, *positions, features].

    Shi et al. 2024, "Taming scalable visual tokenizer for autoregressive image generation". The logits of the codes
    C [codes, features] are their inner products with x. z is the code with the largest logit: p C, where p is one-hot,
    with the gradient of softmax(logits), which reaches x and every code.

    Losses, each with its own weight. The first three are the paper's double quantization loss, with weights 1, 1 and
    0.25 there; e is the chosen code:
      quantization: |x - z|^2, with the gradients of z.
      commitment: |x - stop_gradient(e)|^2.
      codebook: |stop_gradient(x) - e|^2.
      sample_entropy: entropy of p(c|x) = softmax(logits / temperature) in nats, summed over positions.
      codebook_entropy: minus the entropy in nats of p(c|x) averaged over positions and the whole batch, the same for
        each example.

    Attributes:
      codes: number of codes.
      features: size of each code.
      positions: number of codes per example, for flat features; images and tokens have one at each pixel or token.
      temperature: temperature of the two entropies.
    """

    codes: int = 512
    features: int = 64
    positions: int = 1
    temperature: float = 1.0
    axis_name: str | None = None

    def setup(self):
        check_positive("bottleneck.temperature", self.temperature)
        self.dense = nn.Dense(self.positions * self.features)
        self.table = self.param("codes", nn.initializers.normal(1.0), (self.codes, self.features))

    def quantize(self, x: Array, keys: Array | None, train: bool) -> Code:
        """Returns the code with the largest inner product with each vector of x [..., features]."""
        logits = jnp.dot(x, self.table.T, precision="highest")
        indices = find_least(-logits)
        choice = straight_through(jax.nn.softmax(logits), jax.nn.one_hot(indices, self.codes))
        z, e = jnp.dot(choice, self.table, precision="highest"), self.table[indices]
        log_p = jax.nn.log_softmax(logits / self.temperature)
        entropy = measure_mean_entropy(log_p.reshape(-1, self.codes), get_axis(self))
        return Code(
            z=z,
            losses={
                "quantization": flatten(jnp.square(x - z)).sum(-1),
                "commitment": commitment_loss(x, e),
                "codebook": codebook_loss(x, e),
                "sample_entropy": flatten(categorical_entropy(log_p)).sum(-1),
                "codebook_entropy": jnp.broadcast_to(-entropy, x.shape[:1]),
            },
            metrics=measure_usage(indices, self.codes, get_axis(self)),
            indices=indices,
        )

    def pass_gradient(self, x: Array, z: Array) -> Array:
        """Returns z, which `quantize` gave its gradients."""
        return z

    def lookup(self, indices: Array) -> Array:
        """Returns the codes [..., features] of indices [...]."""
        return self.table[indices]
