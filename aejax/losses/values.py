"""Likelihoods of values: -log p(x | decoded) of each value; `decoded` and `x` broadcast."""

import math

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float

_LOG_2PI = math.log(2 * math.pi)

Values = Float[Array, "*#shape"]  # which broadcast with each other


def bernoulli_nll(logits: Values, x: Values) -> Float[Array, "..."]:
    """Returns -x log p - (1 - x) log(1 - p), p = sigmoid(logits), x in [0, 1] (Kingma and Welling 2014, appendix C.1).

    >>> bernoulli_nll(jnp.array([0.0, 100.0, 100.0]), jnp.array([1.0, 1.0, 0.0]))
    Array([  0.693,   0.   , 100.   ], dtype=float32)
    """
    # One logarithm instead of two, since a tenth of a VAE's step on CPU is spent here.
    return jnp.maximum(logits, 0) - logits * x + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def continuous_bernoulli_nll(logits: Values, x: Values) -> Float[Array, "..."]:
    """Returns -log p(x) of the continuous Bernoulli distribution on [0, 1] (Loaiza-Ganem and Cunningham 2019,
    equations 6 to 8).

    >>> continuous_bernoulli_nll(jnp.zeros(2), jnp.array([0.1, 0.9]))
    Array([0., 0.], dtype=float32)
    """
    # For a logit l, the normalizer 2 atanh(1 - 2p) / (1 - 2p) is l / tanh(l / 2), computed by its series near 0.
    near = jnp.abs(logits) < 0.1
    safe = jnp.where(near, 1.0, logits)
    series = math.log(2) + jnp.log1p(jnp.square(logits) / 12 - logits**4 / 720)
    return bernoulli_nll(logits, x) - jnp.where(near, series, jnp.log(safe / jnp.tanh(safe / 2)))


def continuous_bernoulli_mean(logits: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns the mean of the continuous Bernoulli distribution (Loaiza-Ganem and Cunningham 2019).

    >>> continuous_bernoulli_mean(jnp.array([-1000.0, 0.0, 2.0]))
    Array([0.001, 0.5  , 0.657], dtype=float32)
    """
    near = jnp.abs(logits) < 0.1
    safe = jnp.where(near, 1.0, logits)
    far = jax.nn.sigmoid(safe) / jnp.tanh(safe / 2) - 1 / safe
    return jnp.where(near, 0.5 + logits / 12 - logits**3 / 720, far)


def gaussian_nll(mean: Values, x: Values, log_std: Values | float) -> Float[Array, "..."]:
    """Returns -log N(x; mean, exp(log_std)^2) of each value.

    >>> gaussian_nll(jnp.array([0.0, 0.0]), jnp.array([0.0, 2.0]), 0.0)
    Array([0.919, 2.919], dtype=float32)
    """
    return 0.5 * jnp.square((mean - x) * jnp.exp(-log_std)) + log_std + 0.5 * _LOG_2PI


def laplace_nll(location: Values, x: Values, log_scale: Values | float) -> Float[Array, "..."]:
    """Returns -log p(x) of a Laplace distribution whose mean absolute deviation is exp(log_scale).

    >>> laplace_nll(jnp.array([0.0, 0.0]), jnp.array([0.0, 2.0]), 0.0)
    Array([0.693, 2.693], dtype=float32)
    """
    return jnp.abs(location - x) * jnp.exp(-log_scale) + log_scale + math.log(2)


def discretized_logistic_nll(location: Values, x: Values, log_scale: Values | float) -> Float[Array, "..."]:
    """Returns -log P(x) of a level x among 0, 1/255, ..., 1 under a logistic distribution with scale exp(log_scale).

    The bins of the outermost levels extend to infinity. Kingma et al. 2016, appendix; Salimans et al. 2017, equation 2.

    >>> levels = jnp.arange(256) / 255
    >>> jnp.exp(-discretized_logistic_nll(jnp.array(0.3), levels, -2.0)).sum()
    Array(1., dtype=float32)
    """
    half, inverse = 0.5 / 255, jnp.exp(-log_scale)
    above, below = (x - location + half) * inverse, (x - location - half) * inverse
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), each factor of which is safe in logarithms.
    inner = jax.nn.log_sigmoid(above) + jax.nn.log_sigmoid(-below) + jnp.log(-jnp.expm1(-2 * half * inverse))
    log_p = jnp.where(x < half, jax.nn.log_sigmoid(above), inner)
    return -jnp.where(x > 1 - half, jax.nn.log_sigmoid(-below), log_p)


def optimal_log_scale(average: Float[Array, "*shape"], power: int) -> Float[Array, "*shape"]:
    """Returns the log scale that maximizes the likelihood, as a constant, since the loss is stationary in it.

    `average` is the mean of |decoded - x|^power over the whole batch; `power` is 2 for a Gaussian and 1 for a Laplace
    distribution (Rybkin et al. 2021, "Simple and effective VAE training with calibrated decoders").

    >>> optimal_log_scale(jnp.array([1.0, 100.0]), 2)  # the second: log 10 for a root mean square of 10
    Array([0.   , 2.303], dtype=float32)
    """
    # The floor keeps the likelihood of a perfect reconstruction finite.
    return stop_gradient(jnp.log(jnp.maximum(average, 1e-8)) / power)
