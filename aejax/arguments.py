"""Arguments of the public functions, checked in one place."""

import os
from typing import Any

import numpy as np

from aejax.errors import InputError, shown


def memory() -> int:
    """Returns the bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def count(what: str, value: Any, each: int) -> int:
    """Returns `value` as a count of things of `each` bytes that memory holds, or raises InputError."""
    if not _whole(value) or value < 1:
        raise InputError(f"{what} needs a whole num of at least 1, got {shown(value)}")
    there = memory()
    value = int(value)  # NumPy's would wrap around
    if value * each > there:
        raise InputError(
            f"{what} of num={shown(value)} takes {shown(value * each // 2**30)} GiB of memory and {there // 2**30:,} "
            "are there; ask for fewer at a time, each time with another seed"
        )
    return value


def seed(value: Any) -> int:
    """Returns `value` as a seed, or raises InputError."""
    if not _whole(value) or not 0 <= value < 2**32:
        raise InputError(f"seed must be a whole number from 0 to 2**32 - 1, got {shown(value)}")
    return int(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
