"""Bounds of log p(x), with the sign changed: [samples, batch] to [batch]."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from aejax.errors import InputError

LogWeights = Float[Array, "samples batch"]
Weight = float | Float[Array, ""]


def elbo(nll: Float[Array, " batch"], kl: Float[Array, " batch"], beta: Weight = 1.0) -> Float[Array, " batch"]:
    """Returns the negative evidence lower bound -log p(x|z) + beta KL(q(z|x) || p(z)) (Kingma and Welling 2014,
    equation 3; for a `beta` other than 1 Higgins et al. 2017, equation 4).

    >>> elbo(jnp.array([80.0, 90.0]), jnp.array([10.0, 20.0]), beta=0.5)
    Array([ 85., 100.], dtype=float32)
    """
    return nll + beta * kl


def log_weights(
    nll: Float[Array, "*shape"], log_q: Float[Array, "*shape"], log_prior: Float[Array, "*shape"], beta: Weight = 1.0
) -> Float[Array, "*shape"]:
    """Returns log p(x|z) + beta (log p(z) - log q(z|x)) for samples z of q(z|x); only a `beta` of 1 gives bounds.

    >>> log_weights(jnp.array([[80.0]]), jnp.array([[3.0]]), jnp.array([[-7.0]]))
    Array([[-90.]], dtype=float32)
    """
    return -nll - beta * (log_q - log_prior)


def iwae(log_w: Float[Array, "samples ..."]) -> Float[Array, "..."]:
    """Returns the negative importance-weighted bound, -log mean_k w_k (Burda et al. 2016, equation 8).

    >>> iwae(jnp.log(jnp.array([[1.0], [3.0]])))  # -log 2
    Array([-0.693], dtype=float32)
    """
    if not log_w.shape[0]:
        raise InputError(f"a bound needs at least one sample, got log weights of shape {log_w.shape}")
    return jnp.log(log_w.shape[0]) - jax.nn.logsumexp(log_w, 0)


def miwae(log_w: LogWeights, groups: int = 1) -> Float[Array, " batch"]:
    """Returns the mean of `iwae` over `groups` equal parts of the samples (Rainforth et al. 2018, equation 10).

    >>> miwae(jnp.array([[-1.0], [-3.0]]), groups=2)  # one sample in each group: the negative ELBO
    Array([2.], dtype=float32)
    """
    return iwae(_grouped(log_w, groups, "miwae")).mean(0)


def ciwae(log_w: LogWeights, share: float = 0.5) -> Float[Array, " batch"]:
    """Returns share * (negative ELBO) + (1 - share) * `iwae` (Rainforth et al. 2018, equation 11).

    >>> ciwae(jnp.array([[-1.0], [-3.0]]), share=1.0)
    Array([2.], dtype=float32)
    """
    if not 0 <= share <= 1:
        raise InputError(f"ciwae.share must be in [0, 1], got {share}")
    return -share * log_w.mean(0) + (1 - share) * iwae(log_w)


def dreg(log_w: LogWeights, through_decoder: LogWeights, through_encoder: LogWeights) -> Float[Array, " batch"]:
    """Returns `iwae` with the doubly reparameterized gradient of the encoder (Tucker et al. 2019, equation 8).

    The three arguments are the same log weights with different gradients. `log_w` needs none. `through_decoder` has the
    gradients of decoder and prior, with z constant. `through_encoder` has the gradient of the encoder through z, with
    decoder, prior and the density of q constant. In the encoder's gradient the normalized weights are squared:

    >>> log_w = jnp.zeros((2, 1))
    >>> jax.grad(lambda through_encoder: dreg(log_w, log_w, through_encoder).sum())(log_w)
    Array([[-0.25],
           [-0.25]], dtype=float32)
    """
    w = jax.nn.softmax(log_w, 0)
    return _with_gradient(log_w, w, through_decoder, jnp.square(w), through_encoder)


def piwae(
    log_w: LogWeights, through_decoder: LogWeights, through_encoder: LogWeights, groups: int = 1
) -> Float[Array, " batch"]:
    """Returns `iwae` with the gradient of `iwae` for the decoder and that of `miwae` for the encoder.

    As in `dreg`, but `through_encoder` also has the gradient of the density of q. Rainforth et al. 2018, section 5.

    >>> log_w = jnp.log(jnp.array([[1.0], [3.0]]))
    >>> piwae(log_w, log_w, log_w, groups=2)  # the same value as iwae
    Array([-0.693], dtype=float32)
    """
    encoder_w = jax.nn.softmax(_grouped(log_w, groups, "piwae"), 0).reshape(log_w.shape) / groups
    return _with_gradient(log_w, jax.nn.softmax(log_w, 0), through_decoder, encoder_w, through_encoder)


def _grouped(log_w: LogWeights, groups: int, bound: str) -> Float[Array, "samples_of_group {groups} batch"]:
    """Splits [samples, batch] into [samples / groups, groups, batch]."""
    samples = log_w.shape[0]
    if groups < 1 or samples % groups:
        raise InputError(f"{bound}.groups must divide the {samples} samples, got {groups}")
    return log_w.reshape(samples // groups, groups, -1)


def _with_gradient(
    log_w: LogWeights, decoder_w: LogWeights, decoder: LogWeights, encoder_w: LogWeights, encoder: LogWeights
) -> Float[Array, " batch"]:
    """Returns `iwae(log_w)` with the gradient of -sum(decoder_w * decoder + encoder_w * encoder), weights constant."""
    surrogate = -(stop_gradient(decoder_w) * decoder + stop_gradient(encoder_w) * encoder).sum(0)
    return stop_gradient(iwae(log_w)) + surrogate - stop_gradient(surrogate)
