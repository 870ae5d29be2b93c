"""The comparison of outlier detectors: its tables, its ranks, and the committed figures."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import command

RESULTS = Path(__file__).parents[2] / "experiments/results"


@pytest.fixture(scope="module")
def anomaly():
    return command("anomaly", "experiments")


def test_tables_hold_few_outliers_in_both_parts(anomaly):
    train, test, truth = anomaly.make_table("digits", 0, 0)
    assert truth.sum() == round(0.4 * 81)
    assert len(train) + len(test) == 1_797 - 178 + 81
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(train.std(0), 1)
    rows = {row.tobytes() for row in train}
    assert not any(row.tobytes() in rows for row in test)


def test_ranks_are_means_over_runs_and_1_is_best(anomaly):
    runs = [{"detector": (0.9, 1.0), "pca": (0.8, 3.0)}, {"detector": (0.5, 2.0), "pca": (0.7, 3.0)}] * 2
    runs.append({"detector": (0.6, 3.0), "pca": (0.6, 3.0)})
    found = anomaly.summarize(
        [{"auroc": {"detector": 0.25, "pca": 0.5}}, {"auroc": {"detector": 0.75, "pca": 0.5}}], runs
    )
    assert found["detector"] == {"mean_rank": 1.5, "mean_auroc": 0.5, "seconds": 1.8}
    assert found["pca"]["mean_rank"] == 1.5


def test_goals_compare_the_better_of_ours_with_the_best_of_pyods(anomaly):
    ranks = {"detector": 3, "tabular_anomaly": 4, "pca": 2, "iforest": 1, "knn": 5, "autoencoder": 6}
    first, second = anomaly.set_goals({key: {"mean_rank": rank} for key, rank in ranks.items()})
    assert (first["value"], first["goal"], first["reached"]) == (3, 6, True)
    assert (second["value"], second["goal"], second["reached"]) == (3, 1, False)


def test_the_committed_goals_are_those_of_the_committed_figures(anomaly):
    found = json.loads((RESULTS / "anomaly.json").read_text())
    assert {case["table"] for case in found["cases"]} == set(anomaly.TABLES)
    goals = [{**goal, "command": found["command"]} for goal in anomaly.set_goals(found["detectors"])]
    known = json.loads((RESULTS / "goals/anydata.json").read_text())
    assert [goal for goal in known if goal["command"] == found["command"]] == goals


@pytest.mark.parametrize(("name", "sign"), [("detector", -1), ("tabular_anomaly", -1), ("knn", 1)])
def test_scores_of_ours_are_low_and_those_of_pyod_high_for_outliers(anomaly, monkeypatch, name, sign):
    found = SimpleNamespace(fit=lambda x: None, decision_function=lambda x: sign * x[:, 0])
    table = np.zeros((2, 1)), np.array([[0.0], [1.0], [2.0]]), np.array([False, False, True])
    monkeypatch.setattr(anomaly, "make_table", lambda *_: table)
    monkeypatch.setattr(anomaly, "make_detectors", lambda *_: [(name, found)])
    assert anomaly.measure("digits", 0, 0)[name][0] == 1
