"""Errors of the reconstruction against closed forms, PCA by hand and skimage's own numbers."""

import dataclasses

import jax
import numpy as np
import pytest
from conftest import fresh, mlp, mostly_slow, one_device, subject_of, vectors
from skimage.metrics import peak_signal_noise_ratio

import aejax
from aejax import data
from aejax.config import module
from aejax.evaluation import Measure, Skipped, Subject, reconstruction


def values(measures):
    return {name: m.value for name, m in measures.items() if isinstance(m, Measure)}


@pytest.mark.slow
def test_squared_error_beside_pca(tmp_path):
    x = (np.random.default_rng(0).normal(size=(300, 2)) @ np.eye(2, 6)).astype(np.float32)
    x += 0.1 * vectors(300)
    run = aejax.fit(mlp(), x, tmp_path, devices=one_device())
    splits = data.split({"train": data.from_array(x)}, run.config.data)
    measures = reconstruction.measure(Subject.of(run, splits))
    result = values(measures)
    test = splits.test.take(np.arange(30))["x"]
    train = splits.train.take(np.arange(240))["x"]
    basis = np.linalg.svd(train - train.mean(0), full_matrices=False)[2][:2]
    residual = (test - train.mean(0)) @ (np.eye(6) - basis.T @ basis)
    assert result["pca_squared_error"] == pytest.approx(np.square(residual).sum(1).mean(), rel=1e-3)
    assert result["squared_error"] == pytest.approx(np.square(run.reconstruct(test) - test).sum(1).mean(), rel=1e-5)
    assert result["squared_error_per_value"] == pytest.approx(result["squared_error"] / 6)
    assert "30 examples of test" in measures["squared_error"].protocol
    assert isinstance(measures["psnr"], Skipped)
    assert isinstance(measures["ssim"], Skipped)


@pytest.mark.parametrize("standardize", [False, True])
def test_denoising_is_measured_against_the_clean_inputs(standardize):
    """A run that copies its input errs by the noise, and one that masks nothing has nothing to undo."""
    x = vectors(2_000, 3) * [1, 2, 5]
    config = mlp(corruption__name="gaussian", corruption__level=0.5, data__standardize=standardize)
    config.update({"encoder": module("mlp", features=()), "decoder": module("mlp", features=())})
    config.bottleneck = module("identity")
    run = fresh(config, x[:8], spec=data.Spec.of(data.from_array(x), standardize))
    identity = {"dense_0": {"kernel": np.eye(3, dtype=np.float32), "bias": np.zeros(3, np.float32)}}
    run.variables["params"]["decoder"] = identity
    found = values(reconstruction.measure(subject_of(run, x)))
    noise = 0.25 * (np.square(x.std(0)).sum() if standardize else 3)
    assert found["corrupted_squared_error"] == pytest.approx(noise, rel=0.05)
    assert found["denoised_squared_error"] == pytest.approx(found["corrupted_squared_error"], rel=1e-4)
    assert found["squared_error"] < 1e-6
    run.variables["params"]["decoder"] = jax.tree.map(np.zeros_like, identity)
    of_the_mean = values(reconstruction.measure(subject_of(dataclasses.replace(run), x)))["denoised_squared_error"]
    middle = x.mean(0) if standardize else 0
    assert of_the_mean == pytest.approx(np.square(x - middle).sum(1).mean(), rel=1e-4)


@pytest.mark.parametrize("far", mostly_slow([0, 1e4]))
def test_pca_of_data_far_from_the_origin(far):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(300, 3)) * [1, 0.7, 0.05] + far).astype(np.float32)
    run = fresh(mlp(), vectors(8, 3))
    error = reconstruction.measure(subject_of(run, x))["pca_squared_error"].value
    centred = x.astype(np.float64) - x.mean(0, np.float64)
    assert error == pytest.approx(np.linalg.svd(centred, compute_uv=False)[-1] ** 2 / 300, rel=1e-6)


@pytest.mark.parametrize(("numbers", "count"), [(0, 3), (31, 10)])
def test_pca_of_many_values_is_fitted_on_fewer_examples(monkeypatch, numbers, count):
    """On one more than it has components at least, which is what spans them."""
    monkeypatch.setattr(reconstruction, "NUMBERS", numbers)
    subject = subject_of(fresh(mlp(), vectors(8, 3)), vectors(20, 3), vectors(30, 3, seed=1))
    found = reconstruction.measure(subject)["pca_squared_error"]
    assert f"fitted on {count} examples of train" in found.protocol
    train = subject.train.take(count).inputs
    normal = np.linalg.svd(train - train.mean(0))[2][2]
    residual = (subject.test.inputs - train.mean(0)) @ normal
    assert found.value == pytest.approx(np.square(residual).mean(), rel=1e-4)


@pytest.mark.slow
def test_pca_of_too_many_values_is_left_out(monkeypatch):
    monkeypatch.setattr(reconstruction, "WIDEST", 2)
    found = reconstruction.measure(subject_of(fresh(mlp(), vectors(8, 3)), vectors(9, 3)))["pca_squared_error"]
    assert found == Skipped("PCA of 3 values would take too long; it is measured for at most 2")


@pytest.mark.parametrize("seed", range(3))
def test_psnr_is_that_of_skimage_image_by_image(seed):
    rng = np.random.default_rng(seed)
    a = rng.uniform(size=(5, 8, 8, 1)).astype(np.float32)
    b = np.clip(a + rng.normal(size=a.shape) * np.arange(1, 6).reshape(-1, 1, 1, 1) / 20, 0, 1).astype(np.float32)
    theirs = [peak_signal_noise_ratio(x, y, data_range=1) for x, y in zip(a, b, strict=True)]
    assert reconstruction.peak_signal_to_noise(a, b) == pytest.approx(np.mean(theirs), rel=1e-5)
    assert reconstruction.peak_signal_to_noise(a, a) == 100
