"""Schedules of a term's weight: functions of the step that return a factor in [0, 1]."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from aejax.errors import InputError


def progress(step: Int[Array, ""] | None, steps: int) -> Float[Array, ""]:
    """Rises linearly from 0 to 1 over `steps`. Returns 1 in evaluation, where `step` is None."""
    if steps < 1:
        raise InputError(f"a schedule's steps must be at least 1, got {steps}")
    return jnp.ones(()) if step is None else jnp.minimum(step / steps, 1.0)


def linear(step: Int[Array, ""] | None, steps: int) -> Float[Array, ""]:
    """Warms up linearly from 0 over `steps` (Bowman et al. 2016; Sønderby et al. 2016)."""
    return progress(step, steps)


def cyclical(step: Int[Array, ""] | None, steps: int, cycles: int = 4, ratio: float = 0.5) -> Float[Array, ""]:
    """Repeats a warm-up `cycles` times within `steps`, then returns 1 (Fu et al. 2019, equations 6 and 7).

    Each cycle rises linearly from 0 to 1 over the fraction `ratio` of its steps, and stays at 1 for the others.
    """
    if not (cycles >= 1 and 0 < ratio <= 1):
        raise InputError(f"a cyclical schedule needs cycles of at least 1 and a ratio in (0, 1], got {cycles}, {ratio}")
    if step is None:
        return jnp.ones(())
    place = (step * cycles / steps) % 1.0
    return jnp.where(step < steps, jnp.minimum(place / ratio, 1.0), 1.0)


SCHEDULES: dict[str, Callable[..., Array]] = {"linear": linear, "cyclical": cyclical}
