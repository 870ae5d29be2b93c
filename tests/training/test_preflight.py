"""What --check tells is what the run then does."""

import functools

import jax
import pytest
from conftest import command, config_of, mostly_slow, one_device

import aejax
from aejax.config import module
from aejax.training.preflight import preflight
from aejax.workdir import metrics_log
from configs import vae


@pytest.mark.slow
def test_tells_what_the_run_then_does(tmp_path):
    config = vae.get_config("tiny").unlock()
    config.log_every = 1
    found = preflight(config, jax.devices())
    run = aejax.train(config, tmp_path, devices=jax.devices(), quiet=True)
    assert found["input"] == run.spec.shape
    assert found["code"] == run.latents.shape[1:]
    assert found["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(run.variables["params"]))
    # float32 parameters, and Adam's two moments.
    assert found["state_gib"] * 2**30 == pytest.approx(12 * found["parameters"], rel=0.05)
    assert found["step_gib"] > found["state_gib"]
    assert found["loss"] == pytest.approx(metrics_log.read(tmp_path)[0]["train/loss"], rel=1e-4)


def test_tells_how_large_a_run_is():
    found = preflight(config_of("basic"), one_device())
    assert (found["input"], found["code"]) == ((3,), (2,))
    assert found["parameters"] == 3 * 2 + 2 + 2 * 3 + 3
    assert found["state_gib"] * 2**30 == pytest.approx(12 * found["parameters"], abs=100)  # and keys and counters
    assert found["state_gib"] < found["step_gib"] < 2**-10


def test_amounts_of_memory_have_units():
    amount = command("train").amount
    assert [amount(gib) for gib in (12.3456, 1, 0.5, 2**-16)] == ["12.35 GiB", "1 GiB", "512 MiB", "0.01562 MiB"]


def test_a_loss_that_is_not_finite_is_told():
    config = vae.get_config("tiny").unlock()
    config.objective.weights.reconstruction = 3e38  # times some 40 nats
    with pytest.raises(aejax.DivergedError, match="first batch"):
        preflight(config, one_device())


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    mostly_slow(
        [
            ("basic", {"likelihood.name": "bernoulli"}, r"wants values in \[0, 1\]"),
            ("conditional_vae", {"classes": 9}, "the data has labels from 0 to 9, and classes=9 means 0 to 8"),
            ("basic", {"classes": 3}, "the data has no labels"),
            ("stacked", {"pretrain.steps": 3, "decoder.features": (9,)}, "which mirrors the encoder"),
        ]
    ),
)
def test_refuses_what_the_run_refuses(tmp_path, config, changes, message):
    config = config_of(config)
    config.update_from_flattened_dict(changes)
    refused(config, tmp_path, message)


def test_refuses_a_stack_whose_widths_are_no_widths(tmp_path):
    config = config_of("stacked")
    config.pretrain.steps = 3
    config.encoder = module("mlp", features=4)
    refused(config, tmp_path, "encoder.features must be whole numbers above 0")


def refused(config, tmp_path, message):
    for refuses in (preflight, functools.partial(aejax.train, workdir=tmp_path, quiet=True)):
        with pytest.raises(aejax.InputError, match=message):
            refuses(config, devices=one_device())
