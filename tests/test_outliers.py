"""The outlier detector: what it finds, and that its threshold and its scores are as scikit-learn has them."""

import pickle

import numpy as np
import pytest
from conftest import mlp, vectors
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import aejax
from aejax.config import module
from aejax.sklearn import AutoencoderOutlierDetector


def near_a_plane(n=200, outliers=10, seed=0):
    """Rows near a plane of 6 dimensions, the last ones off it or far out on it."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    z = rng.normal(size=(n, 6)) * (2, 2, 0.1, 0.1, 0.1, 0.1)
    z[n - outliers : n - outliers // 2, 2] += 2
    z[n - outliers // 2 :, 0] += 12
    return (z @ axes * [1, 10, 1, 1, 100, 1]).astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    return AutoencoderOutlierDetector(2, hidden=(8,), steps=20, contamination=0.05, random_state=0).fit(near_a_plane())


def test_it_finds_rows_off_the_plane_and_rows_far_out_on_it(fitted):
    x = near_a_plane()
    assert set(np.argsort(fitted.score_samples(x))[:10]) == set(range(190, 200))
    assert set(np.flatnonzero(fitted.predict(x) == -1)) == set(range(190, 200))


def test_threshold_scores_and_labels_agree(fitted):
    x = near_a_plane()
    scores, decision = fitted.score_samples(x), fitted.decision_function(x)
    assert fitted.offset_ == pytest.approx(np.percentile(scores, 5))
    np.testing.assert_allclose(decision, scores - fitted.offset_)
    np.testing.assert_array_equal(fitted.predict(x), np.where(decision < 0, -1, 1))
    np.testing.assert_array_equal(clone(fitted).fit_predict(x), fitted.predict(x))


def test_scores_are_distances_of_residuals_and_codes_in_their_own_units(fitted):
    x = near_a_plane()
    deviation, z = x.std(0), fitted.run_.encode(x)
    residuals = (fitted.run_.reconstruct(x) - x) / deviation
    scale = np.maximum(np.sqrt(np.square(residuals).mean(0)), 0.05)
    expected = np.square(residuals / scale).sum(1) + np.square((z - z.mean(0)) / z.std(0)).sum(1)
    np.testing.assert_allclose(-fitted.score_samples(x), expected, rtol=2e-3)
    np.testing.assert_allclose(fitted.score_samples(csr_matrix(x)), fitted.score_samples(x), rtol=1e-4)


@pytest.mark.slow
def test_by_default_the_threshold_is_tukeys_fence_and_codes_explain_half_the_variance():
    x = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32) @ np.diag([2, 2, 1, 1, 1, 1]) + 1
    model = AutoencoderOutlierDetector(steps=2, standardize=False, random_state=0).fit(x)
    low, high = np.percentile(model.score_samples(x), [25, 75])
    assert model.offset_ == pytest.approx(low - 1.5 * (high - low))
    explained = np.cumsum(PCA().fit(x).explained_variance_ratio_)
    assert explained[model.run_.latents.shape[1] - 1] >= 0.5 > explained[model.run_.latents.shape[1] - 2]
    assert 0 < np.mean(model.predict(x) == -1) < 0.1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*root mean squares")
def test_a_run_with_a_density_is_scored_by_its_bound():
    config = mlp(bottleneck=module("gaussian", features=2))
    config.likelihood = module("gaussian", scale=0.5)
    model = AutoencoderOutlierDetector(config=config, random_state=0).fit(vectors())
    np.testing.assert_allclose(model.score_samples(vectors()), model.run_.log_likelihood(vectors(), 16), rtol=1e-5)


@pytest.mark.slow
def test_it_works_in_a_pipeline_and_copies_score_alike(fitted):
    x = near_a_plane()
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copy.decision_function(x), fitted.decision_function(x))
    pipeline = make_pipeline(StandardScaler(), clone(fitted))
    assert set(np.flatnonzero(pipeline.fit_predict(x) == -1)) == set(range(190, 200))


@pytest.mark.parametrize("contamination", [0, 0.7, -0.1, "some", None, True])
def test_a_contamination_that_cannot_be_is_one_line(contamination):
    message = r"contamination must be 'auto' or a fraction above 0 and up to 0\.5, got"
    with pytest.raises(aejax.InputError, match=message):
        AutoencoderOutlierDetector(contamination=contamination).fit(vectors())
