"""One device and four: the same run."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import assert_trees_equal, mlp, one_device, vectors

import aejax
from aejax.distributed.partition import Partition
from aejax.workdir import checkpoint, metrics_log


def both(tmp_path, config, x):
    for count in (1, 4):
        aejax.fit(config, x, tmp_path / str(count), devices=jax.devices()[:count])
    return [checkpoint.load_newest(tmp_path / str(count)) for count in (1, 4)]


@pytest.mark.slow
def test_four_devices_train_as_one_noise_averages_and_ragged_validation_included(tmp_path):
    config = mlp(ema=0.9, corruption__name="gaussian", corruption__level=0.5, optim__clip=1.0, optim__name="sgd")
    one, four = both(tmp_path, config, vectors(197))  # 20 validation rows in batches of 16
    assert jax.tree.map(np.shape, one.state) == jax.tree.map(np.shape, four.state)  # no leading axis
    # Sums in another order: a few units in the last place of float32, over 8 steps.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one.state, four.state)
    for a, b in zip(*(metrics_log.read(tmp_path / name) for name in ("1", "4")), strict=True):
        a.pop("images_per_second", None), b.pop("images_per_second", None)
        assert a == pytest.approx(b, rel=1e-5)


@pytest.mark.slow
def test_a_run_moves_between_numbers_of_devices(tmp_path):
    x = vectors()
    left = iter(range(2))
    from aejax import data

    splits = data.split({"train": data.from_array(x)}, mlp().data)
    stopped = aejax.train(mlp(), tmp_path, data=splits, devices=jax.devices(), stop=lambda: next(left, None) is None)
    assert stopped.step == 6
    finished = aejax.train(mlp(), tmp_path, data=splits, devices=one_device())
    assert finished.step == 8
    whole = aejax.train(mlp(), tmp_path / "whole", data=splits, devices=jax.devices())
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), finished.variables, whole.variables
    )


@pytest.mark.slow
def test_a_run_of_four_devices_loads_in_a_process_with_one(tmp_path):
    run = aejax.fit(mlp(), vectors(), tmp_path, devices=jax.devices())
    code = (
        "import sys, jax, numpy as np, aejax; assert jax.device_count() == 1;"
        "run = aejax.load_run(sys.argv[1]); np.save(sys.argv[2], run.encode(run.inputs))"
    )
    env = {"JAX_PLATFORMS": "cpu", "PATH": ""}
    subprocess.run([sys.executable, "-c", code, tmp_path, tmp_path / "z.npy"], check=True, env=env)
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), run.latents, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 4])
def test_partition_places_and_reduces(count):
    partition = Partition(tuple(jax.devices()[:count]))
    state = partition.replicate({"w": np.float32(2.0), "big": np.zeros((3, 5))})
    assert state["big"].shape == (3, 5)

    def step(carry, held, batch, reduce):
        total = reduce((batch["x"] * held["scale"]).sum(), "sum")
        return {**carry, "w": carry["w"] + total}, reduce(batch["x"].mean(), "mean")

    compiled = partition.compile(step)
    held = partition.replicate({"scale": np.float32(10.0)})
    x = np.arange(8, dtype=np.float32)
    for _ in range(2):
        given = state
        state, mean = compiled(given, held, partition.share({"x": x}))
        assert given["w"].is_deleted()  # donated
        assert not held["scale"].is_deleted()
    assert float(state["w"]) == 2 + 2 * 280
    assert float(mean) == 3.5
    assert_trees_equal(jax.device_get(state["big"]), np.zeros((3, 5)))
