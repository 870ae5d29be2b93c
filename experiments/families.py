"""Makes the table of families: python -m experiments.families

Trains each experiment on MNIST with three seeds, scores its last step on the test split, which nothing
was chosen by, and writes experiments/results/families/<experiment>.json; one that is there already is
left alone, so that an interrupted command goes on. Then, or at once with --table_only, writes
experiments/results/families.md from these files. About 1.5 hours on two CPU cores; MNIST is read from
TFDS_DATA_DIR, or downloaded.
"""

import functools
import importlib
import json
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

# Each with how it reads beside the others.
EXPERIMENTS = {
    "stacked:mnist": "far below PCA with 30 components; three times the steps of the others, of twice the images",
    "conv:mnist": "its code is 16 times as large as the image: a copy, not a compression",
    "denoising": "32 numbers for the error that a VAE has with 16: undoing noise takes its share",
    "contractive": "one layer each way errs more than the deeper ones; the penalty buys steady codes, not error",
    "sparse": "one layer of 512 units, most of them near 0 for any image",
    "topk": "32 numbers out of 1,024; after so few steps most units are dead, revived or not",
    "topk:batch": "the same number of units on average, spent where images need them: a little better",
    "jumprelu": "sparsity is a penalty here, not a number: at this weight many more units are active than in `topk`",
    "spherical": "neither noise nor prior: about the VAE's error, and nothing to draw from",
    "vae": "what the models below are compared with",
    "vae:sigma": "a likelihood that calibrates itself, for a fifth more error; nats of densities are not shown",
    "resnet_vae": "500 steps instead of 2,000, each far longer: undertrained within this budget",
    "conditional_vae": "the label saves about two nats",
    "beta_vae": "beta = 4 costs 19 nats and nearly twice the error, and switches units off",
    "beta_tcvae": "as `beta_vae`, a little milder on the bound and harder on the units",
    "factor_vae": "near the VAE: in 2,000 steps the discriminator presses little",
    "dip_vae": "a covariance near the identity costs eight nats",
    "info_vae": "no KL in the loss: each code is far from the prior, so the bound is bad by design; the error is, too",
    "flow_vae": "two steps of IAF are worth half a nat",
    "vamp_vae": "the best bound: a prior that fits is worth three nats",
    "iwae": "half the VAE's steps, each of eight samples: behind it within this budget",
    "iwae:dreg": "a quieter gradient is worth one nat over `iwae` at the same steps",
    "wae": "deterministic codes whose distribution is the prior's, for a sixth more error than the VAE's",
    "aae": "the least error of all codes of 16 numbers: no noise, and a discriminator that presses little",
    "rae": "600 steps, an exact Jacobian in each: undertrained, and the slowest step of the dense models",
    "vae_gan": "judged by features, not by pixels, in 600 steps: a large error, far apart over seeds",
    "gumbel": "16 categories of 16 hold 44 nats at most: twice the VAE's error",
    "vq_vae": "49 codes of 8 bits tell more than 16 noisy numbers; nearly all codes are in use",
    "residual_vq": "three times the bits of `vq_vae`, and the least error of the discrete codes",
    "fsq": "the error of `vq_vae` from as many fixed codes, without anything to tune",
    "lfq": "behind `vq_vae` and `fsq`: with as many codes it uses fewer",
    "mae": "it learns hidden patches alone: the error of visible ones, never taught, means nothing",
}


INTRODUCTION = """# The families on MNIST

By `python -m experiments.families`, from the files in [families](families): 54,000 training images, scored on the
10,000 test images at the last step; mean ± standard deviation of three seeds. `squared error` is that of the
deterministic reconstruction, summed over an image's pixels; `bound` bounds -log p(x) from above in nats (Bernoulli
likelihoods only: lower is better, and comparable); `also` holds means over batches of 128, shares for what is dead.
The budget is three minutes of training on two CPU cores: 2,000 steps of 128 images for dense models, fewer where a
step takes longer. `training` is wall time with validation and checkpoints, beside other work of lower priority on
the same cores. The table shows that each family works, not what it can reach.

"""


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
    name, _, arg = experiment.partition(":")
    return importlib.import_module(f"configs.{name}").get_config(arg)


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
