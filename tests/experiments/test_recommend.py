"""The comparison of recommenders: its parts, the command, and the figures that configs and pages quote."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from conftest import command

from experiments import recommend

RESULTS = json.loads((Path(__file__).parents[2] / "experiments/results/recommend.json").read_text())["recommenders"]


def test_each_user_keeps_four_of_five_clicks_and_looks_for_the_others():
    clicks = np.float32(np.random.default_rng(0).random((30, 200)) < 0.2)
    given, wanted = recommend.divide(clicks)
    np.testing.assert_array_equal(given + wanted, clicks)
    np.testing.assert_array_equal(wanted.sum(1), clicks.sum(1) // 5)


def test_ease_is_the_ridge_regression_of_each_item_on_the_others():
    x = np.random.default_rng(0).normal(size=(40, 6))
    weights = recommend.fit_ease(x, 3.0)
    for item in range(6):
        others = np.delete(x, item, 1)
        expected = np.linalg.solve(others.T @ others + 3 * np.eye(5), others.T @ x[:, item])
        np.testing.assert_allclose(np.delete(weights[:, item], item), expected)
        assert weights[item, item] == 0


def test_items_that_were_given_are_not_recommended():
    given = np.float32([[1, 1, 0, 0]])
    wanted = np.array([[False, False, True, False]])
    assert recommend.measure(np.float32([[9, 8, 2, 1]]), given, wanted)["ndcg_100"] == 1


@pytest.mark.parametrize("name", ["mult_vae", "mult_dae"])
def test_configs_say_what_was_measured(name):
    found, documented = RESULTS[name], " ".join(importlib.import_module(f"configs.{name}").__doc__.split())
    figures = (
        f"NDCG@100 {found['ndcg_100']:.3f}, Recall@20 {found['recall_20']:.3f}, Recall@50 {found['recall_50']:.3f}"
    )
    others = f"EASE {RESULTS['ease']['ndcg_100']:.3f} and popularity {RESULTS['popularity']['ndcg_100']:.3f}"
    assert f"{figures} of held-out users, where {others}" in documented
    assert f"{found['seconds']:.0f} seconds" in documented
    assert found["ndcg_100"] > 2 * RESULTS["popularity"]["ndcg_100"]


@pytest.mark.slow
def test_the_command_writes_all_recommenders(tmp_path):
    module = command("recommend", "experiments")
    flags.FLAGS(
        [
            "recommend",
            f"--recommend_out={tmp_path}/out.json",
            f"--recommend_runs={tmp_path}/runs",
            "--recommend_arg=tiny",
            "--recommend_seeds=1",
        ]
    )
    module.main()
    found = json.loads((tmp_path / "out.json").read_text())["recommenders"]
    assert found.keys() == RESULTS.keys()
    assert found["ease"]["ndcg_100"] == pytest.approx(RESULTS["ease"]["ndcg_100"])
    assert found["popularity"] == pytest.approx(RESULTS["popularity"])
