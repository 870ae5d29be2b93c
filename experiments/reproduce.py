"""Makes the README's table of results: python -m experiments.reproduce

Trains each experiment in a new folder, scores it on its test split and writes
experiments/results/reconstruction.json. About 6 minutes on two CPU cores; MNIST is read from
TFDS_DATA_DIR, or downloaded.
"""

import importlib
import json
import math
import tempfile
import time

from absl import flags

import aejax
from aejax import data
from aejax.cli import command
from aejax.evaluation import Measure, Subject, reconstruction
from aejax.files import local, write_whole
from experiments.machine import machine

_OUT = flags.DEFINE_string("table", "experiments/results/reconstruction.json", "File to write.")
EXPERIMENTS = ("basic", "stacked", "stacked:mnist", "conv:mnist")


def score(experiment: str) -> dict:
    """Wall seconds of the training, and the squared error of a test example beside PCA's."""
    name, _, arg = experiment.partition(":")
    config = importlib.import_module(f"configs.{name}").get_config(arg)
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


def reproduce() -> None:
    results = {"machine": machine()} | {experiment: score(experiment) for experiment in EXPERIMENTS}
    print(table(results))
    write_whole(local(_OUT.value), json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    command.run(reproduce)
