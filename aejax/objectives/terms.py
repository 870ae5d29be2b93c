"""Terms by name, each a function `term(context, **options)` to [batch], or to a scalar of the whole batch.

A bottleneck's own losses (`kl`, `commitment`, ...) need nothing here: `Code.losses` carries them.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from aejax.errors import InputError, one_of
from aejax.models.distributions import (
    DiagonalGaussian,
    FlowPosterior,
    Posterior,
    StandardNormal,
    normal_log_prob,
)
from aejax.models.layers import normal
from aejax.objectives.context import Context
from aejax.objectives.schedules import progress


def total(x: Array) -> Array:
    """[batch, ...] to [batch]."""
    return x.reshape(x.shape[0], -1).sum(-1)


# Sparsity and other penalties of the code.


def l1(c: Context) -> Array:
    """Sum of the absolute activations of the code (Olshausen and Field 1996)."""
    return total(jnp.abs(c.z))


def kl_sparsity(c: Context, target: float = 0.05) -> Array:
    """KL of Bernoullis, target against each unit's mean activation over the batch, summed over units, in nats
    (Ng 2011, "Sparse autoencoder", section 3). Activations must lie in (0, 1): a sigmoid's."""
    if not 0 < target < 1:
        raise InputError(f"objective.options.kl_sparsity.target must be between 0 and 1, got {target}")
    z = c.whole(c.z.reshape(c.z.shape[0], -1))
    mean = jnp.clip(z.mean(0), 1e-6, 1 - 1e-6)
    return jnp.sum(target * jnp.log(target / mean) + (1 - target) * jnp.log((1 - target) / (1 - mean)))


def code_l2(c: Context) -> Array:
    """Half the squared norm of the code (Ghosh et al. 2020, equation 10)."""
    return 0.5 * total(jnp.square(c.z))


def decoder_l2(c: Context) -> Array:
    """Half the squared norm of the decoder's kernels (ibid., section 4.1: Tikhonov)."""
    leaves = jax.tree_util.tree_leaves(c.variables["params"]["decoder"])
    return 0.5 * sum((jnp.square(leaf).sum() for leaf in leaves if leaf.ndim > 1), jnp.zeros(()))


def gradient_penalty(c: Context) -> Array:
    """Squared Frobenius norm of the decoder's Jacobian, d mean / d z, exact (ibid., equation 12)."""

    def decode(z: Array, given: dict[str, Array]) -> Array:
        given = {name: value[None] for name, value in given.items()}
        return c.mean(c.apply(c.variables, z[None], method="decode", **given))[0]

    return _squared_jacobian(decode, c.z, c.given)


def contractive(c: Context) -> Array:
    """Squared Frobenius norm of the encoder's Jacobian, d z / d x, exact (Rifai et al. 2011, equation 5)."""

    def encode(x: Array, given: dict[str, Array]) -> Array:
        given = {name: value[None] for name, value in given.items()}
        return c.apply(c.variables, x[None], method="encode", **given).z[0]

    return _squared_jacobian(encode, c.x, c.given)


def _squared_jacobian(function: Callable[..., Array], x: Array, given: dict[str, Array]) -> Array:
    sizes = jax.eval_shape(function, x[0], {name: value[0] for name, value in given.items()}).size, x[0].size
    jacobian = (jax.jacrev if sizes[0] < sizes[1] else jax.jacfwd)(function)
    return jax.vmap(lambda v, g: jnp.square(jacobian(v, g)).sum())(x, given)


def revival(c: Context) -> Array:
    """Squared error with which the dead units alone explain what the reconstruction misses
    (Gao et al. 2024, appendix A.2: the auxiliary loss AuxK). 0 where no unit is dead."""
    code = c.output.code.revival
    if code is None:
        raise InputError("objective.weights.revival needs a bottleneck with dead_after above 0: topk, jumprelu, ...")
    missed = jax.lax.stop_gradient(c.x - c.mean(c.output.decoded))
    explained = c.decode(code) - c.decode(jnp.zeros_like(code))
    return total(jnp.square(missed - explained)) * (total(jnp.abs(code)) > 0)


# Of Gaussian posteriors.


def capacity(c: Context, nats: float = 25.0, steps: int = 10_000) -> Array:
    """|KL - C| of the batch's mean KL, C growing linearly to `nats` over `steps` (Burgess et al. 2018, equation 8)."""
    if "kl" not in c.output.code.losses:
        raise InputError("objective.weights.capacity needs a bottleneck with a kl, e.g. bottleneck.name=gaussian")
    return jnp.abs(c.whole(c.output.code.losses["kl"]).mean() - nats * progress(c.step, steps))


def free_bits(c: Context, nats: float = 0.1) -> Array:
    """KL of which each unit has `nats` free: the sum over units of max(nats, mean KL over the batch)
    (Kingma et al. 2016, equation 15)."""
    code = c.output.code
    if not (isinstance(code.posterior, DiagonalGaussian) and isinstance(code.prior, StandardNormal)):
        raise InputError("objective.weights.free_bits needs a diagonal posterior and the standard normal prior")
    return jnp.maximum(nats, c.whole(code.posterior.kl_by_unit()).mean(0)).sum()


def _posterior(c: Context, term: str) -> Posterior:
    posterior = c.output.code.posterior
    if posterior is None:
        raise InputError(f"objective.weights.{term} needs a posterior, e.g. bottleneck.name=gaussian")
    return posterior


def _aggregate(c: Context, term: str) -> tuple[Array, Array, Array]:
    """Returns log q(z|x), log q(z) and sum_j log q(z_j), [batch]. The aggregate posterior q(z) is estimated by the mean
    of the M posteriors of the whole batch, log q(z) = logsumexp_m log q(z|x_m) - log M, and each q(z_j) likewise.

    Minibatch weighted sampling (Chen et al. 2018, equation 3 and appendix C.1) divides by N M instead, for N training
    examples. That is a constant: the gradients are the same, but its q(z) is N times too small, so that the values
    are log N and (d - 1) log N above the mutual information and the total correlation. Earlier runs logged those,
    and with weights 1, 4, 1 a loss that is 3 (d - 1) log N higher.
    """
    q = _posterior(c, term)
    if not isinstance(q, DiagonalGaussian):
        raise InputError(f"objective.weights.{term} needs bottleneck.posterior='diagonal'")
    mean, log_std = c.whole(q.mean), c.whole(q.log_std)
    # [batch, whole batch, d]
    each = normal_log_prob(c.z[:, None, :, None], mean[None, :, :, None], log_std[None, :, :, None])
    log_m = math.log(mean.shape[0])
    joint = jax.nn.logsumexp(each.sum(-1), 1) - log_m
    units = (jax.nn.logsumexp(each, 1) - log_m).sum(-1)
    return q.log_prob(c.z), joint, units


def mutual_information(c: Context) -> Array:
    """Returns log q(z|x) - log q(z), in nats: its mean is the mutual information of input and code
    (Chen et al. 2018, equation 2).

    Estimated from the batch (InfoNCE with the critic log q(z|x), Poole et al. 2019, equation 10): on average a lower
    bound, at most the log of the whole batch's size and close to it where the code tells every example from the others.
    """
    conditional, joint, _ = _aggregate(c, "mutual_information")
    return conditional - joint


def total_correlation(c: Context) -> Array:
    """Returns log q(z) - sum_j log q(z_j), in nats: its mean is the total correlation of the code's units (ibid.).

    Estimated from the batch as in `mutual_information`. Where that reaches its bound, here is what it lacks: the
    estimate is then too large.
    """
    _, joint, units = _aggregate(c, "total_correlation")
    return joint - units


def dimension_kl(c: Context) -> Array:
    """Returns sum_j log q(z_j) - log p(z), in nats: its mean is the sum of the units' KL from the prior, where that
    is a product (ibid.). Estimated from the batch as in `mutual_information`; the sum of the three is exactly
    log q(z|x) - log p(z).
    """
    _, _, units = _aggregate(c, "dimension_kl")
    prior = c.output.code.prior
    assert prior is not None  # where there is a posterior there is a prior
    return units - prior.log_prob(c.z)


def dip(c: Context, kind: int = 1, diagonal: float = 10.0) -> Array:
    """Squares of the off-diagonal of the code's covariance, plus `diagonal` times those of its diagonal minus 1
    (Kumar et al. 2018, equations 6 and 7): of the posterior means (`kind` 1), or of z (`kind` 2)."""
    if kind not in (1, 2):
        raise InputError(f"objective.options.dip.kind must be 1 or 2, got {kind!r}")
    q = _posterior(c, "dip")
    mean = c.whole(q.mean)
    centred = mean - mean.mean(0)
    covariance = centred.T @ centred / mean.shape[0]
    if kind == 2:
        if isinstance(q, FlowPosterior):
            raise InputError("objective.options.dip.kind=2 needs a diagonal or full posterior")
        covariance = covariance + c.whole(q.covariance().mean(0)[None]).mean(0)
    on = jnp.diagonal(covariance)
    return jnp.square(covariance).sum() - jnp.square(on).sum() + diagonal * jnp.square(on - 1).sum()


def mmd(c: Context, kernel: str = "imq", scale: float = 1.0) -> Array:
    """Squared maximum mean discrepancy between the batch's codes and as many draws of the prior, unbiased
    (Zhao et al. 2019, InfoVAE, section 3.2; Tolstikhin et al. 2018, WAE-MMD, algorithm 2).

    `kernel` is "rbf", exp(-|a-b|^2 / (2 d scale^2)), or "imq", the sum of C / (C + |a-b|^2) over
    C = 2 d scale^2 s, s in (0.1, 0.2, 0.5, 1, 2, 5, 10), for codes of d numbers.
    """
    if kernel not in ("rbf", "imq"):
        raise one_of("objective.options.mmd.kernel", kernel, ("rbf", "imq"))
    if not scale > 0:
        raise InputError(f"objective.options.mmd.scale must be above 0, got {scale}")
    z = c.z.reshape(c.z.shape[0], -1)
    prior = c.output.code.prior
    draws = prior.sample(c.keys) if prior else normal(c.keys, z.shape[1:])
    z, draws = c.whole(z), c.whole(draws)
    n, d = z.shape

    def k(a: Array, b: Array) -> Array:
        squared = jnp.maximum(jnp.square(a).sum(-1)[:, None] + jnp.square(b).sum(-1) - 2 * a @ b.T, 0.0)
        if kernel == "rbf":
            return jnp.exp(-squared / (2 * d * scale**2))
        return sum((2 * d * scale**2 * s / (2 * d * scale**2 * s + squared) for s in _IMQ), jnp.zeros(()))

    def apart(gram: Array) -> Array:
        return (gram.sum() - jnp.trace(gram)) / (n * max(n - 1, 1))

    return apart(k(z, z)) + apart(k(draws, draws)) - 2 * k(z, draws).mean()


_IMQ = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

TERMS: dict[str, Callable[..., Array]] = {
    term.__name__: term
    for term in (
        l1,
        kl_sparsity,
        code_l2,
        decoder_l2,
        gradient_penalty,
        contractive,
        revival,
        capacity,
        free_bits,
        mutual_information,
        total_correlation,
        dimension_kl,
        dip,
        mmd,
    )
}
