"""Figures that papers report, reproduced: see `rows.py` for which, and `record.py` for how."""
