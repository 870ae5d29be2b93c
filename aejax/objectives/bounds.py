"""Bounds of log p(x) from importance samples: `bound(context, log_p, beta)` returns a loss [batch], in nats.

`log_p(context, decoded)` returns log p(x|z_k), [samples, batch]; `beta` is the weight of `kl`. Only with the default
weight, 1, is the loss a bound.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aejax import losses
from aejax.errors import InputError
from aejax.models.distributions import FlowPosterior
from aejax.objectives.context import Context

LogP = Callable[[Context, Float[Array, "..."]], Float[Array, "*samples batch"]]


def log_weights(c: Context, log_p: LogP, beta: losses.Weight) -> losses.LogWeights:
    """Returns the log weights [samples, batch] of the samples, `losses.log_weights`; of a code without an axis for
    samples, those of one sample.
    """
    code = c.output.code
    if code.posterior is None or code.prior is None:
        raise InputError("objective.bound needs a posterior and a prior: bottleneck.name=gaussian")
    nll = -log_p(c, c.output.decoded)
    log_w = losses.log_weights(nll, code.posterior.log_prob(code.z), code.prior.log_prob(code.z), beta)
    return log_w if code.samples else log_w[None]


def iwae(c: Context, log_p: LogP, beta: losses.Weight) -> Float[Array, " batch"]:
    """Returns `losses.iwae` of the samples (Burda et al. 2016)."""
    return losses.iwae(log_weights(c, log_p, beta))


def miwae(c: Context, log_p: LogP, beta: losses.Weight, groups: int = 1) -> Float[Array, " batch"]:
    """Returns `losses.miwae` of the samples in `groups` (Rainforth et al. 2018)."""
    return losses.miwae(log_weights(c, log_p, beta), groups)


def ciwae(c: Context, log_p: LogP, beta: losses.Weight, share: float = 0.5) -> Float[Array, " batch"]:
    """Returns `losses.ciwae` of the samples, with the weight `share` of the ELBO (Rainforth et al. 2018)."""
    return losses.ciwae(log_weights(c, log_p, beta), share)


def dreg(c: Context, log_p: LogP, beta: losses.Weight) -> Float[Array, " batch"]:
    """Returns `losses.dreg` of the samples (Tucker et al. 2019)."""
    if isinstance(c.output.code.posterior, FlowPosterior):
        raise InputError("objective.bound.name=dreg needs bottleneck.posterior='diagonal' or 'full'")
    return losses.dreg(log_weights(c, log_p, beta), *_log_weights_apart(c, log_p, beta, fix_q=True))


def piwae(c: Context, log_p: LogP, beta: losses.Weight, groups: int = 1) -> Float[Array, " batch"]:
    """Returns `losses.piwae` of the samples in `groups` (Rainforth et al. 2018)."""
    return losses.piwae(log_weights(c, log_p, beta), *_log_weights_apart(c, log_p, beta, fix_q=False), groups)


def _log_weights_apart(
    c: Context, log_p: LogP, beta: losses.Weight, fix_q: bool
) -> tuple[losses.LogWeights, losses.LogWeights]:
    """Returns the log weights twice: with the gradients of decoder and prior alone, and with those of the encoder
    alone, for which the density q counts as constant where `fix_q`.
    """
    stop = jax.lax.stop_gradient
    code = c.output.code
    posterior, prior = code.posterior, code.prior
    assert posterior is not None  # log_weights has seen both
    assert prior is not None

    def decode(variables: Any, z: Array) -> Array:
        label = {name: jnp.tile(y, max(code.samples, 1)) for name, y in c.given.items()}
        decoded = c.apply(variables, z.reshape(-1, z.shape[-1]), method="decode", **label)
        return decoded.reshape(c.output.decoded.shape)

    log_q = (stop(posterior) if fix_q else posterior).log_prob(code.z)
    # A learned scale of the likelihood belongs to the decoder.
    fixed_scale = dataclasses.replace(c, output=c.output.replace(log_scale=stop(c.output.log_scale)))
    through_decoder = log_p(c, decode(c.variables, stop(code.z)))
    through_encoder = log_p(fixed_scale, decode(stop(c.variables), code.z))
    return (
        losses.log_weights(-through_decoder, stop(log_q), prior.log_prob(stop(code.z)), beta),
        losses.log_weights(-through_encoder, log_q, stop(prior).log_prob(code.z), beta),
    )


BOUNDS: dict[str, Callable[..., Array]] = {bound.__name__: bound for bound in (iwae, miwae, ciwae, dreg, piwae)}
