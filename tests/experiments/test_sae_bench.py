"""The bench of sparse autoencoders: its configs, its goals, and a run at a small size."""

import dataclasses
import json

import numpy as np
import pytest
from absl import flags
from conftest import command

from aejax.data.features import SparseFeatures
from aejax.models import build
from experiments import sae_bench

SMALL = "features=24,dims=10,roots=3,examples=400,orthogonalize=0"


def scores(cosine, dead, f1):
    return {"mean_max_cosine": {"mean": cosine}, "dead_latents": {"mean": dead}, "latent_f1": {"mean": f1}}


def test_goals_are_those_of_each_architecture():
    found = {
        "matryoshka": scores(0.96, 0.01, 0.8),
        "batch_topk": scores(0.95, 0.05, 0.7),
        "jumprelu": scores(0.94, 0.06, 0.75),
        "topk": scores(0.99, 0.0, 0.9),
        "l1": scores(0.5, 0.9, 0.72),
        "minutes": 2.5,
        "seeds": 5,
    }
    goals = sae_bench.set_goals(found)
    assert [goal["reached"] for goal in goals] == [True] * 6 + [False] * 2 + [True]


def test_goals_of_the_order_are_how_far_the_first_is_ahead_and_the_last_behind():
    found = {name: scores(0.5, 0.0, f1) for name, f1 in (("matryoshka", 0.8), ("batch_topk", 0.7), ("jumprelu", 0.75))}
    goals = sae_bench.set_goals_of_order(found | {"l1": scores(0.5, 0.0, 0.72), "seeds": 5})
    assert [goal["value"] for goal in goals] == pytest.approx([0.05, -0.02])
    assert [goal["reached"] for goal in goals] == [True, False]


@pytest.mark.parametrize("name", sae_bench.BENCH.settings)
def test_configs_have_the_width_and_the_sparsity_that_are_asked_for(name):
    config = sae_bench.make_config(name, SMALL, 48, 3.4, 40, 16, 1e-3)
    model = build(config, (10,))
    assert model.bottleneck.features == 48
    assert getattr(model.bottleneck, "k", 3) == 3
    if name == "matryoshka":
        assert config.objective.options.prefixes.widths == (1, 6, 24)
    if name == "jumprelu":
        assert config.objective.options.l0_target.target == 3.4


def test_features_without_parents_and_children_are_found():
    known = SparseFeatures.parse(SMALL)
    free = sae_bench.find_free(known.parents)
    for i in range(24):
        assert free[i] == (known.parents[i] < 0 and i not in known.parents)
    assert not free.any()  # 3 roots and 12 children, 9 of 48 grandchildren
    assert sae_bench.find_free(SparseFeatures.parse("features=20,roots=2,depth=1").parents)[10:].all()


def test_parents_alone_are_counted():
    never = SparseFeatures(features=6, dims=4, roots=2, branching=2, depth=1, correlation=0.0, least=0.4)
    assert sae_bench.find_alone(never) == 0  # a child is as frequent as its parent
    rare = SparseFeatures(features=6, dims=4, roots=2, branching=2, depth=1, correlation=0.0, exponent=40.0, least=1e-3)
    fired = rare.activations(np.arange(1_024)).toarray() != 0
    alone = sum((fired[:, p] & ~fired[:, 2 * p + 2] & ~fired[:, 2 * p + 3]).sum() for p in (0, 1))
    assert sae_bench.find_alone(rare) == alone / fired[:, :2].sum()
    assert alone > 0


@pytest.mark.slow
def test_the_command_writes_scores_and_keeps_known_goals(monkeypatch, tmp_path):
    sae_bench = command("sae_bench", "experiments")  # another command's test may have forgotten its flags
    monkeypatch.setattr(sae_bench, "BATCH", 16)
    monkeypatch.setattr(sae_bench, "TREES", {"bench": SMALL})
    for study, option, length in (("BENCH", "--noorder", 9), ("ORDER", "--order", 11)):
        quick = dict.fromkeys(getattr(sae_bench, study).settings, (1e-3, 20))
        small = dataclasses.replace(getattr(sae_bench, study), data=SMALL, latents=48, settings=quick)
        monkeypatch.setattr(sae_bench, study, small)
        flags.FLAGS(["sae_bench", f"--sae_folder={tmp_path}", "--seeds_of_each=2", option])
        sae_bench.main()
        found = json.loads((tmp_path / f"{small.name}.json").read_text())
        assert found["latents"] == 48
        assert set(found["jumprelu"]) == {"steps", "seconds", "l0", *sae_bench.SHOWN} - {"free_max_cosine"}
        assert all(np.isfinite(found[name]["mcc"]["deviation"]) for name in quick)
        entries = json.loads((tmp_path / "goals" / "sae.json").read_text())
        assert len(entries) == length
        if study == "BENCH":
            assert 0 <= found["parents_alone"]["bench"] <= 1
    assert {entry["command"] for entry in entries} == {sae_bench.COMMAND, f"{sae_bench.COMMAND} --order"}
