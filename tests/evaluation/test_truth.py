"""Scores against known features: brute force over permutations, loops over examples, and scikit-learn."""

import itertools
import math

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.metrics import f1_score, precision_score, recall_score

from aejax.data.features import SparseFeatures
from aejax.evaluation import sparse, truth

KNOWN = SparseFeatures(features=40, dims=12, roots=4, orthogonalize=50)


def some(latents, features, seed=0, dims=6):
    rng = np.random.default_rng(seed)
    return truth.cosines(rng.normal(size=(latents, dims)), rng.normal(size=(features, dims)))


def test_cosines_are_those_of_each_pair_and_0_for_a_direction_without_length():
    a, b = np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[1.0, 0.0], [0.0, -2.0], [4.0, 3.0]])
    np.testing.assert_allclose(truth.cosines(a, b), [[0.6, -0.8, 0.96], [0, 0, 0]], atol=1e-7)


@pytest.mark.parametrize(("latents", "features"), [(5, 5), (4, 6), (7, 4)])
def test_the_match_is_the_best_of_all_permutations(latents, features):
    similarity = some(latents, features, latents)
    few, many = sorted((latents, features))
    square = np.abs(similarity if latents <= features else similarity.T)
    best = max(sum(square[i, j] for i, j in enumerate(order)) for order in itertools.permutations(range(many), few))
    assert truth.mean_correlation_coefficient(similarity) == pytest.approx(best / few, rel=1e-6)
    pairs = truth.match(similarity)
    assert len(set(pairs.latents)) == len(set(pairs.features)) == few


def test_one_latent_for_two_features_is_matched_with_one_of_them():
    similarity = np.array([[0.9, 0.8], [0.7, 0.1]])
    assert truth.mean_correlation_coefficient(similarity) == pytest.approx((0.8 + 0.7) / 2)  # greedily: (0.9 + 0.1) / 2
    assert truth.mean_max_cosine(similarity) == pytest.approx((0.9 + 0.8) / 2)
    assert truth.uniqueness(similarity) == 0.5
    assert truth.uniqueness(np.array([[0.1, -0.9], [0.7, 0.1]])) == 1
    assert truth.uniqueness(np.array([[0.9, 0.8], [0.95, 0.1]])) == 0.5  # each feature has another best latent
    assert truth.splitting(similarity, 0.7) == 0.5
    assert truth.splitting(similarity, 0.85) == 0


def test_detection_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    z, active = (rng.random((2_500, n)) * (rng.random((2_500, n)) < 0.3) for n in (6, 5))
    z[:, 2], active[:, 3] = 0, 0  # a dead latent, and a feature that never fires
    latents, features = np.array([0, 2, 3, 5]), np.array([4, 1, 3, 0])
    found = truth.detection(z, csr_array(active), latents, features)
    for value, reference in zip(found, (f1_score, precision_score, recall_score), strict=True):
        pairs = zip(latents, features, strict=True)
        expected = [reference(active[:, j] > 0, z[:, i] > 0, zero_division=0) for i, j in pairs]
        assert value == pytest.approx(np.mean(expected))
    kept = truth.fire(csr_array(active), truth.Match(latents, features))
    assert (kept.latents.tolist(), kept.features.tolist()) == ([0, 2, 5], [4, 1, 0])


def test_absorption_counts_parents_whose_latent_is_silent_while_the_childs_fires():
    # Feature 0 is the parent of 1 and 2; latent i is that of feature i, and latent 3 of feature 3, which has no parent.
    parents, similarity = np.array([-1, 0, 0, -1]), np.eye(4, dtype=np.float32)
    similarity[1, 0] = 0.7  # the latent of feature 1 points to its parent, too
    active = np.array([[1, 1, 0, 0], [1, 1, 0, 1], [1, 0, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]], float)
    z = np.array([[0, 2, 0, 0], [3, 2, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]], float)
    pairs = truth.match(similarity)
    # Of the four firings of a child, the first is absorbed. In the third, the child's latent does not point to the
    # parent; in the last, no latent fires.
    assert truth.absorption(z, csr_array(active), similarity, pairs, parents) == 0.25
    assert truth.absorption(z, csr_array(active), similarity, pairs, parents, cosine=0) == 0.5
    assert truth.absorption(active, csr_array(active), similarity, pairs, parents) == 0
    alone = truth.absorption(z, csr_array(active), similarity, pairs, np.full(4, -1))
    assert math.isnan(alone)


def test_the_features_themselves_have_every_best_score():
    active = KNOWN.activations(np.arange(3_000))
    order = np.random.default_rng(0).permutation(40)
    found = sparse.score(active.toarray()[:, order], 3 * KNOWN.directions[order], active, KNOWN)
    ones = ("f1", "latent_f1", "precision", "recall", "mcc", "mean_max_cosine", "uniqueness")
    assert found == pytest.approx(
        dict.fromkeys(ones, 1.0) | {"true_l0": active.count_nonzero() / 3_000, "splitting": 0, "absorption": 0}
    )
    twice = np.concatenate([KNOWN.directions, KNOWN.directions])
    split = sparse.score(np.tile(active.toarray(), 2), twice, active, KNOWN)
    assert (split["uniqueness"], split["splitting"]) == (0.5, 1)
    assert split["f1"] == pytest.approx(1)


def test_scores_do_not_depend_on_the_chunks(monkeypatch):
    active = KNOWN.activations(np.arange(500))
    rng = np.random.default_rng(0)
    z, directions = active.toarray() * (rng.random((500, 40)) < 0.7), rng.normal(size=(40, 12)) + KNOWN.directions * 5
    whole = sparse.score(z, directions, active, KNOWN)
    monkeypatch.setattr(truth, "_CHUNK", 7)
    assert sparse.score(z, directions, active, KNOWN) == pytest.approx(whole)
