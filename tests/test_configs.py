"""Every config runs and resumes as :tiny, and is what its table says."""

import importlib
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MEANT, MNIST, assert_trees_equal, config_of, mostly_slow, needs_mnist, one_device

import aejax
from aejax import config as config_lib
from aejax import presets
from aejax.data import Spec, load, read
from aejax.training.step import eval_step, init, train_step
from aejax.training.task import make_task
from aejax.workdir import checkpoint, metrics_log

CONFIGS = sorted(p.stem for p in (Path(__file__).parents[1] / "configs").glob("*.py") if p.stem != "common")


def arguments(name):
    """The arguments that a config takes, as its own error lists them."""
    with pytest.raises(aejax.InputError) as caught:
        importlib.import_module(f"configs.{name}").get_config("?")
    return re.search("among: (.*)", str(caught.value))[1].split(", ")


def test_the_three_architectures_are_there():
    assert {"basic", "stacked", "conv"} <= set(CONFIGS)


@pytest.mark.parametrize("make", [presets.mlp, presets.resnet])
def test_a_preset_mirrors_its_encoder_and_is_tiny_with_one_layer_or_none(make):
    config = make(config_lib.module("deterministic", features=2), (3, 4, 5))
    assert (config.encoder.features, config.decoder.features) == ((3, 4, 5), (5, 4, 3))
    for features, tiny in (((3, 4), (8,)), ((), ())):
        config = presets.finish(make(config_lib.module("deterministic", features=2), features), tiny=True)
        assert config.encoder.features == config.decoder.features == tiny


# Beside the parts of other configs, these have some that draw nothing and see each example alone, or that
# `objectives/test_terms.py` compares on one device and on four. Logarithms of small magnitudes, in `audio_rvq`, magnify
# rounding: gradients of one device and of four differ by 5e-7 in the first step, and by 0.05 in the fourth.
AS_OTHERS = ("audio_rvq", "basic", "beta_vae", "dip_vae", "fsq", "info_vae", "resnet_vae", "sparse", "stacked", "wae")


def assert_the_same_on_one_device(config, folder, whole):
    """Trains on one device what is in folder / "four"."""
    aejax.train(config, folder / "one", devices=one_device(), quiet=True)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)  # noqa: E731
    jax.tree.map(close, checkpoint.load_newest(folder / "one").state, whole.state)
    records, records_of_one = metrics_log.read(folder / "four"), metrics_log.read(folder / "one")
    assert len(records) == len(records_of_one) > 0
    for of_four, of_one in zip(records, records_of_one, strict=True):
        assert of_four.keys() == of_one.keys()
        for key in of_four.keys() - {"images_per_second"}:
            np.testing.assert_allclose(of_four[key], of_one[key], rtol=2e-3, atol=1e-4, err_msg=key)


@pytest.mark.filterwarnings(MEANT)
@pytest.mark.parametrize("name", mostly_slow(CONFIGS, "vae"))
def test_tiny_trains_resumes_and_is_the_same_on_one_device_and_four(name, tmp_path):
    """Resumed, it has the same bits: codebooks, discriminators, counters and averages included."""
    config = config_of(name)
    # Adam divides by roots of tiny gradients, which would magnify how devices round.
    config.optim.options = {}
    config.optim.update(name="sgd", lr=1e-3, options={"decay": 0.9})
    config.ema = 0.9
    aejax.train(config, tmp_path / "four")
    whole = checkpoint.load_newest(tmp_path / "four")
    assert whole.step == config.steps == 4
    shutil.rmtree(tmp_path / "four/checkpoints/4")
    with pytest.warns(match="the checkpoint of step 4 is missing"):
        run = aejax.train(config, tmp_path / "four", quiet=True)  # from step 2
    assert_trees_equal(checkpoint.load_newest(tmp_path / "four").state, whole.state)

    label = {"label": np.arange(2)} if config.classes else {}
    assert np.all(np.isfinite(run.in_numbers.generate(2, **label)))
    if not config.classes:
        loaded = aejax.load_run(tmp_path / "four").in_numbers
        np.testing.assert_allclose(loaded.reconstruct(loaded.inputs), run.reconstructions, rtol=1e-5, atol=1e-5)
    if run.codebook_size is not None:
        np.testing.assert_allclose(run.lookup(run.indices(run.inputs)), run.latents, rtol=1e-5, atol=1e-5)
    if name not in AS_OTHERS:
        assert_the_same_on_one_device(config, tmp_path, whole)


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_are_locked_checked_and_documented(name):
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config()
    config_lib.check(config)
    assert config.is_locked
    assert f"aejax train --config={name} --workdir=" in module.__doc__
    for arg in arguments(name):
        assert arg in module.__doc__ or arg == "tiny"
    with pytest.raises(aejax.InputError, match="'tinny' is unknown"):
        module.get_config("tinny")


@pytest.mark.slow
@pytest.mark.filterwarnings(MEANT)
@pytest.mark.parametrize(("name", "arg"), [(name, arg) for name in CONFIGS for arg in arguments(name) if arg != "tiny"])
@pytest.mark.usefixtures("bfloat16")
def test_variants_take_finite_steps_in_bfloat16(name, arg):
    config = config_of(name, f"tiny,{arg}")
    config.dtype = "bfloat16"
    splits = load(config.data)
    task = make_task(config, Spec.of(splits.train, config.data.standardize), len(splits.train))

    def two_steps(batches):
        state = init(task, splits.train.shape, jax.random.key(1))
        assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))  # or the step would be compiled twice
        step = lambda state, batch: train_step(state, batch, jax.random.key(0), task=task)  # noqa: E731
        state, metrics = jax.lax.scan(step, state, batches)
        last = {name: value[-1] for name, value in batches.items()}
        return state, metrics, eval_step(state, {**last, "weight": jnp.ones(16)}, task=task)

    arrays = {**read(splits.train.subset(np.arange(32), "part")), "index": np.arange(32, dtype=np.int32)}
    state, *metrics = jax.jit(two_steps)({name: a.reshape(2, 16, *a.shape[1:]) for name, a in arrays.items()})
    assert all(np.isfinite(value).all() for value in jax.tree.leaves(metrics))
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(state.params))


@pytest.mark.slow
@pytest.mark.usefixtures("bfloat16")
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

    Gradients of small batches are the noisier, and cost less: convolutions take most of the time.
    """
    config = config_of(name, "mnist" if "mnist" in arguments(name) else "")
    largest = 2 if config.encoder.name in ("conv", "resnet", "vit", "kl", "taesd", "dc") else 16
    if config.data.name not in ("clicks", "cells", "people", "waves", "voices"):  # images are no counts, and no table
        config.data.update(name="mnist", data_dir=str(MNIST), train="train[:8000]", validation="train[8000:8064]")
    config.steps, config.checkpoint_every, config.batch_size = 500, 500, min(config.batch_size, largest)
    for schedule in config.objective.schedules.values():
        if "steps" in schedule:
            schedule.steps = min(schedule.steps, config.steps)
    run = aejax.train(config, tmp_path, devices=one_device(), quiet=True)
    assert run.step == 500
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.variables))
    assert jnp.isfinite(run.reconstructions).all()
