"""Synthetic activations with known features: their statistics against the specification of SynthSAEBench."""

import math

import numpy as np
import pytest
from scipy.stats import norm

import aejax
from aejax import data
from aejax.config import default
from aejax.data.features import PAPER, SparseFeatures, orthogonalize

SMALL = SparseFeatures(features=60, dims=16, roots=4, examples=1_000, orthogonalize=0)
LONE = SparseFeatures(features=200, dims=8, roots=0, orthogonalize=0, correlation=0)  # without hierarchy


def test_the_full_size_has_the_mean_l0_of_the_paper():
    paper = SparseFeatures.parse(PAPER)
    active = paper.activations(np.arange(512)) > 0
    error = active.sum(1).std() / math.sqrt(512)
    assert abs(active.sum(1).mean() - 34) < 0.5 + 2 * error
    assert abs(active[:, :4096].sum(1).mean() - 25) < 0.5 + 2 * error  # as its documentation says of these
    assert paper.probabilities[[0, -1]].tolist() == pytest.approx([0.4, 5e-4])


def test_frequencies_follow_the_power_law():
    ranks = np.arange(1, 201)
    law = ranks**-0.5
    slope, offset = np.polyfit(law, LONE.probabilities, 1)
    np.testing.assert_allclose(slope * law + offset, LONE.probabilities)
    assert (LONE.probabilities[0], LONE.probabilities[-1]) == (0.4, 8e-3)
    n = 20_000
    frequency = (LONE.activations(np.arange(n)) > 0).mean(0)
    z = (frequency - LONE.probabilities) / np.sqrt(LONE.probabilities * (1 - LONE.probabilities) / n)
    assert np.abs(z).max() < 4.5
    assert abs(z.std() - 1) < 0.2
    # The exponent that fits the frequencies best, of those in steps of 0.05.
    errors = {
        e: np.square(np.polyval(np.polyfit(ranks**-e, frequency, 1), ranks**-e) - frequency).sum()
        for e in np.arange(0.3, 0.75, 0.05)
    }
    assert min(errors, key=errors.get) == pytest.approx(0.5, abs=0.051)


def test_children_fire_with_their_parents_and_one_at_a_time():
    assert SMALL.parents[:9].tolist() == [-1, -1, -1, -1, 0, 0, 0, 0, 1]
    assert SMALL.parents[20:25].tolist() == [4, 4, 4, 4, 5]
    assert SMALL.parents[59] == 13
    active = SMALL.activations(np.arange(5_000)).toarray() > 0
    children = np.flatnonzero(SMALL.parents >= 0)
    assert active[:, children].any()
    assert not (active[:, children] & ~active[:, SMALL.parents[children]]).any()
    for parent in range(20):
        assert active[:, SMALL.parents == parent].sum(1).max(initial=0) <= 1
    free = SparseFeatures(features=60, dims=16, roots=4, exclusive=False, orthogonalize=0)
    assert (free.activations(np.arange(2_000)).toarray()[:, 4:8] > 0).sum(1).max() > 1


def test_the_features_below_the_last_level_have_no_parent():
    cut = SparseFeatures(features=30, dims=4, roots=2, branching=2, depth=2, orthogonalize=0)
    assert cut.parents[:14].tolist() == [-1, -1, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert (cut.parents[14:] == -1).all()


def test_siblings_that_fire_together_win_equally_often():
    even = SparseFeatures(features=6, dims=4, roots=1, branching=5, depth=1, most=0.4, least=0.39, orthogonalize=0)
    # Each child has the probability 0.39, compensated to 1: all five would fire whenever the parent does.
    counts = (even.activations(np.arange(10_000)).toarray()[:, 1:] > 0).sum(0)
    assert np.abs(counts / counts.sum() - 0.2).max() < 4 * math.sqrt(0.16 / counts.sum())


def test_magnitudes_are_normal_and_their_deviations_folded_normal():
    mean, deviation = SparseFeatures(features=20_000, dims=1).magnitudes
    assert (mean[0], mean[-1]) == (5, 4)
    assert np.allclose(np.diff(mean, 2), 0, atol=1e-6)
    # Mean of the folded normal distribution of mean and standard deviation 0.5.
    folded = 0.5 * math.sqrt(2 / math.pi) * math.exp(-0.5) + 0.5 * (1 - 2 * norm.cdf(-1))
    assert abs(deviation.mean() - folded) < 0.01
    assert deviation.min() >= 0
    assert abs(np.square(deviation).mean() - 0.5) < 0.02
    values = LONE.activations(np.arange(20_000)).toarray()[:, 0]
    fired = values[values > 0]
    own_mean, own_deviation = (each[0] for each in LONE.magnitudes)
    assert abs(fired.mean() - own_mean) < 4 * own_deviation / math.sqrt(len(fired))
    assert fired.std() == pytest.approx(own_deviation, rel=0.05)


def test_children_are_scaled_by_their_parents():
    same = {"features": 5, "dims": 4, "roots": 1, "depth": 1, "spread": 0.0, "spread_std": 0.3, "orthogonalize": 0}
    scaled, plain = (
        SparseFeatures(**same, scaled=each).activations(np.arange(3_000)).toarray() for each in (True, False)
    )
    mean = SparseFeatures(**same).magnitudes[0][0]
    np.testing.assert_allclose(scaled[:, 1:], plain[:, 1:] * plain[:, :1] / mean, rtol=1e-6)
    assert (scaled[:, 1:] > 0).any()


def test_correlations_have_the_rank_and_the_effect_of_their_factor():
    strong = SparseFeatures(
        features=40, dims=8, roots=0, rank=3, correlation=0.5, most=0.41, least=0.4, orthogonalize=0
    )
    off = strong.correlations - np.diag(1 - np.square(strong._factor.astype(float)).sum(1))
    assert np.linalg.matrix_rank(off, tol=1e-6) == 3
    assert np.allclose(np.diag(strong.correlations), 1)
    active = strong.activations(np.arange(30_000)).toarray() > 0
    # The correlation of two binary variables from normal ones, by the bivariate normal distribution.
    from scipy.stats import multivariate_normal

    p = strong.probabilities
    for i, j in ((0, 1), (5, 17), (30, 39)):
        r = strong.correlations[i, j]
        both = multivariate_normal.cdf([norm.ppf(p[i]), norm.ppf(p[j])], cov=[[1, r], [r, 1]])
        assert abs((active[:, i] & active[:, j]).mean() - both) < 4 * math.sqrt(both / 30_000)
    weak = SparseFeatures(features=1_000, dims=8).correlations  # entries of sum of 25 products of N(0, 0.1^2)
    assert np.std(weak[np.triu_indices(1_000, 1)]) == pytest.approx(0.05, rel=0.05)


def test_examples_are_a_function_of_seed_and_number():
    whole = SMALL.take(np.arange(700))["x"]
    rows = np.random.default_rng(0).permutation(700)[:50]
    assert (SMALL.take(rows)["row"] == rows).all()
    np.testing.assert_allclose(SMALL.take(rows)["x"], whole[rows], rtol=1e-6)
    assert (SMALL.activations(rows).toarray() == SMALL.activations(np.arange(700)).toarray()[rows]).all()
    other = SparseFeatures(features=60, dims=16, roots=4, examples=1_000, orthogonalize=0, seed=1)
    assert not np.allclose(other.take(rows)["x"], whole[rows])


def test_examples_are_the_sum_of_their_features_and_the_offset():
    x = SMALL.take(np.arange(20))["x"]
    expected = SMALL.activations(np.arange(20)).toarray() @ SMALL.directions + SMALL.offset
    np.testing.assert_allclose(x, expected, atol=1e-5)
    assert np.linalg.norm(SMALL.offset) == pytest.approx(0.5)
    np.testing.assert_allclose(np.linalg.norm(SMALL.directions, axis=1), 1, rtol=1e-6)


def test_orthogonalizing_follows_the_gradient_of_the_squared_cosines():
    import jax
    import optax

    x = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)

    def loss(x):
        dots = x @ x.T
        off = dots - np.eye(12) * dots
        return (off**2).sum() + 12 * ((dots.diagonal() - 1) ** 2).sum()

    expected, adam = x, optax.adam(3e-4)
    state = adam.init(x)
    for _ in range(40):
        updates, state = adam.update(jax.grad(loss)(expected), state)
        expected = optax.apply_updates(expected, updates)
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    found = orthogonalize(x, 40)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    squares = [np.square(each @ each.T).sum() for each in (x, found)]
    assert squares[1] < squares[0]


def test_a_config_names_them_and_no_split_shares_an_example():
    config = default()
    config.data.name, config.data.options = (
        "sparse_features",
        "features=60,dims=16,roots=4,examples=1000,orthogonalize=0",
    )
    splits = data.load(config.data)
    assert [len(part) for part in splits] == [1_000, 100, 100]
    assert splits.train.truth == SMALL
    rows = [part.take(np.arange(len(part)))["row"] for part in splits]
    assert len(np.unique(np.concatenate(rows))) == 1_200
    assert all(part.truth is splits.train.truth for part in splits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("feature=3", "did you mean 'features'"),
        ("features=many", "'features=many' needs a value of kind int"),
        ("scaled=1", "'scaled=1' needs a value of kind bool"),
        ("features=1", "features of sparse_features must be at least 2, got 1"),
        ("least=0.5", "least=0.5"),
        ("bias=-1", "bias of sparse_features must not be negative"),
    ],
)
def test_options_out_of_range_are_one_line(options, message):
    with pytest.raises(aejax.InputError, match=message) as error:
        SparseFeatures.parse(options)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_streamed_run_resumes_bit_for_bit(tmp_path):
    import jax

    from configs import sae

    config = sae.get_config("topk,tiny").unlock()
    config.data.name, config.data.options = (
        "sparse_features",
        "features=60,dims=16,roots=4,examples=200,orthogonalize=0",
    )
    config.data.memory_mb, config.optim.schedule, config.checkpoint_every = 0, "constant", 4
    config.steps = 8
    whole = aejax.train(config, tmp_path / "whole", quiet=True)
    config.steps = 4
    aejax.train(config, tmp_path / "parts", quiet=True)
    config.steps = 8
    resumed = aejax.train(config, tmp_path / "parts", quiet=True)
    assert resumed.step == 8
    jax.tree.map(np.testing.assert_array_equal, whole.variables, resumed.variables)
