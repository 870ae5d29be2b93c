"""The network of PatchGAN, its normalizations and its receptive field."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aejax.errors import one_of
from aejax.models.conv import convolve
from aejax.models.layers import Normalization, get_axis, scale_to_unit

NORMALIZATIONS = ("none", "batch", "actnorm")


def receptive_field(layers: int) -> int:
    """Returns the side, in pixels, of the patch that one logit of a `PatchNetwork` of so many widths sees.

    >>> receptive_field(4)  # the 70x70 PatchGAN of Isola et al. 2017
    70
    """
    side = 4 + 3  # of the logit, and of the convolution before it
    for _ in range(layers - 1):
        side = 2 * side + 2
    return side


class PatchNetwork(nn.Module):
    """A convolutional classifier of overlapping patches: images [batch, h, w, c] to logits [batch, rows, columns].

    The convolutions are 4x4 with a margin of one pixel; the first, before which nothing is normalized, and all others
    but the last one of `features` have stride 2. (Isola et al. 2017, section 6.1.2.)

    State beside parameters: running averages of normalization="batch" in the collection "batch_stats", the statistics
    of the first batch of "actnorm" in "actnorm", and the power iteration of `spectral` in "spectral".

    Attributes:
      features: width of each convolution before the one that gives the logits.
      normalization: "none", "batch" or "actnorm", between convolution and activation.
      spectral: whether each kernel is divided by its largest singular value (Miyato et al. 2018).
      axis_name: name of the axis of the devices that share a batch, over which statistics are computed.
    """

    features: Sequence[int]
    normalization: str = "batch"
    spectral: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"], *, train: bool = False) -> Float[Array, "batch rows columns"]:
        if self.normalization not in NORMALIZATIONS:
            raise one_of("adversary.normalization", self.normalization, NORMALIZATIONS)
        for i, width in enumerate(self.features):
            normalization = self.normalization if i else "none"
            stride = 2 if i < len(self.features) - 1 else 1
            x = PatchConv(width, stride, normalization != "batch", self.spectral, name=f"conv_{i}")(x, train=train)
            if normalization == "actnorm":
                x = ActNorm(self.axis_name, name=f"norm_{i}")(x, train=train)
            else:
                x = Normalization(normalization, axis_name=self.axis_name, name=f"norm_{i}")(x, train=train)
            x = nn.leaky_relu(x, 0.2)
        return PatchConv(1, spectral=self.spectral, name="logit")(x, train=train)[..., 0]


class PatchConv(nn.Module):
    """A 4x4 convolution with a margin of one pixel, whose kernel may be divided by its largest singular value."""

    features: int
    stride: int = 1
    bias: bool = True
    spectral: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        kernel = self.param("kernel", nn.initializers.normal(0.02), (4, 4, x.shape[-1], self.features))
        if self.spectral:
            kernel = kernel / self._find_largest(kernel.reshape(-1, self.features), train)
        numbers = ("NHWC", "HWIO", "NHWC")
        x = convolve(x, kernel, (self.stride, self.stride), ((1, 1), (1, 1)), dimension_numbers=numbers)
        return x + self.param("bias", nn.initializers.zeros, (self.features,)) if self.bias else x

    def _find_largest(self, matrix: Array, train: bool) -> Array:
        """Returns the largest singular value of the matrix, whose direction each call in training improves.

        The direction counts as constant, so that the gradient of the value is exact once it has converged.
        """
        constant = jax.lax.stop_gradient(matrix)

        def improve(u: Array) -> Array:
            return scale_to_unit(constant.T @ scale_to_unit(constant @ u))

        def initialize() -> Array:
            first = jax.random.normal(self.make_rng("params"), (self.features,))
            return jax.lax.fori_loop(0, 15, lambda _, u: improve(u), first)

        direction = self.variable("spectral", "u", initialize)
        u = direction.value
        if train and self.is_mutable_collection("spectral"):
            u = direction.value = improve(u)
        return scale_to_unit(constant @ u) @ matrix @ u


class ActNorm(nn.Module):
    """An affine map of each channel that standardizes the first batch of training (Kingma and Dhariwal 2018).

    The mean and standard deviation of that batch are state; scale and bias, which follow, are learned.
    """

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        width = x.shape[-1]
        mean = self.variable("actnorm", "mean", jnp.zeros, (width,))
        std = self.variable("actnorm", "std", jnp.ones, (width,))
        started = self.variable("actnorm", "started", jnp.zeros, (), jnp.int32)
        m, s = mean.value, std.value
        if train and not self.is_initializing():
            moments = [jax.lax.stop_gradient(value).mean((0, 1, 2)) for value in (x, jnp.square(x))]
            if get_axis(self):
                moments = jax.lax.pmean(moments, self.axis_name)
            own = jnp.sqrt(jnp.maximum(moments[1] - jnp.square(moments[0]), 0)) + 1e-6
            m, s = jnp.where(started.value, m, moments[0]), jnp.where(started.value, s, own)
            if self.is_mutable_collection("actnorm"):
                mean.value, std.value, started.value = m, s, jnp.ones((), jnp.int32)
        scale = self.param("scale", nn.initializers.ones, (width,))
        return (x - m) / s * scale + self.param("bias", nn.initializers.zeros, (width,))
