"""Metrics and pictures of a run: one module for each group of metrics."""

from aejax.evaluation.groups import GROUPS, as_json, evaluate
from aejax.evaluation.subject import Measure, Measures, Part, Skipped, Subject

__all__ = ["GROUPS", "Measure", "Measures", "Part", "Skipped", "Subject", "as_json", "evaluate"]
