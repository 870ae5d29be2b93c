"""Fréchet distance of reconstructions: moments against NumPy, the distance against scipy, names and protocols."""

import numpy as np
import pytest
import scipy.linalg
from conftest import conv, fresh, mlp, subject_of, untrained, vectors

import aejax
from aejax.data import Spec
from aejax.evaluation import Measure, Skipped, fidelity
from aejax.evaluation.fidelity import Moments


def first_two(x):
    return x[:, :2]


def four_means(images):
    return images.reshape(len(images), 4, -1).mean(-1)


def inception_pool(images):
    return np.resize(images.reshape(len(images), -1).mean(1), (len(images), 5))


inception_pool.protocol = "299x299, bilinear"


def subject(x, outputs):
    """A run that is taken to reconstruct x as `outputs`."""
    found = subject_of(untrained(mlp(), Spec((6,))), x)
    found.test.__dict__["reconstructions"] = outputs
    return found


@pytest.mark.parametrize("sizes", [(50,), (1, 30, 19), (25, 25)])
def test_moments_of_batches_are_those_of_all(sizes):
    x = 1e4 + np.random.default_rng(0).normal(size=(50, 3)) * [1, 2, 3]
    moments = Moments()
    for part in np.split(x, np.cumsum(sizes)[:-1]):
        moments.add(part)
    np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(x.T), rtol=1e-6)


def test_the_distance_is_that_of_the_moments_by_scipys_root():
    x = vectors(200)
    y = (x @ np.random.default_rng(1).normal(size=(6, 6)) + 1).astype(np.float32)
    found = fidelity.measure(subject(x, y), "numpy:asarray")["frechet_distance"]
    a, b = np.cov(x.T), np.cov(y.T)
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    assert found.value == pytest.approx(expected, rel=1e-5)
    assert found.protocol.startswith("200 reconstructions against their inputs, test of ")
    assert found.protocol.endswith("features numpy:asarray (6; not the FID of Inception); unbiased covariances")


def test_shifts_and_scales_have_their_closed_form():
    x = vectors(300)
    y = 3 * x + np.arange(6, dtype=np.float32)
    found = fidelity.measure(subject(x, y), first_two)["frechet_distance"]
    mean, deviations = x[:, :2].mean(0), np.sqrt(np.linalg.eigvalsh(np.cov(x[:, :2].T)))
    expected = np.square(2 * mean + [0, 1]).sum() + np.square(2 * deviations).sum()  # the covariances commute
    assert found.value == pytest.approx(expected, rel=1e-5)
    assert "features test_fidelity:first_two (2; not" in found.protocol
    assert fidelity.measure(subject(x, x), first_two)["frechet_distance"].value == pytest.approx(0, abs=1e-9)


def test_images_go_through_in_batches_clipped_and_only_inception_has_an_rfid(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), np.uint8)
    run = untrained(conv())
    run.config.data.size = 8
    whole = subject_of(run, images)
    whole.test.reconstructions  # noqa: B018  computed for another metric before
    monkeypatch.setattr(aejax.evaluation.subject, "limit_batch", lambda shape: 7)
    found, expected = (fidelity.measure(s, four_means)["frechet_distance"] for s in (subject_of(run, images), whole))
    assert found.value == pytest.approx(expected.value, rel=1e-4)
    a, b = (four_means(x) for x in (images / 255, np.clip(run.reconstruct(images), 0, 1)))
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    theirs = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert found.value == pytest.approx(theirs, rel=1e-3)
    words = "8x8x1, resized to 8 by Pillow's bicubic filter with fit=crop; deterministic code, clipped to [0, 1]; feat"
    assert words in found.protocol
    assert "rfid" not in fidelity.measure(whole, inception_pool)  # not with the number of features that FID has
    monkeypatch.setattr(fidelity, "INCEPTION", 5)
    (name,) = measures = fidelity.measure(whole, inception_pool, num=5)
    assert name == "rfid"
    assert "inception_pool (5, 299x299, bilinear); unbiased" in measures["rfid"].protocol
    assert measures["rfid"].protocol.endswith("fewer examples than features: singular covariances, a rough value")


def test_reconstructions_of_images_are_clipped_to_the_range_of_images():
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), np.uint8)
    whole = subject_of(untrained(conv()), images)
    outputs = np.random.default_rng(1).normal(0.5, 1, images.shape).astype(np.float32)
    whole.test.__dict__["reconstructions"] = outputs
    found = fidelity.measure(whole, four_means)["frechet_distance"]
    whole.test.__dict__["reconstructions"] = np.clip(outputs, 0, 1)
    assert found.value == pytest.approx(fidelity.measure(whole, four_means)["frechet_distance"].value)


def test_a_run_gives_features_by_its_encoder(tmp_path):
    x = vectors(100)
    run = aejax.fit(mlp(steps=1, checkpoint_every=1), x, tmp_path, quiet=True)
    other = subject(x, 2 * x)
    found = fidelity.measure(other, run)["frechet_distance"]
    assert f"latents of {tmp_path}, step 1, parameters {run.fingerprint} (2; not the FID" in found.protocol
    latents = lambda x: run.encode(x)  # noqa: E731
    assert fidelity.measure(other, latents)["frechet_distance"].value == pytest.approx(found.value)


def test_what_cannot_be_measured_is_said():
    x = vectors(20)
    assert isinstance(fidelity.measure(subject(x, x))["frechet_distance"], Skipped)
    assert isinstance(fidelity.measure(subject(x[:1], x[:1]), first_two)["frechet_distance"], Skipped)
    wide = fidelity.measure(subject(x, x), lambda x: np.zeros((len(x), 3_000)))["frechet_distance"]
    assert wide.reason.startswith("there are 3,000 features, more than widest=2,048; choose others, or raise it")
    for widest, kind in ((5, Skipped), (6, Measure)):
        assert isinstance(fidelity.measure(subject(x, x), "numpy:asarray", widest=widest)["frechet_distance"], kind)
    with pytest.raises(aejax.InputError, match="widest must be at least 1 feature, got 0"):
        fidelity.measure(subject(x, x), "numpy:asarray", widest=0)
    for features, message in (
        (lambda x: x[:-1], r"must be numbers \[20, d\], got \(19, 6\) of float32"),
        (lambda x: x * np.nan, "are NaN or infinite for some images"),
        ("first_two", "features 'first_two' is unknown; write package.module:attribute"),
        ("nowhere:at_all", "features='nowhere:at_all' cannot be imported"),
    ):
        with pytest.raises(aejax.InputError, match=message):
            fidelity.measure(subject(x, x), features)
    with pytest.raises(aejax.InputError, match="num must be at least 2 examples, got 1"):
        fresh(mlp(), x).evaluate(x, groups=["fidelity"], options={"fidelity": {"num": 1}})
