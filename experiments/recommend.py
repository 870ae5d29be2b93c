"""Compares recommenders on held-out users of synthetic clicks: python -m experiments.recommend

Trains mult_vae and mult_dae on the train users. A test user's scores are computed from 80% of the clicks, and the
others should rank high among the items that were not clicked (Liang et al. 2018, section 4.1). Beside them stand
popularity and EASE (Steck 2019), a linear model in closed form whose penalty the validation users choose. Writes
experiments/results/recommend.json, means and standard deviations of three seeds, in which figures of models that are
there already are left alone; about 7 minutes on two CPU cores.
"""

import json
import time
from pathlib import Path

import numpy as np
from absl import flags

import aejax
from aejax import data
from aejax.cli import command
from aejax.data.clicks import make_clicks
from aejax.evaluation import ranking
from aejax.files import read_json, write_whole
from configs import mult_dae, mult_vae
from experiments.machine import machine

_OUT = flags.DEFINE_string("recommend_out", "experiments/results/recommend.json", "File of the figures.")
_FOLDER = flags.DEFINE_string("recommend_runs", "runs/recommend", "Folder of the runs.")
_ARG = flags.DEFINE_string("recommend_arg", "", "Argument of the configs, e.g. tiny.")
_SEEDS = flags.DEFINE_integer("recommend_seeds", 3, "Seeds of each model.")
_PENALTIES = (100.0, 300.0, 1_000.0, 3_000.0, 10_000.0)  # of EASE


def divide(clicks: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns 80% of each user's clicks [users, items], and the others."""
    rng, given = np.random.default_rng(seed), np.array(clicks)
    for row in given:
        items = np.flatnonzero(row)
        row[rng.choice(items, max(len(items) // 5, 1), replace=False)] = 0
    return given, (clicks > 0) & (given == 0)


def measure(scores: np.ndarray, given: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Returns the mean measures of scores, in which the clicks that were given count no more."""
    scores = np.where(given > 0, -np.inf, scores)
    found = {"ndcg_100": ranking.ndcg(scores, wanted, 100)}
    found |= {f"recall_{k}": ranking.recall(scores, wanted, k) for k in (20, 50)}
    return {name: float(values.mean()) for name, values in found.items()}


def fit_ease(x: np.ndarray, penalty: float) -> np.ndarray:
    """Returns the item weights of EASE (Steck 2019, equation 8): x @ weights are scores."""
    inverse = np.linalg.inv(x.T @ x + penalty * np.eye(x.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def main() -> None:
    arrays = {name: data.read(source)["x"] for name, source in make_clicks().items()}
    train, test, validation = arrays["train"], divide(arrays["test"]), divide(arrays["validation"])
    found: dict[str, dict[str, float]] = {"popularity": measure(np.tile(train.sum(0), (len(test[0]), 1)), *test)}
    wide = np.float64(train)
    best = max(_PENALTIES, key=lambda p: measure(validation[0] @ fit_ease(wide, p), *validation)["ndcg_100"])
    found["ease"] = measure(test[0] @ fit_ease(wide, best), *test) | {"penalty": best}
    out = Path(_OUT.value)
    known = read_json(out)["recommenders"] if out.exists() else {}
    for name, module in (("mult_vae", mult_vae), ("mult_dae", mult_dae)):
        if name in known:
            found[name] = known[name]
            continue
        each, config = [], module.get_config(_ARG.value)
        for config.seed in range(_SEEDS.value):
            begin = time.perf_counter()
            run = aejax.train(config, Path(_FOLDER.value) / f"{name}_{config.seed}", quiet=True)
            seconds = time.perf_counter() - begin
            each.append(measure(run.decode(run.encode(test[0])), *test) | {"seconds": seconds})
        found[name] = {key: float(np.mean([one[key] for one in each])) for key in each[0]}
        found[name] |= {f"{key}_std": float(np.std([one[key] for one in each])) for key in each[0]}
        print(name, found[name])
    about = {"command": "python -m experiments.recommend", "machine": machine(), "seeds": _SEEDS.value}
    write_whole(out, json.dumps(about | {"recommenders": found}, indent=2) + "\n")


if __name__ == "__main__":
    command.run(main)
