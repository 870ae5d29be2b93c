"""Likelihoods of the columns of tables: categories, ordered levels, and numbers with heavy tails or in (0, 1)."""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

from aejax.losses.counts import stirling_remainder
from aejax.losses.values import Values

_CLOSEST = 1e-6  # distance of cuts, below which float32 may not tell them apart
_EDGE = 2.0**-24  # of (0, 1), where a beta density may be infinite


def categorical_nll(logits: Float[Array, "*#shape classes"], x: Values) -> Float[Array, "..."]:
    """Returns -log p(x) of categories x = 0, 1, ..., classes - 1 with the probabilities softmax(logits).

    >>> categorical_nll(jnp.zeros((2, 4)), jnp.array([0.0, 3.0]))
    Array([1.386, 1.386], dtype=float32)
    """
    chosen = jnp.arange(logits.shape[-1]) == x[..., None]
    return -jnp.where(chosen, jax.nn.log_softmax(logits), 0.0).sum(-1)


def ordinal_nll(location: Values, x: Values, cuts: Float[Array, "*#shape levels_less_one"]) -> Float[Array, "..."]:
    """Returns -log p(x) of ordered levels x = 0, 1, ... with P(x <= k) = sigmoid(cuts[k] - location).

    `cuts` ascend (McCullagh 1980, "Regression models for ordinal data", the proportional odds model). Cuts that are
    closer than 1e-6 count as so far apart.

    >>> jnp.exp(-ordinal_nll(jnp.zeros(3), jnp.arange(3.0), jnp.array([-1.0, 1.0])))
    Array([0.269, 0.462, 0.269], dtype=float32)
    """
    last = cuts.shape[-1]
    number = jnp.arange(last)

    def cut(k: Array) -> Array:
        return jnp.where(number == k[..., None], cuts, 0.0).sum(-1) - location

    upper, lower = cut(jnp.minimum(x, last - 1)), cut(jnp.maximum(x - 1, 0))
    inside = (x > 0) & (x < last)
    gap = jnp.where(inside, jnp.minimum(lower - upper, -_CLOSEST), -1.0)
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a))
    inner = jax.nn.log_sigmoid(upper) + jax.nn.log_sigmoid(-lower) + jnp.log(-jnp.expm1(gap))
    return -jnp.where(x <= 0, jax.nn.log_sigmoid(upper), jnp.where(x >= last, jax.nn.log_sigmoid(-lower), inner))


def student_t_nll(
    location: Values, x: Values, log_scale: Values | float, log_df: Values | float
) -> Float[Array, "..."]:
    """Returns -log p(x) of Student's t distribution with exp(log_df) degrees of freedom.

    >>> student_t_nll(jnp.array([0.0, 0.0]), jnp.array([0.0, 2.0]), 0.0, 0.0)  # Cauchy
    Array([1.145, 2.754], dtype=float32)
    """
    df = jnp.exp(log_df)
    half = df / 2
    far = half >= 4
    safe, near = jnp.where(far, half, 4.0), jnp.where(far, 1.0, half)
    inverse = jnp.square(1 / safe)
    # log Gamma(z + 1/2) - log Gamma(z), by its series for large z.
    series = (1 / 8 - inverse * (1 / 192 - inverse * (1 / 640 - inverse * (17 / 14336)))) / safe
    ratio = jnp.where(far, 0.5 * jnp.log(safe) - series, gammaln(near + 0.5) - gammaln(near))
    distance = jnp.abs(x - location)
    apart = distance > 1e-30
    log_square = 2 * (jnp.log(jnp.where(apart, distance, 1.0)) - log_scale) - log_df
    tail = (0.5 * df + 0.5) * jnp.where(apart, jax.nn.softplus(log_square), 0.0)
    return tail - ratio + 0.5 * (log_df + math.log(math.pi)) + log_scale


def beta_nll(logits: Values, x: Values, log_concentration: Values | float) -> Float[Array, "..."]:
    """Returns -log p(x) of a beta distribution on (0, 1) of mean m = sigmoid(logits) and concentration c.

    Its parameters are c m and c (1 - m). Values closer than 2^-24 to 0 or 1, where the density may be infinite, are
    moved there.

    >>> beta_nll(jnp.zeros(2), jnp.array([0.1, 0.5]), jnp.log(4.0))
    Array([ 0.616, -0.405], dtype=float32)
    """
    x = jnp.clip(x, _EDGE, 1 - _EDGE)
    log_m, log_n = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    log_x, log_y = jnp.log(x), jnp.log1p(-x)
    a, b = jnp.exp(log_m + log_concentration), jnp.exp(log_n + log_concentration)
    remainder = stirling_remainder(a) + stirling_remainder(b) - stirling_remainder(jnp.exp(log_concentration))
    deviance = a * (log_m - log_x) + b * (log_n - log_y)
    return deviance + remainder - log_m - log_n - log_concentration + log_x + log_y
