"""Terms by name, each a function `term(context, **options)` that returns [batch], or a scalar of the whole batch.

A bottleneck's own losses (`kl`, `commitment`, ...) need nothing here: `Code.losses` carries them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from aejax import losses, perceptual
from aejax.errors import InputError
from aejax.models.distributions import DiagonalGaussian, FlowPosterior, HierarchicalPosterior, Posterior, StandardNormal
from aejax.models.layers import flatten, normal
from aejax.objectives.context import Context
from aejax.objectives.crosscoder import crosscoder_l1
from aejax.objectives.layers import balanced_kl, layer_free_bits
from aejax.objectives.schedules import progress
from aejax.objectives.sparsity import (
    gate_l1,
    gate_reconstruction,
    ghost,
    l0_target,
    l1,
    pre_activation,
    prefixes,
    revival,
    tanh_sparsity,
)
from aejax.objectives.spectral import multiscale_stft

# Sparsity and other penalties of the code.


def kl_sparsity(c: Context, target: float = 0.05) -> Float[Array, ""]:
    """Returns `losses.kl_sparsity` of the code, whose activations must lie in (0, 1) (Ng 2011, section 3)."""
    return losses.kl_sparsity(c.whole(flatten(c.z)), target)


def code_l2(c: Context) -> Float[Array, " batch"]:
    """Returns half the squared norm of the code (Ghosh et al. 2020, equation 10)."""
    return 0.5 * flatten(jnp.square(c.z)).sum(-1)


def decoder_l2(c: Context) -> Float[Array, ""]:
    """Returns half the squared norm of the decoder's kernels (ibid., section 4.1: Tikhonov)."""
    leaves = jax.tree_util.tree_leaves(c.variables["params"]["decoder"])
    return 0.5 * sum((jnp.square(leaf).sum() for leaf in leaves if leaf.ndim > 1), jnp.zeros(()))


def gradient_penalty(c: Context) -> Float[Array, " batch"]:
    """Returns the squared Frobenius norm of the decoder's Jacobian, d mean / d z, exactly (ibid., equation 12)."""
    return _squared_jacobian(lambda z, given: c.mean(c.apply(c.variables, z, method="decode", **given)), c.z, c.given)


def contractive(c: Context) -> Float[Array, " batch"]:
    """Returns the squared Frobenius norm of the encoder's Jacobian, d z / d x, exactly (Rifai et al. 2011,
    equation 5).
    """
    x = c.x if c.input is None else c.input
    return _squared_jacobian(lambda x, given: c.apply(c.variables, x, method="encode", **given).z, x, c.given)


def _squared_jacobian(function: Callable[..., Array], x: Array, given: dict[str, Array]) -> Array:
    """Returns the squared norm [batch] of the Jacobian of a function of a batch, for each example alone."""

    def one(v: Array, g: dict[str, Array]) -> Array:
        return function(v[None], {name: value[None] for name, value in g.items()})[0]

    sizes = jax.eval_shape(one, x[0], {name: value[0] for name, value in given.items()}).size, x[0].size
    jacobian = (jax.jacrev if sizes[0] < sizes[1] else jax.jacfwd)(one)
    return jax.vmap(lambda v, g: jnp.square(jacobian(v, g)).sum())(x, given)


# Terms of Gaussian posteriors.


def capacity(c: Context, nats: float = 25.0, steps: int = 10_000) -> Float[Array, ""]:
    """Returns |KL - C| of the batch's mean KL, where C grows linearly to `nats` over `steps` (Burgess et al. 2018,
    equation 8).
    """
    if "kl" not in c.output.code.losses:
        raise InputError("objective.weights.capacity needs a bottleneck with a kl, e.g. bottleneck.name=gaussian")
    return jnp.abs(c.whole(c.output.code.losses["kl"]).mean() - nats * progress(c.step, steps))


def free_bits(c: Context, nats: float = 0.1) -> Float[Array, ""]:
    """Returns `losses.free_bits` of the posterior: each unit has `nats` of its KL free (Kingma et al. 2016)."""
    code = c.output.code
    if not (isinstance(code.posterior, DiagonalGaussian) and isinstance(code.prior, StandardNormal)):
        raise InputError("objective.weights.free_bits needs a diagonal posterior and the standard normal prior")
    return losses.free_bits(c.whole(code.posterior.kl_by_unit()), nats)


def _posterior(c: Context, term: str) -> Posterior:
    posterior = c.output.code.posterior
    if posterior is None:
        raise InputError(f"objective.weights.{term} needs a posterior, e.g. bottleneck.name=gaussian")
    return posterior


def _aggregate(c: Context, term: str) -> tuple[Array, Array, Array]:
    """Returns the arguments of `losses.aggregate_log_prob`: the code, and the posteriors of the whole batch."""
    q = _posterior(c, term)
    if not isinstance(q, DiagonalGaussian):
        raise InputError(f"objective.weights.{term} needs bottleneck.posterior='diagonal'")
    return flatten(c.z), c.whole(flatten(q.mean)), c.whole(flatten(q.log_std))


# Earlier runs logged these terms with N times too small a q(z), for N training examples: their mutual information and
# total correlation are log N and (d - 1) log N larger, and with weights 1, 4, 1 the loss is 3 (d - 1) log N larger.


def mutual_information(c: Context) -> Float[Array, " batch"]:
    """Returns log q(z|x) - log q(z), see `losses.aggregate_log_prob` (Chen et al. 2018, equation 2)."""
    # q(z) comes first: the gradients of earlier runs were added up in this order.
    joint, _ = losses.aggregate_log_prob(*_aggregate(c, "mutual_information"))
    return _posterior(c, "mutual_information").log_prob(c.z) - joint


def total_correlation(c: Context) -> Float[Array, " batch"]:
    """Returns `losses.total_correlation` of the code's units (ibid.)."""
    return losses.total_correlation(*_aggregate(c, "total_correlation"))


def dimension_kl(c: Context) -> Float[Array, " batch"]:
    """Returns `losses.dimension_kl` of the code's units from the prior, where that is a product (ibid.)."""
    z, mean, log_std = _aggregate(c, "dimension_kl")
    prior = c.output.code.prior
    assert prior is not None  # where there is a posterior there is a prior
    return losses.dimension_kl(prior.log_prob(z), z, mean, log_std)


def dip(c: Context, kind: int = 1, diagonal: float = 10.0) -> Float[Array, ""]:
    """Returns `losses.dip` of the posterior means (`kind` 1) or of z (`kind` 2) (Kumar et al. 2018)."""
    if kind not in (1, 2):
        raise InputError(f"objective.options.dip.kind must be 1 or 2, got {kind!r}")
    q = _posterior(c, "dip")
    if q.mean is None:
        raise InputError("objective.weights.dip needs the posterior's mean, which a ladder lacks; leave it out")
    mean = c.whole(flatten(q.mean))
    if kind == 1:
        return losses.dip(mean, diagonal=diagonal)
    if isinstance(q, FlowPosterior | HierarchicalPosterior):
        raise InputError("objective.options.dip.kind=2 needs a diagonal or full posterior")
    return losses.dip(mean, c.whole(q.covariance().mean(0)[None]).mean(0), diagonal)


def mmd(c: Context, kernel: str = "imq", scale: float = 1.0) -> Float[Array, ""]:
    """Returns `losses.mmd` between the batch's codes and as many samples of the prior, N(0, I) where the code has none
    (Zhao et al. 2019, InfoVAE; Tolstikhin et al. 2018, WAE-MMD).
    """
    z = flatten(c.z)
    prior = c.output.code.prior
    samples = flatten(prior.sample(c.keys)) if prior else normal(c.keys, z.shape[1:])
    return losses.mmd(c.whole(z), c.whole(samples), kernel, scale)


def lpips(c: Context, network: str = "vgg") -> Float[Array, " batch"]:
    """Returns LPIPS between color images in [0, 1] and their reconstructions (Zhang et al. 2018), see `LPIPS`.

    It is one number for each image, about as large as an error averaged over values, where `reconstruction` is summed.
    """
    decoded = c.output.decoded[0] if c.output.code.samples else c.output.decoded
    perceptual.check_images(c.x.shape[1:], network)
    weights = c.constants.get(f"lpips_{network}") or perceptual.load(network)
    distance: Any = perceptual.LPIPS(network).apply(weights, c.x, c.mean(decoded))
    return distance


# Arrays that a term reads and nothing trains, by name, from the options of the term. They are not part of a checkpoint,
# and aejax's programs take them as arguments. XLA would fold constants of many megabytes for minutes.
CONSTANTS: dict[str, Callable[..., dict[str, PyTree]]] = {
    "lpips": lambda network="vgg": {f"lpips_{network}": perceptual.load(network)},
}

TERMS: dict[str, Callable[..., Array]] = {
    term.__name__: term
    for term in (
        l1,
        crosscoder_l1,
        kl_sparsity,
        code_l2,
        decoder_l2,
        gradient_penalty,
        contractive,
        tanh_sparsity,
        l0_target,
        gate_l1,
        gate_reconstruction,
        prefixes,
        revival,
        ghost,
        pre_activation,
        capacity,
        free_bits,
        layer_free_bits,
        balanced_kl,
        mutual_information,
        total_correlation,
        dimension_kl,
        dip,
        mmd,
        lpips,
        multiscale_stft,
    )
}
