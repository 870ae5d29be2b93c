"""Trains a row, scores it on the test images, and keeps what was found with how it was found."""

import dataclasses
import importlib
import json
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import aejax
from aejax import data
from aejax.evaluation import Subject, reconstruction
from aejax.training import optimizers
from aejax.workdir import metrics_log
from experiments.machine import fresh_process, machine
from experiments.published.rows import Row

SHORT = {"examples": 2_000, "steps": 200, "images": 100, "samples": 50}  # a run of seconds, which a test repeats


def reproduce(
    name: str, row: Row, seeds: int, passes: int, runs: Path, folder: Path, peer: bool = False
) -> dict[str, Any]:
    """Returns the record of a row: its protocol, and what each seed reached, with `peer` beside PyTorch's side.

    A seed's run lies in `runs`/<name>-<seed>, and one that was interrupted resumes there. `folder` holds published
    files of other data than MNIST.
    """
    splits = data.load(row.make_config(data=folder).data)
    config = row.make_config(passes, len(splits.train), folder)
    found = []
    for seed in range(seeds):
        config.seed = seed
        workdir = runs / f"{name}-{seed}"
        run = aejax.train(config, workdir, data=splits)
        seconds = _training_seconds(workdir, config.batch_size)
        begin = time.perf_counter()
        scores = score(row, run, splits)
        found.append({"seed": seed, **scores, "training_seconds": seconds, "seconds": time.perf_counter() - begin})
        print(name, json.dumps(found[-1]), flush=True)
    return {
        "row": name,
        "config": row.config,
        "changes": dict(row.changes),
        "note": row.note,
        "published": row.published,
        "source": row.source,
        "protocol": _protocol(row, config, splits),
        "passes": passes or row.passes,
        "passes_of_paper": row.of_paper,
        "steps": config.steps,
        "seeds": found,
        "peer": _train_peer(row, config, splits) if peer and row.peer and find_spec("torch") else None,
        "short": {**SHORT, row.measure: short(row, folder)},
        "machine": machine(("torch",)),
    }


def score(row: Row, run: aejax.Run, splits: data.Splits) -> dict[str, float]:
    """Returns what the row measures of the test images, and how sure it is."""
    if row.measure == "nats":
        x = data.read(splits.test)["x"]
        estimate = run.density.estimate(x, samples=row.samples)
        error = np.sqrt(np.mean(estimate.standard_error**2) / len(x))
        return {
            "nats": -float(estimate.log_likelihood.mean()),
            "standard_error_of_samples": float(error),
            "standard_error_of_images": float(estimate.log_likelihood.std() / np.sqrt(len(x))),
            "median_effective_samples": float(np.median(estimate.effective_samples)),
            "elbo": float(run.elbo(x).mean()),
        }
    measures = reconstruction.measure(Subject.of(run, splits))
    return {key: float(measures[key].value) for key in ("squared_error", "pca_squared_error") if key in measures}


def short(row: Row, folder: Path = Path()) -> float:
    """Returns what a run of seconds reaches, so that a test can tell whether what the row rests on has changed."""
    config = row.make_config(data=folder)
    whole = data.load(config.data)
    test = whole.test.sample(SHORT["images"])
    splits = data.Splits(whole.train.sample(SHORT["examples"]), test, test)
    config.update({"steps": SHORT["steps"], "checkpoint_every": SHORT["steps"], "log_every": SHORT["steps"]})
    config.pretrain.steps = min(config.pretrain.steps, SHORT["steps"])
    config.optim.warmup = min(config.optim.warmup, SHORT["steps"] // 4)
    with tempfile.TemporaryDirectory() as workdir:
        run = aejax.train(config, workdir, data=splits, quiet=True)
        return score(dataclasses.replace(row, samples=SHORT["samples"]), run, splits)[row.measure]


def _protocol(row: Row, config: ConfigDict, splits: data.Splits) -> str:
    """Returns how the figure is measured, in words."""
    binary = {"dynamic": ", drawn anew in each step, test images once", "static": ", drawn once", "none": ""}
    data_words = f"{row.folder or config.data.name}{binary.get(config.data.binarize, f', {config.data.binarize}')}"
    how = f"{row.samples:,} importance samples" if row.measure == "nats" else "squared error summed over values"
    return f"{data_words}; {len(splits.train):,} training and {len(splits.test):,} test images; {how}; last step"


def _train_peer(row: Row, config: ConfigDict, splits: data.Splits) -> dict[str, float]:
    """Returns what PyTorch's side reaches with as many steps, in a process of its own."""
    rates = np.asarray(jax.vmap(optimizers.build_schedule(config.optim, config.steps))(np.arange(config.steps)))
    images = [data.Spec(splits.train.shape).prepare(data.read(part)["x"]) for part in (splits.train, splits.test)]
    with fresh_process({}) as process:
        given = (row.peer, *map(np.asarray, images), config.to_dict(), rates, row.samples)
        return process.submit(run_peer, *given).result()


def run_peer(name: str, train: np.ndarray, test: np.ndarray, config: dict, rates: np.ndarray, samples: int) -> dict:
    """Calls the row's function in `peer.py`, which imports torch."""
    return getattr(importlib.import_module("experiments.published.peer"), name)(train, test, config, rates, samples)


def _training_seconds(workdir: Path, batch_size: int) -> float:
    """Returns the seconds that the steps took, of all starts of a run, by the rates that were logged."""
    logged = [record for record in metrics_log.read(workdir) if "images_per_second" in record]
    steps = np.diff([0, *(record["step"] for record in logged)])
    return float(sum(n * batch_size / of["images_per_second"] for n, of in zip(steps, logged, strict=True)))
