"""Compilation of programs for this processor, and whether bfloat16 makes them faster."""

import contextlib
import functools
import math
import os
import re
import threading
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


_setting = threading.RLock()  # all threads share JAX's setting that `_suspend_storing` changes


class Program:
    """A function as `jax.jit` compiles it, which can be compiled before its first call."""

    def __init__(self, function: Callable, onednn: bool = False, **options: Any):
        """Takes the arguments of `jax.jit`.

        With `onednn`, XLA calls oneDNN on x86 CPUs, unless the user chose a library by XLA_FLAGS. That is for programs
        that run long: each process compiles them anew, because jaxlib 0.12 cannot store them.
        """
        chosen = _choose_options() if onednn else {}
        self._jitted = jax.jit(function, compiler_options=chosen or None, **options)
        self._compiling = _suspend_storing if chosen else contextlib.nullcontext

    def __call__(self, *arguments: Any) -> Any:
        with self._compiling():
            return self._jitted(*arguments)

    def compile(self, *arguments: Any) -> Any:
        """Compiles the program for arguments of these shapes and shardings, so that calls with such arguments need not.

        Returns JAX's compiled program.
        """
        with self._compiling():
            return self._jitted.lower(*arguments).compile()


@contextlib.contextmanager
def _suspend_storing() -> Iterator[None]:
    """Keeps JAX from storing what is compiled meanwhile: it would fail, with a warning each time."""
    name = "jax_persistent_cache_min_compile_time_secs"
    with _setting:
        before = getattr(jax.config, name)
        jax.config.update(name, math.inf)
        try:
            yield
        finally:
            jax.config.update(name, before)


def computes_bfloat16() -> bool:
    """Returns whether the backend multiplies and convolves bfloat16 faster than float32.

    x86 CPUs do if they have instructions for bfloat16 (AVX512-BF16 or AMX) and oneDNN is used; otherwise XLA widens
    each value to float32. Other backends are assumed to be faster.
    """
    if jax.default_backend() != "cpu" or not _flags():
        return True
    return bool(_choose_options()) and not _flags().isdisjoint(("avx512_bf16", "amx_bf16"))


def warn_of_bfloat16() -> None:
    """Warns if bfloat16 is not faster than float32 on this processor."""
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
    """Returns the flags of an x86 CPU as Linux lists them; empty on other systems and processors."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"^flags\s*:(.*)$", file.read_text(), re.MULTILINE) if file.exists() else None
    return frozenset(found[1].split()) if found else frozenset()
