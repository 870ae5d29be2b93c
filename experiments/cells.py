"""Compares the config scvi with scvi-tools on synthetic cells: python -m experiments.cells

Needs scvi-tools (`pip install scvi-tools`). Both train on the same cells with the same sizes, batches and epochs, and a
KL weight that rises over all of them, each in a process of its own. Writes experiments/results/cells.json and whether
goals are reached to goals/anydata.json:

- quality: 2,560 cells of 500 genes in three batches, 50 epochs, mean and standard deviation of three seeds. The
  log-likelihood of 440 held-out cells is estimated by importance sampling from q(z|x), the logarithm of the mean of 50
  weights p(x, z) / q(z|x), in both (`Run.log_likelihood`, `SCVI.get_marginal_ll`). The mixing of batches is the median
  iLISI of all latents; that of cell types, cLISI, should be near 1.
- speed: 10,000 cells of 2,000 genes, sparse, in an AnnData object. The time of an epoch is the difference between runs
  of 4 epochs and of 1, over 3, without start and compilation. CPU seconds are those of all threads, which other work on
  the machine disturbs less. The peak memory is that of the process.

About 15 minutes on two CPU cores.
"""

import contextlib
import json
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from aejax.cli import command
from aejax.files import read_json, write_whole
from experiments.benchmark import goals
from experiments.machine import fresh_process, machine, peak_gib

_OUT = flags.DEFINE_string("cells_out", "experiments/results", "Folder of the figures.")
_TINY = flags.DEFINE_bool("cells_tiny", False, "Few cells, genes and epochs, to try the command.")
_PART = flags.DEFINE_enum("cells_part", "", ["", "quality", "speed"], "Part to measure. Defaults to both.")
COMMAND = "python -m experiments.cells"
NAMES = ("aejax", "scvi-tools")
BATCH, SAMPLES, SEEDS = 128, 50, 3


def load_cells(folder: str) -> Any:
    """Returns the cells that `main` has saved, as an AnnData object."""
    import anndata
    import pandas as pd
    from scipy import sparse

    batch = np.load(f"{folder}/batch.npy")
    obs = pd.DataFrame({"batch": pd.Categorical(batch.astype(str))}, batch.astype(str))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = anndata.AnnData(sparse.csr_matrix(sparse.load_npz(f"{folder}/x.npz")), obs)
        adata.obs_names_make_unique()
    return adata


def train_aejax(adata: Any, epochs: int, seed: int) -> Any:
    import aejax
    from configs import scvi

    config = scvi.get_config().copy_and_resolve_references()
    steps = epochs * (adata.n_obs // BATCH)
    with config.unlocked():
        config.update({"seed": seed, "batch_size": BATCH, "classes": 0})
        config.update({"steps": steps, "checkpoint_every": steps, "log_every": steps})
        config.objective.schedules.kl.steps = steps
        config.data.update({"batch": "batch", "train": "train", "validation": "train[:5%]", "test": "train[:5%]"})
    return aejax.fit(config, adata, quiet=True)


def train_scvi(adata: Any, epochs: int, seed: int) -> Any:
    import logging

    import scvi

    logging.disable(logging.CRITICAL)
    scvi.settings.seed = seed
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.model.SCVI(adata)
    options = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False}
    model.train(epochs, train_size=1.0, batch_size=BATCH, plan_kwargs={"n_epochs_kl_warmup": epochs}, **options)
    return model


def measure_speed(name: str, folder: str, epochs: int) -> dict[str, float]:
    """Returns the seconds of a training, its CPU seconds, and the most memory that the process held."""
    warnings.simplefilter("ignore")
    train, adata = {"aejax": train_aejax, "scvi-tools": train_scvi}[name], load_cells(folder)
    wall, cpu = time.perf_counter(), time.process_time()
    train(adata, epochs, 0)
    return {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_gib": peak_gib(),
    }


def measure_quality(name: str, folder: str, epochs: int, train: int, seed: int) -> dict[str, float]:
    """Returns the log-likelihood of held-out cells, those from `train` on, in nats, and the mixing of all latents."""
    warnings.simplefilter("ignore")
    from aejax.evaluation.mixing import lisi

    adata = load_cells(folder)
    seen, held_out = adata[:train].copy(), adata[train:].copy()
    if name == "aejax":
        import aejax

        run = train_aejax(seen, epochs, seed)
        z = aejax.encode_anndata(run, adata)
        log_likelihood = float(run.log_likelihood(**aejax.read_anndata(run, held_out), samples=SAMPLES).mean())
    else:
        model = train_scvi(seen, epochs, seed)
        z = model.get_latent_representation(adata)
        log_likelihood = float(model.get_marginal_ll(held_out, n_mc_samples=SAMPLES))
    perplexity = min(30.0, (len(z) - 2) / 3)
    mixing = {
        label: float(np.median(lisi(z, np.load(f"{folder}/{of}.npy"), perplexity)))
        for label, of in (("ilisi", "batch"), ("clisi", "type"))
    }
    return {"log_likelihood": log_likelihood, **mixing}


def compare_quality(folder: str) -> tuple[dict[str, Any], list[goals.Goal]]:
    cells, genes, train, epochs = (300, 20, 256, 2) if _TINY.value else (3_000, 500, 2_560, 50)
    save_cells(folder, cells, genes)
    found: dict[str, Any] = {"seeds": SEEDS}
    for name in NAMES:
        each = [in_process(measure_quality, name, folder, epochs, train, seed) for seed in range(SEEDS)]
        found[name] = {key: float(np.mean([one[key] for one in each])) for key in each[0]}
        found[name] |= {f"{key}_std": float(np.std([one[key] for one in each])) for key in each[0]}
    ours, theirs = (found[name]["log_likelihood"] for name in NAMES)
    found["below_scvi_tools"] = (theirs - ours) / abs(theirs)
    figure = "scvi: held-out log-likelihood below that of scvi-tools, fraction"
    ilisi = found["aejax"]["ilisi"] / found["scvi-tools"]["ilisi"]
    return found, [
        goals.at_most(figure, found["below_scvi_tools"], 0.01),
        goals.at_least("scvi: iLISI of batches, times that of scvi-tools", ilisi, 0.95),
    ]


def compare_speed(folder: str) -> tuple[dict[str, Any], list[goals.Goal]]:
    cells, genes, many = (300, 20, 2) if _TINY.value else (10_000, 2_000, 4)
    save_cells(folder, cells, genes)
    each = {(name, n): in_process(measure_speed, name, folder, n) for n in (1, many) for name in NAMES}
    found: dict[str, Any] = {}
    for name in NAMES:
        one, last = each[name, 1], each[name, many]
        of = {f"{key}_of_an_epoch": (last[key] - one[key]) / (many - 1) for key in ("seconds", "cpu_seconds")}
        found[name] = of | {"peak_gib": last["peak_gib"], "seconds_of_the_first_epoch": one["seconds"]}
    ours, theirs = (found[name] for name in NAMES)
    found["ratios"] = {key: theirs[key] / ours[key] for key in ("seconds_of_an_epoch", "cpu_seconds_of_an_epoch")}
    found["ratios"]["peak_gib"] = ours["peak_gib"] / theirs["peak_gib"]
    return found, [
        goals.at_least("scvi: 10,000 x 2,000, time of an epoch of scvi-tools, times", found["ratios"][key], 2.0)
        | ({"figure": "scvi: the same by CPU seconds, times"} if key.startswith("cpu") else {})
        for key in ("seconds_of_an_epoch", "cpu_seconds_of_an_epoch")
    ] + [goals.at_most("scvi: 10,000 x 2,000, peak memory of scvi-tools, times", found["ratios"]["peak_gib"], 1.0)]


def main() -> None:
    out = Path(_OUT.value)
    known = read_json(out / "cells.json") if (out / "cells.json").exists() else {}
    for part, compare in (("quality", compare_quality), ("speed", compare_speed)):
        if _PART.value not in ("", part):
            continue
        with tempfile.TemporaryDirectory() as folder:
            found, reached = compare(folder)
        print(part, json.dumps(found), flush=True)
        own = f"{COMMAND} --cells_part={part}"
        known[part] = {"command": own, "machine": machine(("scvi-tools", "torch", "anndata")), **found}
        write_whole(out / "cells.json", json.dumps(known, indent=2) + "\n")
        goals.write(out, own, reached, "anydata.json")


def in_process(function: Any, *args: Any) -> dict[str, float]:
    """Calls the function in a process that has imported nothing yet."""
    with fresh_process({"JAX_PLATFORMS": "cpu"}) as pool:
        return pool.submit(function, *args).result()


def save_cells(folder: str, cells: int, genes: int) -> None:
    """Writes synthetic cells as files of the folder."""
    from scipy import sparse

    from aejax.data.cells import sample_cells

    x, kind, batch = sample_cells(cells, genes)
    sparse.save_npz(f"{folder}/x.npz", x)
    for name, value in (("type", kind), ("batch", batch)):
        with contextlib.suppress(FileNotFoundError):
            os.remove(f"{folder}/{name}.npy")
        np.save(f"{folder}/{name}.npy", value)


if __name__ == "__main__":
    command.run(main)
