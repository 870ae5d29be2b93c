"""Encoders: input [batch, ...] to features, which a bottleneck turns into a code."""

from collections.abc import Sequence

import flax.linen as nn
from jax import Array
from jax.typing import DTypeLike

from aejax.errors import InputError
from aejax.models.layers import Pool, activate, flatten, image_shape


class MLPEncoder(nn.Module):
    """Dense layers, each followed by the activation: [batch, ...] to [batch, features[-1]].

    Images are flattened first. With no features it only flattens.
    """

    features: Sequence[int] = ()
    activation: str = "relu"
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        x = flatten(x)
        for i, width in enumerate(self.features):
            x = activate(self.activation, nn.Dense(width, dtype=self.dtype, name=f"dense_{i}")(x))
        return x


class ConvEncoder(nn.Module):
    """Convolution, activation and 2x2 maximum pooling per entry of `features`.

    [batch, h, w, c] to [batch, h / 2^n, w / 2^n, features[-1]] with n entries; h and w must be
    divisible by 2^n.
    """

    features: Sequence[int] = (64, 128)
    kernel: int = 3
    activation: str = "relu"
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        _, h, w, _ = image_shape(x, "ConvEncoder")
        factor = 2 ** len(self.features)
        if h % factor or w % factor:
            near = max(factor, round(h / factor) * factor)
            raise InputError(
                f"ConvEncoder halves an image {len(self.features)} times, so its sides must be divisible by "
                f"{factor}, got {h}x{w}; resize with data.size={near} or use fewer encoder.features"
            )
        for i, width in enumerate(self.features):
            conv = nn.Conv(width, (self.kernel, self.kernel), dtype=self.dtype, name=f"conv_{i}")
            x = Pool(name=f"pool_{i}")(activate(self.activation, conv(x)))
        return x


ENCODERS: dict[str, type[nn.Module]] = {"mlp": MLPEncoder, "conv": ConvEncoder}
