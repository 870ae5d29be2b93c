"""Pictures of a run: pure functions from arrays to figures, and PICTURES, which applies them to a run."""

from aejax.evaluation.pictures.of_subject import PICTURES, Picture, as_png, draw, of_logs, save
from aejax.evaluation.pictures.style import drawable

__all__ = ["PICTURES", "Picture", "as_png", "draw", "drawable", "of_logs", "save"]
