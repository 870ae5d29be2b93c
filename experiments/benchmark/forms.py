"""What each form of a convolution is worth on this machine: `aejax.models.conv.Conv` against `nn.Conv`, layer by layer.

Value and both gradients in one program, the two alternating in one process; medians. The layers are those of `conv`
at batch 256 and of the benchmark's VQ-VAE at batch 128.
"""

import statistics
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from aejax.models.conv import Conv
from aejax.models.layers import Upsample

# Of conv and of the VQ-VAE: batch, image, features, kernel, further arguments.
LAYERS = {
    "one channel": (256, (28, 28, 1), 64, 3, {}),
    "14x14, 64 to 128": (256, (14, 14, 64), 128, 3, {}),
    "7x7, 128 to 256": (256, (7, 7, 128), 256, 3, {}),
    "7x7, 256 to 128": (256, (7, 7, 256), 128, 3, {}),
    "7x7 enlarged, 128 to 64": (256, (7, 7, 128), 64, 3, {"enlarged": True}),
    "14x14 enlarged, 64 to 1": (256, (14, 14, 64), 1, 3, {"enlarged": True}),
    "16x16, 64 to 64": (128, (16, 16, 64), 64, 3, {}),
    "8x8, 128 to 128": (128, (8, 8, 128), 128, 3, {}),
    "stride 2, 64 to 128": (128, (16, 16, 64), 128, 3, {"strides": 2}),
    "2x2, 128 to 256": (128, (10, 10, 128), 256, 2, {"padding": "VALID"}),
}


def forms(rounds: int) -> dict[str, Any]:
    """Milliseconds of the plain layer and of ours, and how many times as fast ours is, by layer."""
    return {name: _compare(3 * rounds, *layer, **options) for name, (*layer, options) in LAYERS.items()}


def _compare(
    rounds: int, batch: int, shape: tuple, features: int, size: int, enlarged: bool = False, **options: Any
) -> dict[str, Any]:
    x = jax.random.normal(jax.random.key(0), (batch, *shape))
    enlarge = Upsample().apply if enlarged else lambda variables, x: x
    layers = {
        "plain": nn.Conv(features, (size, size), **options),
        "ours": Conv(features, (size, size), enlarged=enlarged, **options),
    }
    variables = layers["plain"].init(jax.random.key(1), enlarge({}, x))
    programs = {name: _gradients(layer, enlarge) for name, layer in layers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(rounds + 1):
        for name, program in programs.items():
            begin = time.perf_counter()
            jax.block_until_ready(program(variables, x))
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    plain, ours = (1e3 * statistics.median(seconds[name]) for name in ("plain", "ours"))
    return {"plain_ms": round(plain, 2), "ours_ms": round(ours, 2), "times_as_fast": round(plain / ours, 2)}


def _gradients(layer: nn.Module, enlarge: Any) -> Any:
    loss = lambda variables, x: jnp.square(layer.apply(variables, enlarge({}, x))).sum()  # noqa: E731
    return jax.jit(jax.value_and_grad(loss, (0, 1)))
