"""Many runs of one config: which (`plan`), and what difference it makes: settings over seeds, tables, one page."""

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
