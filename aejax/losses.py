"""Losses of autoencoders: pure functions of arrays, which `aejax.objectives` and any other training loop can call.

Values are in nats, and losses are to be minimized, so a bound of log p(x) is returned with its sign changed. A batch
of codes has the shape [batch, d]. Functions that reduce the batch to a scalar need the whole batch, gathered from all
devices. Arguments out of range raise InputError. The doctests print with
`numpy.set_printoptions(precision=3, suppress=True)`.

    nll = losses.bernoulli_nll(logits, x).sum(-1)  # [batch], summed over pixels
    loss = losses.elbo(nll, losses.gaussian_kl(mean, log_std), beta=4.0).mean()
"""

import math

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from aejax.errors import InputError, one_of

_LOG_2PI = math.log(2 * math.pi)
_IMQ_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

Values = Float[Array, "*#shape"]  # which broadcast with each other
LogWeights = Float[Array, "samples batch"]
Weight = float | Float[Array, ""]


# Likelihoods: -log p(x | decoded) of each value; `decoded` and `x` broadcast.


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


# Densities and divergences of a stochastic code.


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


# Bounds of log p(x), with the sign changed: [samples, batch] to [batch].


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


# Discrete codes.


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
