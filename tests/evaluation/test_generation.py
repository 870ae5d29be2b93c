"""Fréchet distances and manifolds against closed forms, scipy and brute force; both move in the right direction."""

import dataclasses

import numpy as np
import pytest
import scipy.linalg
import scipy.special
from conftest import fresh, mlp, mostly_slow, subject_of, vectors
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

import aejax
from aejax.config import module
from aejax.evaluation import Measure, Skipped, Subject, generation


def covariance(rng, d):
    a = rng.normal(size=(d, d + 2))
    return a @ a.T


@pytest.mark.parametrize("seed", range(3))
def test_the_distance_of_gaussians_has_its_closed_forms(seed):
    rng = np.random.default_rng(seed)
    distance = generation.gaussian_distance
    m, n, s, t = rng.uniform(0.1, 3, 4)
    one = distance(np.array([m]), np.array([[s**2]]), np.array([n]), np.array([[t**2]]))
    assert one == pytest.approx((m - n) ** 2 + (s - t) ** 2)
    q = np.linalg.qr(rng.normal(size=(4, 4)))[0]  # commuting: one basis, deviations s and t
    s, t = rng.uniform(0, 2, (2, 4))
    a, b = q * s**2 @ q.T, q * t**2 @ q.T
    mean = rng.normal(size=(2, 4))
    expected = np.square(mean[0] - mean[1]).sum() + np.square(s - t).sum()
    assert distance(mean[0], a, mean[1], b) == pytest.approx(expected)
    a, b = covariance(rng, 4), covariance(rng, 4)
    theirs = np.square(mean[0] - mean[1]).sum() + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b)).real
    assert distance(mean[0], a, mean[1], b) == pytest.approx(theirs, rel=1e-6)
    assert distance(mean[1], b, mean[0], a) == pytest.approx(theirs, rel=1e-6)
    assert distance(mean[0], a, mean[0], a) == pytest.approx(0, abs=1e-6)


def test_the_distance_of_samples_is_that_of_their_moments():
    a, b = 2 * vectors(50, 3, seed=1), vectors(70, 3, seed=2) + 1
    theirs = np.square(a.mean(0, dtype=float) - b.mean(0, dtype=float)).sum() + np.trace(
        np.cov(a.T) + np.cov(b.T) - 2 * scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    )
    assert generation.frechet_distance(a, b) == pytest.approx(theirs, rel=1e-5)
    one = generation.frechet_distance(a[:, :1], b[:, :1])
    expected = (a[:, 0].mean() - b[:, 0].mean()) ** 2 + (a[:, 0].std(ddof=1) - b[:, 0].std(ddof=1)) ** 2
    assert one == pytest.approx(expected, rel=1e-4)
    few = vectors(4, 30)  # singular covariances
    assert generation.frechet_distance(few, few) == pytest.approx(0, abs=1e-5)


def manifold(x, examples, k):
    """The share of x in a ball of the examples, one after another."""
    inside = 0
    radii = [sorted(np.linalg.norm(examples - e, axis=1))[k] for e in examples]
    for point in x:
        inside += any(np.linalg.norm(point - e) <= r for e, r in zip(examples, radii, strict=True))
    return inside / len(x)


@pytest.mark.parametrize(("seed", "k"), [(0, 3), (1, 1), (2, 5)])
def test_precision_and_recall_by_brute_force(seed, k, monkeypatch):
    rng = np.random.default_rng(seed)
    real, generated = rng.normal(size=(60, 2)), rng.normal(size=(45, 2)) * 0.7 + 0.5
    expected = (manifold(generated, real, k), manifold(real, generated, k))
    assert generation.precision_and_recall(real, generated, k) == pytest.approx(expected)
    assert expected[0] != expected[1]


def test_precision_falls_for_what_is_not_real_and_recall_for_what_is_missing():
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.normal(size=(200, 3)), rng.normal(size=(200, 3)) + 50])
    half = rng.normal(size=(400, 3))  # one of two modes
    precision, recall = generation.precision_and_recall(real, half)
    assert precision > 0.8
    assert 0.4 < recall <= 0.5
    both = np.concatenate([half[:200], half[200:] + 50, half[:200] + 500])  # both, and one that is not there
    precision, recall = generation.precision_and_recall(real, both)
    assert 0.55 < precision <= 2 / 3
    assert recall > 0.8


# The group. The model makes x = W z of a standard normal z; the test data is that, or is not.

W = np.random.default_rng(5).normal(size=(2, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def linear():
    config = mlp(encoder__features=(), decoder__features=())
    config.bottleneck = module("gaussian", features=2)
    run = fresh(config, vectors(8))
    run.variables["params"]["bottleneck"]["mean"]["kernel"] = np.linalg.pinv(W).astype(np.float32)
    run.variables["params"]["decoder"]["dense_0"]["kernel"] = W
    return run


def test_a_perfect_generator_is_near_and_others_are_farther(linear):
    z = vectors(4000, 2)
    train, test = z[:2000] @ W, z[2000:] @ W
    perfect = generation.measure(subject_of(linear, test, train), num=1000)
    assert perfect["frechet_distance"].value < 0.02
    assert 1e-5 < perfect["frechet_distance_of_train"].value < 0.02
    assert perfect["precision"].value > 0.9
    assert perfect["recall"].value > 0.9
    how = perfect["frechet_distance"].protocol
    assert "1,000 generated from its prior, seed 0, against 1,000 examples of test" in how
    assert "the run's own flat latents (2 features; not the FID of Inception)" in how
    other = generation.measure(subject_of(linear, 0.5 * test + W[0], train), num=1000)
    # Latents of mean (1, 0) and half the deviation: 1 + 2 / 4.
    assert other["frechet_distance"].value == pytest.approx(1.5, abs=0.15)
    assert other["precision"].value < 0.8 < other["recall"].value
    own = generation.measure(subject_of(linear, test, train), "numpy:asarray", num=1000)
    assert own["frechet_distance"].protocol.endswith("features numpy:asarray (6 features; not the FID of Inception)")
    generated = linear.generate(1000, seed=0)
    real = subject_of(linear, test).test.take(1000).x
    assert own["frechet_distance"].value == pytest.approx(generation.frechet_distance(real, generated), abs=1e-6)
    assert own["precision"].value == generation.precision_and_recall(real, generated)[0]


@pytest.mark.slow
def test_counts_are_bounded_by_the_data_and_said(linear):
    test = vectors(30)
    found = generation.measure(subject_of(linear, test), num=5000)
    assert "30 generated from its prior, seed 0, against 30 examples of test" in found["precision"].protocol
    found = generation.measure(subject_of(linear, test[:3]))
    assert isinstance(found["frechet_distance"], Measure)
    assert isinstance(found["precision"], Skipped)
    assert all(isinstance(m, Skipped) for m in generation.measure(subject_of(linear, test[:1])).values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num": 1}, "num must be at least 2 examples, got 1"),
        ({"num": 2.5}, "num must be at least 2 examples, got 2.5"),
        ({"features": "encodr"}, "features 'encodr' is unknown; did you mean 'encoder'"),
        ({"features": "numpy:nothing"}, "features='numpy:nothing' cannot be imported"),
        ({"features": "numpy:mean"}, r"features numpy:mean: must be finite numbers \[20, d\], got \(\)"),
    ],
)
def test_bad_options_are_refused(linear, options, message):
    with pytest.raises(aejax.InputError, match=message):
        generation.measure(subject_of(linear, vectors(20)), **options)


def test_wide_features_are_skipped(monkeypatch, linear):
    monkeypatch.setattr(generation, "WIDEST", 1)
    found = generation.measure(subject_of(linear, vectors(20)))
    assert all("there are 2 features, more than 1; choose others" in m.reason for m in found.values())


@pytest.mark.parametrize(("moved", "accuracy"), mostly_slow([(9.0, 1.0), (0.0, 0.5)]))
def test_a_classifier_reads_the_label_that_was_asked_for(moved, accuracy):
    """The data's second class lies 9 higher in every value; the decoder draws it there, or does not heed the label."""
    config = mlp(encoder__features=(), decoder__features=(), classes=2)
    config.bottleneck = module("gaussian", features=2)
    label = (np.arange(400) % 2).astype(np.int32)
    x = vectors(400) + 9 * label[:, None]
    run = fresh(config, x)
    kernel = np.concatenate([0.1 * W, np.zeros((1, 6)), np.full((1, 6), moved)])
    run.variables["params"]["decoder"]["dense_0"] = {"kernel": kernel, "bias": np.zeros(6)}
    found = generation.measure(subject_of(run, x, label=label), num=200)["conditional_accuracy"]
    assert found.value == pytest.approx(accuracy, abs=0.05)  # of 200 random labels
    assert "200 generated, seed 0" in found.protocol
    assert "100.0% correct" in found.protocol


def test_conditional_runs_draw_the_labels_of_the_test_part():
    """The label alone moves what is drawn: label 1 by 9 in every value."""
    config = mlp(encoder__features=(), decoder__features=(), classes=2)
    config.bottleneck = module("gaussian", features=2)
    label = (np.arange(300) % 10 == 0).astype(np.int32)
    x = vectors(300)
    run = fresh(config, x)
    run.variables["params"]["decoder"]["dense_0"]["kernel"] = np.concatenate([W, np.zeros((1, 6)), np.full((1, 6), 9)])
    drawn = []
    run = dataclasses.replace(run)
    encode = run.encode
    object.__setattr__(run, "encode", lambda x, label: drawn.append((x, label)) or encode(x, label))
    found = generation.measure(subject_of(run, x, label=label), num=200)
    assert "with their labels" in found["recall"].protocol
    moved = [(x.mean(1), y) for x, y in drawn if len(x) == 200 and np.abs(x).max() > 6]
    assert len(moved) == 1
    assert np.all((moved[0][0] > 4.5) == (moved[0][1] == 1))
    assert 10 < moved[0][1].sum() < 30


def test_images_are_generated_in_the_range_that_the_run_reads():
    config = mlp(encoder__features=(), decoder__features=())
    config.bottleneck = module("gaussian", features=2)
    x = np.random.default_rng(0).uniform(size=(20, 2, 3, 1)).astype(np.float32)
    run = fresh(config, x)
    run.variables["params"]["decoder"]["dense_0"]["kernel"] = 100 * W
    read, encode = [], run.encode
    object.__setattr__(run, "encode", lambda x, label: read.append(x) or encode(x, label))
    generation.measure(subject_of(run, x))
    assert [(x.min(), x.max()) for x in read if np.isin(x, [0, 1]).mean() > 0.9] == [(0, 1)]


@pytest.fixture(scope="module")
def digits():
    """A run on digits that draws noise, beside their train and test parts."""
    bunch = load_digits()
    x = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    config = mlp()
    config.bottleneck = module("gaussian", features=2)
    run = fresh(config, x[:8])
    return subject_of(run, x[1200:], x[:1200], bunch.target[1200:], bunch.target[:1200])


@pytest.mark.slow
def test_features_of_a_classifier(digits):
    found = generation.measure(digits, "classifier", num=400)
    how = found["frechet_distance"].protocol
    assert "the hidden layer of a classifier of 128 units trained on 1,200 examples of train" in how
    assert found["frechet_distance"].value > 20 * found["frechet_distance_of_train"].value
    assert found["precision"].value < 0.1
    space = generation._find_space(digits, "classifier")
    test = digits.test
    real = space.features(test.inputs, None)
    np.testing.assert_allclose(real.min(), 0)
    assert real.shape == (597, 128)
    distances = []
    for level in (0.0, 0.1, 0.2, 0.4):
        noise = np.random.default_rng(0).normal(size=test.inputs.shape) * level
        features = space.features(np.clip(test.inputs + noise, 0, 1), None)
        distances.append(generation.frechet_distance(real, features))
    assert distances[0] == pytest.approx(0, abs=1e-6)
    assert np.all(np.diff(distances) > 0)
    train = space.features(digits.train.inputs[:597], None)
    assert generation.frechet_distance(real, train) < distances[2]
    precision, recall = generation.precision_and_recall(real, train)
    assert min(precision, recall) > 0.6


def test_the_hidden_layer_is_what_the_last_one_reads():
    x, label = load_digits(return_X_y=True)
    network = MLPClassifier(16, tol=1.0, random_state=0).fit(x[:200], label[:200])
    logits = generation.hidden(network, x) @ network.coefs_[1] + network.intercepts_[1]
    np.testing.assert_allclose(scipy.special.softmax(logits, 1), network.predict_proba(x), atol=1e-6)


@pytest.mark.slow
def test_drawn_images_are_clipped_to_where_images_lie(digits):
    drawn = digits.run.generate(50)
    assert drawn.min() < 0  # which `encode` refuses
    found = generation.measure(digits, num=50)
    codes = digits.run.encode(np.clip(drawn, 0, 1))
    real = digits.run.encode(digits.test.take(50).x)
    assert found["frechet_distance"].value == pytest.approx(generation.frechet_distance(real, codes), rel=1e-3)


@pytest.mark.slow
def test_a_run_without_a_prior_says_what_it_draws_after():
    found = generation.measure(subject_of(fresh(mlp(), vectors(8)), vectors(20)))
    assert "20 generated from a fit to its 8 saved latents, as it has no prior" in found["recall"].protocol


def test_a_classifier_needs_labels(linear):
    for label in (None, np.zeros(20, int)):
        found = generation.measure(subject_of(linear, vectors(20), label=label), "classifier")
        assert all("needs train data of several labels" in m.reason for m in found.values())


def test_the_train_part_is_not_compared_with_itself():
    given = subject_of(fresh(mlp(), vectors(8)), vectors(20))
    found = generation.measure(Subject(given.run, given.train, given.train))
    assert isinstance(found["frechet_distance_of_train"], Skipped)
    assert isinstance(found["frechet_distance"], Measure)
