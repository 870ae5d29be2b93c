"""Metrics and pictures of a run: a module for each group of metrics, and `evaluate`, which measures them all."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from aejax.errors import one_of
from aejax.evaluation import (
    anomaly,
    codes,
    disentanglement,
    fidelity,
    generation,
    levels,
    likelihood,
    ranking,
    reconstruction,
    representation,
    sparse,
)
from aejax.evaluation.subject import Measure, Measures, Part, Skipped, Subject

__all__ = ["GROUPS", "Measure", "Measures", "Part", "Skipped", "Subject", "as_json", "evaluate", "ranking"]

# A group is a function `measure(subject, **options)`; what cannot be measured is `Skipped`, with the reason.
GROUPS: dict[str, Callable[..., Measures]] = {
    "reconstruction": reconstruction.measure,
    "fidelity": fidelity.measure,
    "likelihood": likelihood.measure,
    "codes": codes.measure,
    "levels": levels.measure,
    "sparse": sparse.measure,
    "representation": representation.measure,
    "disentanglement": disentanglement.measure,
    "anomaly": anomaly.measure,
    "generation": generation.measure,
}


def evaluate(
    subject: Subject,
    groups: Iterable[str] = tuple(GROUPS),
    options: Mapping[str, Mapping[str, Any]] = {},
) -> Iterator[tuple[str, Measures]]:
    """Yields the name of each group and its measures as soon as they are computed.

    Args:
      options: arguments of the groups' functions, e.g. {"likelihood": {"samples": 1000}}.

    Raises InputError, before anything is computed, where a group or an option is unknown.
    """
    groups = list(groups)
    for name in (*groups, *options):
        if name not in GROUPS:
            raise one_of("evaluation group", name, GROUPS)
    for name, given in options.items():
        known = list(inspect.signature(GROUPS[name]).parameters)[1:]
        for option in given:
            if option not in known:
                raise one_of(f"evaluation option of {name}", option, known)
    return ((name, GROUPS[name](subject, **options.get(name, {}))) for name in groups)


def as_json(measures: Mapping[str, Measures]) -> dict[str, Any]:
    """Returns the value, unit and protocol of each metric by group and name, or why it was skipped."""
    return {
        group: {name: dict(m._asdict()) if isinstance(m, Measure) else {"skipped": m.reason} for name, m in ms.items()}
        for group, ms in measures.items()
    }
