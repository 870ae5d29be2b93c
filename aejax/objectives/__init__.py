"""Objectives: likelihoods, bounds, weighted terms and their schedules, and the corruption of the input."""

from aejax.objectives.adversaries import ADVERSARIES, Adversary
from aejax.objectives.bounds import BOUNDS
from aejax.objectives.context import Context
from aejax.objectives.corruption import CORRUPTIONS, Corruption
from aejax.objectives.likelihoods import (
    LIKELIHOODS,
    AbsoluteError,
    Bernoulli,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
    Likelihood,
    SquaredError,
)
from aejax.objectives.objective import Objective
from aejax.objectives.schedules import SCHEDULES
from aejax.objectives.terms import TERMS

__all__ = [
    "ADVERSARIES",
    "BOUNDS",
    "CORRUPTIONS",
    "LIKELIHOODS",
    "SCHEDULES",
    "TERMS",
    "AbsoluteError",
    "Adversary",
    "Bernoulli",
    "Context",
    "ContinuousBernoulli",
    "Corruption",
    "DiscretizedLogistic",
    "Gaussian",
    "Laplace",
    "Likelihood",
    "Objective",
    "SquaredError",
]
