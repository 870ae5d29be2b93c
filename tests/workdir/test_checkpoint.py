import json
import logging
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_trees_equal
from flax import serialization

import aejax
from aejax.training.step import TrainState
from aejax.workdir import checkpoint

METADATA = {"config": {"a": [1, 2]}, "spec": {"shape": [3]}}


def state(value=0.0):
    params = {"dense": {"kernel": jnp.full((3, 2), value), "bias": jnp.zeros(2)}}
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    return TrainState(jnp.array(7, jnp.int32), params, {}, tx.init(params), {})


def samples(value=0.0):
    return {name: np.full((2, 2), value, np.float32) for name in ("latents", "reconstructions", "inputs")}


def save(folder, losses, keep=2):
    with checkpoint.Checkpoints(folder, keep, METADATA) as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(step, state(step), samples(step), loss)


def test_what_is_saved_comes_back(tmp_path):
    save(tmp_path, {5: 1.0})
    found = checkpoint.load_newest(tmp_path)
    assert found.step == 5
    assert found.metadata == METADATA
    assert_trees_equal(found.samples, samples(5))
    assert_trees_equal(checkpoint.fill(state(), found.state, "here"), state(5))


def test_newest_and_best_are_kept_also_over_a_restart(tmp_path):
    save(tmp_path, {1: 3.0, 2: 1.0, 3: 2.0})
    save(tmp_path, {4: 5.0, 5: 4.0, 6: None, 7: 9.0})
    assert checkpoint.list_steps(tmp_path) == [2, 6, 7]  # 2 has the lowest loss; 6 was saved without one


def test_saving_does_not_wait_for_the_state_that_training_goes_on_with(tmp_path):
    step = jax.jit(lambda s: s.replace(params=jax.tree.map(lambda p: p + 1, s.params)), donate_argnums=0)
    current = state(0.0)
    with checkpoint.Checkpoints(tmp_path, 100, METADATA) as checkpoints:
        for i in range(5):
            checkpoints.save(i, current, samples())
            current = step(current)  # donates what is being saved
    restored = checkpoint.load_newest(tmp_path)
    np.testing.assert_array_equal(restored.state["params"]["dense"]["kernel"], np.full((3, 2), 4.0))


def test_other_architecture_is_refused_by_name():
    saved = serialization.to_state_dict(state())
    saved["params"]["dense"]["kernel"] = np.zeros((3, 5))
    with pytest.raises(aejax.InputError, match=r"params/dense/kernel: \(3, 5\) there, \(3, 2\) now"):
        checkpoint.fill(state(), saved, "here")
    saved = serialization.to_state_dict(state())
    del saved["params"]["dense"]["bias"]
    with pytest.raises(aejax.InputError, match="params/dense/bias: absent there"):
        checkpoint.fill(state(), saved, "here")


def test_a_failed_read_ends_all_its_reads_and_leaves_hooks_and_loggers_alone(tmp_path, capfd):
    save(tmp_path, {1: 2.0, 2: 1.0})
    for file in (tmp_path / "checkpoints/2/state/d").iterdir():
        file.write_bytes(b"")
    logger = logging.getLogger("absl")
    before = sys.unraisablehook, logger.level, list(logger.filters)
    with pytest.warns(UserWarning, match="checkpoints/2 cannot be read"):
        assert checkpoint.load_newest(tmp_path).step == 1
    assert (sys.unraisablehook, logger.level, list(logger.filters)) == before
    assert capfd.readouterr().err == ""


def test_metadata_is_plain_json(tmp_path):
    save(tmp_path, {1: 2.0})
    text = (tmp_path / "checkpoints/1/_CHECKPOINT_METADATA").read_text()
    assert json.loads(text)["custom_metadata"].items() >= METADATA.items()
