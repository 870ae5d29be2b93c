"""Vision transformer encoder, which can mask patches, and decoder."""

import functools
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
from aejax.models.layers import Dense, Normalization, activate, divide_sides, require_images, require_keys, run_block
from aejax.registry import Natural


class Tokens(struct.PyTreeNode):
    """Output of an encoder with `mask_ratio` above 0, which `MaskedBottleneck` reads.

    Attributes:
      tokens: tokens of the visible patches, [batch, visible, features].
      order: index of the token of each patch, row by row, int32 [batch, rows * columns]; patches with an index of
        `visible` or more are masked. None if no patch is masked.
      grid: numbers of rows and columns of patches.
    """

    tokens: Array
    order: Array | None
    grid: tuple[int, int] = struct.field(pytree_node=False)

    def _refuse(self) -> NoReturn:
        raise InputError("encoder.mask_ratio above 0 masks patches, which needs bottleneck.name='masked'")

    reshape = astype = ndim = property(_refuse)  # one of them is the first that other bottlenecks read


def patchify(x: Array, patch: int) -> Array:
    """Splits images [batch, h, w, c] into patches [batch, h/patch * w/patch, patch * patch * c], row by row."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c).swapaxes(2, 3)
    return x.reshape(b, -1, patch * patch * c)


def unpatchify(x: Array, patch: int, shape: Sequence[int]) -> Array:
    """Joins patches to images of `shape` (h, w, c); the inverse of `patchify`."""
    h, w, c = shape
    x = x.reshape(-1, h // patch, w // patch, patch, patch, c).swapaxes(2, 3)
    return x.reshape(-1, h, w, c)


def embed_positions(rows: int, columns: int, features: int) -> np.ndarray:
    """Returns sine-cosine embeddings of the positions in a grid, row by row: float32 [rows * columns, features].

    One half of the features are sines and cosines of the row, the other half of the column, at wavelengths from 2 pi
    up to 10000 * 2 pi (Vaswani et al. 2017, section 3.5; in two dimensions as in He et al. 2022).
    """
    if features % 4:
        raise InputError(f"a transformer's features must be a multiple of 4, for sines and cosines, got {features}")
    frequencies = 10000.0 ** -np.linspace(0, 1, features // 4, endpoint=False)
    y, x = (np.outer(coordinate.ravel(), frequencies) for coordinate in np.mgrid[:rows, :columns])
    return np.concatenate([np.sin(y), np.cos(y), np.sin(x), np.cos(x)], -1).astype(np.float32)


class Attention(nn.Module):
    """Multi-head self-attention on [batch, n, c], with softmax in float32 (Vaswani et al. 2017, section 3.2)."""

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
    """Pre-norm transformer blocks and a last normalization, on tokens [batch, n, c].

    Dosovitskiy et al. 2021, "An image is worth 16x16 words", section 3.1, without a class token.

    Attributes:
      layers: number of blocks, each of them attention and two dense layers of widths 4c and c.
    """

    layers: int
    heads: int
    activation: str = "gelu"
    normalisation: str = "layer"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        for i in range(self.layers):
            x = run_block(self, functools.partial(Transformer._block, i=i, train=train), x)
        return self._normalize("norm", x, train)

    def _block(self, x: Array, i: int, train: bool) -> Array:
        h = self._normalize(f"norm_{i}_0", x, train)
        x = x + Attention(self.heads, self.dtype, name=f"attention_{i}")(h)
        h = self._normalize(f"norm_{i}_1", x, train)
        h = activate(self.activation, Dense(4 * x.shape[-1], dtype=self.dtype, name=f"dense_{i}_0")(h))
        return x + Dense(x.shape[-1], dtype=self.dtype, name=f"dense_{i}_1")(h)

    def _normalize(self, name: str, x: Array, train: bool) -> Array:
        return Normalization(self.normalisation, self.dtype, self.axis_name, name=name)(x, train=train)


class ViTEncoder(nn.Module):
    """Vision transformer (Dosovitskiy et al. 2021): images [batch, h, w, c] to one token per patch.

    Returns tokens [batch, h/patch * w/patch, features], row by row, or `Tokens` if `mask_ratio` is above 0. In that
    case, given keys, it reads only the patches that each example's own key leaves visible (He et al. 2022, "Masked
    autoencoders are scalable vision learners", section 3). Without keys it reads all of them; in training it then
    raises InputError.

    Attributes:
      patch: side of a patch in pixels; must divide h and w.
      features: width of a token, a multiple of 4 and of `heads`.
      layers: number of transformer blocks.
      mask_ratio: fraction of the patches to mask, in [0, 1); round((1 - mask_ratio) * n) of n stay visible.
      queries: number of learned tokens that attend to the patches and are returned in their place,
        [batch, queries, features], a code without a grid (Yu et al. 2024, "An image is worth 32 tokens for
        reconstruction and generation", section 3.2); 0: the tokens of the patches are returned.
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
    remat: bool = False
    queries: Natural = 0

    @nn.compact
    def __call__(self, x: Array, *, keys: Array | None = None, train: bool = False) -> Array | Tokens:
        _, h, w, _ = require_images(x, "ViTEncoder")
        rows, columns = divide_sides(h, w, self.patch, "encoder.patch")
        visible = self._count_visible(rows * columns)
        x = patchify(x, self.patch)
        position = jnp.asarray(embed_positions(rows, columns, self.features), self.dtype)
        order = None
        if self.mask_ratio:
            require_keys(self, keys, train)
        if self.mask_ratio and keys is not None:
            order = jax.vmap(lambda key: jax.random.permutation(key, rows * columns))(keys)
            kept = jnp.argsort(order, 1)[:, :visible]
            x, position = jnp.take_along_axis(x, kept[:, :, None], 1), position[kept]
        x = Dense(self.features, dtype=self.dtype, name="embed")(x) + position
        if self.queries:
            if self.mask_ratio:
                raise InputError(f"encoder.queries return no patches to mask; set mask_ratio={self.mask_ratio} to 0")
            x = jnp.concatenate([x, _learn_tokens(self, "queries", self.queries, x)], 1)
        options = (self.layers, self.heads, self.activation, self.normalisation, self.dtype, self.axis_name, self.remat)
        x = Transformer(*options, name="transformer")(x, train=train)
        x = x[:, -self.queries :]  # all of them for 0
        return Tokens(x, order, (rows, columns)) if self.mask_ratio else x

    def _count_visible(self, patches: int) -> int:
        """Returns how many of the patches stay visible under `mask_ratio`."""
        if not isinstance(self.mask_ratio, int | float) or not 0 <= self.mask_ratio < 1:
            raise InputError(f"encoder.mask_ratio must be at least 0 and below 1, got {self.mask_ratio!r}")
        visible = round((1 - self.mask_ratio) * patches)
        if self.mask_ratio and visible in (0, patches):
            raise InputError(
                f"encoder.mask_ratio={self.mask_ratio} masks {'none' if visible else 'all'} of {patches} patches; "
                "change it or choose a smaller encoder.patch"
            )
        return visible


class ViTDecoder(nn.Module):
    """Vision transformer from tokens to images (He et al. 2022, section 3): [batch, n, c] to [batch, *shape].

    The code has one token per patch, row by row, or is a grid of them, [batch, rows, columns, c]; a flat code
    [batch, d] is projected to tokens by a dense layer. With `tokens`, the code has that many, [batch, tokens, c], each
    with a learned position, and a learned token stands at each patch (Yu et al. 2024, see `ViTEncoder`).

    Attributes:
      shape: shape of one output image, (height, width, channels).
      patch: side of a patch in pixels; must divide height and width.
      features: width of a token, a multiple of 4 and of `heads`.
      layers: number of transformer blocks.
      output: activation of the last dense layer, which makes the pixels; "linear" gives logits.
      tokens: number of tokens of the code, the encoder's `queries`; 0: one for each patch.
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
    remat: bool = False
    tokens: Natural = 0

    @nn.compact
    def __call__(self, z: Array, *, train: bool = False) -> Array:
        if len(self.shape) != 3:
            raise InputError(f"ViTDecoder makes images (height, width, channels), the input is {tuple(self.shape)}")
        h, w, c = self.shape
        rows, columns = divide_sides(h, w, self.patch, "decoder.patch")
        if self.tokens and z.shape[1:-1] != (self.tokens,):
            raise InputError(f"decoder.tokens={self.tokens} does not read a code of {z.shape[1:]}; set encoder.queries")
        if not self.tokens and z.ndim != 2 and z.shape[1:-1] not in ((rows * columns,), (rows, columns)):
            raise InputError(
                f"ViTDecoder makes {rows}x{columns} patches, so that a code of {z.shape[1:]} does not become an image "
                f"of {h}x{w}; give encoder.patch and decoder.patch the same value"
            )
        width = self.features * rows * columns if z.ndim == 2 else self.features
        x = Dense(width, dtype=self.dtype, name="embed")(z).reshape(-1, self.tokens or rows * columns, self.features)
        position = jnp.asarray(embed_positions(rows, columns, self.features), self.dtype)
        if self.tokens:
            x = x + _learn_tokens(self, "positions", self.tokens, x)
            x = jnp.concatenate([_learn_tokens(self, "mask", 1, x) + position, x], 1)
        else:
            x = x + position
        options = (self.layers, self.heads, self.activation, self.normalisation, self.dtype, self.axis_name, self.remat)
        x = Transformer(*options, name="transformer")(x, train=train)
        x = Dense(self.patch**2 * c, dtype=self.dtype, name="pixels")(x[:, : rows * columns])
        return activate(self.output, unpatchify(x, self.patch, self.shape))


def _learn_tokens(module: nn.Module, name: str, count: int, x: Array) -> Array:
    """Returns the learned tokens `name` of the module, [batch, count, features], for x [batch, n, features].

    Several begin as different as the sines and cosines of positions are: alike, they would learn the same for long.
    """
    scale = 0.02 if count == 1 else 0.5**0.5
    tokens = module.param(name, nn.initializers.normal(scale), (count, x.shape[-1]))
    # Cast last: the gradient is summed over the batch in float32.
    return jnp.broadcast_to(tokens, (x.shape[0], *tokens.shape)).astype(x.dtype)
