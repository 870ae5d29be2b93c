"""The networks of LPIPS: the convolutions of AlexNet and VGG16, and the distance in their features."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from aejax.errors import InputError, one_of
from aejax.models.conv import Conv
from aejax.models.layers import Pool

Maps = list[Float[Array, "batch h w c"]]

LEAST = {"alex": 31, "vgg": 16}  # pixels of the shorter side with which the last features have one position

# Mean and standard deviation of ImageNet's red, green and blue, in units of images in [-1, 1], as LPIPS rounds them.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class AlexNet(nn.Module):
    """The five convolutions of AlexNet (Krizhevsky 2014): returns the features after each, [batch, h, w, c]."""

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Maps:
        layers = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))
        maps: Maps = []
        for i, (features, size, stride, padding) in enumerate(layers):
            if i in (1, 2):
                x = nn.max_pool(x, (3, 3), (2, 2))
            x = nn.relu(Conv(features, (size, size), stride, padding=padding, name=f"conv_{i}")(x))
            maps.append(x)
        return maps


class VGG16(nn.Module):
    """The thirteen convolutions of VGG16 (Simonyan and Zisserman 2015): returns the features before each pooling, and
    the last ones, [batch, h, w, c].
    """

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Maps:
        maps: Maps = []
        number = 0
        for features, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            if maps:
                _, h, w, _ = x.shape
                x = Pool()(x[:, : h // 2 * 2, : w // 2 * 2])  # drops the last row or column of an odd side
            for _ in range(count):
                x = nn.relu(Conv(features, (3, 3), padding=1, name=f"conv_{number}")(x))
                number += 1
            maps.append(x)
        return maps


NETWORKS: dict[str, type[nn.Module]] = {"alex": AlexNet, "vgg": VGG16}


class LPIPS(nn.Module):
    """The perceptual distance of images in [0, 1]: [batch, h, w, 3] twice to [batch] (Zhang et al. 2018, equation 1).

    Version 0.1 of the authors' weights. The features of each position are scaled to length 1, their squared differences
    are weighted by channel, averaged over positions and summed over five layers. The dropout before the weights is for
    their training, which is not done here.

    Attributes:
      network: "alex", which the authors recommend as a metric, or "vgg", as a loss.
    """

    network: str = "vgg"

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"], y: Float[Array, "batch h w c"]) -> Float[Array, " batch"]:
        check_images(x.shape[1:], self.network)
        backbone = NETWORKS[self.network](name="backbone")
        distance = jnp.zeros(x.shape[0])
        # Two calls, as one image of a pair usually needs no gradient.
        for i, (a, b) in enumerate(zip(backbone(_standardize(x)), backbone(_standardize(y)), strict=True)):
            weights = self.param(f"linear_{i}", nn.initializers.constant(1 / a.shape[-1]), (a.shape[-1],))
            difference = jnp.square(_normalize(a) - _normalize(b))
            distance += (difference * weights).sum(-1).mean((1, 2))
        return distance


def check_images(shape: Sequence[int], network: str) -> None:
    """Raises InputError unless LPIPS with this network reads images of `shape`, (height, width, channels)."""
    if network not in NETWORKS:
        raise one_of("lpips.network", network, NETWORKS)
    if len(shape) != 3 or shape[-1] != 3:
        raise InputError(
            f"LPIPS compares color images (height, width, 3), got examples of {tuple(shape)}; choose color images, or "
            "leave out objective.weights.lpips"
        )
    least = LEAST[network]
    if min(shape[:2]) < least:
        others = [f"network={name}, which reads {n}x{n}" for name, n in LEAST.items() if n <= min(shape[:2])]
        cure = " or ".join([f"data.size={least}", *others])
        raise InputError(f"LPIPS with network={network} needs {least}x{least}, got {shape[0]}x{shape[1]}; use {cure}")


def _standardize(x: Array) -> Array:
    return (2 * x - 1 - jnp.array(_SHIFT)) / jnp.array(_SCALE)


def _normalize(x: Array) -> Array:
    """Divides the features of each position by their length plus 1e-10; the gradient of a zero vector is 0, not NaN."""
    squared = jnp.square(x).sum(-1, keepdims=True)
    length = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)
    return x / (length + 1e-10)
