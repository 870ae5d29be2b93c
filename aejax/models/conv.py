"""`nn.Conv`, same parameters, in the form that is fastest where it runs.

Other forms of the same sums are up to three times as fast (`python -m experiments.benchmark --work=forms`). On CPU and
GPU:

- an image of one channel as a matrix product of its patches;
- after `Upsample`, one convolution of the small image that makes the four pixels around each corner: the nine products
  of a pixel, with only four different values, become four; to one feature, as a matrix product that is then added up.

On CPU also the gradient of the kernel, with stride 1, as one matrix product: the plain one leaves the caches. Not of
few channels or features: they gain nothing by it, 0.5 to 1.1 times as fast, and hold several times the memory. On a
TPU, where none was measured, nothing is changed.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from aejax.models.layers import keep_bias

Form = Callable[[Array, Array], Array]


def Conv(features: int, kernel_size: Sequence[int], *args: Any, enlarged: bool = False, **options: Any) -> nn.Conv:
    """`nn.Conv(features, kernel_size, ...)` of images; `enlarged` promises that they come from `Upsample()`."""
    options["conv_general_dilated"] = functools.partial(convolve, enlarged=enlarged)
    return _Conv(features, kernel_size, *args, **options)


class _Conv(nn.Conv):
    """`nn.Conv` whose bias is added in float32, as that of `layers.Dense`."""

    promote_dtype: Callable[..., Any] = keep_bias

    def __call__(self, x: Array) -> Array:
        y = super().__call__(x)
        return y if self.dtype is None else y.astype(self.dtype)


def convolve(
    x: Array, kernel: Array, strides: Sequence[int], padding: Any, *, enlarged: bool = False, **options: Any
) -> Array:
    """`lax.conv_general_dilated(x, kernel, ...)` of x [b, h, w, c] and a kernel [rows, columns, c, features].

    `enlarged` promises that each pixel stands in x four times, as `Upsample()` makes it.
    """
    plain: Form = functools.partial(lax.conv_general_dilated, window_strides=strides, padding=padding, **options)
    backend = jax.default_backend()
    if backend not in ("cpu", "gpu") or x.ndim != 4 or tuple(strides) != (1, 1) or not _ordinary(**options):
        return plain(x, kernel)
    if enlarged and padding == "SAME" and all(size % 2 for size in kernel.shape[:2]):
        return _at_corners(x, kernel)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    if x.shape[-1] == 1:
        of_patches = functools.partial(_of_patches, padding)
        return _forms(of_patches, plain, of_patches, x, kernel)
    if backend == "gpu" or kernel.shape[2] < 8 or kernel.shape[3] <= 8:
        return plain(x, kernel)
    return _forms(plain, plain, functools.partial(_of_columns, padding), x, kernel)


def _ordinary(lhs_dilation: Any = None, rhs_dilation: Any = None, feature_group_count: int = 1, **_: Any) -> bool:
    return feature_group_count == 1 and all(set(d or (1,)) == {1} for d in (lhs_dilation, rhs_dilation))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _forms(value: Form, of_x: Form, of_kernel: Form, x: Array, kernel: Array) -> Array:
    """`value(x, kernel)`, with the gradient of x as of `of_x` and that of the kernel as of `of_kernel`."""
    return value(x, kernel)


@functools.partial(_forms.defjvp, symbolic_zeros=True)
def _jvp(
    value: Form, of_x: Form, of_kernel: Form, primals: tuple[Array, Array], tangents: tuple[Any, Any]
) -> tuple[Array, Any]:
    (x, kernel), (dx, dkernel) = primals, tangents
    # Linear in each tangent: backwards runs the transpose of the form that stands here.
    terms = [] if isinstance(dx, SymbolicZero) else [of_x(dx, kernel)]
    terms += [] if isinstance(dkernel, SymbolicZero) else [of_kernel(x, dkernel)]
    return _forms(value, of_x, of_kernel, x, kernel), sum(terms[1:], terms[0])


def _of_columns(pads: Any, x: Array, kernel: Array) -> Array:
    """With stride 1: what each pixel and those beside it add to the lines around them, then the sum of that.

    The gradient of the kernel is so one product, of x once for each column and the output's once for each line.
    """
    (_, h, w, _), (rows, columns, c, features) = x.shape, kernel.shape
    (top, bottom), (left, right) = pads
    x = lax.optimization_barrier(x)  # else XLA computes what leads to x once for each column
    height, width = h + top + bottom - rows + 1, w + left + right - columns + 1
    move = lambda x, *edges: lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*edge, 0) for edge in edges)])  # noqa: E731
    beside = [move(x, (0, 0), (left - j, width - w - left + j), (j * c, (columns - 1 - j) * c)) for j in range(columns)]
    matrix = kernel.transpose(1, 2, 0, 3).reshape(columns * c, rows * features)
    sums = _product(functools.reduce(operator.add, beside), matrix)
    lines = [
        move(sums, (top - i, height - h - top + i), (0, 0), (-i * features, (i + 1 - rows) * features))
        for i in range(rows)
    ]
    return functools.reduce(operator.add, lines)


def _of_patches(pads: Any, x: Array, kernel: Array) -> Array:
    """With stride 1: each pixel's patch times the kernel."""
    rows, columns, _, features = kernel.shape
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    h, w = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    patches = [x[:, i : i + h, j : j + w] for i in range(rows) for j in range(columns)]
    return _product(jnp.concatenate(patches, -1), kernel.reshape(-1, features))


def _of_pixels(x: Array, kernel: Array) -> Array:
    """With stride 1 and no padding: what each pixel adds to those around it, then the sum of that."""
    rows, columns, c, features = kernel.shape
    h, w = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    sums = _product(x, kernel.transpose(2, 0, 1, 3).reshape(c, -1)).reshape(*x.shape[:3], rows, columns, features)
    return functools.reduce(
        operator.add, (sums[:, i : i + h, j : j + w, i, j] for i in range(rows) for j in range(columns))
    )


def _product(x: Array, matrix: Array) -> Array:
    """x @ matrix in two dimensions: with more, XLA:CPU transposes x in memory for the gradient of the matrix."""
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], matrix.shape[-1])


def _at_corners(x: Array, kernel: Array) -> Array:
    """With stride 1, the same size and an odd kernel, of x with pixel [i, j] of a small image at [2i:2i+2, 2j:2j+2].

    Corner r = 0 ... h of the small image lies between the pixels 2r - 1 and 2r of x, which read the same small pixels.
    """
    b, h, w, c = x.shape
    small = x.reshape(b, h // 2, 2, w // 2, 2, c)[:, :, 0, :, 0]
    (rows, top), (columns, left) = (_taps(size) for size in kernel.shape[:2])
    small = jnp.pad(small, ((0, 0), (top, top), (left, left), (0, 0)))
    taps = jnp.einsum("sak,tbl,klcf->abcstf", rows, columns, kernel).astype(kernel.dtype)
    size, features = taps.shape[:2], kernel.shape[-1]
    taps = taps.reshape(*size, c, 4 * features)
    if features == 1:
        corners = _of_pixels(small, taps)
    else:
        corners = convolve(small, taps, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    pixels = corners.reshape(b, h // 2 + 1, w // 2 + 1, 2, 2, features).swapaxes(2, 3)
    return pixels.reshape(b, h + 2, w + 2, features)[:, 1:-1, 1:-1]


def _taps(size: int) -> tuple[np.ndarray, int]:
    """Which small pixel each of an odd kernel's taps reads, for the pixels on both sides of a corner.

    Returns an array of 0 and 1, [2, small pixels, size], and how far the small pixels reach over the edge.
    """
    offset = np.arange(size) - size // 2
    source = (np.arange(-1, 1)[:, None] + offset) // 2  # relative to the corner
    small = np.arange(source.min(), source.max() + 1)
    return (source[:, None] == small[:, None]).astype(np.float32), -int(source.min())
