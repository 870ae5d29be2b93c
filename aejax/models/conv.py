"""`nn.Conv`, with the same parameters, computed in the form that is fastest on the backend.

On CPU and GPU, where `nn.Conv` is slower, this module computes:

- a convolution of images with one channel as a matrix product of their patches;
- a convolution after `Upsample` as one of the small image, at the corners where four of its pixels meet. The four
  large pixels around a corner read the same small pixels: with a 3x3 kernel those are four, so that four products take
  the place of nine. With one feature it is a matrix product whose results are summed.

On CPU it computes sequences and volumes likewise, and other convolutions of them with stride 1 as ones of images: in
the plain form those of volumes take up to ten times as long, except where oneDNN computes them. It also computes the
gradients of other convolutions of images with stride 1 in forms of its own, see `stride_one`. With few channels or
features the kernel's gradient would be 0.5 to 1.1 times as fast and need several times the memory, so those
convolutions keep the plain form. On TPU, where no form was measured, all do.
"""

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from aejax.distributed.processor import computes_bfloat16
from aejax.models.layers import promote_all_but_bias, split_windows, widen, window_axes
from aejax.models.stride_one import convolve_stride_one

Form = Callable[[Array, Array], Array]
_IMAGES, _SERIES = ("NHWC", "HWIO", "NHWC"), ("NWC", "WIO", "NWC")


class Conv(nn.Conv):
    """`nn.Conv` that adds its bias in float32; `enlarged` promises that `Upsample()` made the input."""

    enlarged: bool = False
    promote_dtype: Callable[..., Any] = promote_all_but_bias

    def __post_init__(self):
        self.conv_general_dilated = functools.partial(convolve, enlarged=self.enlarged)
        super().__post_init__()

    def __call__(self, x: Array) -> Array:
        y = super().__call__(x)
        return y if self.dtype is None else y.astype(self.dtype)


def convolve(
    x: Array, kernel: Array, strides: Sequence[int], padding: Any, *, enlarged: bool = False, **options: Any
) -> Array:
    """Returns `lax.conv_general_dilated(x, kernel, ...)` for x [b, h, w, c], kernel [rows, columns, c, features].

    `enlarged` promises that x repeats each pixel four times, as `Upsample()` does. Where the backend convolves bfloat16
    no faster than float32, the result of bfloat16 arrays is float32.
    """
    backend, axes = jax.default_backend(), x.ndim - 2
    dense = set(strides) == {1} and _is_dense(**options)
    corners = enlarged and dense and padding == "SAME" and all(size % 2 for size in kernel.shape[:axes])
    if axes == 1 and backend == "cpu" and not corners:  # as an image of one row, for which the forms below are
        return _convolve_series(x, kernel, strides, padding, **options)
    plain: Form = functools.partial(lax.conv_general_dilated, window_strides=strides, padding=padding, **options)
    if not computes_bfloat16():
        x, kernel = widen(x, kernel)
    measured = axes <= 3 if backend == "cpu" else axes == 2 and backend == "gpu"
    if not dense or not measured:
        return plain(x, kernel)
    if corners:
        return _convolve_corners(x, kernel)
    if axes == 3:
        return _convolve_volumes(x, kernel, padding)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    if x.shape[-1] == 1:
        patches = functools.partial(_convolve_patches, padding)
        return _combine_forms(patches, plain, x, kernel)
    if backend == "gpu" or kernel.shape[2] < 8 or kernel.shape[3] <= 8:
        return plain(x, kernel)
    return convolve_stride_one(x, kernel, padding)


def _convolve_series(
    x: Array, kernel: Array, strides: Sequence[int], padding: Any, *, dimension_numbers: Any = None, **options: Any
) -> Array:
    """Convolves x [b, time, c] by kernel [steps, c, features] as `convolve` does images."""
    lifted = {key: (1, *value) for key, value in options.items() if key.endswith("dilation") and value is not None}
    padding = padding if isinstance(padding, str) else ((0, 0), *padding)
    options = {**options, **lifted, "dimension_numbers": _IMAGES}
    return convolve(x[:, None], kernel[None], (1, *strides), padding, **options)[:, 0]


def _convolve_volumes(x: Array, kernel: Array, padding: Any) -> Array:
    """Convolves x [b, d, h, w, c] by kernel [planes, rows, columns, c, features] with stride 1.

    With one feature it sums what each voxel adds to those around it. Otherwise the planes that a plane of the result
    reads are side by side in the channels of an image.
    """
    *window, c, features = kernel.shape
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:4], window, (1, 1, 1), padding)
    if features == 1:
        return _convolve_pixels(jnp.pad(x, ((0, 0), *padding, (0, 0))), kernel)
    x = jnp.pad(x, ((0, 0), padding[0], *[(0, 0)] * 3))
    b, depth, h, w, _ = x.shape
    planes, depth = window[0], depth - window[0] + 1
    beside = jnp.concatenate([x[:, i : i + depth] for i in range(planes)], -1).reshape(-1, h, w, planes * c)
    flat = kernel.transpose(1, 2, 0, 3, 4).reshape(*window[1:], planes * c, features)
    y = convolve(beside, flat, (1, 1), tuple(padding[1:]), dimension_numbers=_IMAGES)
    return y.reshape(b, depth, *y.shape[1:])


def _is_dense(lhs_dilation: Any = None, rhs_dilation: Any = None, feature_group_count: int = 1, **_: Any) -> bool:
    """Returns whether a convolution has neither dilation nor groups."""
    return feature_group_count == 1 and all(set(d or (1,)) == {1} for d in (lhs_dilation, rhs_dilation))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _combine_forms(form: Form, x_form: Form, x: Array, kernel: Array) -> Array:
    """Returns `form(x, kernel)`, with the gradient of x from `x_form`."""
    return form(x, kernel)


@functools.partial(_combine_forms.defjvp, symbolic_zeros=True)
def _combine_forms_jvp(
    form: Form, x_form: Form, primals: tuple[Array, Array], tangents: tuple[Any, Any]
) -> tuple[Array, Any]:
    (x, kernel), (dx, dkernel) = primals, tangents
    # Each term is linear in its tangent, so the backward pass runs the transpose of the form that is used here.
    terms = [] if isinstance(dx, SymbolicZero) else [x_form(dx, kernel)]
    terms += [] if isinstance(dkernel, SymbolicZero) else [form(x, dkernel)]
    return _combine_forms(form, x_form, x, kernel), sum(terms[1:], terms[0])


def _convolve_patches(pads: Any, x: Array, kernel: Array) -> Array:
    """Convolves with stride 1 as a product of each pixel's patch and the kernel."""
    rows, columns, _, features = kernel.shape
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    h, w = x.shape[1] - rows + 1, x.shape[2] - columns + 1
    patches = [x[:, i : i + h, j : j + w] for i in range(rows) for j in range(columns)]
    return _multiply(jnp.concatenate(patches, -1), kernel.reshape(-1, features))


def _convolve_pixels(x: Array, kernel: Array) -> Array:
    """Convolves with stride 1 and without padding by summing what each pixel adds to the outputs around it.

    What all pixels add in one place of the window lies together: with one feature or few, whose rows would be short,
    that takes a fraction of the time, in the gradient above all.
    """
    *window, c, features = kernel.shape
    sizes = [n - k + 1 for n, k in zip(x.shape[1:-1], window, strict=True)]
    added = jnp.moveaxis(kernel, -2, -1).reshape(-1, c) @ x.reshape(-1, c).T
    added = added.reshape(-1, features, *x.shape[:-1])
    places = itertools.product(*map(range, window))
    cut = lambda at: tuple(slice(i, i + n) for i, n in zip(at, sizes, strict=True))  # noqa: E731
    parts = [part[(slice(None), slice(None), *cut(at))] for part, at in zip(added, places, strict=True)]
    return jnp.moveaxis(functools.reduce(operator.add, parts), 0, -1)


def _multiply(x: Array, matrix: Array) -> Array:
    """Returns x @ matrix, computed in two axes: with more, XLA:CPU transposes x in memory for the matrix's gradient."""
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], matrix.shape[-1])


def _convolve_corners(x: Array, kernel: Array) -> Array:
    """Convolves an enlarged array by an odd kernel, with stride 1 and padding "SAME", in terms of the small one.

    Pixel [i, j] of the small image fills x[2i:2i+2, 2j:2j+2]. Corner r = 0 ... h of the small image lies between the
    pixels 2r - 1 and 2r of x, whose outputs read the same small pixels. Sequences and volumes are computed likewise.
    """
    small, axes, features = _shrink(x), x.ndim - 2, kernel.shape[-1]
    (b, *sizes, c), sides = small.shape, (2,) * axes
    maps, beyond = zip(*map(_map_taps, kernel.shape[:axes]), strict=True)
    small = jnp.pad(small, ((0, 0), *((n, n) for n in beyond), (0, 0)))
    taps = kernel
    for taken in maps:  # an axis of the window makes way for two at the end: sides of the corner, and small pixels
        taps = jnp.tensordot(taps, taken, ((0,), (2,)))
    taps = taps.transpose(*range(3, 3 + 2 * axes, 2), 0, *range(2, 2 + 2 * axes, 2), 1).astype(kernel.dtype)
    taps = taps.reshape(*taps.shape[:axes], c, -1)
    if features == 1:
        corners = _convolve_pixels(small, taps)
    elif axes == 3:
        corners = _convolve_volumes(small, taps, "VALID")
    else:
        corners = convolve(small, taps, (1,) * axes, "VALID", dimension_numbers=_IMAGES if axes == 2 else _SERIES)
    corners = corners.reshape(b, *(n + 1 for n in sizes), *sides, features)
    apart = itertools.chain(*((1 + axis, 1 + axes + axis) for axis in range(axes)))
    pixels = corners.transpose(0, *apart, 1 + 2 * axes).reshape(b, *(2 * n + 2 for n in sizes), features)
    return pixels[(slice(None), *[slice(1, -1)] * axes)]


@jax.custom_jvp
def _shrink(x: Array) -> Array:
    """Returns the small array [b, *(sizes / 2), c] that `Upsample()` made x of."""
    return split_windows(2, x)[(slice(None), *(slice(None), 0) * (x.ndim - 2))]


@_shrink.defjvp
def _shrink_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """Takes the mean of the tangent's pixels, which are equal, too: the gradient is then the same for each pixel, which
    XLA does not write out and sum again in `Upsample`, as it does a gradient of the first pixel among zeros.
    """
    (x,), (dx,) = primals, tangents
    return _shrink(x), split_windows(2, dx).mean(window_axes(dx))


def _map_taps(size: int) -> tuple[np.ndarray, int]:
    """Returns which small pixel each tap of an odd kernel reads, for the two large pixels beside a corner.

    The first result is an array of 0 and 1, [2, small pixels, size]; the second is how many of the small pixels lie
    beyond the edge of the image at its first corner.
    """
    offset = np.arange(size) - size // 2
    source = (np.arange(-1, 1)[:, None] + offset) // 2  # relative to the corner
    small = np.arange(source.min(), source.max() + 1)
    return (source[:, None] == small[:, None]).astype(np.float32), -int(source.min())
