"""Initial parameters that a config asks for."""

import jax
import numpy as np
import pytest
from conftest import config_of, one_device
from scipy import stats

import aejax
from aejax.data import Spec, load, read
from aejax.training import initializers
from aejax.training.optimizers import SCHEDULES
from aejax.training.task import make_task


def test_kernels_are_glorots_and_other_parameters_stay():
    dense, conv = np.zeros((300, 100), np.float32), np.zeros((3, 3, 20, 40), np.float32)
    params = {
        "encoder": {"a": {"kernel": dense, "bias": np.ones(100)}, "conv": {"kernel": conv}},
        "decoder": {"a": {"kernel": dense}, "scale": np.full(3, 2.0)},
    }
    found = jax.tree.map(np.asarray, initializers.draw_glorot(jax.random.key(0), params))
    for kernel, limit in (
        (found["encoder"]["a"]["kernel"], np.sqrt(6 / 400)),
        (found["encoder"]["conv"]["kernel"], np.sqrt(6 / (9 * 60))),
    ):
        assert stats.kstest(kernel.ravel(), stats.uniform(-limit, 2 * limit).cdf).pvalue > 1e-3
    assert (found["encoder"]["a"]["bias"] == 1).all()
    assert (found["decoder"]["scale"] == 2).all()
    assert (
        abs(np.corrcoef(found["encoder"]["a"]["kernel"].ravel(), found["decoder"]["a"]["kernel"].ravel())[0, 1]) < 0.03
    )


def test_dense_layers_begin_as_those_of_pytorch_and_other_parameters_stay():
    params = {
        "encoder": {"a": {"kernel": np.zeros((400, 100), np.float32), "bias": np.ones(100, np.float32)}},
        "conv": {"kernel": np.zeros((3, 3, 20, 40), np.float32), "bias": np.zeros(40, np.float32)},
        "norm": {"scale": np.full(3, 2.0), "bias": np.full(3, 4.0)},
    }
    found = jax.tree.map(np.asarray, initializers.draw_pytorch(jax.random.key(0), params))
    for layer, limit in ((found["encoder"]["a"], 1 / 20), (found["conv"], 1 / np.sqrt(180))):
        for a in (layer["kernel"], layer["bias"]):
            assert stats.kstest(a.ravel(), stats.uniform(-limit, 2 * limit).cdf).pvalue > 1e-3
    assert (found["norm"]["scale"] == 2).all()
    assert (found["norm"]["bias"] == 4).all()


def adjusted(config):
    splits = load(config.data)
    spec = Spec.of(splits.train, False)
    return initializers.choose(config, make_task(config, spec), spec, splits.train), splits.train


def test_the_burda_config_begins_at_the_means_of_the_pixels(tmp_path):
    config = config_of("burda")
    config.optim.lr = 1e-30
    run = aejax.train(config, tmp_path, devices=one_device(), quiet=True)
    params, train = run.variables["params"], load(config.data).train
    mean = read(train)["x"].mean(0).ravel() / 255
    bias = params["decoder"][f"dense_{len(config.decoder.features)}"]["bias"]
    np.testing.assert_allclose(1 / (1 + np.exp(-np.float64(bias))), np.clip(mean, 1e-3, 1 - 1e-3), atol=1e-5)
    assert np.abs(params["bottleneck"]["log_std"]["kernel"]).max() > 0.1  # which starts at 0 otherwise
    config.init, config.output_bias = "modules", "zero"
    assert adjusted(config)[0] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init": "he"}, "init 'he' is unknown; choose one of: glorot, modules, pytorch"),
        ({"output_bias": "median"}, "output_bias 'median' is unknown; did you mean 'mean'"),
        (
            {"output_bias": "mean", "likelihood.name": "squared_error"},
            "under the likelihood 'bernoulli'; set it to zero",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(changes, message, tmp_path):
    config = config_of("vae").unlock()
    config.update_from_flattened_dict(changes)
    with pytest.raises(aejax.InputError, match=message):
        aejax.train(config, tmp_path, devices=one_device(), quiet=True)


def test_the_stages_of_burda_are_those_of_the_paper():
    """0.001 * 10^(-i/7) for 3^i passes."""
    passes = np.concatenate([np.full(3**i, 1e-3 * 10 ** (-i / 7)) for i in range(8)])
    assert len(passes) == 3_280
    for steps in (1, 5):
        schedule = jax.jit(jax.vmap(SCHEDULES["burda"](1e-3, 3_280 * steps)))
        np.testing.assert_allclose(schedule(np.arange(3_280 * steps)), passes.repeat(steps), rtol=1e-5)


def test_the_rate_of_wae_is_halved_and_then_divided_by_five():
    """After 30 and 50 of 100 epochs of 600 steps."""
    schedule = jax.jit(jax.vmap(SCHEDULES["wae"](1e-3, 60_000)))
    found = schedule(np.array([0, 17_999, 18_001, 29_999, 30_001, 59_999]))
    np.testing.assert_allclose(found, [1e-3, 1e-3, 5e-4, 5e-4, 1e-4, 1e-4], rtol=1e-6)
