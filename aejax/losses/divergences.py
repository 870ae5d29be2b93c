"""Densities and divergences of a stochastic code."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aejax.errors import InputError, one_of
from aejax.losses.values import Values

_LOG_2PI = math.log(2 * math.pi)
_IMQ_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def normal_log_prob(z: Values, mean: Values, log_std: Values) -> Float[Array, "..."]:
    """Returns log N(z; mean, diag(exp(log_std))^2), summed over the last axis: [..., d] to [...].

    >>> normal_log_prob(jnp.zeros((3, 2)), jnp.zeros(2), jnp.zeros(2))
    Array([-1.838, -1.838, -1.838], dtype=float32)
    """
    return -0.5 * (jnp.square((z - mean) * jnp.exp(-log_std)) + 2 * log_std + _LOG_2PI).sum(-1)


def gaussian_kl_by_unit(mean: Float[Array, "*shape"], log_std: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns KL(N(mean, exp(log_std)^2) || N(0, 1)) of each latent unit (Kingma and Welling 2014, appendix B).

    >>> gaussian_kl_by_unit(jnp.array([0.0, 1.0, 0.0]), jnp.array([0.0, 0.0, -1.0]))
    Array([0.   , 0.5  , 0.568], dtype=float32)
    """
    return 0.5 * (jnp.square(mean) + jnp.exp(2 * log_std) - 1) - log_std


def gaussian_kl(mean: Float[Array, "*batch d"], log_std: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    """Returns KL(N(mean, diag(exp(log_std))^2) || N(0, I)): [batch, d] to [batch].

    >>> gaussian_kl(jnp.array([[0.0, 0.0], [1.0, 2.0]]), jnp.zeros((2, 2)))
    Array([0. , 2.5], dtype=float32)
    """
    return gaussian_kl_by_unit(mean, log_std).sum(-1)


def full_gaussian_kl(mean: Float[Array, "batch d"], scale: Float[Array, "batch d d"]) -> Float[Array, " batch"]:
    """Returns KL(N(mean, L L^T) || N(0, I)) for `scale` L, lower triangular with a positive diagonal (Kingma and
    Welling 2019, section 2.5.1).

    >>> full_gaussian_kl(jnp.zeros((1, 2)), jnp.array([[[1.0, 0.0], [2.0, 1.0]]]))
    Array([2.], dtype=float32)
    """
    log_det = jnp.log(jnp.diagonal(scale, axis1=-2, axis2=-1)).sum(-1)
    return 0.5 * (jnp.square(scale).sum((-2, -1)) + jnp.square(mean).sum(-1) - mean.shape[-1]) - log_det


def monte_carlo_kl(
    log_q: Float[Array, "*samples batch"], log_p: Float[Array, "*samples batch"]
) -> Float[Array, " batch"]:
    """Estimates KL(q || p) without bias from the log densities of q and p at samples of q. It may be negative.

    >>> monte_carlo_kl(jnp.array([[-1.0, -2.0], [-3.0, -4.0]]), jnp.array([[-2.0, -2.0], [-4.0, -5.0]]))
    Array([1. , 0.5], dtype=float32)
    """
    return jnp.atleast_2d(log_q - log_p).mean(0)


def categorical_kl(logits: Float[Array, "*batch codes"]) -> Float[Array, "*batch"]:
    """Returns KL(softmax(logits) || uniform) over the last axis: [..., codes] to [...] (Jang et al. 2017).

    >>> categorical_kl(jnp.array([[0.0, 0.0], [100.0, 0.0]]))
    Array([0.   , 0.693], dtype=float32)
    """
    log_q = jax.nn.log_softmax(logits)
    return (jnp.exp(log_q) * (log_q + math.log(logits.shape[-1]))).sum(-1)


def kl_sparsity(activations: Float[Array, "batch d"], target: float = 0.05) -> Float[Array, ""]:
    """Returns the sum over units of KL(Bernoulli(target) || Bernoulli(mean activation over the batch)).

    Activations must lie in (0, 1), as those of a sigmoid do. Ng 2011, "Sparse autoencoder", section 3.

    >>> kl_sparsity(jnp.array([[0.0, 0.5], [1.0, 0.5]]), target=0.5)
    Array(0., dtype=float32)
    """
    if not 0 < target < 1:
        raise InputError(f"kl_sparsity.target must be between 0 and 1, got {target}")
    mean = jnp.clip(activations.mean(0), 1e-6, 1 - 1e-6)
    return jnp.sum(target * jnp.log(target / mean) + (1 - target) * jnp.log((1 - target) / (1 - mean)))


def free_bits(kl_by_unit: Float[Array, "batch d"], nats: float) -> Float[Array, ""]:
    """Returns the sum over units of max(nats, mean KL over the batch), a scalar (Kingma et al. 2016, equation 15).

    >>> free_bits(jnp.array([[0.0, 1.0], [0.0, 3.0]]), nats=0.5)
    Array(2.5, dtype=float32)
    """
    return jnp.maximum(nats, kl_by_unit.mean(0)).sum()


def aggregate_log_prob(
    z: Float[Array, "n d"], mean: Float[Array, "batch d"], log_std: Float[Array, "batch d"]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Estimates log q(z) and sum_j log q(z_j) of the aggregate posterior q(z).

    q(z) is estimated by the mean over a whole batch of the posteriors N(mean, exp(log_std)^2), and each q(z_j)
    likewise. Minibatch weighted sampling (Chen et al. 2018, equation 3, appendix C.1) also divides by N, the number of
    training examples, which leaves the gradients the same and makes q(z) N times too small.

    The mean of log q(z|x) - log q(z) estimates the mutual information of input and code (ibid., equation 2). On average
    it is a lower bound: InfoNCE with the score log q(z|x) (Poole et al. 2019, equation 10). It is at most the log of
    the batch size, and close to that if the posteriors do not overlap:

    >>> mean, log_std = jnp.array([[-9.0, -9.0], [9.0, 9.0]]), jnp.zeros((2, 2))
    >>> normal_log_prob(mean, mean, log_std) - aggregate_log_prob(mean, mean, log_std)[0]  # log 2
    Array([0.693, 0.693], dtype=float32)
    """
    each = normal_log_prob(z[:, None, :, None], mean[None, :, :, None], log_std[None, :, :, None])  # [n, batch, d]
    log_m = math.log(mean.shape[0])
    joint = jax.nn.logsumexp(each.sum(-1), 1) - log_m
    return joint, (jax.nn.logsumexp(each, 1) - log_m).sum(-1)


def total_correlation(
    z: Float[Array, "n d"], mean: Float[Array, "batch d"], log_std: Float[Array, "batch d"]
) -> Float[Array, " n"]:
    """Returns log q(z) - sum_j log q(z_j), see `aggregate_log_prob`: its mean estimates the total correlation.

    An estimate of q(z) that is too large, as in small batches, makes this estimate too large and that of the mutual
    information too small. Chen et al. 2018, equation 2.

    >>> mean, log_std = jnp.array([[-9.0, -9.0], [9.0, 9.0]]), jnp.zeros((2, 2))
    >>> total_correlation(mean, mean, log_std)  # each unit determines the other: log 2
    Array([0.693, 0.693], dtype=float32)
    """
    joint, units = aggregate_log_prob(z, mean, log_std)
    return joint - units


def dimension_kl(
    log_p: Float[Array, " n"],
    z: Float[Array, "n d"],
    mean: Float[Array, "batch d"],
    log_std: Float[Array, "batch d"],
) -> Float[Array, " n"]:
    """Returns sum_j log q(z_j) - log p(z): its mean estimates sum_j KL(q(z_j) || p(z_j)) of a factorized prior.

    The sum of the mutual information, log q(z|x) - log q(z), `total_correlation` and `dimension_kl` is exactly
    log q(z|x) - log p(z). Chen et al. 2018, equation 2.

    >>> z, zeros = jnp.array([[-9.0, -9.0], [9.0, 9.0]]), jnp.zeros((2, 2))
    >>> dimension_kl(normal_log_prob(z, zeros, zeros), z, zeros, zeros)  # q(z) = p(z)
    Array([0., 0.], dtype=float32)
    """
    return aggregate_log_prob(z, mean, log_std)[1] - log_p


def dip(
    mean: Float[Array, "batch d"], covariance: Float[Array, "d d"] | float = 0.0, diagonal: float = 10.0
) -> Float[Array, ""]:
    """Returns the sum of C_ij^2 over i != j plus `diagonal` times the sum of (C_ii - 1)^2.

    C is the covariance of the posterior means (Kumar et al. 2018, DIP-VAE-I, equation 6). For DIP-VAE-II (equation 7),
    `covariance`, the average covariance of the posteriors, is added to it.

    >>> dip(jnp.array([[1.0, 1.0], [-1.0, -1.0]]))  # two perfectly correlated units of variance 1
    Array(2., dtype=float32)
    """
    centered = mean - mean.mean(0)
    covariance = centered.T @ centered / mean.shape[0] + covariance
    variances = jnp.diagonal(covariance)
    off_diagonal = jnp.square(covariance).sum() - jnp.square(variances).sum()
    return off_diagonal + diagonal * jnp.square(variances - 1).sum()


def mmd(
    z: Float[Array, "n d"], prior: Float[Array, "m d"], kernel: str = "imq", scale: float = 1.0
) -> Float[Array, ""]:
    """Estimates the squared maximum mean discrepancy of codes z and samples of a prior without bias.

    `kernel` is "rbf", exp(-|a - b|^2 / (2 d scale^2)), or "imq", the sum of C / (C + |a - b|^2) over
    C = 2 d scale^2 s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10). Zhao et al. 2019, InfoVAE, section 3.2; Tolstikhin et
    al. 2018, WAE-MMD, algorithm 2.

    >>> z = jnp.array([[0.0], [0.0]])
    >>> mmd(z, z + 100.0, "rbf")
    Array(2., dtype=float32)
    """
    if kernel not in ("rbf", "imq"):
        raise one_of("mmd.kernel", kernel, ("rbf", "imq"))
    if not scale > 0:
        raise InputError(f"mmd.scale must be above 0, got {scale}")
    width = 2 * z.shape[1] * scale**2

    def gram(a: Float[Array, "n d"], b: Float[Array, "m d"]) -> Float[Array, "n m"]:
        squared = jnp.maximum(jnp.square(a).sum(-1)[:, None] + jnp.square(b).sum(-1) - 2 * a @ b.T, 0.0)
        if kernel == "rbf":
            return jnp.exp(-squared / width)
        return sum((width * s / (width * s + squared) for s in _IMQ_SCALES), jnp.zeros(()))

    def off_diagonal_mean(matrix: Float[Array, "n n"]) -> Float[Array, ""]:
        n = matrix.shape[0]
        return (matrix.sum() - jnp.trace(matrix)) / (n * max(n - 1, 1))

    return off_diagonal_mean(gram(z, z)) + off_diagonal_mean(gram(prior, prior)) - 2 * gram(z, prior).mean()
