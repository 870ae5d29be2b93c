"""Likelihoods of the input given decoded values: those of `aejax.models.likelihoods`, which models are built with."""

from aejax.models.likelihoods import *  # noqa: F403
from aejax.models.likelihoods import __all__ as __all__
