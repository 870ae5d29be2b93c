"""Makes the table of families: python -m experiments.families

Trains each experiment on MNIST with three seeds, scores its last step on the test split, which nothing
was chosen by, and writes experiments/results/families/<experiment>.json; one that is there already is
left alone, so that an interrupted command goes on. Then, or at once with --table_only, writes
experiments/results/families.md from these files. About 1.5 hours on two CPU cores; MNIST is read from
TFDS_DATA_DIR, or downloaded.
"""

import functools
import json
import re
import statistics
import tempfile
import time
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

import aejax
from aejax import data
from aejax.cli import command
from aejax.files import local, read_json, writable, write_whole
from aejax.workdir import metrics_log
from experiments.machine import machine

_FOLDER = flags.DEFINE_string("folder", "experiments/results/families", "Folder of the figures; the table is beside.")
_ONLY = flags.DEFINE_list("only", [], "Experiments to train, e.g. vae,iwae:dreg; all unless told.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds of each.")
_TABLE_ONLY = flags.DEFINE_bool("table_only", False, "Train nothing.")

_TEXT = (Path(__file__).parent / "families.md").read_text()  # what the table shows, and a reading of each experiment
INTRODUCTION = _TEXT.partition("| experiment |")[0]
EXPERIMENTS = dict(re.findall(r"^\| `(\S+)` \| (.*) \|$", _TEXT, re.MULTILINE))


@functools.cache
def mnist() -> data.Splits:
    """MNIST decoded once, with the test split in the place of the validation split: runs report on it."""
    config = aejax.config.default().data
    config.name = "mnist"
    splits = data.load(config)
    arrays = {name: data.read(getattr(splits, name)) for name in ("train", "test")}
    train, test = (data.from_array(a["x"], a["label"], f"mnist {name}") for name, a in arrays.items())
    return data.Splits(train, test, test)


def train(experiment: str, seeds: int, splits: data.Splits) -> dict:
    """The figures of an experiment: of each seed, those of the last step on the test split."""
    config = _config(experiment)
    runs = []
    for seed in range(seeds):
        config.seed = seed
        with tempfile.TemporaryDirectory() as workdir:
            begin = time.perf_counter()
            run = aejax.train(config, workdir, data=splits)
            seconds = time.perf_counter() - begin
            last = [record for record in metrics_log.read(Path(workdir)) if "validation/loss" in record][-1]
        metrics = {key.removeprefix("validation/"): value for key, value in last.items() if key != "step"}
        runs.append({"seed": seed, "training_seconds": round(seconds, 1), "test": metrics})
        print(experiment, json.dumps(runs[-1]), flush=True)
    code = "x".join(map(str, run.latents.shape[1:]))
    return {"experiment": experiment, "steps": run.step, "batch_size": config.batch_size, "code": code} | {
        "runs": runs,
        "machine": machine(),
    }


def _spread(values: list[float], digits: int) -> str:
    mean = statistics.mean(values)
    return f"{mean:.{digits}f}" + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")


def _bound(test: dict) -> float | None:
    """Nats of the bound of -log p(x), where the test figures hold one: of a Bernoulli likelihood."""
    if "bound" in test:
        return test["bound"]
    return test["reconstruction"] + test["kl"] if "kl" in test else None


def _config(experiment: str) -> ConfigDict:
    return aejax.load_config(experiment)


def _nats(figures: dict) -> list[float]:
    """The bound of each seed, where the likelihood makes it comparable."""
    if _config(figures["experiment"]).likelihood.name != "bernoulli":
        return []
    return [bound for run in figures["runs"] if (bound := _bound(run["test"])) is not None]


def _mean(figures: dict, name: str) -> float:
    return statistics.mean(run["test"][name] for run in figures["runs"])


def _seconds(figures: dict) -> float:
    return statistics.mean(run["training_seconds"] for run in figures["runs"])


def row(figures: dict, reading: str) -> str:
    """A line of the table."""
    nats = _nats(figures)
    shown = dict.fromkeys(("active_units", "perplexity", "dead_codes", "dead_units")) | {"l0": "active"}
    if _config(figures["experiment"]).encoder.get("mask_ratio"):
        shown["reconstruction"] = "error of the hidden patches"
    also = [
        f"{label or key.replace('_', ' ')} {_mean(figures, key):.3g}"
        for key, label in shown.items()
        if key in figures["runs"][0]["test"]
    ]
    error = _spread([run["test"]["squared_error"] for run in figures["runs"]], 2)
    bound = _spread(nats, 1) if nats else ""
    name, seconds = f"`{figures['experiment']}`", f"{_seconds(figures):.0f} s"
    return f"| {' | '.join((name, figures['code'], error, bound, ', '.join(also), seconds, reading))} |"


def sentence(figures: dict) -> str:
    """What a config's docstring says of its time and result."""
    nats = _nats(figures)
    bound = f", {statistics.mean(nats):.0f} nats" if nats else ""
    error = f"squared error {_mean(figures, 'squared_error'):.1f} a test image"
    return f"About {_seconds(figures):.0f} seconds on two CPU cores; {error}{bound}."


def table(folder: Path) -> str:
    """The table of the figures in a folder."""
    found = {name: file for name in EXPERIMENTS if (file := folder / f"{name.replace(':', '-')}.json").exists()}
    figures = {name: read_json(file) for name, file in found.items()}
    rows = [row(f, EXPERIMENTS[name]) for name, f in figures.items()]
    head = "| experiment | code | squared error | bound, nats | also | training | reading |\n" + "| --- " * 7 + "|"
    return "\n".join([head, *rows])


def families() -> None:
    folder = writable(local(_FOLDER.value))
    for experiment in () if _TABLE_ONLY.value else _ONLY.value or EXPERIMENTS:
        file = folder / f"{experiment.replace(':', '-')}.json"
        if not file.exists():
            write_whole(file, json.dumps(train(experiment, _SEEDS.value, mnist()), indent=1) + "\n")
    print(table(folder))
    write_whole(folder.parent / "families.md", INTRODUCTION + table(folder) + "\n")


if __name__ == "__main__":
    command.run(families)
