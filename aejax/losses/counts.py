"""Likelihoods of counts, in forms that keep their digits in float32: -log p(x) of whole numbers x from 0.

The means and dispersions are given as logarithms, of absolute values up to 40. Each nll is a deviance, which is 0 at
x, plus Stirling remainders (Loader 2000, "Fast and accurate computation of binomial probabilities"), so that no
logarithms of large factorials cancel.
"""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln, xlogy
from jaxtyping import Array, Float

from aejax.losses.values import Values


def stirling_remainder(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns log Gamma(z + 1) - z log z + z for z >= 0, which grows like log(2 pi z) / 2.

    >>> stirling_remainder(jnp.array([0.0, 1.0, 1e6]))
    Array([0.   , 1.   , 7.827], dtype=float32)
    """
    far = z >= 4
    safe, near = jnp.where(far, z, 4.0), jnp.where(far, 1.0, jnp.maximum(z, 1e-30))  # whose gradient is finite
    inverse = jnp.square(1 / safe)
    series = (1 / 12 - inverse * (1 / 360 - inverse * (1 / 1260 - inverse / 1680))) / safe
    remainder = 0.5 * jnp.log(safe) + 0.5 * math.log(2 * math.pi) + series
    return jnp.where(far, remainder, gammaln(near + 1) - xlogy(near, near) + near)


def poisson_nll(log_mean: Values, x: Values) -> Float[Array, "..."]:
    """Returns -log p(x) of a Poisson distribution of mean exp(log_mean).

    >>> poisson_nll(jnp.log(jnp.array([2.0, 2.0])), jnp.array([0.0, 1.0]))
    Array([2.   , 1.307], dtype=float32)
    """
    some = x > 0
    safe = jnp.where(some, x, 1.0)
    above = log_mean - jnp.log(safe)
    near = jnp.abs(above) < 0.3
    u, far = jnp.where(near, above, 0.0), jnp.where(near, 1.0, above)
    # exp(u) - 1 - u, by its series near 0.
    series = jnp.square(u) * (1 / 2 + u * (1 / 6 + u * (1 / 24 + u * (1 / 120 + u * (1 / 720 + u / 5040)))))
    deviance = safe * jnp.where(near, series, jnp.expm1(far) - far)
    return jnp.where(some, deviance + stirling_remainder(safe), jnp.exp(log_mean))


def negative_binomial_nll(log_mean: Values, x: Values, log_dispersion: Values | float) -> Float[Array, "..."]:
    """Returns -log p(x) of a negative binomial distribution of mean m and variance m + m^2 / t.

    `log_dispersion` is the logarithm of the inverse dispersion t: the number of successes, and the shape of the Gamma
    distribution of which it is a Poisson mixture. For a large t it is a Poisson distribution.

    >>> negative_binomial_nll(jnp.log(jnp.array([2.0, 2.0])), jnp.array([0.0, 1.0]), 0.0)  # geometric
    Array([1.099, 1.504], dtype=float32)
    """
    dispersion, some = jnp.exp(log_dispersion), x > 0
    safe = jnp.where(some, x, 1.0)
    log_x = jnp.log(safe)
    # (t + x) log((t + m) / (t + x)) + x log(x / m), in a form for t > x and one for the others.
    many = dispersion > safe
    above, part = jnp.where(many, log_mean - log_x, 0.0), jnp.where(many, safe / (safe + dispersion), 0.5)
    of_large = (safe + dispersion) * (jnp.log1p(part * jnp.expm1(above)) - part * above)
    scaled = jnp.where(many, 1.0, dispersion)
    of_small = scaled * (jnp.logaddexp(log_dispersion, log_mean) - jnp.logaddexp(log_dispersion, log_x))
    of_small += safe * (jax.nn.softplus(log_dispersion - log_mean) - jax.nn.softplus(log_dispersion - log_x))
    remainder = stirling_remainder(safe) + stirling_remainder(dispersion) - stirling_remainder(safe + dispersion)
    nll = jnp.where(many, of_large, of_small) + remainder + jax.nn.softplus(log_x - log_dispersion)
    return jnp.where(some, nll, dispersion * jax.nn.softplus(log_mean - log_dispersion))


def zero_inflated_negative_binomial_nll(
    log_mean: Values, x: Values, log_dispersion: Values | float, logits: Values | float
) -> Float[Array, "..."]:
    """Returns -log p(x) of a count that is 0 with the probability sigmoid(logits), and negative binomial otherwise.

    `log_mean` is that of the negative binomial distribution (Lopez et al. 2018, "Deep generative modeling for
    single-cell transcriptomics", equation 4).

    >>> zero_inflated_negative_binomial_nll(jnp.log(jnp.array([2.0, 2.0])), jnp.array([0.0, 1.0]), 0.0, 0.0)
    Array([0.405, 2.197], dtype=float32)
    """
    # Without the barrier XLA:CPU computes it once more for each use, and a gradient takes two to three times as long.
    nll = jax.lax.optimization_barrier(negative_binomial_nll(log_mean, x, log_dispersion))
    zero = jnp.logaddexp(logits, -jnp.where(x > 0, 0.0, nll))
    return jax.nn.softplus(logits) + jnp.where(x > 0, nll, -zero)


def multinomial_nll(logits: Float[Array, "*#batch d"], x: Float[Array, "*#batch d"]) -> Float[Array, "..."]:
    """Returns -log p(x) of counts whose total is given, summed over the last axis: [..., d] to [...].

    The probabilities are softmax(logits). Unlike the sum of -x log p of many recommenders (Liang et al. 2018, equation
    2), it has the multinomial coefficient, which does not depend on the logits.

    >>> multinomial_nll(jnp.zeros(2), jnp.array([1.0, 1.0]))
    Array(0.693, dtype=float32)
    """
    some, total = x > 0, x.sum(-1, keepdims=True)
    safe = jnp.where(some, x, 1.0)
    deviance = safe * (jnp.log(safe) - jnp.log(jnp.maximum(total, 1.0)) - jax.nn.log_softmax(logits))
    return jnp.where(some, deviance + stirling_remainder(safe), 0.0).sum(-1) - stirling_remainder(total[..., 0])
