"""Sparse autoencoders by seeds and penalties in one program, scored against known features, and compared."""

import csv
import json
import sys
from statistics import fmean

import pytest
from absl import flags
from conftest import command

from aejax.ablation.statistics import deviation
from aejax.training import vmapped

# ml-collections reads the config file by it.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def run(monkeypatch, name, *arguments):
    module = command(name)
    for flag in [n for n in flags.FLAGS if n.startswith("config.")]:
        delattr(flags.FLAGS, flag)
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    module.main()


@pytest.mark.slow
def test_penalties_and_seeds_train_together_and_are_compared_by_their_scores(monkeypatch, tmp_path):
    trained, train = [], vmapped.train_together
    monkeypatch.setattr(vmapped, "train_together", lambda c, *a, **k: trained.append(len(c)) or train(c, *a, **k))
    options = "features=24,dims=10,roots=3,examples=500,orthogonalize=0"
    data = ["--config.data.name=sparse_features", f"--config.data.options={options}"]
    axes = ["--sweep.objective.weights.l1=0.01,0.3", "--seeds=2", f"--workdir={tmp_path}"]
    run(monkeypatch, "sweep", "--config=configs/sae.py:l1,tiny", *data, "--config.steps=20", *axes)
    assert trained == [4]
    workdirs = sorted(folder for folder in tmp_path.iterdir() if (folder / "checkpoints").is_dir())
    assert len(workdirs) == 4
    run(monkeypatch, "evaluate", f"--workdir={','.join(map(str, workdirs))}", "--groups=sparse", "--nofigures")
    run(monkeypatch, "compare", tmp_path)
    found = {}
    for folder in workdirs:
        weight = json.loads((folder / "config.json").read_text())["objective"]["weights"]["l1"]
        (file,) = (folder / "evaluation").glob("*/metrics.json")
        for name in ("f1", "mcc", "mean_max_cosine"):
            value = json.loads(file.read_text())["sparse"][name]["value"]
            found.setdefault((f"{weight:g}", name), []).append(value)
    rows = list(csv.DictReader((tmp_path / "compare" / "table.csv").read_text().splitlines()))
    shown = {(row["objective.weights.l1"], row["metric"].removeprefix("sparse/")): row for row in rows}
    for key, values in found.items():
        assert float(shown[key]["mean"]) == pytest.approx(fmean(values), rel=1e-4), key
        assert float(shown[key]["deviation"]) == pytest.approx(deviation(values), rel=1e-3), key
    for name in ("f1", "mcc", "mean_max_cosine"):
        low, high = found["0.01", name], found["0.3", name]
        row = shown["0.3", name]  # compared with the first setting, seed by seed
        assert float(row["difference"]) == pytest.approx(fmean(high) - fmean(low), abs=1e-6)
        assert float(row["low"]) <= float(row["difference"]) <= float(row["high"])
