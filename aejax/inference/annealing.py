"""Annealed importance sampling of log p(x) = log of the integral of p(x, z) over z (Neal 2001; Wu et al. 2017).

The path from a density that can be sampled to p(x, z) is geometric, with transitions by Hamiltonian Monte Carlo. All
functions here are pure, over rows of z [rows, *latent], each with its own key, and take memory for one step alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from aejax.models.layers import fold, normal

LEAPS = 10  # leapfrog steps of a transition (Wu et al. 2017, section 5.1)
ACCEPTED = 0.65  # the fraction of transitions that step sizes are tuned to (Neal 2011, section 4.4.1)
_FIRST, _GAIN = 0.1, 0.2  # the first step size, and by how much its logarithm follows the acceptance
_JITTER = 0.2  # of step sizes, against trajectories that return to where they began (Neal 2011, section 3.2)

LogDensity = Callable[[Array], Array]


class Path(NamedTuple):
    """The densities between which rows are annealed.

    Attributes:
      z: samples of `start`, [rows, *latent].
      start: log density of z, [rows], with an integral of 1.
      end: log density of z, [rows], whose integral is sought.
    """

    z: Float[Array, "rows ..."]
    start: LogDensity
    end: LogDensity


def schedule(steps: int) -> Float[np.ndarray, " steps+1"]:
    """Returns exponents from 0 to 1, denser at both ends: a sigmoid of -4 to 4, rescaled (Wu et al. 2017)."""
    sigmoid = 1 / (1 + np.exp(-np.linspace(-4.0, 4.0, steps + 1)))
    return ((sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0])).astype(np.float32)


def weigh(
    path: Path, keys: Key[Array, " rows"], betas: Float[Array, " steps+1"], sizes: Float[Array, "steps-1 groups"]
) -> Float[Array, " rows"]:
    """Returns log weights, whose exponential has the integral of `end` as its expectation, for any step sizes.

    With one step they are those of importance samples from `start`. The step sizes are those of `tune`.
    """

    def step(carry: tuple, each: tuple) -> tuple:
        (z, start, end, log_w), (i, beta, growth, size) = carry, each
        size = jnp.tile(size, len(z) // sizes.shape[1])
        z, start, end, _ = _move(path, z, start, end, fold(keys, i), beta, size)
        return (z, start, end, log_w + growth * (end - start)), None

    start, end = path.start(path.z), path.end(path.z)
    growth = jnp.diff(betas)
    first = (path.z, start, end, growth[0] * (end - start))
    each = (jnp.arange(1, len(growth)), betas[1:-1], growth[1:], sizes)
    return jax.lax.scan(step, first, each)[0][-1]


def tune(
    path: Path, keys: Key[Array, " rows"], betas: Float[Array, " steps+1"], groups: int
) -> Float[Array, "steps-1 groups"]:
    """Returns a step size for each transition and group, under which about `ACCEPTED` of the transitions are accepted.

    Row i belongs to the group i modulo `groups`. Weights are only unbiased under sizes that were tuned on other rows.
    """

    def step(carry: tuple, each: tuple) -> tuple:
        (z, start, end, log_size), (i, beta) = carry, each
        size = jnp.tile(jnp.exp(log_size), len(z) // groups)
        z, start, end, chance = _move(path, z, start, end, fold(keys, i), beta, size)
        moved = log_size + _GAIN * (chance.reshape(-1, groups).mean(0) - ACCEPTED)
        return (z, start, end, moved), jnp.exp(log_size)

    first = (path.z, path.start(path.z), path.end(path.z), jnp.full(groups, np.log(_FIRST), jnp.float32))
    return jax.lax.scan(step, first, (jnp.arange(1, len(betas) - 1), betas[1:-1]))[1]


def _move(path: Path, z: Array, start: Array, end: Array, keys: Array, beta: Array, size: Array) -> tuple:
    """Makes a transition that leaves start^(1 - beta) end^beta as it is (Neal 2011, section 3.2).

    Returns z, the log densities `start` and `end` at z, and the probability with which the proposal was accepted.
    """

    def blend(start: Array, end: Array) -> Array:
        return (1 - beta) * start + beta * end

    def total(z: Array) -> tuple:
        both = path.start(z), path.end(z)
        return blend(*both).sum(), both

    def kinetic(momentum: Array) -> Array:
        return 0.5 * jnp.square(momentum).reshape(len(z), -1).sum(1)

    def leap(i: Array, carry: tuple) -> tuple:
        """Changes the momentum at z, by half at both ends, and then z, except at the last one."""
        z, momentum, _ = carry
        (_, both), gradient = jax.value_and_grad(total, has_aux=True)(z)
        momentum = momentum + jnp.where((i == 0) | (i == LEAPS), 0.5, 1.0) * size * gradient
        return z + jnp.where(i < LEAPS, size, 0.0) * momentum, momentum, both

    jitter, uniform = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(fold(keys, 0)).T
    size = (size * (1 + _JITTER * (2 * jitter - 1))).reshape(-1, *(1,) * (z.ndim - 1))
    momentum = normal(fold(keys, 1), z.shape[1:])
    proposed, last, both = jax.lax.fori_loop(0, LEAPS + 1, leap, (z, momentum, (start, end)))
    gain = blend(*both) - kinetic(last) - blend(start, end) + kinetic(momentum)
    chance = jnp.where(jnp.isnan(gain), 0.0, jnp.exp(jnp.minimum(gain, 0)))  # NaN where a trajectory has diverged
    taken = uniform < chance
    z = jnp.where(taken.reshape(size.shape), proposed, z)
    return z, jnp.where(taken, both[0], start), jnp.where(taken, both[1], end), chance
