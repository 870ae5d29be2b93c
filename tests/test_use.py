"""Runs of conditional, discrete and generative models in use."""

import jax
import numpy as np
import pytest
from conftest import one_device

import aejax
from aejax.config import module

LABEL = np.arange(40, dtype=np.int32) % 3


def images(n=40):
    """8x8 images whose brightness is their label's, 0 to 2, and noise."""
    rng = np.random.default_rng(0)
    return (60 * (LABEL[:n] + 1)[:, None, None, None] + rng.integers(0, 30, (n, 8, 8, 1))).astype(np.uint8)


def small(bottleneck, **changes):
    config = aejax.config.default()
    config.encoder = module("mlp", features=(16,))
    config.bottleneck = bottleneck
    config.decoder = module("mlp", features=(16,))
    config.update({"steps": 4, "batch_size": 8, "log_every": 4, "checkpoint_every": 4, "samples": 8, **changes})
    return config


@pytest.fixture(scope="module")
def conditional():
    config = small(module("gaussian", features=2), classes=3, steps=400, checkpoint_every=400)
    config.likelihood = module("gaussian", variance="learned")
    config.objective.weights.kl = 1.0
    config.optim.lr = 1e-2
    return aejax.fit(config, images(), label=LABEL, devices=one_device())


@pytest.fixture(scope="module")
def discrete():
    return aejax.fit(small(module("vq", codes=8, features=4, positions=3)), images(), devices=one_device())


@pytest.mark.slow
def test_a_conditional_model_draws_what_the_label_says(conditional):
    """After a short training the label alone tells the brightness."""
    drawn = conditional.generate(30, label=LABEL[:30]).mean((1, 2, 3))
    expected = (60 * (LABEL[:30] + 1) + 14.5) / 255
    np.testing.assert_allclose(drawn, expected, atol=0.08)  # labels are 0.24 apart
    z = conditional.encode(images(), LABEL)
    np.testing.assert_allclose(conditional.reconstruct(images(), LABEL), conditional.decode(z, LABEL), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, r"the run is conditional: give label=, 40 whole numbers from 0 to 2"),
        (LABEL[:5], r"label must be 40 whole numbers from 0 to 2"),
        (LABEL + 1, r"label must be 40 whole numbers from 0 to 2"),
        (LABEL / 2, r"label must be 40 whole numbers from 0 to 2"),
    ],
)
def test_a_conditional_run_wants_its_labels(conditional, label, message):
    with pytest.raises(aejax.InputError, match=message):
        conditional.encode(images(), label)
    with pytest.raises(aejax.InputError, match=r"the run is conditional: give label=, 2 whole numbers"):
        conditional.generate(2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("label", "classes", "message"),
    [
        (None, 3, r"classes=3, but the data has no labels; give some or set classes=0"),
        (LABEL, 2, r"has labels from 0 to 2, and classes=2 means 0 to 1"),
    ],
)
@pytest.mark.parametrize("memory_mb", [1024, 0])  # held, and streamed
def test_training_a_conditional_model_wants_labels(label, classes, message, memory_mb, tmp_path):
    config = small(module("dense", features=2), classes=classes)
    config.data.memory_mb = memory_mb
    with pytest.raises(aejax.InputError, match=message):
        aejax.fit(config, images(), tmp_path, label=label, devices=one_device())
    assert not (tmp_path / "config.json").exists()


@pytest.mark.slow
def test_labels_are_refused_where_nothing_reads_them(discrete):
    with pytest.raises(aejax.InputError, match=r"not conditional \(classes=0\)"):
        discrete.encode(images(), LABEL)


@pytest.mark.slow
def test_indices_go_out_and_come_back(discrete):
    indices = discrete.indices(images())
    assert indices.shape == (40, 3)
    assert indices.dtype == np.int32
    np.testing.assert_allclose(discrete.lookup(indices), discrete.encode(images()), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(discrete.decode(discrete.lookup(indices)), discrete.reconstruct(images()), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([[0, 1, 8]], r"codes must be whole numbers from 0 to 7, got 0 to 8"),
        ([[0, -1, 2]], r"from 0 to 7, got -1 to 2"),
        ([[0.0, 1.0, 2.0]], r"whole numbers from 0 to 7"),
        (np.zeros((0, 3), int), r"got none"),
        ([[0, 1]], r"the run's codes are \(n, \*\(3,\)\), the given ones \(1, 2\)"),
    ],
)
def test_codes_outside_of_the_codebook_are_refused(discrete, indices, message):
    with pytest.raises(aejax.InputError, match=message):
        discrete.lookup(indices)


@pytest.mark.slow
def test_only_discrete_codes_have_indices(conditional):
    for call in (lambda: conditional.indices(images(), LABEL), lambda: conditional.lookup([[0]])):
        with pytest.raises(aejax.InputError, match="'gaussian' has no discrete codes"):
            call()


@pytest.mark.slow
def test_draws_of_discrete_codes_are_codes_seen_at_their_position(discrete):
    drawn = []
    object.__setattr__(discrete, "decode", lambda z, label: drawn.append(z) or z)
    discrete.generate(50)
    object.__delattr__(discrete, "decode")
    seen = [{tuple(v) for v in discrete.latents[:, i]} for i in range(3)]
    assert all(tuple(v) in seen[i] for z in drawn[0] for i, v in enumerate(z))
    found = [{tuple(v) for v in drawn[0][:, i]} for i in range(3)]
    assert any(len(codes) > 1 for codes in seen)
    assert all(len(codes) > 1 for codes, known in zip(found, seen, strict=True) if len(known) > 1)


def test_encoding_is_the_mean_and_draws_come_from_the_prior(conditional):
    np.testing.assert_array_equal(conditional.encode(images(), LABEL), conditional.encode(images(), LABEL))
    code = conditional.model.apply(conditional.variables, images() / 255.0, label=LABEL, method="encode")
    np.testing.assert_allclose(conditional.encode(images(), LABEL), code.posterior.mean, atol=1e-5)
    drawn = []
    object.__setattr__(conditional, "decode", lambda z, label: drawn.append(z) or z)
    conditional.generate(20_000, label=np.zeros(20_000, int))
    object.__delattr__(conditional, "decode")
    np.testing.assert_allclose(np.cov(drawn[0].T), np.eye(2), atol=0.05)  # five deviations of 20,000 draws
    np.testing.assert_allclose(drawn[0].mean(0), 0, atol=0.04)


def test_a_learned_scale_is_learned(conditional):
    scale = float(np.exp(conditional.variables["params"]["log_scale"]))
    assert 0.01 < scale < 0.2  # from 1, towards the noise's deviation of 0.034


@pytest.mark.slow
def test_the_modules_alone_draw_by_example(conditional):
    """A part of the batch draws what it draws in the whole."""
    keys = jax.random.split(jax.random.key(0), 6)
    x, label = images(6) / 255.0, LABEL[:6]
    apply = conditional.model.apply
    whole = apply(conditional.variables, x, label=label, keys=keys, method="encode").z
    part = apply(conditional.variables, x[2:4], label=label[2:4], keys=keys[2:4], method="encode").z
    np.testing.assert_allclose(whole[2:4], part, rtol=1e-5, atol=1e-6)
    assert np.abs(whole - apply(conditional.variables, x, label=label, method="encode").z).min() > 0
