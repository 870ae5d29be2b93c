"""Compares outlier detectors on bundled tables: python -m experiments.anomaly

Classes of scikit-learn's breast_cancer (the malignant one), wine, iris and digits (four) are taken for outliers: 5% as
many rows of one as there are others, but 10 at least, are mixed with them. Detectors are fitted without labels on 60%
of the rows, outliers included, and the AUROC is that of the other 40%, over several seeds. All have their defaults, and
read columns standardized by the training rows, without those of one value. `detector` is `AutoencoderOutlierDetector`
of aejax.sklearn, `tabular_anomaly` the same of that config, with a code of at most half the columns; the others are
those of pyod (pip install pyod torch), without which they are left out. Ranks are those of the AUROC within each table
and seed; 1 is best. Writes experiments/results/anomaly.json, and what is reached to goals/anydata.json beside it; about
10 minutes on two CPU cores.
"""

import importlib.util
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from scipy.stats import rankdata
from sklearn import datasets
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import aejax
from aejax.cli import command
from aejax.files import local, write_whole
from aejax.sklearn import AutoencoderOutlierDetector
from experiments.benchmark import goals
from experiments.machine import machine

_OUT = flags.DEFINE_string("anomaly_out", "experiments/results/anomaly.json", "File to write.")
_SEEDS = flags.DEFINE_integer("anomaly_seeds", 2, "Seeds of each table.", lower_bound=1)
TABLES = {"breast_cancer": (0,), "wine": range(3), "iris": range(3), "digits": range(0, 10, 3)}
OWN, PYOD = ("detector", "tabular_anomaly"), ("pca", "iforest", "knn", "autoencoder")
COMMAND = "python -m experiments.anomaly"


def make_table(name: str, outliers: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the training rows, the test rows and whether each test row is an outlier."""
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    rng = np.random.default_rng(seed)
    usual = np.flatnonzero(y != outliers)
    chosen = rng.choice(np.flatnonzero(y == outliers), max(10, round(0.05 * len(usual))), replace=False)
    rows = np.concatenate([usual, chosen])
    train, test = train_test_split(rows, test_size=0.4, stratify=y[rows] == outliers, random_state=seed)
    x = x[:, np.ptp(x[train], 0) > 0]
    units = StandardScaler().fit(x[train])
    return units.transform(x[train]), units.transform(x[test]), y[test] == outliers


def has_pyod() -> bool:
    """Returns whether pyod and PyTorch, which its AutoEncoder needs, are there."""
    return all(importlib.util.find_spec(name) is not None for name in ("pyod", "torch"))


def make_detectors(seed: int, columns: int) -> Iterator[tuple[str, Any]]:
    """Yields the detectors by name; pyod's have a method `decision_function` whose values are high for outliers."""
    yield OWN[0], AutoencoderOutlierDetector(random_state=seed)
    config = aejax.load_config(OWN[1]).unlock()
    config.data.held_out, config.bottleneck.features = -1, min(8, columns // 2)
    yield OWN[1], AutoencoderOutlierDetector(config=config, random_state=seed)
    if not has_pyod():
        return
    import torch
    from pyod.models.auto_encoder import AutoEncoder
    from pyod.models.iforest import IForest
    from pyod.models.knn import KNN
    from pyod.models.pca import PCA

    torch.manual_seed(seed)
    found = PCA(random_state=seed), IForest(random_state=seed), KNN(), AutoEncoder(random_state=seed, verbose=0)
    yield from zip(PYOD, found, strict=True)


def measure(name: str, outliers: int, seed: int) -> dict[str, tuple[float, float]]:
    """Returns the AUROC and the seconds of fitting of each detector."""
    train, test, truth = make_table(name, outliers, seed)
    found = {}
    for key, detector in make_detectors(seed, train.shape[1]):
        begin = time.perf_counter()
        detector.fit(train)
        seconds = time.perf_counter() - begin
        sign = -1 if key in OWN else 1  # pyod's PCA may divide by an eigenvalue of 0
        found[key] = float(roc_auc_score(truth, sign * np.nan_to_num(detector.decision_function(test)))), seconds
    return found


def summarize(cases: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, Any]:
    """Returns the mean rank, AUROC and seconds of each detector, given the means of tables and the single runs."""
    ranks = np.mean([rankdata([-run[key][0] for key in run]) for run in runs], 0)
    return {
        key: {
            "mean_rank": round(float(ranks[i]), 3),
            "mean_auroc": round(float(np.mean([case["auroc"][key] for case in cases])), 4),
            "seconds": round(float(np.mean([run[key][1] for run in runs])), 3),
        }
        for i, key in enumerate(runs[0])
    }


def set_goals(detectors: Mapping[str, Any]) -> list[goals.Goal]:
    """Returns how the better of aejax's detectors ranks beside pyod's AutoEncoder, and beside the best of pyod's."""
    own = min(OWN, key=lambda key: detectors[key]["mean_rank"])
    rank, others = detectors[own]["mean_rank"], {key: detectors[key]["mean_rank"] for key in PYOD}
    best = min(others, key=others.__getitem__)
    what = f"anomalies in bundled tables: mean rank of the AUROC among {len(detectors)} detectors, {own}"
    return [
        goals.at_most(f"{what}, the goal that of pyod's AutoEncoder", rank, others["autoencoder"]),
        goals.at_most(f"{what}, the goal that of the best of pyod's, {best}", rank, others[best]),
    ]


def main() -> None:
    cases, runs = [], []
    for name, classes in TABLES.items():
        for outliers in classes:
            found = [measure(name, outliers, seed) for seed in range(_SEEDS.value)]
            runs += found
            mean = {key: round(float(np.mean([run[key][0] for run in found])), 4) for key in found[0]}
            cases.append({"table": name, "outliers": outliers, "auroc": mean})
            print(json.dumps(cases[-1]), flush=True)
    detectors = summarize(cases, runs)
    about = {"command": COMMAND, "seeds": _SEEDS.value, "machine": machine()}
    out = local(_OUT.value)
    write_whole(out, json.dumps(about | {"detectors": detectors, "cases": cases}, indent=1) + "\n")
    if has_pyod():
        goals.write(out.parent, COMMAND, set_goals(detectors), "anydata.json")


if __name__ == "__main__":
    command.run(main)
