"""Checks of arguments that several public functions take."""

import os

import numpy as np

from aejax.errors import InputError, shown


def memory() -> int:
    """Returns the size of this machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_count(what: str, value: int, each: int) -> int:
    """Returns `value` as a number of objects of `each` bytes. Raises InputError if memory does not hold so many."""
    if not _is_whole(value) or value < 1:
        raise InputError(f"{what} needs a whole num of at least 1, got {shown(value)}")
    available = memory()
    value = int(value)  # the product with a NumPy integer would wrap around
    if value * each > available:
        raise InputError(
            f"{what} of num={shown(value)} takes {shown(value * each // 2**30)} GiB of memory and this machine has "
            f"{available // 2**30:,}; ask for fewer at a time, each time with another seed"
        )
    return value


def check_samples(samples: int, name: str = "samples") -> None:
    """Raises InputError if a number of samples, called `name`, is not a whole number above 0."""
    if not _is_whole(samples) or samples < 1:
        raise InputError(f"{name} must be a whole number above 0, got {samples!r}")


def check_seed(value: int) -> int:
    """Returns `value` as a seed. Raises InputError if it is not a whole number below 2**32."""
    if not _is_whole(value) or not 0 <= value < 2**32:
        raise InputError(f"seed must be a whole number from 0 to 2**32 - 1, got {shown(value)}")
    return int(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
