"""The architectures of configs/sae.py: they find a dictionary, and several devices train as one."""

import jax
import numpy as np
import pytest
from conftest import config_of, mostly_slow, one_device

import aejax
from aejax import models
from aejax.data import Spec, from_array
from configs.sae import ARCHITECTURES


def activations(words, n=20_000, active=3, seed=0):
    """Sums of `active` of the words each, with a mean that dwarfs them."""
    rng = np.random.default_rng(seed)
    chosen = np.argsort(rng.random((n, len(words)), np.float32), 1)[:, :active]
    sums = np.zeros((n, len(words)), np.float32)
    np.put_along_axis(sums, chosen, (0.5 + np.abs(rng.normal(size=chosen.shape))).astype(np.float32), 1)
    return (sums @ words + 1.5 * rng.normal(size=words.shape[1])).astype(np.float32)


def directions(features=64, size=32, seed=1):
    words = np.random.default_rng(seed).normal(size=(features, size)).astype(np.float32)
    return words / np.linalg.norm(words, axis=1, keepdims=True)


def dictionary(run):
    """The rows of the decoder, of length 1."""
    params = run.variables["params"]
    layer = params["decoder"]["dense_0"]
    rows = np.asarray(layer["kernel"] if "kernel" in layer else params["bottleneck"]["dense"]["kernel"].T)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_finds_the_words_of_raw_activations(name):
    words = directions()
    config = config_of("sae", name)
    config.update({"steps": 2_000, "batch_size": 256, "checkpoint_every": 2_000})
    config.bottleneck.features = len(words)
    if "k" in config.bottleneck:
        config.bottleneck.k = 3
    if name == "matryoshka":
        config.objective.options.prefixes.widths = (16, 32)
    if name == "jumprelu":
        config.objective.options.l0_target.target = 3.0
    x = activations(words)
    run = aejax.fit(config, x, quiet=True, devices=one_device())
    z = np.asarray(run.encode(x[:5_000]))
    assert (words @ dictionary(run).T).max(1).mean() > 0.9
    assert (z == 0).all(0).mean() <= 0.1
    assert (z > 0).sum(1).mean() < {"gated": 9, "l1": 9}.get(name, 4.5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the code .* it can learn to copy")
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("partition", ["pmap", "sharded"])
def test_several_devices_train_as_one(name, partition):
    x = activations(directions(), n=200)
    states = []
    for devices in (jax.devices()[:1], jax.devices()[:4]):
        config = config_of("sae", f"tiny,{name}")
        config.partition.name = partition
        config.optim.update(name="sgd", lr=1e-3)  # Adam divides by roots of tiny gradients
        config.bottleneck.update(features=256, dead_after=1)  # products that read kept units alone; dead ones
        if "resample" in config.bottleneck:
            config.bottleneck.resample = 2
        states.append(aejax.fit(config, x, quiet=True, devices=devices).variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), *states)


@pytest.mark.parametrize("normalize", mostly_slow(["expected_norm", "per_token", "none"]))
@pytest.mark.parametrize("pre_bias", [True, False])
def test_normalization_is_folded_into_the_weights(normalize, pre_bias):
    """A model that reads normalized activations, and its weights without, have the same code and reconstruction."""
    x = 7 * activations(directions(size=12), n=300)
    spec = Spec.of(from_array(x), False, normalize)
    read = np.asarray(spec.prepare(spec.check(x)))
    lengths = np.linalg.norm(read, axis=1)
    if normalize == "expected_norm":
        np.testing.assert_allclose(lengths.mean(), np.sqrt(12), rtol=1e-5)
        np.testing.assert_allclose(read / x, (read / x)[0, 0], rtol=1e-4)
    if normalize == "per_token":
        np.testing.assert_allclose(lengths, np.sqrt(12), rtol=1e-5)
        np.testing.assert_allclose(spec.standardize(x), read, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(spec.restore(read), read)
        assert Spec.from_dict(spec.to_dict()) == spec
        return
    rng = np.random.default_rng(0)
    shapes = {"W_enc": (12, 30), "b_enc": (30,), "W_dec": (30, 12), "b_dec": (12,)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    scale, mean = (spec.deviation, spec.mean) if spec.mean else (1.0, 0.0)
    shifted = np.asarray(mean) + 0.5  # a mean, too, as standardized data has
    folded = models.fold_normalization(params, scale, shifted, pre_bias)

    def code(w, x):
        return np.maximum((x - pre_bias * w["b_dec"]) @ w["W_enc"] + w["b_enc"], 0)

    inside = (x.astype(np.float64) - shifted) / np.asarray(scale)
    z = code(params, inside)
    np.testing.assert_allclose(code(folded, x.astype(np.float64)), z, rtol=1e-6, atol=1e-6)
    expected = (z @ params["W_dec"] + params["b_dec"]) * np.asarray(scale) + shifted
    np.testing.assert_allclose(z @ folded["W_dec"] + folded["b_dec"], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data.normalize": "layer_norm"}, "data.normalize 'layer_norm'"),
        ({"data.normalize": "per_token", "data.standardize": True}, "set data.standardize=False"),
        ({"bottleneck.k": 33}, r"bottleneck.k must be from 1 to bottleneck.features=32, got 33"),
    ],
)
def test_bad_settings_are_named_in_a_line(settings, message):
    config = config_of("sae")
    config.update_from_flattened_dict(settings)
    with pytest.raises(aejax.InputError, match=message) as caught:
        aejax.fit(config, activations(directions(), n=100), quiet=True)
    assert "\n" not in str(caught.value)


def test_the_geometric_median_is_the_point_of_least_mean_distance():
    from scipy.optimize import minimize

    from aejax.data import compute_geometric_median

    x = np.random.default_rng(0).normal(size=(200, 3)) ** 3
    found = compute_geometric_median(from_array(x.astype(np.float32)), Spec((3,)))
    distance = lambda c: np.linalg.norm(x - c, axis=1).mean()  # noqa: E731
    expected = minimize(distance, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-12}).x
    np.testing.assert_allclose(found, expected, atol=1e-3)
