import dataclasses
import math
import threading

import jax
import numpy as np
import pytest
from conftest import conv, mlp, one_device, vectors

import aejax
from aejax import data
from aejax.distributed.partition import Partition
from aejax.distributed.processor import Program
from aejax.training import loop, multistep
from aejax.training.step import init, train_step
from aejax.training.task import make_task


def task_of(config, shape=(6,)):
    return make_task(config, data.Spec(shape), 90)


def test_a_dispatch_ends_wherever_something_is_due():
    task, rng = task_of(mlp()), np.random.default_rng()
    for _ in range(50):
        due = [int(n) for n in rng.integers(0, 40, 3) * rng.integers(1, 40)]
        due.append(int(rng.integers(1, 40)) * math.gcd(*due) or 1)
        steps = multistep.steps_at_once(task, *due)
        assert all(n % steps == 0 for n in due)
        assert not [more for more in range(steps + 1, multistep.MOST + 1) if all(n % more == 0 for n in due)]
    assert multistep.steps_at_once(task, 0, 640) == 32  # no checkpoint yet: 0 is a multiple of all


def test_convolutions_stay_out_of_loops_on_cpu_alone(monkeypatch):
    images = task_of(conv(), (8, 8, 1))
    assert (images.convolves, task_of(mlp()).convolves) == (True, False)
    assert multistep.steps_at_once(images, 100) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert multistep.steps_at_once(images, 100) == 25


@pytest.mark.slow
def test_a_single_step_is_no_loop(tmp_path, monkeypatch):
    """A loop of one step is one for XLA:CPU, too: `conv` took 36 times as long in it."""
    monkeypatch.setattr(jax.lax, "scan", None)
    images = np.random.default_rng().random((40, 8, 8), np.float32)
    run = aejax.fit(conv(steps=2, log_every=2, checkpoint_every=2), images, tmp_path, devices=one_device(), quiet=True)
    assert run.step == 2


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("held", [True, False])
def test_steps_of_a_dispatch_are_those_of_one_after_the_other(count, held):
    """A fresh seed each time: three dispatches of five steps, over the end of an epoch, against fifteen steps alone."""
    seed = int(np.random.default_rng().integers(1000))
    config = mlp(seed=seed, ema=0.9, corruption__name="gaussian", corruption__level=0.3, optim__name="sgd")
    partition = Partition(jax.devices()[:count])
    source = data.from_array(vectors(90))
    task = make_task(config, data.Spec.of(source, False), 90, partition.axis_name)
    feed = data.Feed(source, 2**20 if held else 0, partition.replicate)
    key = jax.random.key(seed)
    state = first = init(make_task(config, data.Spec((6,))), (6,), key)
    run = multistep.compile_steps(task, key, partition)
    state, found = partition.replicate(jax.tree.map(np.array, state)), []
    for batch in multistep.batches(feed, 16, seed, partition, 5, range(15)):
        state, metrics = run(state, feed.held, batch)
        found.extend(metrics["loss"])
    alone = jax.jit(lambda state, batch: train_step(state, batch, key, task=make_task(config, data.Spec((6,)))))
    expected, x = [], source.take(np.arange(90))["x"]
    for i in range(15):
        index = data.shuffle_rows(90, 16, seed)(i)
        first, metrics = alone(first, {"x": x[index], "index": index})
        expected.append(metrics["loss"])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # Another program for the same sums: rounding differs.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state, first)


@pytest.mark.slow
def test_a_run_is_few_dispatches_of_one_program_that_copy_rows_only(tmp_path, monkeypatch):
    """No seconds: what a run of 64 steps asks of the devices. The data goes there once, then only row numbers."""
    calls, puts, programs = [], [], []
    real_compile, real_put = Partition.compile, jax.device_put

    def compile_counted(self, function, **options):
        program = real_compile(self, function, **options)
        programs.append(program)
        run = lambda *arguments: calls.append(function) or program(*arguments)  # noqa: E731
        return dataclasses.replace(program, run=run)

    def put_counted(tree, *to):
        if isinstance(tree, dict) and ("x" in tree or "index" in tree):
            puts.append({name: value.shape for name, value in tree.items()})
        return real_put(tree, *to)

    monkeypatch.setattr(Partition, "compile", compile_counted)
    monkeypatch.setattr(jax, "device_put", put_counted)
    config = mlp(steps=64, log_every=16, checkpoint_every=64)
    aejax.fit(config, vectors(1000), tmp_path, devices=one_device(), quiet=True)
    assert [getattr(function, "func", None) for function in calls].count(multistep.scan_steps) == 64 // 16
    assert all(program.run._jitted._cache_size() == 1 for program in programs)
    assert [put["x"] for put in puts if "x" in put] == [(800, 6), (100, 6)]  # once, though the steps pass 1.3 epochs
    assert [put["index"] for put in puts if set(put) == {"index"}] == [(16, 16)] * 4


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("classes", [0, 10])
def test_inputs_are_described_as_they_come(held, classes):
    config = mlp(classes=classes, data__memory_mb=int(held))
    images = np.zeros((40, 8, 8), np.uint8)
    partition, source = Partition(one_device()), data.from_array(images, np.arange(40) % 10, binary=False)
    feed = data.Feed(source, config.data.memory_mb * 2**20, partition.replicate, labels=classes > 0)
    batch = next(multistep.batches(feed, config.batch_size, 0, partition, 2, range(2)))
    described = multistep.describe_inputs(source, config, 2)
    jax.tree.map(
        lambda a, b: np.testing.assert_equal((a.shape, a.dtype), (b.shape, b.dtype)), described, (feed.held, batch)
    )


def test_the_step_is_compiled_while_the_data_is_read_and_not_again(tmp_path, monkeypatch, caplog, request):
    compiled = []
    real = Program.compile
    monkeypatch.setattr(Program, "compile", lambda *given: compiled.append(threading.get_ident()) or real(*given))
    request.addfinalizer(lambda: jax.config.update("jax_log_compiles", False))
    jax.config.update("jax_log_compiles", True)
    config = mlp(encoder__features=(7,))  # of no other test, whose program this process may have
    aejax.fit(config, vectors(), tmp_path, devices=one_device(), quiet=True)
    assert compiled
    assert compiled != [threading.get_ident()]
    lines = [
        record.message for record in caplog.records if "Finished XLA compilation of jit(scan_steps)" in record.message
    ]
    assert len(lines) == 1


def test_nothing_crosses_unasked(tmp_path, monkeypatch):
    """Dispatches run under JAX's guard: what moves between host and device moves by `device_put`, once per dispatch."""
    real = loop.compile_steps

    def guarded(*arguments):
        program = real(*arguments)

        def call(*operands):
            with jax.transfer_guard("disallow"):
                return program(*operands)

        return dataclasses.replace(program, run=call)

    monkeypatch.setattr(loop, "compile_steps", guarded)
    aejax.fit(mlp(steps=20, log_every=10, checkpoint_every=20), vectors(), tmp_path, devices=one_device(), quiet=True)


def test_settings_without_a_common_divisor_are_told(capsys):
    task = make_task(mlp(), data.Spec((6,)))
    multistep.hint(task, 10_000, 20, 200)
    multistep.hint(task, 100, 20, 33)
    assert capsys.readouterr().err == ""
    multistep.hint(task, 10_000, 20, 333)
    assert "checkpoint_every=333 have no common divisor" in capsys.readouterr().err
