"""Compares autoencoders of series with PCA: python -m experiments.series

Trains `timeseries` and `lstm_vae` on the synthetic `waves` and on series that aeon bundles (pip install aeon; its files
are read, and without it these are left out). Series with labels are classified by a linear probe of the code, and
series with anomalies are cut into windows, whose anomalies are told by the error of their reconstruction. Beside them
stand the same figures of PCA with as many components. Writes experiments/results/series.json, in which the figures that
are there already are left alone; about 15 minutes on two CPU cores.
"""

import importlib.util
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from absl import flags
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

import aejax
from aejax import data
from aejax.cli import command
from aejax.data.waves import ANOMALOUS
from aejax.errors import one_of
from aejax.evaluation.anomaly import scores
from aejax.evaluation.representation import linear_probe
from aejax.files import read_json, write_whole
from experiments.machine import machine

_OUT = flags.DEFINE_string("series_out", "experiments/results/series.json", "File of the figures.")
_SEEDS = flags.DEFINE_integer("series_seeds", 3, "Seeds of each model.", lower_bound=1)
_ARG = flags.DEFINE_string("series_arg", "", "Argument of the configs, e.g. tiny.")
_ONLY = flags.DEFINE_list("series", [], "Data sets to train on; defaults to all that are here.")
CONFIGS = ("timeseries", "lstm_vae")
Arrays = dict[str, np.ndarray]
# Of aeon's series with anomalies: files of train and test, the steps of a window, and those between two of them.
_WINDOWS = {
    "InternalBleeding16": (
        *(f"KDD-TSAD_135/135_UCR_Anomaly_InternalBleeding16_{part}.csv" for part in ("TRAIN", "TEST")),
        *(64, 4),
    ),
    "ecg-diff-count-3": (*(f"UnitTest/ecg-diff-count-3_{part}.csv" for part in ("TRAIN_NA", "TEST")), 64, 8),
}
_CLASSES = ("GunPoint", "ItalyPowerDemand", "BasicMotions")


def read_ts(text: str) -> tuple[np.ndarray, list[str]]:
    """Returns the series [n, time, channels] and the classes of a .ts file, whose series have one length."""
    lines = [line for line in text.partition("@data")[2].strip().splitlines() if line]
    rows = [line.split(":") for line in lines]
    x = np.array([[channel.split(",") for channel in channels] for *channels, _ in rows], np.float32)
    return x.swapaxes(1, 2), [label.strip() for *_, label in rows]


def cut(values: np.ndarray, anomalous: np.ndarray, size: int, every: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns windows [n, size, channels] of a series [time, channels], and whether each has an anomalous step."""
    begins = np.arange(0, len(values) - size + 1, every)
    return (
        np.stack([values[i : i + size] for i in begins]),
        np.array([anomalous[i : i + size].any() for i in begins], np.int32),
    )


def load_all() -> dict[str, Arrays]:
    """Returns the arrays of each data set by name: train, train_label, test and test_label."""
    waves = {name: data.read(source) for name, source in data.find(aejax.load_config("timeseries").data).items()}
    found = {"waves": {**_pair("train", *waves["train"].values()), **_pair("test", *waves["test"].values())}}
    spec = importlib.util.find_spec("aeon")
    if spec is None or not spec.submodule_search_locations:
        print("aeon is not installed: its series are left out")
        return found
    folder = Path(spec.submodule_search_locations[0]) / "datasets/data"
    for name in _CLASSES:
        parts = {part: read_ts((folder / f"{name}/{name}_{part.upper()}.ts").read_text()) for part in ("train", "test")}
        known = sorted(set(parts["train"][1]))
        found[name] = {}
        for part, (x, label) in parts.items():
            found[name] |= _pair(part, x, np.array([known.index(each) for each in label], np.int32))
    for name, (*files, size, every) in _WINDOWS.items():
        found[name] = {}
        for part, file in zip(("train", "test"), files, strict=True):
            table = np.genfromtxt(folder / str(file), delimiter=",", skip_header=1, dtype=np.float32)
            found[name] |= _pair(part, *cut(table[:, 1:-1], table[:, -1] > 0, int(size), int(every)))
    return found


def _pair(part: str, x: np.ndarray, label: np.ndarray) -> Arrays:
    return {part: x, f"{part}_label": label}


def measure(codes: Mapping[str, np.ndarray], arrays: Arrays, error: np.ndarray, anomaly: int) -> dict[str, float]:
    """Returns the accuracy of a linear probe of normal examples, and the AUROC of `error`, as far as there are labels.

    Args:
      codes: of train and test.
      error: of each test example.
      anomaly: the label of anomalies; -1: there are none.
    """
    found = {}
    normal = {part: arrays[f"{part}_label"] != anomaly for part in ("train", "test")}
    label = {part: arrays[f"{part}_label"][rows] for part, rows in normal.items()}
    if len(np.unique(label["train"])) > 1:
        flat = {part: codes[part].reshape(len(codes[part]), -1)[rows] for part, rows in normal.items()}
        found["probe"] = linear_probe(flat["train"], label["train"], flat["test"], label["test"])
    if anomaly >= 0:
        found["auroc"] = float(roc_auc_score(~normal["test"], error))
    return found


def measure_pca(arrays: Arrays, components: int, anomaly: int) -> dict[str, float]:
    """Returns the figures of PCA, fitted on training examples whose channels are standardized."""
    train, test = (arrays[part].astype(np.float64) for part in ("train", "test"))
    scaled = [(x - train.mean((0, 1))) / train.std((0, 1)) for x in (train, test)]
    flat = [x.reshape(len(x), -1) for x in scaled]
    components = min(components, *flat[0].shape)
    pca = PCA(components, svd_solver="full").fit(flat[0])
    codes = {part: pca.transform(x) for part, x in zip(("train", "test"), flat, strict=True)}
    error = np.square(flat[1] - pca.inverse_transform(codes["test"])).sum(1)
    return {"components": components, **measure(codes, arrays, error, anomaly)}


def train(name: str, arrays: Arrays, anomaly: int, seed: int) -> tuple[dict[str, float], int]:
    """Returns the figures of one seed of a config, and the size of its code."""
    config = aejax.load_config(f"{name}:{_ARG.value}").unlock()
    config.seed = seed
    with tempfile.TemporaryDirectory() as folder:
        np.savez(file := Path(folder, "series.npz"), **arrays)
        config.data.update(name=str(file), held_out=anomaly, kind="sequence", size=0)
        config.batch_size = min(config.batch_size, len(arrays["train"]) // 2)
        run = aejax.train(config, Path(folder, "run"), quiet=True)
    codes = {part: run.encode(arrays[part]) for part in ("train", "test")}
    found = scores(run, arrays["test"])
    return measure(codes, arrays, found["squared_error"], anomaly), codes["test"][0].size


def main() -> None:
    sets = load_all()
    for name in _ONLY.value:
        if name not in sets:
            raise one_of("--series", name, sets)
    out = Path(_OUT.value)
    known = read_json(out)["sets"] if out.exists() else {}
    for name in _ONLY.value or sets:
        arrays = sets[name]
        anomaly = ANOMALOUS if name == "waves" else 1 if name in _WINDOWS else -1
        sizes = {part: len(arrays[part]) for part in ("train", "test")}
        entry = known.setdefault(name, {**sizes, "shape": list(arrays["train"].shape[1:])})
        for config in CONFIGS:
            if config in entry:
                continue
            runs = [train(config, arrays, anomaly, seed) for seed in range(_SEEDS.value)]
            figures = [found for found, _ in runs]
            mean = {key: float(np.mean([found[key] for found in figures])) for key in figures[0]}
            spread = {f"{key}_std": float(np.std([found[key] for found in figures])) for key in figures[0]}
            entry[config] = {**mean, **spread, "seeds": len(figures)}
            entry[f"pca of {config}"] = measure_pca(arrays, runs[0][1], anomaly)
            print(name, config, entry[config], entry[f"pca of {config}"], flush=True)
            about = {"command": "python -m experiments.series", "machine": machine(), "sets": known}
            write_whole(out, json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    command.run(main)
