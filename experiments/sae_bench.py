"""Trains sparse autoencoders on activations with known features and scores them: python -m experiments.sae_bench

The data is `sparse_features` at 1/16 of the features of SynthSAEBench (arXiv 2602.14687): 1,024 features in 256
dimensions. A parent has 2 children instead of 4, so that 12% of the features are in trees instead of 66%, and the most
frequent feature fires for a tenth of the examples. Parents hardly ever fire without a child, in the published data,
too (`parents_alone` in the results): the sparsest code has latents for a parent together with each child. The cosines
of features in trees, 0.6 to 0.8, are consistent with that; it is not proven.
Each architecture has twice as many latents as there are features, and as many active ones as features fire; only L1
has a weight instead. A latent is dead if it fires for none of the 10,000 test examples. Five seeds train in one
program, and two architectures side by side. Writes sae_bench.json below experiments/results, and its goals to
goals/sae.json.

    python -m experiments.sae_bench --steps_of_each=1500 --seeds_of_each=1

trains longer, to tell what the short training costs. Writes sae_bench_1500_steps.json, and no goals. With
`--architectures=jumprelu,topk`, the scores of the others in the file stay, if they were trained likewise.

    python -m experiments.sae_bench --order

compares the architectures where the paper does: with a quarter as many latents as features, fewer active ones than
features fire, 25 to 34, and 4 children of a parent. There an architecture that explains more needs latents that mix
features, and the paper's table has Matryoshka first and L1 last in F1. Writes sae_order.json.

    python -m experiments.sae_bench --paper=matryoshka --l0=25 --fraction=0.02

trains one row of the paper's table instead: 16,384 features in 768 dimensions, 4,096 latents, 200 million samples in
batches of 1,024, or the first so many of them. It needs a GPU for the whole. Writes sae_paper.json.
"""

import dataclasses
import functools
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

import aejax
from aejax import data
from aejax.ablation.statistics import deviation
from aejax.cli import command
from aejax.data.features import PAPER, SparseFeatures
from aejax.evaluation import Measure, Subject, sparse, truth
from aejax.files import local, writable, write_whole
from aejax.training.vmapped import train_together
from configs import sae
from experiments.benchmark import goals
from experiments.machine import machine

_OUT = flags.DEFINE_string("sae_folder", "experiments/results", "Folder to write to.")
_ONLY = flags.DEFINE_list("architectures", [], "Architectures to train. Defaults to those of the paper's table.")
_SEEDS = flags.DEFINE_integer("seeds_of_each", 5, "Number of seeds of each architecture, in one program.")
_STEPS = flags.DEFINE_integer("steps_of_each", 0, "Training steps of each run. Defaults to those of the bench.")
_PAPER = flags.DEFINE_string("paper", "", "Architecture of the paper's table to train instead of the small bench.")
_L0 = flags.DEFINE_integer("l0", 25, "Number of active latents in the paper's table: 20 or 25.")
_TOGETHER = flags.DEFINE_bool("together_with_alone", False, "Time eight seeds in one program and one by one instead.")
_ORDER = flags.DEFINE_bool("order", False, "Compare F1 with few latents, as the paper's table does, instead.")
_FRACTION = flags.DEFINE_float("fraction", 0.02, "Fraction of the paper's 200 million samples.")

COMMAND = "python -m experiments.sae_bench"
BATCH = 256
AT_ONCE = 2  # architectures that train side by side: a step has parts that one core computes
# Settings were chosen on the data of seed 0 and by runs of seed 0, so that the studies have others.
FIRST_SEED = 100


@dataclasses.dataclass(frozen=True)
class Study:
    """Architectures that are compared on one set of data.

    Attributes:
      name: of the file of scores.
      data: options of `sparse_features`.
      latents: number of latents.
      fraction: active latents per feature that fires.
      l1: weight of L1's penalty; the scores say how many latents are active with it.
      target: of JumpReLU, per active latent. Its loss counts those of each example, so that their mean becomes smaller
        than the target where examples differ.
      settings: of each architecture the learning rate, which falls to 0, and the steps, of a few that were tried. They
        are in the order in which they are trained, from the longest training to the shortest.
    """

    name: str
    data: str
    latents: int
    fraction: float
    l1: float
    target: float
    settings: Mapping[str, tuple[float, int]]


BENCH = Study(
    "sae_bench",
    "features=1024,dims=256,examples=100000,branching=2,most=0.1,least=0.005,seed=1",
    2_048,
    1.0,
    5.0,
    1.0,
    {
        "jumprelu": (4e-3, 1_150),
        "matryoshka": (3e-3, 700),
        "topk": (3e-3, 700),
        "batch_topk": (3e-3, 600),
    },
)
ORDER = Study(
    "sae_order",
    "features=1024,seed=1",
    256,
    25 / 34,
    2.3,
    1.1,
    {"jumprelu": (4e-3, 1_500), **dict.fromkeys(("matryoshka", "batch_topk", "l1"), (3e-3, 1_500))},
)
TREES = {  # data whose parents are counted
    "bench": BENCH.data,
    "bench with 4 children of a parent": ORDER.data,
    "SynthSAEBench-16k": PAPER + ",orthogonalize=0",
}
SHOWN = (
    *("f1", "latent_f1", "mcc", "mean_max_cosine", "free_max_cosine", "uniqueness", "unexplained", "dead_latents"),
    *("splitting", "absorption"),
)
# F1 of each latent for its most similar feature, and MCC, as the paper's table has them.
PUBLISHED = {
    20: {
        "matryoshka": (0.8601, 0.7455),
        "batch_topk": (0.8183, 0.7526),
        "jumprelu": (0.8241, 0.7434),
        "l1": (0.5777, 0.5834),
    },
    25: {
        "matryoshka": (0.8793, 0.7927),
        "batch_topk": (0.7316, 0.7574),
        "jumprelu": (0.7317, 0.7527),
        "l1": (0.5562, 0.6039),
    },
}


def make_config(
    name: str, options: str, latents: int, k: float, steps: int, batch: int, rate: float, l1: float = BENCH.l1
) -> ConfigDict:
    """Returns the config of an architecture of configs/sae.py for so many latents, of which about `k` are active."""
    config = sae.get_config(name).unlock()
    config.data.name, config.data.options = "sparse_features", options
    config.steps, config.batch_size, config.optim.lr = steps, batch, rate
    config.checkpoint_every, config.log_every = steps, max(steps // 10, 1)
    config.bottleneck.features = latents
    config.bottleneck.dead_after = 50
    if "resample" in config.bottleneck:
        config.bottleneck.resample = 25
    if config.bottleneck.name == "batch_topk":
        config.bottleneck.decay = 0.98  # of the threshold, as the training is short
    if "k" in config.bottleneck:
        config.bottleneck.k = round(k)
        config.bottleneck.anneal_from, config.bottleneck.anneal_steps = round(1.5 * k), max(4 * steps // 5, 1)
    if "prefixes" in config.objective.options:
        config.objective.options.prefixes.widths = (latents // 32, latents // 8, latents // 2)
    if "l0_target" in config.objective.options:
        config.objective.options.l0_target.target = float(k)
        config.objective.weights.l0_target = 200.0
        config.objective.schedules.l0_target = {"name": "linear", "steps": max(steps // 2, 1)}
        # Units are of order 4 once they are found. In the beginning, a few tens are above the threshold.
        config.decoder.initial_norm = 0.4
        config.bottleneck.threshold, config.bottleneck.bandwidth = 0.7, 0.6
        # The weight rises, as units that are drawn to fire while others are found are found late.
        config.objective.weights.pre_activation = 5e-2
        config.objective.schedules.pre_activation = {"name": "linear", "steps": steps}
        config.bottleneck.dead_after = 10  # these units need no new start
        config.bottleneck.resample = 0
    if name == "l1":
        config.objective.weights.l1 = l1
    return config


def find_alone(known: SparseFeatures, examples: int = 1_024) -> float:
    """Returns the fraction of the firings of features with children in which no child fires."""
    fired = known.activations(np.arange(examples)).toarray() != 0
    parents = np.unique(known.parents[known.parents >= 0])
    with_child = np.stack([fired[:, known.parents == parent].any(1) for parent in parents], 1)
    return float((fired[:, parents] & ~with_child).sum() / fired[:, parents].sum())


def hold(splits: data.Splits) -> data.Splits:
    """Returns the splits with their examples in memory, so that several trainings make them once."""

    def held(source: data.Source) -> data.Source:
        arrays = data.read(source)
        return dataclasses.replace(source, take=lambda rows: {key: value[rows] for key, value in arrays.items()})

    return data.Splits(*map(held, splits))


def find_free(parents: np.ndarray) -> np.ndarray:
    """Returns whether each feature has neither a parent nor children, [features]."""
    free = parents < 0
    free[parents[parents >= 0]] = False
    return free


def train(config: ConfigDict, seeds: int, splits: data.Splits) -> tuple[list[dict[str, float]], float]:
    """Trains so many seeds in one program. Returns the scores of each on the test split, and the seconds."""
    configs = []
    for seed in range(seeds):
        configs.append(config.copy_and_resolve_references())
        configs[-1].seed = FIRST_SEED + seed
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        workdirs = [Path(folder) / str(seed) for seed in range(seeds)]
        runs = train_together(configs, workdirs, data=lambda *_: splits, quiet=True)
        seconds = time.perf_counter() - begin
        found = []
        for run in runs:
            if isinstance(run, Exception):
                raise run
            subject = Subject.of(run, splits)
            measures = sparse.measure(subject)
            scores = {name: m.value for name, m in measures.items() if isinstance(m, Measure)}
            scores["l0"] = float((subject.test.latents != 0).sum(1).mean())
            known, directions = splits.train.truth, sparse.find_directions(run, subject.test.take(16).latents)
            if (free := find_free(known.parents)).any():
                scores["free_max_cosine"] = truth.mean_max_cosine(truth.cosines(directions, known.directions[free]))
            found.append(scores)
    return found, seconds


def train_one(study: Study, name: str, seeds: int, steps: int, true_l0: float) -> dict[str, Any]:
    """Returns the mean scores of an architecture in a study, and the seconds of its training."""
    rate, usual = study.settings[name]
    k = study.fraction * true_l0 * (study.target if name == "jumprelu" else 1)
    config = make_config(name, study.data, study.latents, k, steps or usual, BATCH, rate, study.l1)
    config.optim.schedule = "linear"
    scores, seconds = train(config, seeds, _load(study.data))
    trained = {"steps": config.steps, "seconds": round(seconds, 1), **summarize(scores)}
    print(json.dumps({name: trained}), flush=True)
    return trained


@functools.cache
def _load(options: str) -> data.Splits:
    """Returns the splits of the data of `options`, made once for each process."""
    return hold(data.load(make_config("topk", options, 2, 1, 1, 1, 1.0).data))


def summarize(scores: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Returns the mean and the standard deviation over seeds of each score."""
    found = {}
    for name in ("l0", *SHOWN):
        values = [each[name] for each in scores if name in each]
        if values:
            found[name] = {"mean": round(float(np.mean(values)), 4), "deviation": deviation(values)}
    return found


def compare(study: Study, folder: Path) -> None:
    """Trains the architectures of a study, and writes their scores and goals."""
    known, chosen = SparseFeatures.parse(study.data), _ONLY.value or study.settings
    file = folder / (f"{study.name}_{_STEPS.value}_steps.json" if _STEPS.value else f"{study.name}.json")
    begin = time.perf_counter()
    true_l0 = known.activations(np.arange(4_096)).count_nonzero() / 4_096
    found: dict[str, Any] = {"data": study.data, "latents": study.latents, "true_l0": round(true_l0, 2)}
    if study is BENCH:
        found["parents_alone"] = {name: round(find_alone(SparseFeatures.parse(of)), 4) for name, of in TREES.items()}
    found |= {"seeds": _SEEDS.value, "batch_size": BATCH}
    if file.exists():  # other architectures, trained likewise by another call
        known_file = json.loads(file.read_text())
        if all(known_file.get(key) == value for key, value in found.items()):
            found |= {name: known_file[name] for name in study.settings if name in known_file}
    # Each process makes the data by itself. Threads would share Orbax's numbers of its operations.
    with ProcessPoolExecutor(AT_ONCE, get_context("spawn")) as processes:
        given = (_SEEDS.value, _STEPS.value, true_l0)
        pending = {name: processes.submit(train_one, study, name, *given) for name in chosen}
        found |= {name: each.result() for name, each in pending.items()}
    whole = set(chosen) == set(study.settings)
    minutes = {"minutes": round((time.perf_counter() - begin) / 60, 2)} if whole else {}
    write_whole(file, json.dumps({**found, **minutes, "machine": machine()}, indent=1) + "\n")
    if whole and not _STEPS.value:
        if study is BENCH:
            goals.write(folder, COMMAND, set_goals({**found, **minutes}), "sae.json")
        else:
            goals.write(folder, f"{COMMAND} --order", set_goals_of_order(found), "sae.json")


def set_goals(found: dict[str, Any]) -> list[goals.Goal]:
    """Returns the goals of the small bench."""
    what, reached = "small ground-truth bench", []
    for name in ("topk", "batch_topk", "matryoshka", "jumprelu"):
        cosine, dead = (found[name][key]["mean"] for key in ("mean_max_cosine", "dead_latents"))
        reached.append(goals.at_least(f"{what}, {name}: mean max cosine, {found['seeds']} seeds", cosine, 0.95))
        reached.append(goals.at_most(f"{what}, {name}: fraction of dead latents, {found['seeds']} seeds", dead, 0.05))
    return [*reached, goals.at_most(f"{what}: minutes", found["minutes"], 3.0)]


def set_goals_of_order(found: dict[str, Any]) -> list[goals.Goal]:
    """Returns the goals of the order of the paper's table."""
    f1 = {name: found[name]["latent_f1"]["mean"] for name in ("matryoshka", "batch_topk", "jumprelu", "l1")}
    others = [f1["batch_topk"], f1["jumprelu"]]
    ahead, behind = f1["matryoshka"] - max(*others, f1["l1"]), min(*others, f1["matryoshka"]) - f1["l1"]
    what = f"few latents, {found['seeds']} seeds: F1 by which"
    return [
        goals.at_least(f"{what} Matryoshka is ahead of the next", round(ahead, 4), 0.0),
        goals.at_least(f"{what} L1 is behind the next", round(behind, 4), 0.0),
    ]


def paper(folder: Path) -> None:
    """Trains the first samples of a row of the paper's table, and writes its scores beside the published ones."""
    name, l0, latents, batch = _PAPER.value, _L0.value, 4_096, 1_024
    if name not in PUBLISHED.get(l0, {}):
        raise aejax.InputError(
            f"the table has --l0=20 and 25 and --paper={'|'.join(PUBLISHED[25])}, got {l0}, {name!r}"
        )
    if not 0 < _FRACTION.value <= 1:
        raise aejax.InputError(f"--fraction must be above 0 and at most 1, got {_FRACTION.value}")
    samples = round(_FRACTION.value * 200_000_000)
    options = PAPER.replace("200000000", str(samples))
    config = make_config(name, options, latents, l0, samples // batch, batch, 3e-4)
    scores, seconds = train(config, 1, data.load(config.data))
    row = {"samples": samples, "seconds": round(seconds), **{k: round(v, 4) for k, v in scores[0].items()}}
    row["published"] = dict(zip(("latent_f1", "mcc"), PUBLISHED[l0][name], strict=True))
    print(json.dumps({name: row}), flush=True)
    file = folder / "sae_paper.json"
    known = json.loads(file.read_text()) if file.exists() else {"machine": machine()}
    known[f"{name}, L0 {l0}, {_FRACTION.value:g} of the samples"] = row
    write_whole(file, json.dumps(known, indent=1) + "\n")


def together(folder: Path) -> None:
    """Trains eight seeds of TopK in one program and two alone, and writes how long eight take both ways."""
    splits = _load(BENCH.data)
    config = make_config("topk", BENCH.data, 2_048, 10, _STEPS.value or 50, 128, 3e-3)
    train(config, 1, splits)  # what is compiled once for all, e.g. by the evaluation
    as_one = train(config, 8, splits)[1]
    alone = 4 * sum(train(config, 1, splits)[1] for _ in range(2))
    found = {
        "steps": config.steps,
        "batch_size": config.batch_size,
        "together": round(as_one, 1),
        "one by one": round(alone, 1),
    }
    found |= {"ratio": round(alone / as_one, 2), "machine": machine()}
    print(json.dumps(found), flush=True)
    write_whole(folder / "sae_together.json", json.dumps(found, indent=1) + "\n")
    figure = "eight seeds of a 256 -> 2,048 SAE under one vmap: times as fast as one after the other"
    goals.write(folder, f"{COMMAND} --together_with_alone", [goals.at_least(figure, found["ratio"], 2.0)], "sae.json")


def main() -> None:
    folder = writable(local(_OUT.value))
    if _PAPER.value:
        paper(folder)
    elif _TOGETHER.value:
        together(folder)
    else:
        compare(ORDER if _ORDER.value else BENCH, folder)


if __name__ == "__main__":
    command.run(main)
