"""Mixtures of discretized logistic distributions over the channels of a pixel (Salimans et al. 2017, PixelCNN++).

The parameters of a pixel with c channels are [..., components * (1 + 2 c + c (c - 1) / 2)]: for each component a logit,
c means, c log scales and the coefficients by which the mean of a channel depends on the channels before it. Means and
scales are those of values in [-1, 1], while x is one of the levels 0, 1/255, ..., 1.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from aejax.losses.values import discretized_logistic_nll

_LEAST = -7.0  # the smallest log scale: a logistic whose mass is within one level


def count_parameters(channels: int, components: int) -> int:
    """Returns the number of parameters of a pixel.

    >>> count_parameters(3, 10)
    100
    """
    return components * (1 + 2 * channels + channels * (channels - 1) // 2)


def nll(parameters: Float[Array, "... p"], x: Float[Array, "... c"], components: int) -> Float[Array, "... 1"]:
    """Returns -log P(x) of each pixel (ibid., equations 2 and 3)."""
    logits, means, log_scales, coefficients = _split(parameters, x.shape[-1], components)
    means = _condition(means, coefficients, 2 * x - 1)
    # A scale of values in [-1, 1] is half as large for values in [0, 1].
    each = discretized_logistic_nll((means + 1) / 2, x[..., None, :], log_scales - math.log(2))
    return -jax.nn.logsumexp(jax.nn.log_softmax(logits) - each.sum(-1), -1, keepdims=True)


def mean(parameters: Float[Array, "... p"], channels: int, components: int) -> Float[Array, "... c"]:
    """Returns the mean of x before it is discretized, where the mean of each component is within [0, 1]."""
    logits, means, _, coefficients = _split(parameters, channels, components)
    values: list[Array] = []
    for channel in range(channels):
        before = [_pick(coefficients, channel, j) * value for j, value in enumerate(values)]
        values.append(jnp.clip(sum(before, means[..., channel]), -1, 1))
    weights = jax.nn.softmax(logits)[..., None]
    return ((jnp.stack(values, -1) + 1) / 2 * weights).sum(-2)


def sample(
    key: Key[Array, ""], parameters: Float[Array, "... p"], channels: int, components: int
) -> Float[Array, "... c"]:
    """Samples x, one of the 256 levels in each channel."""
    logits, means, log_scales, coefficients = _split(parameters, channels, components)
    of_component, of_value = jax.random.split(key)
    index = jax.random.categorical(of_component, logits)[..., None]
    pick = lambda a: jnp.take_along_axis(a, index[..., None], -2)[..., 0, :]  # noqa: E731
    means, log_scales, coefficients = pick(means), pick(log_scales), pick(coefficients)
    noise = jnp.exp(log_scales) * jax.random.logistic(of_value, means.shape)
    values: list[Array] = []
    for channel in range(channels):
        before = [_pick(coefficients, channel, j) * value for j, value in enumerate(values)]
        value = sum(before, means[..., channel] + noise[..., channel])
        values.append(jnp.round(jnp.clip((value + 1) / 2, 0, 1) * 255) / 255 * 2 - 1)
    return (jnp.stack(values, -1) + 1) / 2


def _split(parameters: Array, channels: int, components: int) -> tuple[Array, Array, Array, Array]:
    """Returns logits [..., k], means and log scales [..., k, c], and coefficients [..., k, c (c - 1) / 2]."""
    parts = parameters.reshape(*parameters.shape[:-1], components, -1)
    means, log_scales = parts[..., 1 : 1 + channels], parts[..., 1 + channels : 1 + 2 * channels]
    coefficients = jnp.tanh(parts[..., 1 + 2 * channels :])
    return parts[..., 0], means, jnp.maximum(log_scales, _LEAST), coefficients


def _condition(means: Array, coefficients: Array, x: Array) -> Array:
    """Returns the means [..., k, c] given the channels x [..., c] before each, in [-1, 1]."""
    given = []
    for channel in range(x.shape[-1]):
        before = [_pick(coefficients, channel, j) * x[..., None, j] for j in range(channel)]
        given.append(sum(before, means[..., channel]))
    return jnp.stack(jnp.broadcast_arrays(*given), -1)


def _pick(coefficients: Array, channel: int, before: int) -> Array:
    """Returns the coefficient by which the mean of a channel depends on one before it."""
    return coefficients[..., channel * (channel - 1) // 2 + before]
