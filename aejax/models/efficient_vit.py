"""Blocks of EfficientViT: attention at a cost linear in the number of pixels, and depthwise convolutions.

Cai et al. 2023, "EfficientViT: multi-scale linear attention for high-resolution dense prediction".
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from aejax.distributed.processor import computes_bfloat16
from aejax.errors import one_of
from aejax.models.conv import Conv
from aejax.models.layers import Dense, activate, get_axis, must_update, widen

NORMALIZATIONS = ("rms", "batch")


class PixelNorm(nn.Module):
    """Normalization at the end of a block, computed in float32; the shape [b, h, w, c] stays.

    Attributes:
      kind: "rms" divides each pixel by the root mean square of its channels (Zhang and Sennrich 2019), and has a bias;
        "batch" is batch normalization (see `Normalization`), which counts its updates (`steps`), as PyTorch's does.
    """

    kind: str = "rms"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        if self.kind == "batch":
            steps = self.variable("batch_stats", "steps", lambda: jnp.zeros((), jnp.int32))
            if must_update(self, "batch_stats", train):
                steps.value += 1
            return nn.BatchNorm(not train, momentum=0.9, dtype=self.dtype, axis_name=get_axis(self), name="batch")(x)
        if self.kind != "rms":
            raise one_of("normalisation", self.kind, NORMALIZATIONS)
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        x = x.astype("float32")
        y = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5)
        return (y * scale + bias).astype(self.dtype)


class DepthwiseConv(nn.Module):
    """A convolution of each channel with a kernel of its own; the shape [b, h, w, c] stays.

    Equal to `nn.Conv(c, (window, window), feature_group_count=c)`, with the same parameters. The sum of shifted images
    takes a tenth of the time of XLA's convolution on CPU, and its gradient less.
    """

    window: int
    use_bias: bool = True
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        (_, h, w, c), k = x.shape, self.window
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (k, k, 1, c)).astype(self.dtype)
        padded = jnp.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0))).astype("float32")
        y = sum(padded[:, i : i + h, j : j + w] * kernel[i, j, 0] for i in range(k) for j in range(k))
        y = y + self.param("bias", nn.initializers.zeros, (c,)) if self.use_bias else y
        return jnp.asarray(y, self.dtype)


class GroupedDense(nn.Module):
    """A dense layer without bias for each group of neighboring channels; the shape [b, h, w, c] stays.

    Equal to `nn.Conv(c, (1, 1), feature_group_count=groups, use_bias=False)`, with the same parameters, as one product:
    XLA's convolution takes 200 times as long for its gradient on CPU.
    """

    groups: int
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        *pixels, c = x.shape
        width = c // self.groups
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (1, 1, width, c))
        y, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if not computes_bfloat16():
            y, kernel = widen(y, kernel)
        y = jnp.einsum("...gd,dge->...ge", y.reshape(*pixels, self.groups, width), kernel.reshape(width, -1, width))
        return y.reshape(x.shape).astype(self.dtype)


class LinearAttention(nn.Module):
    """Multi-scale linear attention among all pixels, added to x: the shape [b, h, w, c] stays.

    Queries, keys and values are also averaged over windows of learned weights, and each size of a window has its own
    heads. The weight of a value is the product of relu(query) and relu(key), so that the cost is linear in the number
    of pixels (section 3.1).

    Attributes:
      head_features: width of a head, of which there are c // head_features for each size.
      windows: sides of the windows, odd numbers.
    """

    head_features: int = 32
    windows: Sequence[int] = ()
    normalisation: str = "rms"
    dtype: DTypeLike = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        b, h, w, c = x.shape
        d = self.head_features
        layers = [Dense(c // d * d, use_bias=False, dtype=self.dtype, name=name) for name in ("query", "key", "value")]
        joined = jnp.concatenate([layer(x) for layer in layers], -1)
        scales = [joined]
        for i, window in enumerate(self.windows):
            y = DepthwiseConv(window, use_bias=False, dtype=self.dtype, name=f"depthwise_{i}")(joined)
            scales.append(GroupedDense(joined.shape[-1] // d, dtype=self.dtype, name=f"grouped_{i}")(y))
        # The channels of a head are not those of its own query, key and value, but any three neighbors of d channels.
        heads = jnp.concatenate(scales, -1).reshape(b, h * w, -1, 3, d).astype("float32")
        q, k, v = nn.relu(heads[..., 0, :]), nn.relu(heads[..., 1, :]), heads[..., 2, :]
        v = jnp.pad(v, ((0, 0), (0, 0), (0, 0), (0, 1)), constant_values=1)  # the last sum is that of the weights
        sums = jnp.einsum("bpnd,bnde->bpne", q, jnp.einsum("bpnd,bpne->bnde", k, v))
        y = (sums[..., :-1] / (sums[..., -1:] + 1e-15)).reshape(b, h, w, -1).astype(self.dtype)
        y = Dense(c, use_bias=False, dtype=self.dtype, name="out")(y)
        return x + PixelNorm(self.normalisation, self.dtype, self.axis_name, name="norm")(y, train=train)


class GatedConv(nn.Module):
    """A depthwise convolution between 1x1 convolutions, gated and added to x: the shape [b, h, w, c] stays.

    Xie et al. 2024, "Sana", section 2.2 (Mix-FFN), after Cai et al. 2023.
    """

    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c = x.shape[-1]
        h = activate("silu", Conv(8 * c, (1, 1), dtype=self.dtype, name="expand")(x))
        h, gate = jnp.split(DepthwiseConv(3, dtype=self.dtype, name="depthwise")(h), 2, -1)
        h = Conv(c, (1, 1), use_bias=False, dtype=self.dtype, name="reduce")(h * activate("silu", gate))
        return x + PixelNorm(dtype=self.dtype, name="norm")(h)
