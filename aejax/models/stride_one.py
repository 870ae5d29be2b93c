"""Convolution of images with stride 1 whose gradients have the forms that are fastest on CPU.

- The gradient of the input is a plain convolution by the reversed kernel. JAX's own gradient reverses the kernel within
  the convolution: XLA:CPU computes that in float32, at half the speed, where oneDNN computes a plain convolution in
  bfloat16.
- The gradient of the kernel is one matrix product of the input, repeated once per column, and of the output's
  gradient, repeated once per row, because the plain form does not fit in the caches.

It is a primitive because `jax.custom_vjp` has no forward mode, and `jax.custom_jvp` takes no transpose.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Pads = tuple[tuple[int, int], tuple[int, int]]


def convolve_stride_one(x: Array, kernel: Array, pads: Sequence[Sequence[int]]) -> Array:
    """Convolves x [b, h, w, c] by kernel [rows, columns, c, features] to [b, height, width, features].

    `pads` are the numbers of rows and of columns of zeros before and after the image; numbers below 0 crop it.
    """
    (top, bottom), (left, right) = pads
    result: Array = _convolve.bind(x, kernel, pads=((top, bottom), (left, right)))
    return result


def _plain(x: Array, kernel: Array, pads: Pads) -> Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _transpose_input(dy: Array, x: Any, kernel: Array, *, pads: Pads) -> Array:
    """Returns the gradient of x, given that of the result."""
    # Without the barrier XLA makes the reversal a part of the convolution again.
    reversed_kernel = lax.optimization_barrier(lax.rev(kernel, (0, 1)).swapaxes(2, 3))
    back = [(size - 1 - before, size - 1 - after) for size, (before, after) in zip(kernel.shape, pads, strict=False)]
    return convolve_stride_one(dy, reversed_kernel, back)


def _transpose_kernel(dy: Array, x: Array, kernel: Any, *, pads: Pads) -> Array:
    """Returns the gradient of the kernel, given that of the result."""
    rows, columns, c, features = kernel.aval.shape
    (top, _), (left, _) = pads
    x, dy = lax.optimization_barrier((x, dy))  # otherwise XLA computes them again for each row and column
    h, width = x.shape[1], dy.shape[2]
    inputs = _place_windows(x, 2, [j - left for j in range(columns)], width)
    gradients = _place_windows(dy, 1, [top - i for i in range(rows)], h)
    return (inputs.T @ gradients).reshape(columns, c, rows, features).transpose(2, 0, 1, 3)


def _place_windows(x: Array, axis: int, begins: Sequence[int], size: int) -> Array:
    """Places windows of x side by side in the channels: [pixels, len(begins) * channels].

    The windows begin at `begins` along the axis and are `size` long, with zeros outside x.
    """
    n, c = len(begins), x.shape[-1]
    fuses = x.dtype != jnp.bfloat16  # a sum, which XLA fuses; it would widen bfloat16
    windows = []
    for i, begin in enumerate(begins):
        edges = [(0, 0, 0)] * x.ndim
        edges[axis] = (-begin, begin + size - x.shape[axis], 0)
        edges[-1] = (i * c, (n - 1 - i) * c, 0) if fuses else (0, 0, 0)
        windows.append(lax.pad(x, jnp.zeros((), x.dtype), edges))
    placed = functools.reduce(operator.add, windows) if fuses else jnp.concatenate(windows, -1)
    return placed.reshape(-1, n * c)


def _infer(x: Any, kernel: Any, *, pads: Pads) -> Any:
    """Returns the shape and dtype of the result."""
    (result,) = jax.make_jaxpr(functools.partial(_plain, pads=pads))(x, kernel).out_avals
    return result


def _batch(arguments: Any, axes: Any, *, pads: Pads) -> tuple[Array, int]:
    return jax.vmap(functools.partial(_plain, pads=pads), axes)(*arguments), 0


_convolve = Primitive("conv_general_dilated_stride_one")  # `Task.convolves` is read off this prefix
_convolve.def_impl(jax.jit(_plain, static_argnames="pads"))
_convolve.def_abstract_eval(_infer)
ad.defbilinear(_convolve, _transpose_input, _transpose_kernel)
batching.primitive_batchers[_convolve] = _batch
mlir.register_lowering(_convolve, mlir.lower_fun(_plain, multiple_results=False))
