import fcntl
import json
import os
import re
import shutil
import stat

import jax
import numpy as np
import pytest
from conftest import assert_trees_equal, events, mlp, mostly_slow, one_device, vectors

import aejax
from aejax import data
from aejax.training import evaluator, multistep
from aejax.training.recorder import Recorder
from aejax.workdir import checkpoint, metrics_log, orbax_io
from aejax.workdir.lifecycle import OpenWorkdir, is_finished, is_stale, lock_workdir, read_end, record_end


def fit(config, workdir, x=None, devices=None, **kwargs):
    """`aejax.fit` on vectors, or `aejax.train` on the same with what only that takes."""
    x = vectors() if x is None else x
    if not kwargs:
        return aejax.fit(config, x, workdir, devices=devices or one_device())
    splits = data.split({"train": data.from_array(x)}, config.data)
    return aejax.train(config, workdir, data=splits, devices=devices or one_device(), **kwargs)


def after(dispatches):
    """A `stop` that says yes after so many questions; a dispatch of `mlp()` is two steps."""
    left = iter(range(dispatches - 1))
    return lambda: next(left, None) is None


def state_of(workdir):
    return checkpoint.load_newest(workdir).state


@pytest.mark.slow
def test_a_workdir_is_the_whole_experiment(tmp_path):
    run = fit(mlp(), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir() if "events" not in p.name) == [
        "checkpoints",
        "config.json",
        "metrics.jsonl",
    ]
    assert json.loads((tmp_path / "config.json").read_text())["encoder"]["features"] == [5]
    assert sorted(p.name for p in (tmp_path / "checkpoints/8").iterdir() if p.is_dir()) == [
        "metrics",
        "samples",
        "state",
    ]
    records = metrics_log.read(tmp_path)
    assert [r["step"] for r in records if "train/loss" in r] == [2, 4, 6, 8]
    assert [r["step"] for r in records if "validation/loss" in r] == [4, 8]
    scalars = {(v.tag, event.step): v.simple_value for event in events(tmp_path) for v in event.summary.value}
    for record in records:
        for name, value in record.items():
            if name != "step":
                assert scalars[name, record["step"]] == pytest.approx(value, rel=1e-6)
    assert run.latents.shape == (8, 2)
    assert run.inputs.shape == run.reconstructions.shape == (8, 6)


@pytest.mark.slow
def test_logged_losses_are_means_over_the_steps_since_the_last(tmp_path):
    every, second = tmp_path / "1", tmp_path / "2"
    fit(mlp(log_every=1), every)
    fit(mlp(log_every=3), second)
    single = [r["train/loss"] for r in metrics_log.read(every) if "train/loss" in r]
    means = {r["step"]: r["train/loss"] for r in metrics_log.read(second) if "train/loss" in r}
    assert list(means) == [3, 4, 6, 8]  # checkpoints at 4 and 8 report what has gathered
    expected = [np.mean(single[0:3]), single[3], np.mean(single[4:6]), np.mean(single[6:8])]
    np.testing.assert_allclose(list(means.values()), expected, rtol=1e-6)


def test_validation_is_the_objective_over_the_whole_split(tmp_path):
    x = vectors(197)
    run = fit(mlp(ema=0.5), tmp_path, x)
    validation = data.split({"train": data.from_array(x)}, run.config.data).validation  # 20 rows: one batch and a bit
    rows = validation.take(np.arange(len(validation)))["x"]
    expected = np.square(run.reconstruct(rows) - rows).sum(1).mean()
    record = metrics_log.read(tmp_path)[-1]
    assert record["validation/squared_error"] == pytest.approx(expected, rel=1e-5)
    assert record["validation/squared_error_per_value"] == pytest.approx(expected / 6, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, count):
    config = mlp(ema=0.9, corruption__name="gaussian", corruption__level=0.3, optim__accumulate=2, optim__warmup=2)
    devices = jax.devices()[:count]
    stopped = fit(config, tmp_path / "cut", devices=devices, stop=after(3))
    assert stopped.step == 6
    assert fit(config, tmp_path / "cut", devices=devices, stop=lambda: False).step == 8
    fit(config, tmp_path / "whole", devices=devices, stop=lambda: False)
    a, b = (checkpoint.load_newest(tmp_path / name) for name in ("cut", "whole"))
    assert_trees_equal(a.state, b.state)
    assert_trees_equal(a.samples, b.samples)
    validations = [
        [r["validation/loss"] for r in metrics_log.read(tmp_path / name) if "validation/loss" in r]
        for name in ("cut", "whole")
    ]
    assert validations[0] == validations[1]


@pytest.mark.slow
def test_streamed_run_equals_the_held_one_bit_for_bit(tmp_path):
    held = fit(mlp(), tmp_path / "held")
    streamed = fit(mlp(data__memory_mb=0), tmp_path / "streamed")
    assert_trees_equal(held.variables, streamed.variables)
    assert_trees_equal(held.latents, streamed.latents)


@pytest.mark.slow
def test_same_seed_same_bits_other_seed_other_bits(tmp_path):
    runs = [fit(mlp(seed=seed), tmp_path / str(i)) for i, seed in enumerate((3, 3, 4))]
    assert_trees_equal(runs[0].variables, runs[1].variables)
    assert np.any(runs[0].latents != runs[2].latents)


@pytest.mark.slow
def test_finished_run_is_returned_untouched(tmp_path):
    first = fit(mlp(), tmp_path)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "checkpoints").rglob("*") if p.is_file()}
    record_end(tmp_path, "failed: after its last checkpoint")
    again = fit(mlp(), tmp_path)
    assert read_end(tmp_path) == ""
    assert_trees_equal(first.variables, again.variables)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "checkpoints").rglob("*") if p.is_file()}


@pytest.mark.slow
def test_nan_stops_the_run_names_the_step_and_leaves_the_last_good_checkpoint(tmp_path):
    config = mlp(steps=40, checkpoint_every=2, log_every=5, optim__lr=1e30, optim__name="sgd")
    with pytest.raises(aejax.DivergedError, match=r"not finite at step \d+ \(steps \d+ to \d+ were read\)"):
        fit(config, tmp_path)
    assert checkpoint.load_newest(tmp_path) is None  # nothing spoilt was saved
    assert all(np.isfinite(v) for record in metrics_log.read(tmp_path) for v in record.values())


@pytest.mark.slow
def test_nan_from_a_single_step_is_located(tmp_path, monkeypatch):
    """A step that turns bad at number 7 only; the checkpoint of step 4 stays the newest, and is finite."""
    real = multistep.train_step

    def bad(state, batch, key, **kwargs):
        after_step, metrics = real(state, batch, key, **kwargs)
        return after_step, metrics | {"loss": jax.numpy.where(state.step == 6, jax.numpy.nan, metrics["loss"])}

    monkeypatch.setattr(multistep, "train_step", bad)
    message = r"loss not finite at step 7 \(steps 5 to 8 were read\); the last good checkpoint is step 4"
    with pytest.raises(aejax.DivergedError, match=message):
        fit(mlp(log_every=4), tmp_path)
    assert checkpoint.list_steps(tmp_path) == [4]
    assert aejax.load_run(tmp_path).step == 4
    assert re.fullmatch(f"failed: .*{message}.*", read_end(tmp_path))
    monkeypatch.undo()
    assert fit(mlp(log_every=4), tmp_path).step == 8
    assert not (tmp_path / "ended.txt").exists()


def test_an_error_that_nobody_foresaw_leaves_its_traceback_a_stop_and_a_closed_pipe_nothing(tmp_path):
    def raises(error):
        def load(section):
            raise error

        return load

    for error in (aejax.StoppedError("later"), BrokenPipeError(), RuntimeError("out of\nmemory")):
        with pytest.raises(type(error)):
            aejax.train(mlp(), tmp_path, data=raises(error))
        assert (tmp_path / "ended.txt").exists() == isinstance(error, RuntimeError)
    assert read_end(tmp_path) == "failed: RuntimeError('out of\\nmemory')"
    assert "in load" in (tmp_path / "ended.txt").read_text()


def test_what_a_killed_run_left_of_its_lock_keeps_nobody_out(tmp_path):
    (tmp_path / ".lock").touch()
    with lock_workdir(tmp_path), pytest.raises(aejax.InputError, match="by another process"), lock_workdir(tmp_path):
        pass
    assert not (tmp_path / ".lock").exists()


def test_a_lock_that_its_holder_removes_just_then_is_none(tmp_path, monkeypatch):
    held_by_another, lock = lock_workdir(tmp_path), fcntl.flock
    held_by_another.__enter__()

    def late(file, how):
        monkeypatch.undo()
        held_by_another.__exit__(None, None, None)
        lock(file, how)  # of a file that has no name any more

    monkeypatch.setattr(fcntl, "flock", late)
    with lock_workdir(tmp_path), pytest.raises(aejax.InputError, match="by another process"), lock_workdir(tmp_path):
        pass


@pytest.mark.slow
def test_who_is_refused_says_nothing_about_the_run_that_is_there(tmp_path):
    fit(mlp(), tmp_path)
    with pytest.raises(aejax.InputError, match="another config"):
        fit(mlp(optim__lr=0.5), tmp_path)
    with lock_workdir(tmp_path), pytest.raises(aejax.InputError, match="by another process"):
        fit(mlp(), tmp_path)
    assert read_end(tmp_path) == ""


def test_what_prevents_a_run_from_resuming_does_not_end_it(tmp_path):
    fit(mlp(), tmp_path, stop=after(2))
    with pytest.raises(aejax.InputError, match="was trained on examples of"):
        fit(mlp(), tmp_path, vectors(features=5), stop=after(9))
    assert read_end(tmp_path) == ""


def test_a_stop_at_a_validation_comes_after_it(tmp_path):
    """So that who looks at its loss can end the run there."""
    stop = lambda: any("validation/loss" in record for record in metrics_log.read(tmp_path))  # noqa: E731
    assert fit(mlp(), tmp_path, stop=stop).step == 4
    assert checkpoint.list_steps(tmp_path) == [4]


def test_early_stopping_waits_for_its_patience_and_stays_stopped(tmp_path):
    config = mlp(steps=100, checkpoint_every=2, patience=2, optim__name="sgd", optim__lr=1e-12)
    run = fit(config, tmp_path)
    losses = [r["validation/loss"] for r in metrics_log.read(tmp_path) if "validation/loss" in r]
    assert run.step == 2 * len(losses) < 100
    assert len(losses) - 1 - int(np.argmin(losses)) == 2
    assert fit(config, tmp_path).step == run.step
    assert not is_stale([{"validation/loss": v} for v in (3.0, 2.0, 2.5)], 2)
    assert is_stale([{"validation/loss": v} for v in (3.0, 2.0, 2.5, 2.1)], 2)
    assert not is_stale([{"validation/loss": v} for v in (3.0, 4.0, 5.0)], 0)


@pytest.mark.slow
def test_a_run_killed_before_the_checkpoint_that_patience_ended_at_is_not_finished(tmp_path):
    config = mlp(steps=100, checkpoint_every=2, patience=2, keep=2, optim__name="sgd", optim__lr=1e-12)
    run = fit(config, tmp_path)
    assert is_finished(run.config, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / str(run.step))
    assert not is_finished(run.config, tmp_path)
    with pytest.warns(UserWarning, match=f"the checkpoint of step {run.step} is missing"):
        assert fit(config, tmp_path).step == run.step
    assert is_finished(run.config, tmp_path)


@pytest.mark.slow
def test_step_is_traced_once(tmp_path, monkeypatch):
    traces = []
    real = multistep.train_step

    def counted(*args, **kwargs):
        traces.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(multistep, "train_step", counted)
    for count in (1, 4):
        traces.clear()
        fit(mlp(), tmp_path / str(count), devices=jax.devices()[:count])
        assert len(traces) == 1


@pytest.mark.slow
def test_metrics_are_read_only_at_log_points(tmp_path, monkeypatch):
    """Every read of a device value, by whatever name, goes through `Array._value`."""
    array = type(jax.numpy.zeros(()))
    real, reads = array._value, []
    monkeypatch.setattr(array, "_value", property(lambda self: reads.append(self.shape) or real.fget(self)))
    counts = []
    for steps in (20, 40):
        reads.clear()
        float(jax.numpy.zeros(()))
        assert reads == [()]  # the count counts
        fit(mlp(steps=steps, log_every=10, checkpoint_every=100), tmp_path / str(steps))
        counts.append(len(reads))
    names = len(metrics_log.read(tmp_path / "20")[0]) - 2  # loss, reconstruction, grad_norm: read once a dispatch
    assert counts[1] - counts[0] == 2 * names


@pytest.mark.slow
def test_keys_that_change_nothing_may_change(tmp_path):
    fit(mlp(), tmp_path, stop=after(2))
    config = mlp(log_every=3, keep=7, data__memory_mb=0, data__cache=False, data__data_dir="elsewhere")
    assert fit(config, tmp_path, stop=lambda: False).step == 8
    whole = fit(mlp(), tmp_path / "whole")
    assert_trees_equal(aejax.load_run(tmp_path).variables, whole.variables)


@pytest.mark.slow
def test_a_constant_rate_may_go_on_for_longer(tmp_path):
    fit(mlp(), tmp_path / "cut")
    assert fit(mlp(steps=12), tmp_path / "cut").step == 12
    fit(mlp(steps=12), tmp_path / "whole")
    assert_trees_equal(state_of(tmp_path / "cut"), state_of(tmp_path / "whole"))
    fit(mlp(optim__schedule="cosine"), tmp_path / "cosine")
    with pytest.raises(aejax.InputError, match="steps: 8 -> 12"):
        fit(mlp(steps=12, optim__schedule="cosine"), tmp_path / "cosine")


@pytest.mark.slow
def test_a_run_that_diverged_before_its_first_checkpoint_may_begin_anew(tmp_path):
    with pytest.raises(aejax.DivergedError, match=r"lower optim.lr or set optim.clip, or look"):
        fit(mlp(optim__lr=1e30, optim__name="sgd"), tmp_path)
    assert fit(mlp(), tmp_path).step == 8
    assert [r["step"] for r in metrics_log.read(tmp_path) if "train/loss" in r] == [2, 4, 6, 8]


@pytest.mark.slow
def test_fit_leaves_the_callers_config_alone(tmp_path):
    config = mlp().lock()
    fit(config, tmp_path)
    assert config.is_locked
    assert config.to_dict() == mlp().to_dict()


@pytest.mark.slow
def test_best_checkpoint_can_be_loaded(tmp_path):
    config = mlp(steps=30, checkpoint_every=2, keep=2, optim__lr=0.3)
    newest = fit(config, tmp_path)
    losses = {r["step"]: r["validation/loss"] for r in metrics_log.read(tmp_path) if "validation/loss" in r}
    best = min(losses, key=losses.get)
    run = aejax.load_run(tmp_path, "best")
    assert run.step == best
    assert aejax.load_run(tmp_path).step == newest.step == 30
    assert aejax.load_run(tmp_path, 28).step == 28
    assert checkpoint.list_steps(tmp_path) == sorted({best, 28, 30})
    with pytest.raises(aejax.InputError, match="no checkpoint"):
        aejax.load_run(tmp_path, 3)


@pytest.mark.slow
def test_validation_of_standardised_vectors_is_in_the_users_units(tmp_path):
    x = vectors(197) * 50 + 7
    run = fit(mlp(data__standardize=True), tmp_path, x)
    validation = data.split({"train": data.from_array(x)}, run.config.data).validation
    rows = validation.take(np.arange(len(validation)))["x"]
    expected = np.square(run.reconstruct(rows) - rows).sum(1).mean()
    record = metrics_log.read(tmp_path)[-1]
    assert record["validation/squared_error"] == pytest.approx(expected, rel=1e-4)
    assert record["validation/squared_error_standardized"] == pytest.approx(record["validation/loss"], rel=1e-5)


@pytest.mark.slow
def test_spoilt_state_is_not_saved_by_a_stop(tmp_path):
    config = mlp(log_every=1, optim__name="sgd", optim__lr=3e38)  # every step is a dispatch
    with pytest.raises(aejax.DivergedError, match="not finite at step 1"):
        fit(config, tmp_path, stop=after(1))
    assert checkpoint.list_steps(tmp_path) == []


# What is refused


@pytest.mark.slow
def test_changed_architecture_is_refused(tmp_path, monkeypatch):
    """The same config, but code that builds something else of it."""
    fit(mlp(), tmp_path, stop=after(2))
    real = aejax.models.build
    wider = mlp(encoder__features=(7,))
    monkeypatch.setattr(aejax.models, "build", lambda config, *given, **named: real(wider, *given, **named))
    with pytest.raises(aejax.InputError, match=r"another architecture: .*dense/kernel: \(5, 2\) there, \(7, 2\) now"):
        fit(mlp(), tmp_path, stop=lambda: False)


@pytest.mark.slow
def test_fit_on_another_array_or_other_labels_is_refused(tmp_path):
    x, label = vectors(), np.arange(100) % 2
    again = lambda x, label: aejax.fit(mlp(classes=2), x, tmp_path, label=label, devices=one_device())  # noqa: E731
    again(x, label)
    again(x.copy(), label.astype(np.int8))
    for other in ((x, 1 - label), (x + 1, label)):
        with pytest.raises(aejax.InputError, match=r"another config \(data.name: array-\w{8} -> array-\w{8}\)"):
            again(*other)


def test_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(aejax.InputError, match="holds files but no run"):
        fit(mlp(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_failed_start_leaves_the_workdir_free(tmp_path):
    with pytest.raises(aejax.InputError):
        fit(mlp(encoder__activation="rleu"), tmp_path)
    fit(mlp(), tmp_path)


def test_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(aejax.StorageError, match=r"cannot be used.*choose a workdir that can be written"):
        fit(mlp(), tmp_path / "file" / "below")
    if os.geteuid():  # root may write anywhere
        tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
        with pytest.raises(aejax.StorageError, match="cannot be used"):
            fit(mlp(), tmp_path / "new")


@pytest.mark.parametrize(
    ("changes", "message"),
    mostly_slow(
        [
            ({"batch_size": 200}, "batch_size=200 is larger than the 80 training examples"),
            ({"likelihood__name": "bernoulli"}, r"wants values in \[0, 1\]"),
            ({"objective__weights": {"l1": "a"}}, "l1 must be a finite number"),
            ({"seed": -1}, "seed must be a whole number from 0 to"),
            (
                {"encoder": aejax.config.module("mlp", features=64)},
                r"encoder.features must be whole numbers above 0, e.g. \(64, 32\), got 64",
            ),
            ({"bottleneck__features": -3}, "bottleneck.features must be a whole number above 0, got -3"),
            ({"objective__weights": {"l3": 1.0}}, "term 'l3' is unknown"),
            ({"optim__name": "adma"}, "did you mean 'adam'"),
            ({"data__standardize": True, "corruption__name": "masking"}, "needs corruption.level above 0"),
        ]
    ),
)
def test_wrong_values_are_named_before_the_first_step(tmp_path, changes, message):
    with pytest.raises(aejax.InputError, match=message) as caught:
        fit(mlp(**changes), tmp_path)
    at_once = "seed" in changes or "finite" in message  # before there is a workdir
    assert read_end(tmp_path) == ("" if at_once else f"failed: {caught.value}")
    fit(mlp(steps=2), tmp_path)  # nothing stands in the way of the mended one
    assert read_end(tmp_path) == ""


def test_batch_must_divide_among_the_devices(tmp_path):
    with pytest.raises(aejax.InputError, match="batch_size=18 must be a multiple of the 4 devices"):
        fit(mlp(batch_size=18), tmp_path, devices=jax.devices())


# What only a second look shows


def test_nan_in_validation_stops_the_run(tmp_path, monkeypatch):
    real = evaluator.eval_step
    monkeypatch.setattr(
        evaluator, "eval_step", lambda *a, **k: real(*a, **k) | {"loss": jax.numpy.nan * real(*a, **k)["loss"]}
    )
    with pytest.raises(aejax.DivergedError, match="validation loss not finite at step 4"):
        fit(mlp(), tmp_path)
    assert checkpoint.list_steps(tmp_path) == []


def test_samples_are_what_the_loaded_run_gives(tmp_path):
    run = fit(mlp(ema=0.9, data__standardize=True), tmp_path, vectors() * 50 + 7)
    np.testing.assert_allclose(run.encode(run.inputs), run.latents, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run.reconstruct(run.inputs), run.reconstructions, rtol=1e-4)


@pytest.mark.slow
def test_statistics_stay_those_of_the_first_start(tmp_path, monkeypatch):
    config = mlp(data__standardize=True)
    splits = data.split({"train": data.from_array(vectors())}, config.data)
    begun = aejax.train(config, tmp_path, data=splits, devices=one_device(), stop=after(2))
    monkeypatch.delattr(data.Spec, "of")  # another version of NumPy would sum to another mean
    assert aejax.train(config, tmp_path, data=splits, devices=one_device()).spec == begun.spec


@pytest.mark.slow
def test_pretraining_is_not_repeated_on_resume(tmp_path):
    config = mlp(pretrain__steps=20)  # two layers: asked twice before the first step
    assert fit(config, tmp_path / "cut", stop=after(5)).step == 6
    for name in ("cut", "whole"):
        fit(config, tmp_path / name, stop=lambda: False)
    assert_trees_equal(state_of(tmp_path / "cut"), state_of(tmp_path / "whole"))


@pytest.mark.slow
def test_a_code_as_large_as_the_input_is_warned_of_in_training(tmp_path):
    with pytest.warns(UserWarning, match=r"holds 6 numbers and the input 6: it can learn to copy"):
        fit(mlp(bottleneck__features=6), tmp_path)


def test_saved_arrays_share_no_memory_with_the_state(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(orbax_io.ocp.CheckpointManager, "save", lambda self, step, args, **_: saved.append(args))
    state = {"w": jax.numpy.ones((64, 64))}
    with checkpoint.Checkpoints(tmp_path, 1, {}) as checkpoints:
        checkpoints.save(1, state, {})
    assert not np.shares_memory(np.asarray(state["w"]), saved[0].state.item["w"])


def test_rate_is_images_over_the_time_without_validation_and_saving(tmp_path, monkeypatch):
    now = 0.0

    def spend(seconds, value):
        nonlocal now
        now += seconds
        return value

    monkeypatch.setattr(metrics_log.time, "perf_counter", lambda: now)
    validate, sample = lambda _: spend(100, {"loss": 1.0}), lambda _: spend(100, {})
    given = OpenWorkdir(tmp_path, mlp(steps=100), None, True), data.Spec((6,)), {}, validate, sample
    with Recorder(*given, checkpoints=checkpoint.InMemory) as recorder:
        for step, seconds in ((5, 2), (10, 1)):
            recorder.log(step, spend(seconds, {"loss": np.ones(5)}))
            recorder.save(step, {}, validated=True)
    rates = [r["images_per_second"] for r in metrics_log.read(tmp_path) if "images_per_second" in r]
    assert rates == [5 * 16 / 2, 5 * 16 / 1]


@pytest.mark.slow
def test_resumed_tensorboard_hides_what_came_after(tmp_path):
    fit(mlp(), tmp_path, stop=after(3))
    fit(mlp(), tmp_path, stop=lambda: False)
    starts = {event.step for event in events(tmp_path) if event.HasField("session_log")}
    assert sorted(starts) == [1, 7]


def test_fit_without_a_workdir_writes_no_checkpoint_and_gives_the_same_run(tmp_path, monkeypatch):
    there = fit(mlp(ema=0.9), tmp_path)
    monkeypatch.setattr(checkpoint, "_orbax", None)
    here = aejax.fit(mlp(ema=0.9), vectors(), devices=one_device(), quiet=True)
    assert (here.step, here.config.to_json()) == (there.step, there.config.to_json())
    assert_trees_equal(here.variables, there.variables)
    for name in ("latents", "reconstructions", "inputs"):
        np.testing.assert_array_equal(getattr(here, name), getattr(there, name))
    assert here.spec == there.spec
    assert here.trained_on == there.trained_on
