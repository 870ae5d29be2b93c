"""Makes the README's table of results: python -m experiments.reproduce

Trains each experiment in a new folder, scores it on its test split and writes
experiments/results/reconstruction.json. About 6 minutes on two CPU cores; MNIST is read from
TFDS_DATA_DIR, or downloaded.

    python -m experiments.reproduce --rows=vae,iwae_5 --runs=runs/published

instead trains rows of the table of figures that papers report, see `published/rows.py`, for a stated part of the
paper's passes, or for --passes. Beside it PyTorch's side is trained, where torch is installed, unless --nopeer. It
takes hours, and resumes if it is interrupted. Each row writes experiments/results/published/<row>.json; the table,
experiments/results/published.md, is made from these files, as with --rows=none alone.
"""

import json
import math
import tempfile
import time

from absl import flags

import aejax
from aejax import data
from aejax.cli import command
from aejax.errors import one_of
from aejax.evaluation import Measure, Subject, reconstruction
from aejax.files import local, writable, write_whole
from experiments.benchmark import goals
from experiments.machine import machine
from experiments.published import record
from experiments.published.rows import ROWS
from experiments.published.table import make_goals, make_table, read_records

_OUT = flags.DEFINE_string("table", "experiments/results/reconstruction.json", "File to write.")
_ROWS = flags.DEFINE_list("rows", [], f"Rows of the table of published figures: of {', '.join(ROWS)}, or none.")
_PASSES = flags.DEFINE_integer("passes", 0, "Passes through the training images. Defaults to the row's.", lower_bound=0)
_SEEDS = flags.DEFINE_integer("seeds_of_row", 1, "Number of seeds of each row.", lower_bound=1)
_RUNS = flags.DEFINE_string("runs", "runs/published", "Folder of the rows' workdirs.")
_DATA = flags.DEFINE_string("data", "../shared/data", "Folder that holds omniglot and fashion-mnist, as published.")
_PEER = flags.DEFINE_bool("peer", True, "Train PyTorch's side, too, if torch is installed.")
_RESULTS = flags.DEFINE_string("results", "experiments/results", "Folder of the records and their table.")
EXPERIMENTS = ("basic", "stacked", "stacked:mnist", "conv:mnist")


def score(experiment: str) -> dict:
    """Wall seconds of the training, and the squared error of a test example beside PCA's."""
    config = aejax.load_config(experiment)
    splits = data.load(config.data)
    with tempfile.TemporaryDirectory() as workdir:
        begin = time.perf_counter()
        run = aejax.train(config, workdir, data=splits)
        seconds = time.perf_counter() - begin
    measures = reconstruction.measure(Subject.of(run, splits))
    return {
        "data": config.data.name,
        "steps": run.step,
        "training_seconds": round(seconds, 1),
        "code_size": math.prod(run.latents.shape[1:]),
        **{name: m.value for name, m in measures.items() if isinstance(m, Measure)},
    }


def table(results: dict) -> str:
    """The README's table."""
    lines = ["| experiment | data | code | squared error | PCA's | training |", "| --- | --- | --- | --- | --- | --- |"]
    for name in EXPERIMENTS:
        r = results[name]
        pca = f"{r['pca_squared_error']:.4g}" if "pca_squared_error" in r else "(code larger than input)"
        row = (f"`{name}`", r["data"], f"{r['code_size']:,}", f"{r['squared_error']:.4g}", pca)
        lines.append(f"| {' | '.join(row)} | {r['training_seconds']:.0f} s |")
    return "\n".join(lines)


def reproduce_rows(names: list[str]) -> None:
    """Trains the rows, writes a record of each, and the table and the goals of all records."""
    if unknown := [name for name in names if name not in ROWS]:
        raise one_of("--rows", unknown[0], ROWS)
    results = local(_RESULTS.value)
    for name in names:
        folders = (local(_RUNS.value), local(_DATA.value))
        found = record.reproduce(name, ROWS[name], _SEEDS.value, _PASSES.value, *folders, _PEER.value)
        write_whole(writable(results / "published") / f"{name}.json", json.dumps(found, indent=2) + "\n")
    records = read_records(results / "published")
    write_whole(results / "published.md", make_table(records))
    for found in records.values():
        goals.write(
            results, f"python -m experiments.reproduce --rows={found['row']}", make_goals(found), "likelihoods.json"
        )


def reproduce() -> None:
    if _ROWS.value:
        reproduce_rows([name for name in _ROWS.value if name != "none"])
    else:
        reproduce_results()


def reproduce_results() -> None:
    """Makes the README's table."""
    results = {"machine": machine()} | {experiment: score(experiment) for experiment in EXPERIMENTS}
    print(table(results))
    write_whole(local(_OUT.value), json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    command.run(reproduce)
