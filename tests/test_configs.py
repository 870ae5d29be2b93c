"""Every config runs, resumes and agrees on one device and on four as :tiny, and is what its table says."""

import importlib
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MEANT, MNIST, assert_trees_equal, config_of, needs_mnist, one_device

import aejax
from aejax import checkpoint
from aejax import config as config_lib
from aejax.data import Spec, load, read
from aejax.partition import Partition
from aejax.step import eval_step, init, train_step
from aejax.train import make_task

CONFIGS = sorted(p.stem for p in (Path(__file__).parents[1] / "configs").glob("*.py") if p.stem != "common")


def arguments(name):
    """The arguments that a config takes, as its own error lists them."""
    with pytest.raises(aejax.InputError) as caught:
        importlib.import_module(f"configs.{name}").get_config("?")
    return re.search("among: (.*)", str(caught.value))[1].split(", ")


VARIANTS = [(name, arg) for name in CONFIGS for arg in arguments(name) if arg != "tiny"]


def test_the_three_architectures_are_there():
    assert {"basic", "stacked", "conv"} <= set(CONFIGS)


@pytest.mark.filterwarnings(MEANT)
@pytest.mark.parametrize("name", CONFIGS)
def test_tiny_runs_and_resumes_bit_for_bit(name, tmp_path):
    """On four devices in bfloat16, codebooks, discriminators, counters and averages included."""
    config = config_of(name)
    config.ema, config.dtype = 0.9, "bfloat16"
    aejax.train(config, tmp_path)
    whole = checkpoint.newest(tmp_path)
    assert whole.step == config.steps == 4
    shutil.rmtree(tmp_path / "checkpoints" / "4")
    with pytest.warns(match="the checkpoint of step 4 is missing"):
        run = aejax.train(config, tmp_path)  # from step 2
    assert_trees_equal(checkpoint.newest(tmp_path).state, whole.state)
    label = {"label": np.arange(2)} if config.classes else {}
    assert np.all(np.isfinite(run.generate(2, **label)))
    if not config.classes:
        loaded = aejax.load_run(tmp_path)
        # bfloat16 has 8 bits, and another batch size may round otherwise.
        np.testing.assert_allclose(loaded.reconstruct(loaded.inputs), run.reconstructions, rtol=0.02, atol=0.02)
    if run.config.bottleneck.name in ("vq", "residual_vq", "fsq", "lfq", "gumbel"):
        np.testing.assert_allclose(run.lookup(run.indices(run.inputs)), run.latents, rtol=1e-5, atol=1e-5)


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


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_are_locked_checked_and_documented(name):
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config()
    config_lib.check(config)
    assert config.is_locked
    assert f"python -m experiments.train --config=configs/{name}.py" in module.__doc__
    for arg in arguments(name):
        assert arg in module.__doc__ or arg == "tiny"
    with pytest.raises(aejax.InputError, match="'tinny' is unknown"):
        module.get_config("tinny")


@pytest.mark.parametrize("options", [{"decoder.tied": True}, {"pretrain.steps": 4}, {"dtype": "bfloat16", "ema": 0.9}])
def test_stacked_takes_its_options(options, tmp_path):
    config = config_of("stacked")
    config.update_from_flattened_dict(options)
    assert aejax.train(config, tmp_path, devices=one_device()).step == config.steps


@needs_mnist
@pytest.mark.slow
@pytest.mark.filterwarnings(MEANT)
@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_is_nan_after_500_steps_on_mnist(name, tmp_path):
    """With the config's default values; the loop looks at every metric of every step, and raises.

    Of small batches, whose gradients are the noisier: a machine of two slow cores takes a part of the time.
    """
    config = config_of(name, "mnist" if "mnist" in arguments(name) else "")
    config.data.data_dir = str(MNIST)
    config.steps, config.checkpoint_every, config.batch_size = 500, 500, min(config.batch_size, 16)
    run = aejax.train(config, tmp_path, devices=one_device())
    assert run.step == 500
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.variables))
    assert jnp.isfinite(run.reconstructions).all()
