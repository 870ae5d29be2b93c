"""Objectives: likelihoods, bounds, weighted terms and their schedules, and the corruption of the input."""

from aejax.objectives.bounds import BOUNDS
from aejax.objectives.context import Context
from aejax.objectives.corruption import CORRUPTIONS, Corruption
from aejax.objectives.discriminators import DISCRIMINATORS, Discriminator, PatchGAN
from aejax.objectives.likelihoods import (
    LIKELIHOODS,
    AbsoluteError,
    Bernoulli,
    Beta,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
    Likelihood,
    LogisticMixture,
    Mixed,
    Multinomial,
    NegativeBinomial,
    Ordinal,
    Poisson,
    SquaredError,
    StudentT,
    ZeroInflatedNegativeBinomial,
)
from aejax.objectives.objective import Objective
from aejax.objectives.schedules import SCHEDULES
from aejax.objectives.terms import TERMS

__all__ = [
    "BOUNDS",
    "CORRUPTIONS",
    "DISCRIMINATORS",
    "LIKELIHOODS",
    "SCHEDULES",
    "TERMS",
    "AbsoluteError",
    "Bernoulli",
    "Beta",
    "Categorical",
    "Context",
    "ContinuousBernoulli",
    "Corruption",
    "DiscretizedLogistic",
    "Discriminator",
    "Gaussian",
    "Laplace",
    "Likelihood",
    "LogisticMixture",
    "Mixed",
    "Multinomial",
    "NegativeBinomial",
    "Objective",
    "Ordinal",
    "PatchGAN",
    "Poisson",
    "SquaredError",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
]
