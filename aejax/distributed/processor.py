"""How programs are compiled for this processor, and whether bfloat16 makes them faster."""

import contextlib
import functools
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

# XLA:CPU leaves products and convolutions to its library YNN. oneDNN, which jaxlib holds too, convolves in 0.65 to 0.8
# of the time, and computes bfloat16 where the processor does. YNN keeps the reductions.
_ONEDNN = {
    "xla_cpu_experimental_onednn_custom_call": True,
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
}


def jit_onednn(function: Callable, **options: Any) -> Callable:
    """Returns `jax.jit(function, **options)`, on x86 CPUs compiled to convolve and multiply by oneDNN.

    For programs that run long: each process compiles them anew, because jaxlib 0.12 cannot store them. Returns a plain
    `jax.jit` if the user chose a library by XLA_FLAGS.
    """
    chosen = _choose_options()
    jitted = jax.jit(function, compiler_options=chosen or None, **options)
    if not chosen:
        return jitted

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        with _not_stored():
            return jitted(*arguments)

    call.lower = jitted.lower  # type: ignore[attr-defined]
    return call


@contextlib.contextmanager
def _not_stored() -> Iterator[None]:
    """Keeps JAX from storing what is compiled meanwhile: it would fail, with a warning each time."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, math.inf)
    try:
        yield
    finally:
        jax.config.update(name, before)


def computes_bfloat16() -> bool:
    """Returns whether the backend multiplies and convolves bfloat16 faster than float32.

    Of x86 CPUs, those do that have instructions for it, AVX512-BF16 or AMX, if oneDNN is used. Others widen each value.
    Other backends are assumed to.
    """
    if jax.default_backend() != "cpu" or not _flags():
        return True
    return bool(_choose_options()) and not _flags().isdisjoint(("avx512_bf16", "amx_bf16"))


def warn_of_bfloat16() -> None:
    """Warns that bfloat16 brings nothing on this processor, if that is so."""
    if not computes_bfloat16():
        warnings.warn(
            "dtype=bfloat16: this processor has no instructions for it (AVX512-BF16 or AMX, with jax 0.12 or newer), "
            "so that encoder and decoder multiply in float32 and only round to bfloat16; dtype=float32 is as fast "
            "here, and more accurate",
            stacklevel=2,
        )


def _choose_options() -> dict[str, Any]:
    """Returns the compiler's options with which XLA:CPU uses oneDNN.

    Returns {} where it does not, with jax before 0.12, where nothing was measured, on processors other than x86, and if
    XLA_FLAGS has one of the options.
    """
    given = any(name in os.environ.get("XLA_FLAGS", "") for name in _ONEDNN)
    serves = jax.default_backend() == "cpu" and _flags() and jax.__version_info__ >= (0, 12)
    return _ONEDNN if serves and not given else {}


@functools.cache
def _flags() -> frozenset[str]:
    """Returns what an x86 processor's kernel lists of its abilities; empty on other systems and processors."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"^flags\s*:(.*)$", file.read_text(), re.MULTILINE) if file.exists() else None
    return frozenset(found[1].split()) if found else frozenset()
