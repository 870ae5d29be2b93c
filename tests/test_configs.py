"""Every config runs and resumes as :tiny, and is what its table says."""

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

CONFIGS = sorted(p.stem for p in (Path(__file__).parents[1] / "configs").glob("*.py") if p.stem != "common")


def arguments(name):
    """The arguments that a config takes, as its own error lists them."""
    with pytest.raises(aejax.InputError) as caught:
        importlib.import_module(f"configs.{name}").get_config("?")
    return re.search("among: (.*)", str(caught.value))[1].split(", ")


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
