"""Ablations, many runs of one config: their plan, and the comparison of settings over seeds, as tables and a page."""

from aejax.ablation.table import Cell, Row, as_csv, as_latex, as_text, runs_as_csv, tabulate
from aejax.ablation.trials import Ablation, Setting, Trial, collect

__all__ = [
    "Ablation",
    "Cell",
    "Row",
    "Setting",
    "Trial",
    "as_csv",
    "as_latex",
    "as_text",
    "collect",
    "runs_as_csv",
    "tabulate",
]
