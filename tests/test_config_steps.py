"""A step of every config, as :tiny, is the same on one device and on four; each variant takes one in bfloat16."""

import jax
import numpy as np
import pytest
from conftest import MEANT, config_of, one_device
from test_configs import CONFIGS, arguments

from aejax.data import Spec, load, read
from aejax.partition import Partition
from aejax.step import eval_step, init, train_step
from aejax.train import make_task

VARIANTS = [(name, arg) for name in CONFIGS for arg in arguments(name) if arg != "tiny"]


def two_steps(config, splits, devices):
    """State after two steps on all of `devices`, and the second step's metrics."""
    partition = Partition(devices)
    spec = Spec.of(splits.train, config.data.standardize)
    task = make_task(config, spec, len(splits.train), partition.axis_name)
    key = jax.random.key(0)
    step = partition.compile(lambda state, held, batch, reduce: train_step(state, batch, key, task=task, reduce=reduce))
    evaluate = partition.compile(lambda _, state, batch, reduce: eval_step(state, batch, task=task, reduce=reduce))
    state = partition.replicate(init(task, spec.shape, jax.random.key(1)))
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))  # or the step would be compiled twice
    arrays = read(splits.train.subset(np.arange(32), "part"))
    for i in range(2):
        batch = {name: value[16 * i : 16 * i + 16] for name, value in arrays.items()}
        batch["index"] = np.arange(16 * i, 16 * i + 16, dtype=np.int32)
        state, metrics = step(state, {}, partition.share(batch))
    sums = evaluate((), state, partition.share({**batch, "weight": np.ones(16, np.float32)}))
    return jax.device_get(state), jax.device_get(metrics), jax.device_get(sums)


@pytest.mark.filterwarnings(MEANT)
@pytest.mark.parametrize("name", CONFIGS)
def test_four_devices_do_what_one_does(name):
    config = config_of(name)
    config.optim.name = "sgd"  # Adam divides by roots of tiny gradients, which would magnify rounding
    config.optim.lr = 1e-3
    splits = load(config.data)
    (one, metrics, sums), (four, metrics4, sums4) = (two_steps(config, splits, jax.devices()[:n]) for n in (1, 4))
    for name in metrics:
        np.testing.assert_allclose(metrics[name], metrics4[name], rtol=2e-3, atol=1e-4, err_msg=name)
    for name in sums:
        np.testing.assert_allclose(sums[name], sums4[name], rtol=2e-3, atol=1e-3, err_msg=name)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)  # noqa: E731
    jax.tree.map(close, (one.params, one.variables, one.critic), (four.params, four.variables, four.critic))


@pytest.mark.filterwarnings(MEANT)
@pytest.mark.parametrize(("name", "arg"), VARIANTS)
def test_variants_take_a_finite_step_in_bfloat16(name, arg):
    config = config_of(name, f"tiny,{arg}")
    config.dtype = "bfloat16"
    state, metrics, sums = two_steps(config, load(config.data), one_device())
    assert all(np.isfinite(value) for value in (*metrics.values(), *sums.values()))
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(state.params))
