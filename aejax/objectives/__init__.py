"""Objectives: likelihoods, bounds, weighted terms and their schedules, and the corruption of the input."""

from aejax.objectives.bounds import BOUNDS
from aejax.objectives.context import Context
from aejax.objectives.corruption import CORRUPTIONS, Corruption
from aejax.objectives.discriminators import DISCRIMINATORS, Discriminator, PatchGAN
from aejax.objectives.likelihoods import (
    LIKELIHOODS,
    AbsoluteError,
    Bernoulli,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
    Likelihood,
    LogisticMixture,
    SquaredError,
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
    "Context",
    "ContinuousBernoulli",
    "Corruption",
    "DiscretizedLogistic",
    "Discriminator",
    "Gaussian",
    "Laplace",
    "Likelihood",
    "LogisticMixture",
    "Objective",
    "PatchGAN",
    "SquaredError",
]
