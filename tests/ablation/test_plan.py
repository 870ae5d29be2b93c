"""What a sweep is to run: names, configs, and mistakes told in one line."""

import re

import numpy as np
import pytest

import aejax
from aejax.ablation.plan import added, grid, plan, short, values
from aejax.config import to_json
from configs import beta_vae, vae


def config():
    return vae.get_config("tiny")


def test_values():
    assert values("2,8,32") == [2, 8, 32]
    assert values("(64,32), (16,)") == [(64, 32), (16,)]
    assert values("relu,gelu,1e-3,True,false") == ["relu", "gelu", 1e-3, True, False]
    with pytest.raises(aejax.InputError, match="no values"):
        values("")
    assert values("{[1]: 2}") == ["{[1]: 2}"]  # Python, but for its key


@pytest.mark.parametrize("error", [RecursionError, MemoryError])
def test_a_swept_value_that_python_finds_too_deep(monkeypatch, error):
    def literal_eval(text):
        raise error

    monkeypatch.setattr("ast.literal_eval", literal_eval)
    with pytest.raises(aejax.InputError, match=r"swept value '\[\[1\]\]' is nested too deeply"):
        values("[[1]]")


def test_a_grid_holds_all_combinations():
    sizes = np.random.default_rng().integers(1, 4, 3)
    axes = {key: list(range(size)) for key, size in zip("abc", sizes, strict=True)}
    found = grid(axes)
    assert len(found) == len({tuple(f.items()) for f in found}) == sizes.prod()
    assert all(f[key] in axes[key] for f in found for key in axes)


def test_each_run_differs_from_the_config_in_what_was_asked_for():
    base = config()
    before = to_json(base)
    runs = plan(base, grid({"optim.lr": [1e-2, 1], "encoder.features": [(8, 4), (16,)]}), seeds=2)
    assert to_json(base) == before
    assert [run.name for run in runs[:3]] == [
        "lr=0.01_features=8x4_seed=0",
        "lr=0.01_features=8x4_seed=1",
        "lr=0.01_features=16_seed=0",
    ]
    for run in runs:
        changed = {d.split(":")[0] for d in aejax.config.differences(base, run.config)}
        assert changed <= {"optim.lr", "encoder.features", "seed"}
        for key, value in run.overrides.items():
            assert aejax.config.get(run.config, key) == value
        assert run.config.is_locked
        assert isinstance(run.config.optim.lr, float)


def test_keys_with_the_same_end_are_told_apart():
    runs = plan(config(), grid({"encoder.features": [(8,), (4,)], "decoder.features": [(8,), (4,)]}))
    assert runs[1].name == "encoder.features=8_decoder.features=4"


def test_short_names_tell_keys_apart():
    assert short(["optim.lr", "steps", "pretrain.steps", "encoder.name", "decoder.name"]) == {
        "optim.lr": "lr",
        "steps": "steps",
        "pretrain.steps": "pretrain.steps",
        "encoder.name": "encoder.name",
        "decoder.name": "decoder.name",
    }
    runs = plan(config(), grid({"steps": [1, 2], "pretrain.steps": [0, 5]}))
    assert runs[1].name == "steps=1_pretrain.steps=5"


@pytest.mark.parametrize("first", [True, False])
def test_keys_may_be_added_before_and_after_a_section_is_replaced(first):
    section, weight = {"bottleneck": {"name": "gaussian", "features": 8}}, {"objective.weights.l1": 1.0}
    (run,) = plan(config(), [section | weight if first else weight | section])
    assert (run.config.objective.weights.l1, run.config.bottleneck.features) == (1.0, 8)
    assert run.config.is_locked
    with pytest.raises(aejax.InputError, match=r"'optim\.kl' is unknown"):
        plan(config(), [section | {"optim.kl": 1.0}])
    with pytest.raises(aejax.InputError, match=r"'objective\.\w+' is missing"):
        plan(config(), [{"objective": {"weights": {}}, "steps": 3}])


def test_a_section_is_replaced_as_a_whole():
    sections = [{"name": "dense", "features": n} for n in (2, 3)]
    runs = plan(config(), [{"bottleneck": s, "objective.weights": {}} for s in sections])
    assert [run.name for run in runs] == ["bottleneck=dense-2", "bottleneck=dense-3"]
    assert [run.config.bottleneck.to_dict() for run in runs] == sections


def test_long_names_stay_short_and_unlike_each_other():
    widths = [(100_000,) * n for n in range(30, 34)]
    names = [run.name for run in plan(config(), grid({"encoder.features": widths}))]
    assert len(set(names)) == 4
    assert max(map(len, names)) <= 100


@pytest.mark.parametrize("key", ["/etc/x", "a\nb", "$x$", "\ud800"])
def test_keys_and_values_name_folders_beside_each_other(key):
    runs = plan(config(), [{f"objective.weights.{key}": 1.0, "data.name": value} for value in ("/etc", "..", "a/b")])
    assert len({run.name for run in runs}) == 3
    for run in runs:
        assert re.fullmatch(r"[A-Za-z0-9_+=-][A-Za-z0-9._+=-]{0,99}", run.name)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"optim.lrr": 1}, "'optim.lrr' is unknown; did you mean 'optim.lr'"),
        ({"optm.lr": 1}, "'optm.lr' is unknown"),
        ({"optim.lr.x": 1}, "'optim.lr.x' is unknown"),
        ({"optim.lr": "fast"}, "optim.lr holds a float; 'fast' does not fit"),
        ({"tracking": ("wandbb",)}, "tracking 'wandbb' is unknown; did you mean 'wandb'"),
        ({"steps": 0}, "steps must be a whole number above 0"),
        ({"optim.lr": 10**400}, r"optim.lr holds a float; 10+\.\.\. does not fit"),
        ({"steps": None}, "steps must be a whole number, got None"),
        ({"adversary": None, "steps": 3}, "adversary must be a section of keys"),
        ({"objective": None}, "objective must be a section of keys"),
        ({"adversary": 3}, "adversary holds a ConfigDict; 3 does not fit"),
        ({"adversary": {}}, "'adversary.name' is missing"),
        ({"objective.options": {"l1.scale": 1}}, "objective.options holds keys that are not words without dots"),
        ({"encoder.x": {None: 1}}, "encoder.x holds keys that are not words"),
    ],
)
def test_mistakes(overrides, message):
    with pytest.raises(aejax.InputError, match=message):
        plan(config(), [overrides])


def test_the_same_run_twice():
    with pytest.raises(aejax.InputError, match="are the same"):
        plan(config(), [{"optim.lr": 1}, {"optim.lr": 1.0}])
    with pytest.raises(aejax.InputError, match="twice"):
        plan(config(), [{"optim.lr": 0.5}, {"optim.lr": 0.5}])
    with pytest.raises(aejax.InputError, match="leave --seeds out"):
        plan(config(), [{"seed": 1}], seeds=2)


def test_a_configs_own_sweep():
    runs = plan(beta_vae.get_config("tiny"), added(beta_vae.sweep))
    assert len(runs) == 12
    assert runs[-1].name == "kl=16.0_seed=2"
    assert runs[-1].config.objective.weights.kl == 16
