"""Memory that XLA:CPU frees after each step and takes again for the next."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
_MOST = 2**31 - 1  # bytes: an int


def keep_freed() -> bool:
    """Tells glibc's allocator to keep what is freed, for the whole process; whether that worked.

    Otherwise each step's buffers, some hundred MB, go back to the kernel, which fills them with zeros
    page by page for the next step: a fifth of the time of `conv` on two cores. To be called before
    JAX's first computation: XLA's threads take other arenas, which have no such thresholds, when they
    start. Peak memory stays what it was, but is held to the end. Elsewhere than on Linux with glibc
    nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return all([mallopt(_ARENA_MAX, 1), mallopt(_MMAP_THRESHOLD, _MOST), mallopt(_TRIM_THRESHOLD, _MOST)])
