"""Schedules of a term's weight: factors in [0, 1] by step."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from aejax.errors import InputError


def progress(step: Array | None, steps: int) -> Array:
    """Linear from 0 to 1 over `steps`; 1 in evaluation, where step is None."""
    if steps < 1:
        raise InputError(f"a schedule's steps must be at least 1, got {steps}")
    return jnp.ones(()) if step is None else jnp.minimum(step / steps, 1.0)


def linear(step: Array | None, steps: int) -> Array:
    """Warm-up from 0 (Bowman et al. 2016; Sønderby et al. 2016)."""
    return progress(step, steps)


def cyclical(step: Array | None, steps: int, cycles: int = 4, ratio: float = 0.5) -> Array:
    """`cycles` times within `steps`, from 0 up to 1 over `ratio` of a cycle and on at 1 (Fu et al. 2019,
    equations 6 and 7); 1 after `steps`."""
    if not (cycles >= 1 and 0 < ratio <= 1):
        raise InputError(f"a cyclical schedule needs cycles of at least 1 and a ratio in (0, 1], got {cycles}, {ratio}")
    if step is None:
        return jnp.ones(())
    place = (step * cycles / steps) % 1.0
    return jnp.where(step < steps, jnp.minimum(place / ratio, 1.0), 1.0)


SCHEDULES: dict[str, Callable[..., Array]] = {"linear": linear, "cyclical": cyclical}
