"""Usage of codes against counts written out; explained variance against scikit-learn and PCA."""

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import fresh, mlp, subject_of, vectors
from sklearn.decomposition import PCA
from sklearn.metrics import r2_score

from aejax.config import module
from aejax.evaluation import Measure, Skipped, codes
from aejax.models.bottlenecks import BOTTLENECKS


def run_of(bottleneck, x):
    config = mlp()
    config.bottleneck = bottleneck
    return fresh(config, x)


def by_hand(indices):
    """exp of the entropy, from counts."""
    counts = Counter(np.ravel(indices).tolist())
    total = sum(counts.values())
    return math.prod((n / total) ** (-n / total) for n in counts.values())


def test_perplexity_and_dead_codes_of_known_shares():
    assert codes.perplexity(np.arange(12).reshape(3, 4) % 6) == pytest.approx(6)
    assert codes.perplexity(np.full(5, 3)) == pytest.approx(1)
    assert codes.perplexity(np.array([0, 0, 0, 9])) == pytest.approx(4 / 3**0.75)
    assert codes.dead(np.array([[1, 1], [5, 1]]), 8) == 0.75
    assert codes.dead(np.arange(8), 8) == 0


@pytest.mark.parametrize("seed", range(3))
def test_explained_variance_is_r2_of_all_values_together(seed):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(80, 6)) * np.arange(1, 7) + 20).astype(np.float32)
    y = (x + rng.normal(size=x.shape)).astype(np.float32)
    expected = r2_score(x, y, multioutput="variance_weighted")
    assert codes.variance_explained(x, y) == pytest.approx(expected, rel=1e-4)
    images = x.reshape(80, 3, 2, 1), y.reshape(80, 3, 2, 1)
    assert codes.variance_explained(*images) == pytest.approx(expected, rel=1e-4)
    pca = PCA(2).fit(x)
    outputs = pca.inverse_transform(pca.transform(x)).astype(np.float32)
    assert codes.variance_explained(x, outputs) == pytest.approx(pca.explained_variance_ratio_.sum(), rel=1e-4)
    assert codes.variance_explained(x, np.broadcast_to(x.mean(0), x.shape)) == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_usage_is_of_the_whole_part_and_of_each_position():
    x = 3 * vectors(300)  # more than a batch of `run.indices`
    run = run_of(module("vq", codes=16, features=4, positions=3), x)
    indices = run.indices(x)
    found = codes.measure(subject_of(run, x))
    assert found["perplexity"].value == pytest.approx(by_hand(indices))
    assert found["dead_codes"].value == 1 - len(set(indices.ravel())) / 16
    assert found["codebook_usage"].value == len(set(indices.ravel())) / 16
    assert found["entropy"].value == pytest.approx(math.log2(by_hand(indices)))
    assert found["entropy"].unit == "bits per index, at most 4"
    expected = np.mean([by_hand(indices[:, i]) for i in range(3)])
    assert found["perplexity_by_position"].value == pytest.approx(expected)
    assert 1 < expected < found["perplexity"].value  # positions have habits of their own
    assert "900 indices of 300 examples of test, 3 per example" in found["perplexity"].protocol
    assert isinstance(found["l0"], Skipped)
    assert isinstance(found["variance_explained"], Measure)


def test_levels_have_codes_of_their_own_in_the_indices_of_a_run():
    indices = np.random.default_rng(0).integers(0, 8, (100, 2, 2)) // [1, 4]
    quantizer = BOTTLENECKS["residual_vq"](codes=8, features=4, levels=2, positions=2)
    model = SimpleNamespace(bottleneck=quantizer)
    run = SimpleNamespace(config=mlp(), codebook_size=8, model=model, indices=lambda x, label: indices)
    found = codes._measure_indices(subject_of(run, vectors(100)))
    levels = [by_hand(indices[..., i]) for i in range(2)]
    assert found["perplexity"].value == pytest.approx(np.mean(levels))
    assert [m.value for name, m in found.items() if "level" in name] == pytest.approx(levels)
    assert found["dead_codes"].value == pytest.approx(np.mean([0, 3 / 4]))
    assert found["codebook_usage"].value == pytest.approx(np.mean([1, 1 / 4]))
    assert found["entropy"].value == pytest.approx(np.mean(np.log2(levels)))  # not the logarithm of the mean
    assert "200 indices of 100 examples of test, 2 per example" in found["perplexity"].protocol


@pytest.mark.slow
def test_levels_have_codes_of_their_own():
    x = 3 * vectors(100)
    run = run_of(module("residual_vq", codes=8, features=4, levels=3, positions=2), x)
    indices = run.indices(x)
    assert indices.shape == (100, 2, 3)
    found = codes.measure(subject_of(run, x))
    by_level = [by_hand(indices[..., i]) for i in range(3)]
    assert [found[f"perplexity_level_{i}"].value for i in (1, 2, 3)] == pytest.approx(by_level)
    assert found["perplexity"].value == pytest.approx(np.mean(by_level))
    dead = np.mean([1 - len(set(indices[..., i].ravel())) / 8 for i in range(3)])
    assert found["dead_codes"].value == pytest.approx(dead)
    by_position = np.mean([by_hand(indices[:, p, i]) for p in range(2) for i in range(3)])
    assert found["perplexity_by_position"].value == pytest.approx(by_position)


def test_units_of_sparse_codes():
    x = vectors(60)
    run = run_of(module("topk", features=12, k=3), x)
    never = np.float32([-100] * 4 + [0] * 8)  # four units are dead
    run.variables["params"]["bottleneck"]["dense"]["bias"] = never
    z = run.encode(x)
    found = codes.measure(subject_of(run, x))
    assert found["l0"].value == pytest.approx(np.mean([sum(v != 0 for v in row) for row in z]))
    assert 2 < found["l0"].value <= 3
    dead = np.mean([all(v == 0 for v in z[:, j]) for j in range(12)])
    assert found["dead_units"].value == pytest.approx(dead)
    assert 4 / 12 <= dead < 1
    assert isinstance(found["perplexity"], Skipped)
    error = np.square(run.reconstruct(x) - x).sum() / np.square(x - x.mean(0)).sum()
    assert found["variance_explained"].value == pytest.approx(1 - error, rel=1e-4)


def test_activation_of_a_sparse_code_is_measured_where_it_has_a_target():
    x = vectors(40)
    run = run_of(module("dense", features=4, activation="sigmoid"), x)
    assert "mean_activation" not in codes.measure(subject_of(run, x))
    run.config.objective.weights.kl_sparsity = 1.0
    assert codes.measure(subject_of(run, x))["mean_activation"].value == pytest.approx(run.encode(x).mean(), rel=1e-5)


@pytest.mark.slow
def test_what_makes_no_sense_is_skipped():
    x = np.ones((20, 6), np.float32)
    found = codes.measure(subject_of(run_of(module("dense", features=2), x), x))
    assert all(isinstance(m, Skipped) for m in found.values())
    assert found["l0"].reason == "no unit is ever 0: the code is not sparse"
    assert "no variance to explain" in found["variance_explained"].reason
