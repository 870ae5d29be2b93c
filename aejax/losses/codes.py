"""Losses and entropies of discrete codes."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float


def commitment_loss(x: Float[Array, "batch ..."], codes: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
    """Returns |x - stop_gradient(codes)|^2, whose gradient moves the encoder (van den Oord et al. 2017, equation 3,
    last term, without its weight).

    >>> commitment_loss(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]]))
    Array([4.], dtype=float32)
    """
    return jnp.square(x - stop_gradient(codes)).reshape(x.shape[0], -1).sum(-1)


def codebook_loss(x: Float[Array, "batch ..."], codes: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
    """Returns |stop_gradient(x) - codes|^2, whose gradient moves the codes (ibid., second term).

    >>> jax.grad(lambda codes: codebook_loss(jnp.array([[1.0, 2.0]]), codes).sum())(jnp.array([[1.0, 4.0]]))
    Array([[0., 4.]], dtype=float32)
    """
    return commitment_loss(codes, x)


def bernoulli_entropy(logits: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns the entropy of a Bernoulli distribution for each logit, at most log 2.

    >>> bernoulli_entropy(jnp.array([0.0, 100.0]))
    Array([0.693, 0.   ], dtype=float32)
    """
    # Not p log p, whose gradient is NaN at p = 0.
    return jax.nn.softplus(logits) - logits * jax.nn.sigmoid(logits)


def categorical_entropy(log_p: Float[Array, "*batch codes"]) -> Float[Array, "*batch"]:
    """Returns the entropy of normalized log probabilities over the last axis: [..., codes] to [...].

    >>> categorical_entropy(jax.nn.log_softmax(jnp.array([0.0, 0.0, -100.0])))
    Array(0.693, dtype=float32)
    """
    return -(jnp.exp(log_p) * log_p).sum(-1)
