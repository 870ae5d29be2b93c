"""Changes of the config on resume: asked for by name, recorded, followed by later commands, and shown."""

import jax
import numpy as np
import pytest
from conftest import assert_trees_equal, mlp, one_device, vectors

import aejax
from aejax import data
from aejax.data import Spec
from aejax.distributed.partition import Partition
from aejax.training.multistep import batches, compile_steps
from aejax.training.step import init
from aejax.training.task import make_task
from aejax.training.vmapped import train_together
from aejax.workdir import changes, checkpoint
from aejax.workdir.changes import Change
from aejax.workdir.lifecycle import OpenWorkdir, find_run, is_finished


def train(workdir, config, **kwargs):
    """`aejax.train` on vectors, quiet, on one device."""
    splits = data.split({"train": data.from_array(vectors())}, config.data)
    return aejax.train(config, workdir, data=splits, devices=one_device(), quiet=True, **kwargs)


def after(dispatches):
    """A `stop` that says yes after so many questions; a dispatch of `mlp()` is two steps."""
    left = iter(range(dispatches - 1))
    return lambda: next(left, None) is None


def saved(workdir, config, step=8, recorded=()):
    """A workdir with one checkpoint of this config."""
    metadata = {"config": aejax.config.to_dict(config), "spec": {}, "data": {}}
    if recorded:
        metadata["changes"] = [change._asdict() for change in recorded]
    samples = {name: np.zeros(1, np.float32) for name in ("latents", "reconstructions", "inputs")}
    with checkpoint.Checkpoints(workdir, 3, metadata) as checkpoints:
        checkpoints.save(step, {"w": np.zeros(2, np.float32)}, samples)
    (workdir / "config.json").write_text(aejax.config.to_json(config))
    (workdir / "metrics.jsonl").write_text(f'{{"step": {step}, "validation/loss": 1.0}}\n')


def opened(workdir, config, change=()):
    return OpenWorkdir(workdir, config, find_run(workdir, config, change), False, change)


def test_a_change_is_refused_by_default_and_its_flag_named(tmp_path):
    saved(tmp_path, mlp(optim__schedule="cosine"))
    for differs, keys in (({"steps": 16}, "steps"), ({"steps": 16, "optim__lr": 0.5}, "optim.lr,steps")):
        with pytest.raises(aejax.InputError, match=rf"; choose another workdir, .*, or --change={keys} \(in Python"):
            find_run(tmp_path, mlp(optim__schedule="cosine", **differs))
    with pytest.raises(aejax.InputError, match=r"seed: 0 -> 1\); choose another workdir, or the config it was begun"):
        find_run(tmp_path, mlp(optim__schedule="cosine", seed=1, steps=16), ["steps"])
    with pytest.raises(aejax.InputError, match=r"steps: 8 -> 16\); .* or --change=steps"):
        find_run(tmp_path, mlp(optim__schedule="cosine", optim__lr=0.5, steps=16), ["optim.lr"])


def test_a_change_is_followed_until_the_next(tmp_path):
    first, later = mlp(optim__schedule="cosine"), mlp(optim__schedule="cosine", steps=16, optim__lr=0.5)
    saved(tmp_path, first)
    run = opened(tmp_path, later, ["steps", "optim.lr"])
    made = (Change(8, "optim.lr", 1e-3, 0.5), Change(8, "steps", 8, 16))
    assert run.changes == made
    assert run.plain["steps"] == 16

    saved(tmp_path, later, 12, made)
    for given in (first, later, mlp(optim__schedule="cosine", steps=16), mlp(optim__schedule="cosine", optim__lr=0.5)):
        for change in ((), ("patience",)):
            run = opened(tmp_path, given, change)
            assert (run.config.steps, run.config.optim.lr) == (16, 0.5)
            assert run.changes == made
        assert not is_finished(given, tmp_path)  # of 16 steps, not of 8
    with pytest.raises(aejax.InputError, match=r"optim.lr: 0.5 -> 0.25\)"):
        find_run(tmp_path, mlp(optim__schedule="cosine", optim__lr=0.25))
    run = opened(tmp_path, first, ["optim.lr"])  # back to the first learning rate
    assert run.config.optim.lr == 1e-3
    assert run.changes == (*made, Change(12, "optim.lr", 0.5, 1e-3))


def test_only_some_keys_can_change(tmp_path):
    for key in ("optim.name", "optim.accumulate", "encoder.features", "objective.weights.kl", "seed", "stepz"):
        with pytest.raises(aejax.InputError, match=f"change={key}: only steps, .* can change"):
            aejax.fit(mlp(), vectors(), tmp_path, change=[key], quiet=True)
    reference = dict(aejax.config.flatten(aejax.config.default().to_dict()))
    assert set(changes.CHANGEABLE) <= set(reference)


@pytest.mark.parametrize("entry", [3, {}, {"step": "x", "key": "steps", "before": 1, "after": 2}, {"step": 1}])
def test_a_record_of_another_form_is_named(entry):
    with pytest.raises(aejax.StorageError, match="holds no list of changes"):
        changes.parse({"changes": [entry]})


CASES = {
    "more steps": ({"steps": 16}, "steps", {"optim__schedule": "cosine", "optim__warmup": 2}),
    "learning rate": ({"optim__lr": 1e-4}, "optim.lr", {}),
    "weight decay": ({"optim__weight_decay": 0.1}, "optim.weight_decay", {}),
    "clip": ({"optim__clip": 0.1, "optim__schedule": "linear"}, "optim.clip,optim.schedule", {"optim__accumulate": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_changed_run_continues_with_the_new_optimizer_on_the_old_state(case, tmp_path):
    """Against the same steps by hand, from the state that the old config left."""
    new, keys, base = CASES[case]
    old, config = mlp(**base), mlp(**base, **new)
    stopped = train(tmp_path, old, stop=after(3))
    before = checkpoint.load_newest(tmp_path)
    assert stopped.step == 6
    with pytest.raises(aejax.InputError, match=f"or --change={keys} "):
        train(tmp_path, config)
    run = train(tmp_path, config, change=keys.split(","))
    assert [change.key for change in run.changes] == keys.split(",")
    assert run.changes == aejax.load_run(tmp_path).changes
    assert_trees_equal(train(tmp_path, old).variables, run.variables)  # finished, whichever config is given

    split = data.split({"train": data.from_array(vectors())}, config.data).train
    task, partition = make_task(config, Spec((6,)), len(split)), Partition(one_device())
    init_key, key = jax.random.split(jax.random.key(0))
    state = checkpoint.fill(init(task, (6,), init_key), before.state, "")
    feed, steps = data.Feed(split, 2**20, partition.replicate), compile_steps(task, key, partition)
    for batch in batches(feed, 16, 0, partition, 2, range(6, config.steps)):
        state, _ = steps(partition.place(state), feed.held, batch)
    assert_trees_equal(jax.device_get(state.params), checkpoint.load_newest(tmp_path).state["params"])


@pytest.mark.slow
def test_a_change_of_one_run_is_followed_in_a_sweep(tmp_path):
    configs = [mlp(seed=seed) for seed in (0, 1)]
    splits = data.split({"train": data.from_array(vectors())}, configs[0].data)
    given = {"data": splits, "devices": one_device(), "quiet": True}
    folders = [tmp_path / str(i) for i in range(2)]
    train_together(configs, folders, **given, stop=after(2))
    train(folders[1], mlp(seed=1, optim__lr=1e-9), change=["optim.lr"], stop=after(1))
    train(folders[0], configs[0], stop=after(1))
    before = aejax.load_run(folders[1])
    runs = train_together(configs, folders, **given)
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)  # noqa: E731
    jax.tree.map(close, runs[1].variables, before.variables)
    assert runs[1].config.optim.lr == 1e-9
    assert runs[0].config.optim.lr == 1e-3
