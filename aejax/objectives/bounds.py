"""Bounds of the likelihood from importance samples: `bound(context, log_p)` to a loss [batch], in nats.

log w_k = log p(x|z_k) + beta (log p(z_k) - log q(z_k|x)); beta is the weight of `kl`, 1 unless one
means to leave the bound. `log_p(context, decoded)` gives log p(x|z_k), [samples, batch].
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from aejax.errors import InputError
from aejax.models.distributions import FlowPosterior
from aejax.objectives.context import Context

LogP = Callable[[Context, Array], Array]


def _iwae(log_w: Array) -> Array:
    """-log of the mean weight, over the first axis."""
    return jnp.log(log_w.shape[0]) - jax.nn.logsumexp(log_w, 0)


def _grouped(log_w: Array, groups: int) -> Array:
    """[samples, batch] to [samples / groups, groups, batch]."""
    samples = log_w.shape[0]
    if groups < 1 or samples % groups:
        raise InputError(f"objective.bound.groups={groups} must divide bottleneck.samples={samples}")
    return log_w.reshape(samples // groups, groups, -1)


def log_weights(c: Context, log_p: LogP, beta: Any) -> Array:
    """log w_k, [samples, batch]; one sample where the code has no axis for them."""
    code = c.output.code
    if code.posterior is None or code.prior is None:
        raise InputError("objective.bound needs a posterior and a prior: bottleneck.name=gaussian")
    log_w = log_p(c, c.output.decoded) - beta * (code.posterior.log_prob(code.z) - code.prior.log_prob(code.z))
    return log_w if code.samples else log_w[None]


def iwae(c: Context, log_p: LogP, beta: Any) -> Array:
    """-log mean_k w_k (Burda et al. 2016, equation 8)."""
    return _iwae(log_weights(c, log_p, beta))


def miwae(c: Context, log_p: LogP, beta: Any, groups: int = 1) -> Array:
    """Mean of the bounds of `groups` equal parts of the samples (Rainforth et al. 2018, equation 10)."""
    return _iwae(_grouped(log_weights(c, log_p, beta), groups)).mean(0)


def ciwae(c: Context, log_p: LogP, beta: Any, share: float = 0.5) -> Array:
    """`share` of the ELBO, the rest of the importance weighted bound (ibid., equation 11)."""
    if not 0 <= share <= 1:
        raise InputError(f"objective.bound.share must be in [0, 1], got {share}")
    log_w = log_weights(c, log_p, beta)
    return -share * log_w.mean(0) + (1 - share) * _iwae(log_w)


def dreg(c: Context, log_p: LogP, beta: Any) -> Array:
    """The bound of `iwae` with the doubly reparameterised gradient of the encoder: normalised weights squared,
    the density of q held fixed (Tucker et al. 2019, equation 8)."""
    if isinstance(c.output.code.posterior, FlowPosterior):
        raise InputError("objective.bound.name=dreg needs bottleneck.posterior='diagonal' or 'full'")
    log_w = log_weights(c, log_p, beta)
    w = jax.nn.softmax(log_w, 0)
    return _two_gradients(c, log_p, beta, _iwae(log_w), w, jnp.square(w), hold_q=True)


def piwae(c: Context, log_p: LogP, beta: Any, groups: int = 1) -> Array:
    """The bound of `iwae` for the decoder, that of `miwae` for the encoder (Rainforth et al. 2018, section 5)."""
    log_w = log_weights(c, log_p, beta)
    w = jax.nn.softmax(_grouped(log_w, groups), 0).reshape(log_w.shape) / groups
    return _two_gradients(c, log_p, beta, _iwae(log_w), jax.nn.softmax(log_w, 0), w, hold_q=False)


def _two_gradients(
    c: Context, log_p: LogP, beta: Any, value: Array, decoder_w: Array, encoder_w: Array, hold_q: bool
) -> Array:
    """`value`, with the gradient of -sum_k w_k log w_k: `decoder_w` towards decoder and prior, `encoder_w`
    towards the encoder, whose density q counts as constant where `hold_q`."""
    stop = jax.lax.stop_gradient
    code = c.output.code
    posterior, prior = code.posterior, code.prior
    assert posterior is not None  # log_weights has seen both
    assert prior is not None

    def decode(variables: Any, z: Array) -> Array:
        label = {name: jnp.tile(y, max(code.samples, 1)) for name, y in c.given.items()}
        decoded = c.apply(variables, z.reshape(-1, z.shape[-1]), method="decode", **label)
        return decoded.reshape(c.output.decoded.shape)

    log_q = (stop(posterior) if hold_q else posterior).log_prob(code.z)
    # A learned scale of the likelihood belongs to the decoder.
    held = dataclasses.replace(c, output=c.output.replace(log_scale=stop(c.output.log_scale)))
    towards_decoder = log_p(c, decode(c.variables, stop(code.z))) + beta * prior.log_prob(stop(code.z))
    towards_encoder = log_p(held, decode(stop(c.variables), code.z)) + beta * (stop(prior).log_prob(code.z) - log_q)
    surrogate = -(stop(decoder_w) * towards_decoder + stop(encoder_w) * towards_encoder).sum(0)
    return stop(value) + surrogate - stop(surrogate)


BOUNDS: dict[str, Callable[..., Array]] = {bound.__name__: bound for bound in (iwae, miwae, ciwae, dreg, piwae)}
