"""Compares the estimator's defaults with PCA: python -m experiments.estimator

On scikit-learn's bundled data sets and on some that its generators make, by five-fold cross-validation that is repeated
four times: the accuracy of a logistic regression, or R2 of a ridge regression, that reads standardized codes, and the
squared error of the reconstruction in the units that the models are fitted in. PCA reads columns standardized where the
estimator's default does, and each fit of the estimator has another seed. `gain` is the score above PCA's on the same
folds, with the standard error of one repetition. Writes experiments/results/estimator.json, and the mean gain on each
bundled set to goals/anydata.json beside it; about 15 minutes on two CPU cores.
"""

import json
import time
from typing import Any

import numpy as np
from absl import flags
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import RepeatedKFold, RepeatedStratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from aejax.cli import command
from aejax.data import needs_standardizing
from aejax.files import local, write_whole
from aejax.sklearn import AutoencoderTransformer
from experiments.benchmark import goals
from experiments.machine import machine

_OUT = flags.DEFINE_string("estimator_table", "experiments/results/estimator.json", "File to write.")
COMMAND = "python -m experiments.estimator"
_FOLDS, _REPEATS = 5, 4
CASES = {"digits": (2, 4, 8, 16), "wine": (2, 4, 8), "breast_cancer": (2, 4, 8, 16), "diabetes": (2, 4, 8)}
# Others, which no goal names.
FURTHER = {"iris": (2,), "classification": (2, 8), "friedman1": (4,)}
_MADE: dict[str, dict[str, Any]] = {  # by scikit-learn's generators
    "classification": {"n_samples": 600, "n_features": 20, "n_informative": 8},
    "friedman1": {"n_samples": 500, "n_features": 10, "noise": 1},
}


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns X and y of a bundled or a made data set."""
    if name in _MADE:
        return getattr(datasets, f"make_{name}")(**_MADE[name], random_state=0)
    return getattr(datasets, f"load_{name}")(return_X_y=True)


def compare(name: str, components: int, repeats: int = _REPEATS) -> dict[str, Any]:
    """Returns the means over folds of score, squared error and seconds of fitting, of PCA and of the estimator."""
    x, y = load(name)
    regression = len(np.unique(y)) > 10
    kind = RepeatedKFold if regression else RepeatedStratifiedKFold
    folds = kind(n_splits=_FOLDS, n_repeats=repeats, random_state=0)
    figures: dict[str, list] = {"pca": [], "aejax": []}
    for seed, (train, test) in enumerate(folds.split(x, y)):
        units = StandardScaler() if needs_standardizing(x[train].astype(np.float32)) else FunctionTransformer()
        units.fit(x[train])
        models = {
            "pca": make_pipeline(units, PCA(components)),
            "aejax": AutoencoderTransformer(components, random_state=seed),
        }
        for key, model in models.items():
            begin = time.perf_counter()
            codes = model.fit(x[train]).transform(x[train])
            seconds = time.perf_counter() - begin
            model_of_codes = Ridge() if regression else LogisticRegression(max_iter=2_000)
            reading = make_pipeline(StandardScaler(), model_of_codes).fit(codes, y[train])
            score = reading.score(model.transform(x[test]), y[test])
            decoded = model.inverse_transform(model.transform(x[test]))
            error = np.square(units.transform(decoded) - units.transform(x[test])).sum(1).mean()
            figures[key].append((score, error, seconds))
    means = {key: np.mean(values, 0) for key, values in figures.items()}
    named = {
        key: dict(zip(("score", "squared_error", "seconds"), m.round(4).tolist(), strict=True))
        for key, m in means.items()
    }
    gains = np.array(figures["aejax"])[:, 0] - np.array(figures["pca"])[:, 0]
    # Repetitions test on the same rows: they make the mean steadier, but its error no smaller.
    gain = {"mean": round(gains.mean(), 5), "standard_error": round(gains.std(ddof=1) / _FOLDS**0.5, 5)}
    reader = "ridge" if regression else "logistic"
    return {"data": name, "components": components, "reader": reader, **named, "gain": gain}


def set_goals(cases: list[dict[str, Any]]) -> list[goals.Goal]:
    """Returns the mean gain on each data set of `CASES`, over its numbers of components, with the goal of none lost."""
    reached = []
    for name, sizes in CASES.items():
        gains = [case["gain"]["mean"] for case in cases if case["data"] == name]
        measure = "R2 of a ridge" if name == "diabetes" else "accuracy of a logistic"
        figure = f"estimator: {name}, {measure} regression above that of PCA, mean of {', '.join(map(str, sizes))}"
        reached.append(goals.at_least(f"{figure} components", round(float(np.mean(gains)), 5), 0.0))
    return reached


def estimator() -> None:
    found = []
    for name, sizes in (CASES | FURTHER).items():
        for components in sizes:
            found.append(compare(name, components))
            print(json.dumps(found[-1]), flush=True)
    about = {"command": COMMAND, "folds": _FOLDS, "repeats": _REPEATS, "machine": machine()}
    write_whole(local(_OUT.value), json.dumps({"cases": found, **about}, indent=1) + "\n")
    goals.write(local(_OUT.value).parent, COMMAND, set_goals(found), "anydata.json")


if __name__ == "__main__":
    command.run(estimator)
