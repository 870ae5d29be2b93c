"""SimVQ, vector quantization by a linear map of a constant codebook."""

import flax.linen as nn
import jax
from jax import Array

from aejax.errors import one_of
from aejax.losses import codebook_loss, commitment_loss
from aejax.models.bottlenecks.code import Code
from aejax.models.bottlenecks.quantizer import VectorModule, measure_usage, straight_through
from aejax.models.bottlenecks.vector_quantizer import GRADIENTS, find_nearest, rotate
from aejax.models.layers import get_axis


class SimVQ(VectorModule):
    """Vector quantization whose codes are a learned linear map of constant random vectors: z [batch, *positions, d].

    Zhu et al. 2024, "Addressing representation collapse in vector quantized models with one linear layer": the codes
    are C W, with C [codes, features] constant, from a normal distribution of variance 1 / features. A gradient of W
    moves all codes, used or not. C is `frozen` in the collection "codebook", W the parameter `transform`.

    The losses are squared distances between the features x and their codes e, each with a weight of its own:
      commitment: |x - stop_gradient(e)|^2.
      codebook: |stop_gradient(x) - e|^2, from which alone W learns.

    Attributes:
      codes: number of codes.
      features: size of each code.
      positions: number of codes per example, for flat features; images and tokens have one at each pixel or token.
      gradient: gradient of z with respect to x: "straight_through" or "rotation" (Fifty et al. 2024).
    """

    codes: int = 512
    features: int = 64
    positions: int = 1
    gradient: str = "straight_through"
    axis_name: str | None = None

    def setup(self):
        if self.gradient not in GRADIENTS:
            raise one_of("bottleneck.gradient", self.gradient, GRADIENTS)
        self.dense = nn.Dense(self.positions * self.features)
        self.frozen = self.variable("codebook", "frozen", self._draw)
        self.transform = self.param("transform", nn.initializers.lecun_normal(), (self.features, self.features))

    def quantize(self, x: Array, keys: Array | None, train: bool) -> Code:
        """Returns the code nearest to each vector of x [..., features]. Its z is a constant."""
        table = self._compute_table()
        indices = find_nearest(x, table)
        e = table[indices]
        return Code(
            z=jax.lax.stop_gradient(e),
            losses={"commitment": commitment_loss(x, e), "codebook": codebook_loss(x, e)},
            metrics=measure_usage(indices, self.codes, get_axis(self)),
            indices=indices,
        )

    def pass_gradient(self, x: Array, z: Array) -> Array:
        return rotate(x, z) if self.gradient == "rotation" else straight_through(x, z)

    def lookup(self, indices: Array) -> Array:
        """Returns the codes [..., features] of indices [...]."""
        return self._compute_table()[indices]

    def _draw(self) -> Array:
        """Returns C [codes, features]."""
        return jax.random.normal(self.make_rng("params"), (self.codes, self.features)) / self.features**0.5

    def _compute_table(self) -> Array:
        """Returns all codes, [codes, features]."""
        return jax.numpy.dot(self.frozen.value, self.transform, precision="highest")
