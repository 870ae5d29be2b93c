"""How good a run is, in figures and in pictures: one file for each family of metric."""

from aejax.evaluation.evaluate import GROUPS, evaluate
from aejax.evaluation.subject import Measure, Measures, Part, Skipped, Subject

__all__ = ["GROUPS", "Measure", "Measures", "Part", "Skipped", "Subject", "evaluate"]
