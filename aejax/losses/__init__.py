"""Losses of autoencoders: pure functions of arrays, which `aejax.objectives` and any other training loop can call.

Values are in nats, and losses are to be minimized, so a bound of log p(x) is returned with its sign changed. A batch
of codes has the shape [batch, d]. Functions that reduce the batch to a scalar need the whole batch, gathered from all
devices. Arguments out of range raise InputError. The doctests print with
`numpy.set_printoptions(precision=3, suppress=True)`.

    nll = losses.bernoulli_nll(logits, x).sum(-1)  # [batch], summed over pixels
    loss = losses.elbo(nll, losses.gaussian_kl(mean, log_std), beta=4.0).mean()
"""

from aejax.losses.bounds import (
    LogWeights,
    Weight,
    ciwae,
    dreg,
    elbo,
    iwae,
    log_weights,
    miwae,
    piwae,
)
from aejax.losses.codes import (
    bernoulli_entropy,
    categorical_entropy,
    codebook_loss,
    commitment_loss,
)
from aejax.losses.columns import (
    beta_nll,
    categorical_nll,
    ordinal_nll,
    student_t_nll,
)
from aejax.losses.counts import (
    multinomial_nll,
    negative_binomial_nll,
    poisson_nll,
    stirling_remainder,
    zero_inflated_negative_binomial_nll,
)
from aejax.losses.divergences import (
    aggregate_log_prob,
    categorical_kl,
    dimension_kl,
    dip,
    free_bits,
    full_gaussian_kl,
    gaussian_kl,
    gaussian_kl_by_unit,
    kl_sparsity,
    mmd,
    monte_carlo_kl,
    normal_log_prob,
    total_correlation,
)
from aejax.losses.spectra import (
    multiscale_stft_distance,
    si_sdr,
    stft_distance,
    stft_magnitude,
)
from aejax.losses.values import (
    Values,
    bernoulli_nll,
    continuous_bernoulli_mean,
    continuous_bernoulli_nll,
    discretized_logistic_nll,
    gaussian_nll,
    laplace_nll,
    optimal_log_scale,
)

__all__ = [
    "LogWeights",
    "Values",
    "Weight",
    "aggregate_log_prob",
    "bernoulli_entropy",
    "bernoulli_nll",
    "beta_nll",
    "categorical_entropy",
    "categorical_kl",
    "categorical_nll",
    "ciwae",
    "codebook_loss",
    "commitment_loss",
    "continuous_bernoulli_mean",
    "continuous_bernoulli_nll",
    "dimension_kl",
    "dip",
    "discretized_logistic_nll",
    "dreg",
    "elbo",
    "free_bits",
    "full_gaussian_kl",
    "gaussian_kl",
    "gaussian_kl_by_unit",
    "gaussian_nll",
    "iwae",
    "kl_sparsity",
    "laplace_nll",
    "log_weights",
    "miwae",
    "mmd",
    "monte_carlo_kl",
    "multinomial_nll",
    "multiscale_stft_distance",
    "negative_binomial_nll",
    "normal_log_prob",
    "optimal_log_scale",
    "ordinal_nll",
    "piwae",
    "poisson_nll",
    "si_sdr",
    "stft_distance",
    "stft_magnitude",
    "stirling_remainder",
    "student_t_nll",
    "total_correlation",
    "zero_inflated_negative_binomial_nll",
]
