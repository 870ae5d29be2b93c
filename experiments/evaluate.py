"""Scores a run on its test split: python -m experiments.evaluate --workdir=runs/conv

Writes evaluation/<step>/metrics.json in the workdir.
"""

import json
from pathlib import Path

from absl import flags

import aejax
from aejax import data
from aejax.evaluation import reconstruction
from experiments import main

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the experiment.", required=True)


def evaluate() -> None:
    run = aejax.load_run(_WORKDIR.value)
    metrics = {"reconstruction": reconstruction.against_pca(run, data.load(run.config.data))}
    file = Path(_WORKDIR.value) / "evaluation" / str(run.step) / "metrics.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(metrics, indent=2) + "\n")
    print(file.read_text(), end="")


if __name__ == "__main__":
    main.run(evaluate)
