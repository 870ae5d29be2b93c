"""Encoders: input [batch, ...] to features, which a bottleneck turns into a code.

Each is called as `encoder(x, keys=..., train=...)`; `keys` holds a random key for each example, [batch]. One that
draws in training raises InputError there without them.
"""

from collections.abc import Sequence

import flax.linen as nn
from jax import Array
from jax.typing import DTypeLike

from aejax.errors import InputError
from aejax.models.conv import Conv
from aejax.models.layers import Dense, Normalise, Pool, activate, flatten, image_shape
from aejax.models.resnet import ResNetEncoder
from aejax.models.vit import ViTEncoder


class MLPEncoder(nn.Module):
    """Dense layers, each followed by normalisation and activation: [batch, ...] to [batch, features[-1]].

    Images are flattened first. With no features it only flattens.
    """

    features: Sequence[int] = ()
    activation: str = "relu"
    normalisation: str = "none"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, keys: Array | None = None, train: bool = False) -> Array:
        x = flatten(x)
        for i, width in enumerate(self.features):
            x = Dense(width, dtype=self.dtype, name=f"dense_{i}")(x)
            x = Normalise(self.normalisation, self.dtype, self.axis_name, name=f"norm_{i}")(x, train=train)
            x = activate(self.activation, x)
        return x


class ConvEncoder(nn.Module):
    """Convolution, normalisation, activation and 2x2 maximum pooling per entry of `features`.

    [batch, h, w, c] to [batch, h / 2^n, w / 2^n, features[-1]] with n entries; h and w must be
    divisible by 2^n.
    """

    features: Sequence[int] = (64, 128)
    kernel: int = 3
    activation: str = "relu"
    normalisation: str = "none"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, keys: Array | None = None, train: bool = False) -> Array:
        _, h, w, _ = image_shape(x, "ConvEncoder")
        factor = 2 ** len(self.features)
        if h % factor or w % factor:
            near = max(factor, round(h / factor) * factor)
            raise InputError(
                f"ConvEncoder halves an image {len(self.features)} times, so its sides must be divisible by "
                f"{factor}, got {h}x{w}; resize with data.size={near} or use fewer encoder.features"
            )
        for i, width in enumerate(self.features):
            x = Conv(width, (self.kernel, self.kernel), dtype=self.dtype, name=f"conv_{i}")(x)
            x = Normalise(self.normalisation, self.dtype, self.axis_name, name=f"norm_{i}")(x, train=train)
            x = Pool(name=f"pool_{i}")(activate(self.activation, x))
        return x


ENCODERS: dict[str, type[nn.Module]] = {
    "mlp": MLPEncoder,
    "conv": ConvEncoder,
    "resnet": ResNetEncoder,
    "vit": ViTEncoder,
}
