"""Vision transformer encoder, which can mask patches, and decoder."""

import functools
import math
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
from aejax.models.layers import (
    Dense,
    Normalization,
    activate,
    crop,
    divide_up,
    pad_to_multiple,
    require_grid,
    require_grid_shape,
    require_keys,
    run_block,
    write_sizes,
)
from aejax.registry import Natural


class Tokens(struct.PyTreeNode):
    """Output of an encoder with `mask_ratio` above 0, which `MaskedBottleneck` reads.

    Attributes:
      tokens: tokens of the visible patches, [batch, visible, features].
      order: index of the token of each patch, row by row, int32 [batch, patches]; patches with an index of `visible`
        or more are masked. None if no patch is masked.
      grid: number of patches along each axis, e.g. rows and columns.
    """

    tokens: Array
    order: Array | None
    grid: tuple[int, ...] = struct.field(pytree_node=False)

    def _refuse(self) -> NoReturn:
        raise InputError("encoder.mask_ratio above 0 masks patches, which needs bottleneck.name='masked'")

    reshape = astype = ndim = property(_refuse)  # one of them is the first that other bottlenecks read


def patchify(x: Array, patch: int) -> Array:
    """Splits images [batch, h, w, c] into patches [batch, h/patch * w/patch, patch * patch * c], row by row.

    Sequences and volumes are split likewise, over one or three axes.
    """
    b, *sizes, c = x.shape
    n = len(sizes)
    x = x.reshape(b, *(part for size in sizes for part in (size // patch, patch)), c)
    x = x.transpose(0, *range(1, 2 * n, 2), *range(2, 2 * n + 1, 2), 2 * n + 1)
    return x.reshape(b, -1, patch**n * c)


def unpatchify(x: Array, patch: int, shape: Sequence[int]) -> Array:
    """Joins patches to images of `shape` (h, w, c), or sequences or volumes; the inverse of `patchify`."""
    *sizes, c = shape
    n = len(sizes)
    x = x.reshape(-1, *(size // patch for size in sizes), *[patch] * n, c)
    x = x.transpose(0, *(axis for i in range(n) for axis in (1 + i, 1 + n + i)), 1 + 2 * n)
    return x.reshape(-1, *sizes, c)


def embed_positions(grid: Sequence[int], features: int) -> np.ndarray:
    """Returns sine-cosine embeddings of the positions in a grid, row by row: float32 [positions, features].

    An equal part of the features are sines and cosines of the place along each axis, e.g. the row and the column, at
    wavelengths from 2 pi up to 10000 * 2 pi (Vaswani et al. 2017, section 3.5; in two dimensions as in He et al. 2022).
    """
    parts = 2 * len(grid)
    if features % parts:
        raise InputError(
            f"a transformer's features must be a multiple of {parts}, for sines and cosines, got {features}"
        )
    frequencies = 10000.0 ** -np.linspace(0, 1, features // parts, endpoint=False)
    places = (np.outer(place.ravel(), frequencies) for place in np.indices(tuple(grid)))
    return np.concatenate([wave(place) for place in places for wave in (np.sin, np.cos)], -1).astype(np.float32)


class Attention(nn.Module):
    """Multi-head self-attention on [batch, n, c], with softmax in float32 (Vaswani et al. 2017, section 3.2).

    Given `lengths` [batch], tokens attend to none beyond; with `causal`, to themselves and to earlier ones.
    """

    heads: int
    dtype: DTypeLike = "float32"
    causal: bool = False

    @nn.compact
    def __call__(self, x: Array, lengths: Array | None = None) -> Array:
        b, n, c = x.shape
        if c % self.heads:
            raise InputError(f"{self.heads} heads cannot share {c} features; choose heads that divide features")
        qkv = Dense(3 * c, dtype=self.dtype, name="qkv")(x).reshape(b, n, 3, self.heads, c // self.heads)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        x = jax.nn.dot_product_attention(q, k, v, is_causal=self.causal, key_value_seq_lengths=lengths)
        return Dense(c, dtype=self.dtype, name="out")(x.reshape(b, n, c))


class Transformer(nn.Module):
    """Pre-norm transformer blocks and a last normalization, on tokens [batch, n, c].

    Dosovitskiy et al. 2021, "An image is worth 16x16 words", section 3.1, without a class token.

    Attributes:
      layers: number of blocks, each of them attention and two dense layers of widths 4c and c.
      causal: whether tokens attend to none that are later, see `Attention`.
    """

    layers: int
    heads: int
    activation: str = "gelu"
    normalisation: str = "layer"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None
    remat: bool = False
    causal: bool = False

    @nn.compact
    def __call__(self, x: Array, lengths: Array | None = None, *, train: bool = False) -> Array:
        for i in range(self.layers):
            x = run_block(self, functools.partial(Transformer._block, i=i, train=train, lengths=lengths), x)
        return self._normalize("norm", x, train)

    def _block(self, x: Array, i: int, train: bool, lengths: Array | None) -> Array:
        h = self._normalize(f"norm_{i}_0", x, train)
        x = x + Attention(self.heads, self.dtype, self.causal, name=f"attention_{i}")(h, lengths)
        h = self._normalize(f"norm_{i}_1", x, train)
        h = activate(self.activation, Dense(4 * x.shape[-1], dtype=self.dtype, name=f"dense_{i}_0")(h))
        return x + Dense(x.shape[-1], dtype=self.dtype, name=f"dense_{i}_1")(h)

    def _normalize(self, name: str, x: Array, train: bool) -> Array:
        return Normalization(self.normalisation, self.dtype, self.axis_name, name=name)(x, train=train)


class ViTEncoder(nn.Module):
    """Vision transformer (Dosovitskiy et al. 2021): images [batch, h, w, c] to one token per patch.

    The same holds for sequences [batch, time, c] and volumes [batch, depth, h, w, c]. Sizes are rounded up: zeros are
    added at the end of an axis until `patch` divides it, and `ViTDecoder` crops them.

    Returns tokens [batch, h/patch * w/patch, features], row by row, or `Tokens` if `mask_ratio` is above 0. In that
    case, given keys, it reads only the patches that each example's own key leaves visible (He et al. 2022, "Masked
    autoencoders are scalable vision learners", section 3). Without keys it reads all of them; in training it then
    raises InputError.

    Attributes:
      patch: side of a patch in pixels, or its number of time steps.
      features: width of a token, a multiple of `heads` and of 4 (2 for sequences, 6 for volumes).
      layers: number of transformer blocks.
      mask_ratio: fraction of the patches to mask, in [0, 1); round((1 - mask_ratio) * n) of n stay visible. Above 0,
        `patch` must divide the sizes.
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
        sizes = require_grid(x, "ViTEncoder")
        grid = divide_up(sizes, self.patch)
        patches = math.prod(grid)
        visible = self._count_visible(patches)
        if self.mask_ratio and any(size % self.patch for size in sizes):
            raise InputError(
                f"{write_sizes(sizes)} is not divisible by {self.patch}, and encoder.mask_ratio masks whole patches; "
                "change encoder.patch or the data's size"
            )
        x = patchify(pad_to_multiple(x, self.patch), self.patch)
        position = jnp.asarray(embed_positions(grid, self.features), self.dtype)
        order = None
        if self.mask_ratio:
            require_keys(self, keys, train)
        if self.mask_ratio and keys is not None:
            order = jax.vmap(lambda key: jax.random.permutation(key, patches))(keys)
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
        return Tokens(x, order, grid) if self.mask_ratio else x

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

    The code has one token per patch, row by row, or is a grid of them, e.g. [batch, rows, columns, c]; a flat code
    [batch, d] is projected to tokens by a dense layer. With `tokens`, the code has that many, [batch, tokens, c], each
    with a learned position, and a learned token stands at each patch (Yu et al. 2024, see `ViTEncoder`).

    Attributes:
      shape: shape of one output, (height, width, channels), (time, channels) or (depth, height, width, channels).
      patch: side of a patch in pixels, or its number of time steps; patches that reach beyond `shape` are cropped.
      features: width of a token, a multiple of `heads` and of 4 (2 for sequences, 6 for volumes).
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
        sizes, c = require_grid_shape(self.shape, "ViTDecoder")
        grid = divide_up(sizes, self.patch)
        patches = math.prod(grid)
        if self.tokens and z.shape[1:-1] != (self.tokens,):
            raise InputError(f"decoder.tokens={self.tokens} does not read a code of {z.shape[1:]}; set encoder.queries")
        if not self.tokens and z.ndim != 2 and z.shape[1:-1] not in ((patches,), grid):
            raise InputError(
                f"ViTDecoder makes {write_sizes(grid)} patches, so that a code of {z.shape[1:]} does not become an "
                f"output of {write_sizes(sizes)}; give encoder.patch and decoder.patch the same value"
            )
        width = self.features * patches if z.ndim == 2 else self.features
        x = Dense(width, dtype=self.dtype, name="embed")(z).reshape(-1, self.tokens or patches, self.features)
        position = jnp.asarray(embed_positions(grid, self.features), self.dtype)
        if self.tokens:
            x = x + _learn_tokens(self, "positions", self.tokens, x)
            x = jnp.concatenate([_learn_tokens(self, "mask", 1, x) + position, x], 1)
        else:
            x = x + position
        options = (self.layers, self.heads, self.activation, self.normalisation, self.dtype, self.axis_name, self.remat)
        x = Transformer(*options, name="transformer")(x, train=train)
        x = Dense(self.patch ** len(sizes) * c, dtype=self.dtype, name="pixels")(x[:, :patches])
        padded = (*(size * self.patch for size in grid), c)
        return activate(self.output, crop(unpatchify(x, self.patch, padded), sizes))


def _learn_tokens(module: nn.Module, name: str, count: int, x: Array) -> Array:
    """Returns the learned tokens `name` of the module, [batch, count, features], for x [batch, n, features].

    Several begin as different as the sines and cosines of positions are: alike, they would learn the same for long.
    """
    scale = 0.02 if count == 1 else 0.5**0.5
    tokens = module.param(name, nn.initializers.normal(scale), (count, x.shape[-1]))
    # Cast last: the gradient is summed over the batch in float32.
    return jnp.broadcast_to(tokens, (x.shape[0], *tokens.shape)).astype(x.dtype)
