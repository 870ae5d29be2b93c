"""Samples of a prior at a temperature, and of the layers of a hierarchy below given ones."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Key

from aejax.errors import InputError, shown
from aejax.inference.batches import limit_batch, map_batches
from aejax.models.distributions import HierarchicalPrior, Prior, StandardNormal

Temperature = float | Sequence[float]


def sample_prior(
    prior: Prior, keys: Key[jax.Array, " n"], temperature: Temperature, shape: Sequence[int]
) -> Float[np.ndarray, "n ..."]:
    """Samples one z per key, with all standard deviations multiplied by `temperature`: one number, or one per layer.

    Layers are counted from the data up. `shape` is the shape of an example, which bounds how many are sampled at once.
    Raises InputError for other temperatures, and for a prior that has none.
    """
    sizes = prior.sizes if isinstance(prior, HierarchicalPrior) else ()
    if not sizes:
        if isinstance(temperature, int | float) and temperature == 1:
            return np.asarray(prior.sample(keys))
        if not isinstance(prior, StandardNormal):
            name = type(prior).__name__
            raise InputError(f"temperature is for normal priors, and the run's is a {name}; leave it out")
    factors = _check(temperature, max(len(sizes), 1))
    if not sizes:
        return np.asarray(prior.sample(keys) * factors[0])
    draw = lambda _, keys: _draw(prior, keys, np.array(factors, np.float32))  # noqa: E731
    return map_batches(draw, np.arange(len(keys)), (keys,), limit_batch(shape))


def complete(prior: HierarchicalPrior, z: np.ndarray, layer: int, shape: Sequence[int]) -> Float[np.ndarray, "n d"]:
    """Returns z [n, d] with the layers below `layer` at the prior's means given those from `layer` up.

    Raises InputError for a layer that is none.
    """
    if isinstance(layer, bool) or not isinstance(layer, int | np.integer) or not 1 <= layer <= len(prior.sizes):
        raise InputError(f"layer must be a whole number from 1 to {len(prior.sizes)}, got {shown(layer)}")
    below = sum(prior.sizes[: layer - 1])
    given = np.concatenate([np.zeros_like(z[:, :below]), z[:, below:]], 1)
    fill = lambda batch: _fill(prior, batch, made=int(layer) - 1)  # noqa: E731
    return map_batches(fill, given, (), limit_batch(shape))


def _check(temperature: Any, layers: int) -> list[float]:
    """Returns the temperature of each layer."""
    factors = list(temperature) if isinstance(temperature, Sequence | np.ndarray) else [temperature] * layers
    fits = [isinstance(t, int | float | np.number) and t >= 0 and math.isfinite(t) for t in factors]
    if len(factors) != layers or not all(fits):
        each = f", or {layers} of them, one for each layer" if layers > 1 else ""
        raise InputError(f"temperature must be a number of 0 or above{each}, got {shown(temperature)}")
    return factors


@jax.jit
def _draw(prior: HierarchicalPrior, keys: jax.Array, factors: jax.Array) -> jax.Array:
    return prior.sample(keys, factors)


@functools.partial(jax.jit, static_argnames="made")
def _fill(prior: HierarchicalPrior, given: jax.Array, made: int) -> jax.Array:
    return prior.generate(given, made)
