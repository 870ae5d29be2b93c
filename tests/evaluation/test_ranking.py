"""Measures of recommendations against scikit-learn and loops, and the clicks that they are measured on."""

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

import aejax
from aejax import data
from aejax.data.clicks import ITEMS, make_clicks, sample_clicks
from aejax.evaluation import ranking

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(7, 40)).astype(np.float32)
CLICKED = RNG.random((7, 40)) < np.linspace(0.05, 0.8, 7)[:, None]
CLICKED[0, 3] = True


@pytest.mark.parametrize("k", [1, 5, 20, 100])
def test_they_are_those_of_scikit_learn_and_of_a_loop(k):
    expected = [ndcg_score(CLICKED[i : i + 1], SCORES[i : i + 1], k=k) for i in range(7)]
    np.testing.assert_allclose(ranking.ndcg(SCORES, CLICKED, k), expected, rtol=1e-6)
    for i, found in enumerate(ranking.recall(SCORES, CLICKED, k)):
        ranked = sorted(range(40), key=lambda item, i=i: -SCORES[i, item])[:k]
        hits = sum(CLICKED[i, item] for item in ranked)
        np.testing.assert_allclose(found, hits / min(k, CLICKED[i].sum()))


def test_the_best_ranking_has_1_and_the_worst_0():
    for measure in (ranking.ndcg, ranking.recall):
        np.testing.assert_allclose(measure(np.float32(CLICKED), CLICKED, 5), 1)
        np.testing.assert_allclose(measure(-np.float32(CLICKED)[:3], CLICKED[:3], 5), 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((SCORES, CLICKED[:3], 5), r"scores are \(7, 40\) and clicked is \(3, 40\)"),
        ((SCORES, CLICKED, 0), "k must be at least 1 item, got 0"),
        ((SCORES, CLICKED & False, 5), "user 0 has no clicked item to be found"),
    ],
)
def test_what_cannot_be_measured_is_one_line(arguments, message):
    with pytest.raises(aejax.InputError, match=message):
        ranking.ndcg(*arguments)


def test_clicks_are_those_of_different_users_with_tastes():
    splits = make_clicks()
    x = data.read(splits["test"])["x"]
    assert x.shape == (400, ITEMS)
    assert set(np.unique(x)) == {0, 1}
    assert x.sum(1).min() >= 20
    assert x.sum(1).max() <= 80
    np.testing.assert_array_equal(sample_clicks(30).toarray(), sample_clicks(30).toarray())
    # Popular items are clicked more; users alike more than chance says.
    assert x[:, :100].mean() > 3 * x[:, -100:].mean()
    expected = x.mean(0)
    excess = np.square((x - expected) @ (x - expected).T / np.sqrt(np.outer(x.sum(1), x.sum(1))))
    assert excess[np.triu_indices(400, 1)].max() > 0.2
