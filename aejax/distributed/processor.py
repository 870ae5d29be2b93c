"""How programs are compiled for this processor, and whether bfloat16 makes them faster."""

import functools
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

# XLA:CPU leaves products and convolutions to its library YNN. oneDNN, which jaxlib holds too, takes 0.4 to 0.8 times as
# long for convolutions, adds their bias on the way, and multiplies bfloat16 where the processor does. YNN keeps the
# reductions.
_ONEDNN = {
    "xla_cpu_experimental_onednn_custom_call": True,
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
}


def jit(function: Callable, **options: Any) -> Callable:
    """Returns `jax.jit(function, **options)`, compiled with what makes products and convolutions fastest.

    Flags that the user gave by XLA_FLAGS are kept.
    """
    return jax.jit(function, compiler_options=_choose_options() or None, **options)


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
    """Returns the compiler's options for this processor, without those that the user gave by XLA_FLAGS.

    With jax before 0.12 oneDNN does not take convolutions, and on processors other than x86 nothing was measured.
    """
    if jax.default_backend() != "cpu" or not _flags() or jax.__version_info__ < (0, 12):
        return {}
    given = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in _ONEDNN.items() if name not in given}


@functools.cache
def _flags() -> frozenset[str]:
    """Returns what an x86 processor's kernel lists of its abilities; empty on other systems and processors."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"^flags\s*:(.*)$", file.read_text(), re.MULTILINE) if file.exists() else None
    return frozenset(found[1].split()) if found else frozenset()
