"""Vision transformer encoder, which may hide patches from itself, and decoder."""

from collections.abc import Sequence
from typing import NoReturn

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jax.typing import DTypeLike

from aejax.errors import InputError
from aejax.models.layers import Dense, Normalise, activate, image_shape, require_keys


class Tokens(struct.PyTreeNode):
    """What an encoder that hides patches returns; `MaskedBottleneck` reads it.

    Attributes:
      tokens: of the visible patches, [batch, visible, features].
      order: int32 [batch, rows * columns], for each patch, row by row, which token is its own; `visible`
        and above: hidden. None where nothing is hidden.
      grid: rows and columns of patches.
    """

    tokens: Array
    order: Array | None
    grid: tuple[int, int] = struct.field(pytree_node=False)

    def _refuse(self) -> NoReturn:
        raise InputError("encoder.mask_ratio above 0 hides patches, which needs bottleneck.name='masked'")

    reshape = astype = ndim = property(_refuse)  # what a bottleneck that wants an array asks of it first


def patchify(x: Array, patch: int) -> Array:
    """Images [batch, h, w, c] to patches [batch, h/patch * w/patch, patch * patch * c], both row by row."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c).swapaxes(2, 3)
    return x.reshape(b, -1, patch * patch * c)


def unpatchify(x: Array, patch: int, shape: Sequence[int]) -> Array:
    """The inverse of `patchify`, to images of `shape` (h, w, c)."""
    h, w, c = shape
    x = x.reshape(-1, h // patch, w // patch, patch, patch, c).swapaxes(2, 3)
    return x.reshape(-1, h, w, c)


def positions(rows: int, columns: int, features: int) -> np.ndarray:
    """Sine-cosine embedding of the places of a grid, row by row: float32 [rows * columns, features].

    One half of the features is sines and cosines of the row, the other of the column, at wavelengths
    from 2 pi up to 10000 * 2 pi (Vaswani et al. 2017, section 3.5; in two dimensions as in He et al. 2022).
    """
    if features % 4:
        raise InputError(
            f"a transformer's features hold sines and cosines of rows and columns, got {features}: "
            "choose a multiple of 4"
        )
    frequencies = 10000.0 ** -np.linspace(0, 1, features // 4, endpoint=False)
    y, x = (np.outer(place.ravel(), frequencies) for place in np.mgrid[:rows, :columns])
    return np.concatenate([np.sin(y), np.cos(y), np.sin(x), np.cos(x)], -1).astype(np.float32)


class Attention(nn.Module):
    """Multi-head self-attention, [batch, n, c] to the same, with softmax in float32 (Vaswani et al. 2017, 3.2)."""

    heads: int
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, n, c = x.shape
        if c % self.heads:
            raise InputError(f"{self.heads} heads cannot share {c} features; choose heads that divide features")
        qkv = Dense(3 * c, dtype=self.dtype, name="qkv")(x).reshape(b, n, 3, self.heads, c // self.heads)
        x = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        return Dense(c, dtype=self.dtype, name="out")(x.reshape(b, n, c))


class Transformer(nn.Module):
    """Pre-norm transformer blocks and a last normalisation: tokens [batch, n, c] to the same.

    Dosovitskiy et al. 2021, "An image is worth 16x16 words", section 3.1, without a class token.

    Attributes:
      layers: blocks, each of attention and of two dense layers of widths 4c and c.
    """

    layers: int
    heads: int
    activation: str = "gelu"
    normalisation: str = "layer"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        def normalise(name: str, x: Array) -> Array:
            return Normalise(self.normalisation, self.dtype, self.axis_name, name=name)(x, train=train)

        for i in range(self.layers):
            x = x + Attention(self.heads, self.dtype, name=f"attention_{i}")(normalise(f"norm_{i}_0", x))
            h = normalise(f"norm_{i}_1", x)
            h = activate(self.activation, Dense(4 * x.shape[-1], dtype=self.dtype, name=f"dense_{i}_0")(h))
            x = x + Dense(x.shape[-1], dtype=self.dtype, name=f"dense_{i}_1")(h)
        return normalise("norm", x)


class ViTEncoder(nn.Module):
    """Vision transformer (Dosovitskiy et al. 2021): images [batch, h, w, c] to a token for each patch.

    Gives tokens [batch, h/patch * w/patch, features], row by row. Where `mask_ratio` is above 0 it gives
    `Tokens`: with keys, it sees only a random subset of the patches, which is chosen by the example's own
    key (He et al. 2022, "Masked autoencoders are scalable vision learners", section 3); without, all of them,
    which training refuses.

    Attributes:
      patch: side of a patch in pixels; must divide h and w.
      features: width of a token, a multiple of 4 and of `heads`.
      layers: transformer blocks.
      mask_ratio: share of the patches to hide, in [0, 1); round((1 - mask_ratio) * n) of n stay visible.
    """

    patch: int = 4
    features: int = 64
    layers: int = 2
    heads: int = 4
    mask_ratio: float = 0.0
    activation: str = "gelu"
    normalisation: str = "layer"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, keys: Array | None = None, train: bool = False) -> Array | Tokens:
        _, h, w, _ = image_shape(x, "ViTEncoder")
        if h % self.patch or w % self.patch:
            near = max(self.patch, round(h / self.patch) * self.patch)
            raise InputError(
                f"encoder.patch={self.patch} does not divide an image of {h}x{w}; choose a patch that does "
                f"or resize with data.size={near}"
            )
        rows, columns = h // self.patch, w // self.patch
        visible = self._visible(rows * columns)
        x = patchify(x, self.patch)
        place = jnp.asarray(positions(rows, columns, self.features), self.dtype)
        order = None
        if self.mask_ratio:
            require_keys(self, keys, train)
        if self.mask_ratio and keys is not None:
            order = jax.vmap(lambda key: jax.random.permutation(key, rows * columns))(keys)
            seen = jnp.argsort(order, 1)[:, :visible]
            x, place = jnp.take_along_axis(x, seen[:, :, None], 1), place[seen]
        x = Dense(self.features, dtype=self.dtype, name="embed")(x) + place
        options = (self.layers, self.heads, self.activation, self.normalisation, self.dtype, self.axis_name)
        x = Transformer(*options, name="transformer")(x, train=train)
        return Tokens(x, order, (rows, columns)) if self.mask_ratio else x

    def _visible(self, patches: int) -> int:
        """How many of the patches are visible where some are hidden."""
        if not isinstance(self.mask_ratio, int | float) or not 0 <= self.mask_ratio < 1:
            raise InputError(f"encoder.mask_ratio must be at least 0 and below 1, got {self.mask_ratio!r}")
        visible = round((1 - self.mask_ratio) * patches)
        if self.mask_ratio and visible in (0, patches):
            raise InputError(
                f"encoder.mask_ratio={self.mask_ratio} hides {'none' if visible else 'all'} of {patches} patches; "
                "change it or choose a smaller encoder.patch"
            )
        return visible


class ViTDecoder(nn.Module):
    """Transformer from tokens to images (He et al. 2022, section 3): [batch, n, c] to [batch, *shape].

    There is a token for each patch, row by row; a code [batch, rows, columns, c] is such tokens too, and a
    flat code [batch, d] is projected to them by a dense layer.

    Attributes:
      shape: shape of one output image, (height, width, channels).
      patch: side of a patch in pixels; must divide height and width.
      features: width of a token, a multiple of 4 and of `heads`.
      layers: transformer blocks.
      output: activation of the last dense layer, which makes the pixels; "linear" gives logits.
    """

    shape: Sequence[int]
    patch: int = 4
    features: int = 64
    layers: int = 2
    heads: int = 4
    activation: str = "gelu"
    output: str = "linear"
    normalisation: str = "layer"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, z: Array, *, train: bool = False) -> Array:
        if len(self.shape) != 3:
            raise InputError(f"ViTDecoder makes images (height, width, channels), the input is {tuple(self.shape)}")
        h, w, c = self.shape
        if h % self.patch or w % self.patch:
            raise InputError(
                f"decoder.patch={self.patch} does not divide an image of {h}x{w}; choose a patch that does"
            )
        rows, columns = h // self.patch, w // self.patch
        if z.ndim != 2 and z.shape[1:-1] not in ((rows * columns,), (rows, columns)):
            raise InputError(
                f"ViTDecoder makes {rows}x{columns} patches, so a code of {z.shape[1:]} does not become an image "
                f"of {h}x{w}; give encoder.patch and decoder.patch the same value"
            )
        width = self.features * rows * columns if z.ndim == 2 else self.features
        x = Dense(width, dtype=self.dtype, name="embed")(z).reshape(-1, rows * columns, self.features)
        x = x + jnp.asarray(positions(rows, columns, self.features), self.dtype)
        options = (self.layers, self.heads, self.activation, self.normalisation, self.dtype, self.axis_name)
        x = Transformer(*options, name="transformer")(x, train=train)
        x = Dense(self.patch**2 * c, dtype=self.dtype, name="pixels")(x)
        return activate(self.output, unpatchify(x, self.patch, self.shape))
