"""The table of published figures beside ours, made from the records, and whether each comes near its paper's."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aejax.files import read_json
from experiments.benchmark import goals
from experiments.published.rows import ROWS

Record = Mapping[str, Any]
INTRODUCTION = """# Figures of papers, and ours

By `python -m experiments.reproduce --rows=...`, from the records in [published](published), which hold the protocol,
the seeds and the machine of each row. Nats are -log p(x) of the test images. A row that was trained for fewer passes
than its paper's is not a reproduction: PyTorch's figure is of the same model for the same number of steps.

"""
WITHIN = 0.5  # nats of the published figure


def read_records(folder: Path) -> dict[str, Record]:
    """Returns the records in a folder by row, in the order of the rows."""
    return {name: read_json(file) for name in ROWS if (file := folder / f"{name}.json").exists()}


def make_table(records: Mapping[str, Record]) -> str:
    """Returns published.md."""
    head = ("row", "config", "figure", "passes (paper)", "published", "ours", "PyTorch", "training", "protocol")
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    lines += [f"| {' | '.join(_cells(record))} |" for record in records.values()]
    sources = [f"- `{name}`: {record['source']}{_also(record)}." for name, record in records.items()]
    return INTRODUCTION + "\n".join(lines) + "\n\n" + "\n".join(sources) + "\n"


def make_goals(record: Record) -> list[goals.Goal]:
    """Returns the goal of a row: the published figure, of nats with half a nat above it."""
    if record["published"] is None:
        return []
    figure = f"{record['row']}: {_words(record)}, after {record['passes']} of {record['passes_of_paper']} passes"
    margin = WITHIN if _measure(record) == "nats" else 0.0
    return [goals.at_most(figure, round(_mean(record), 3), record["published"] + margin)]


def _measure(record: Record) -> str:
    return ROWS[record["row"]].measure


def _mean(record: Record) -> float:
    return statistics.mean(seed[_measure(record)] for seed in record["seeds"])


def _words(record: Record) -> str:
    return {"nats": "nats", "squared_error": "squared error"}[_measure(record)]


def _also(record: Record) -> str:
    changes = ", ".join(f"`{key}={value}`" for key, value in record["changes"].items())
    return "".join(f"; {words}" for words in (record["note"], changes and f"with {changes}") if words)


def _cells(record: Record) -> tuple[str, ...]:
    values = [seed[_measure(record)] for seed in record["seeds"]]
    ours = f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")
    published = "" if record["published"] is None else f"{record['published']:.2f}"
    peer, minutes = record["peer"], statistics.mean(seed["training_seconds"] for seed in record["seeds"]) / 60
    return (
        f"`{record['row']}`",
        f"`{record['config']}`",
        _words(record),
        f"{record['passes']:,} ({record['passes_of_paper']:,})",
        published,
        ours,
        f"{peer[_measure(record)]:.2f}" if peer else "",
        f"{minutes:.0f} min",
        record["protocol"],
    )
