"""The local inverse Simpson index, against one example at a time."""

import numpy as np
import pytest
from scipy.optimize import brentq

import aejax
from aejax.evaluation.mixing import lisi


def alone(z, label, i, perplexity):
    """The index of example i, by its definition."""
    distance = np.linalg.norm(z - z[i], axis=1)
    rows = [j for j in np.argsort(distance, kind="stable") if j != i][: int(3 * perplexity)]

    def weights(beta):
        p = np.exp(-beta * (distance[rows] - distance[rows].min()))
        return p / p.sum()

    entropy = lambda beta: -(weights(beta) * np.log(np.maximum(weights(beta), 1e-300))).sum()  # noqa: E731
    p = weights(brentq(lambda beta: entropy(beta) - np.log(perplexity), 1e-6, 1e6))
    return 1 / sum(p[label[rows] == each].sum() ** 2 for each in np.unique(label))


def test_it_is_that_of_each_example_alone():
    rng = np.random.default_rng(0)
    z, label = rng.normal(size=(60, 3)), rng.integers(3, size=60)
    z[:, 0] += 0.7 * label
    found = lisi(z, label, 5)
    np.testing.assert_allclose(found, [alone(z, label, i, 5) for i in range(60)], rtol=1e-6)
    assert 1 < found.min() < found.max() < 3


def test_it_counts_labels():
    rng = np.random.default_rng(0)
    z, label = rng.normal(size=(2_000, 2)), np.arange(2_000) % 4
    np.testing.assert_allclose(np.median(lisi(z, label, 100)), 4, rtol=0.06)  # 30 would count by chance
    np.testing.assert_allclose(lisi(z + 100 * label[:, None], label), 1, rtol=1e-6)
    np.testing.assert_allclose(lisi(np.zeros((40, 2)), np.arange(40) % 2, 13).mean(), 2, rtol=0.01)  # all are equal
    with pytest.raises(aejax.InputError, match="perplexity=30 reads 90 neighbors of 90 examples; lower it"):
        lisi(z[:90], label[:90])
