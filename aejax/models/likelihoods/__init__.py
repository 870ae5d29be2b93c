"""Likelihoods of the input given decoded values: negative logarithms of each value, in nats."""

from aejax.models.likelihoods.columns import Beta, Categorical, Ordinal, StudentT
from aejax.models.likelihoods.counts import Multinomial, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from aejax.models.likelihoods.likelihood import (
    AbsoluteError,
    Bernoulli,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
    Likelihood,
    SquaredError,
)
from aejax.models.likelihoods.mixed import Mixed
from aejax.models.likelihoods.mixtures import LogisticMixture

LIKELIHOODS: dict[str, type[Likelihood]] = {
    "squared_error": SquaredError,
    "absolute_error": AbsoluteError,
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "gaussian": Gaussian,
    "laplace": Laplace,
    "discretised_logistic": DiscretizedLogistic,
    "logistic_mixture": LogisticMixture,
    "student_t": StudentT,
    "beta": Beta,
    "categorical": Categorical,
    "ordinal": Ordinal,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
    "zero_inflated_negative_binomial": ZeroInflatedNegativeBinomial,
    "multinomial": Multinomial,
    "mixed": Mixed,
}

__all__ = [
    "LIKELIHOODS",
    "AbsoluteError",
    "Bernoulli",
    "Beta",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Gaussian",
    "Laplace",
    "Likelihood",
    "LogisticMixture",
    "Mixed",
    "Multinomial",
    "NegativeBinomial",
    "Ordinal",
    "Poisson",
    "SquaredError",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
]
