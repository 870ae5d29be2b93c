"""Which runs are found, how they are grouped, and that none is dropped without a word."""

import json

import pytest
from workdirs import evaluation, run, sweep

import aejax
from aejax import InputError
from aejax.ablation import collect, plan
from aejax.ablation.trials import show

RATES = [{"optim.lr": 0.01}, {"optim.lr": 0.001}]


def test_a_plan_is_read_in_its_order_and_its_own_setting_is_the_default(tmp_path):
    found = collect([sweep(tmp_path, RATES, [[3.0, 4.0], [5.0, 7.0]])])
    assert found.axes == ("optim.lr",)
    assert [s.label for s in found.settings] == ["lr=0.01", "lr=0.001"]
    assert [s.of("validation/loss") for s in found.settings] == [{0: 3.0, 1: 4.0}, {0: 5.0, 1: 7.0}]
    assert found.default is found.settings[1]  # of aejax's default config
    assert found.notes == []


def test_data_that_training_leaves_is_no_common_ground(tmp_path):
    sizes = [{"data.train": f"train[:{n}%]"} for n in (20, 60)]
    (note,) = collect([sweep(tmp_path / "a", sizes, [[3.0], [4.0]])]).notes
    assert note.startswith("data.train differs, and so do the validation examples")
    named = [{"data.validation": "test", **size} for size in sizes]
    assert collect([sweep(tmp_path / "b", named, [[3.0], [4.0]])]).notes == []


def test_a_folder_without_a_plan(tmp_path):
    for name, overrides in {"a": {"ema": 0.5}, "b": {"ema": 0.5, "seed": 1}, "c": {"keep": 7}}.items():
        run(tmp_path / name, [2.0, 1.0], overrides)
    (tmp_path / "compare").mkdir()
    found = collect([tmp_path])
    assert found.axes == ("ema",)  # neither seed nor keep, which changes nothing
    assert [sorted(t.name for t in s.trials.values()) for s in found.settings] == [["a", "b"], ["c"]]
    assert found.default is None


def test_keys_that_some_runs_lack_and_numbers_of_either_kind(tmp_path):
    run(tmp_path / "a", [1.0], {"ema": 0.0})
    config = json.loads((tmp_path / "a/config.json").read_text())
    for name, changes in {"b": {"ema": 0}, "c": {"bottleneck": {"name": "dense", "features": 2}}}.items():
        run(tmp_path / name, [1.0])
        (tmp_path / name / "config.json").write_text(json.dumps(config | changes | {"seed": 1}))
    found = collect([tmp_path])
    assert found.axes == ("bottleneck.name", "bottleneck.features")
    assert [s.label for s in found.settings] == ["name=identity, features=-", "name=dense, features=2"]
    assert sorted(found.settings[0].trials) == [0, 1]


def test_runs_that_do_not_count_are_named(tmp_path):
    root = sweep(tmp_path, RATES, [[3.0, 4.0], [5.0, 7.0, 9.0]], absent=["lr=0.01,seed=1"])
    log = root / "lr=0.001,seed=0/metrics.jsonl"
    log.write_text("\n".join(log.read_text().splitlines()[:2]) + '\n{"step": 2')  # cut off
    (root / "lr=0.001,seed=2/ended.txt").write_text("failed: disk full\nTraceback ...")
    run(root / "other", [1.0])
    found = collect([root])
    assert [(sorted(s.trials), s.planned) for s in found.settings] == [([0], 2), ([1], 3)]
    assert found.notes == [
        "other: not in sweep.json; not counted",
        "lr=0.01,seed=1: not started; not counted",
        "lr=0.001,seed=0: unfinished, step 10 of 20; not counted",
        "lr=0.001,seed=2: failed: disk full (step 20 of 20); not counted",
    ]


def test_a_run_is_finished_when_its_last_step_was_validated(tmp_path):
    for name in "ab":
        log = run(tmp_path / name, [3.0, 1.0], {"ema": 0.9 * (name == "b")}) / "metrics.jsonl"
    log.write_text("\n".join(log.read_text().splitlines()[:3]))  # killed between the last step and its validation
    found = collect([tmp_path])
    assert found.notes == ["b: unfinished, step 10 of 20; not counted"]
    assert [s.of("validation/loss") for s in found.settings] == [{0: 1.0}, {}]


def test_patience_ends_a_run_well(tmp_path):
    for name, losses in {"stale": [3.0, 1.0, 2.0, 2.0], "falling": [4.0, 3.0, 2.0, 1.0]}.items():
        run(tmp_path / name, losses, {"patience": 2, "steps": 1_000})
    assert collect([tmp_path]).notes == ["falling: unfinished, step 40 of 1,000; not counted"]


def test_the_same_setting_and_seed_counts_once(tmp_path):
    for name, loss in {"a": 1.0, "b": 2.0}.items():
        run(tmp_path / name, [loss])
    found = collect([tmp_path])
    assert found.notes == ["b: the same setting and seed as a; not counted"]
    assert found.settings[0].of("validation/loss") == {0: 1.0}
    assert found.settings[0].planned == 1


@pytest.mark.parametrize(("at", "loss", "elbo"), [("last", 2.0, -5.0), ("best", 1.0, -4.0)])
def test_metrics_are_of_the_step_that_is_asked_for(tmp_path, at, loss, elbo):
    run(tmp_path / "a", [3.0, 1.0, 2.0])
    evaluation(tmp_path / "a", 20, likelihood={"elbo": -4.0})
    evaluation(tmp_path / "a", 30, likelihood={"elbo": -5.0, "rate": "no KL"})
    metrics = collect([tmp_path], at).trials[0].metrics
    assert metrics == {"train/loss": loss + 1, "validation/loss": loss, "likelihood/elbo": elbo}


def test_several_folders_and_workdirs_themselves(tmp_path):
    for root in "xy":
        run(tmp_path / root / "a", [1.0], {"ema": 0.5 if root == "x" else 0.9})
    run(tmp_path / "alone", [3.0])
    found = collect([tmp_path / "x", tmp_path / "y", tmp_path / "alone"])
    assert [t.name for t in found.trials] == ["x/a", "y/a", "alone"]
    assert [s.label for s in found.settings] == ["ema=0.5", "ema=0.9", "ema=0"]
    with pytest.raises(InputError, match="two runs have the name 'alone'"):
        collect([tmp_path / "alone", tmp_path / "alone"])


def test_runs_that_differ_in_much_are_told_apart_by_name(tmp_path):
    keys = ("ema", "batch_size", "steps", "optim.warmup", "optim.clip", "samples", "checkpoint_every")
    run(tmp_path / "a", [1.0])
    run(tmp_path / "b", [1.0], {key: 1 for key in keys if key != "ema"} | {"ema": 0.5})
    found = collect([tmp_path])
    assert found.axes == ("run",)
    assert [s.label for s in found.settings] == ["a", "b"]


def test_values_as_one_reads_them():
    assert [show(v) for v in (1e-3, 2, [3, 4], [], True, None)] == ["0.001", "2", "3, 4", "none", "True", "None"]


def test_a_run_that_is_not_there_has_the_setting_of_its_section(tmp_path):
    sections = [{"bottleneck": {"name": "dense", "features": 3}}, {"bottleneck": {"name": "identity"}}]
    root = tmp_path / "sweep"
    runs = [{"name": f"{i}-{seed}", "overrides": {**sections[i], "seed": seed}} for i in (0, 1) for seed in (0, 1)]
    base = aejax.config.default()
    base.update({"steps": 20, "bottleneck": aejax.config.module("dense", features=10)})
    for planned in runs[:3]:  # the last one never began
        config = plan.overridden(base, planned["overrides"])
        run(root / planned["name"], [2.0, 1.0])
        (root / planned["name"] / "config.json").write_text(aejax.config.to_json(config))
    (root / "sweep.json").write_text(json.dumps({"config": aejax.config.to_dict(base), "runs": runs}))
    found = collect([root])
    found = [(s.label, len(s.trials), s.planned) for s in found.settings]
    assert found == [("name=dense, features=3", 2, 2), ("name=identity, features=-", 1, 2)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nowhere", "there is no folder .*nowhere; give"),
        (lambda p: p, "holds no runs; give a folder whose folders are workdirs"),
        (lambda p: run(p / "a", [], {"steps": 5}).parent, "no run is finished: a: unfinished, step 0 of 5"),
        (lambda p: (p / "sweep.json").write_text("{}") and p, "sweep.json is no plan"),
        (lambda p: (run(p / "a", [1.0]) / "config.json").write_text("{}") and p, "a/config.json is no config of a run"),
    ],
)
def test_what_cannot_be_compared(tmp_path, make, message):
    with pytest.raises(InputError, match=message) as error:
        collect([make(tmp_path)])
    assert "\n" not in str(error.value)
