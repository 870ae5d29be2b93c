"""Mixtures of discretized logistics against sums over all levels and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from conftest import example_keys
from scipy.special import logsumexp, softmax

import aejax
from aejax import models
from aejax.config import default, module
from aejax.losses import logistic_mixture
from aejax.objectives.likelihoods import LogisticMixture

K = 3
LEVELS = np.arange(256, dtype=np.float32) / 255


def parameters(channels, seed=0, scale=-2.0):
    """Of one pixel, [1, 1, 1, p]; means near the edges, too."""
    rng = np.random.default_rng(seed)
    parts = rng.normal(size=(K, logistic_mixture.count_parameters(channels, 1))).astype(np.float32)
    parts[:, 1 + channels : 1 + 2 * channels] += scale
    return jnp.array(parts.reshape(1, 1, 1, -1))


def brute_force(p, x):
    """-log P of one pixel x [c] in float64, by differences of cumulative probabilities."""
    parts, c = np.float64(p).reshape(K, -1), len(x)
    x, logs = 2 * np.float64(x) - 1, []
    for part in parts:
        means, scales, coefficients = part[1 : 1 + c], np.exp(part[1 + c : 1 + 2 * c]), np.tanh(part[1 + 2 * c :])
        log_p = 0.0
        for channel in range(c):
            start = channel * (channel - 1) // 2
            mean = means[channel] + coefficients[start : start + channel] @ x[:channel]
            above = np.inf if x[channel] > 0.999 else x[channel] + 1 / 255
            below = -np.inf if x[channel] < -0.999 else x[channel] - 1 / 255
            of = scipy.stats.logistic(mean, scales[channel])
            log_p += np.log(max(of.cdf(above) - of.cdf(below), of.sf(below) - of.sf(above)))  # one has the digits
        logs.append(log_p)
    return -logsumexp(logs + np.log(softmax(parts[:, 0])))


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_the_formula_of_the_paper(channels):
    p, rng = parameters(channels, channels), np.random.default_rng(1)
    x = rng.integers(256, size=(40, channels)).astype(np.float32) / 255
    x[:2] = [[0.0], [1.0]]
    found = LogisticMixture(K).nll(jnp.tile(p, (40, 1, 1, 1)), x[:, None, None])
    assert found.shape == (40, 1, 1, 1)
    np.testing.assert_allclose(found[:, 0, 0, 0], [brute_force(p, each) for each in x], rtol=1e-3)


def test_the_probabilities_of_all_levels_sum_to_one():
    for scale in (-7.0, -2.0, 0.0):
        p = parameters(1, 2, scale)
        probabilities = np.exp(-LogisticMixture(K).nll(p, LEVELS[:, None, None, None]))
        assert probabilities.sum() == pytest.approx(1, abs=1e-3)
    # Of two channels, the sum over the second is the distribution of the first.
    p = parameters(2, 3)
    pairs = np.stack(np.meshgrid(LEVELS[::51], LEVELS, indexing="ij"), -1)[:, :, None, None]
    joint = np.exp(-LogisticMixture(K).nll(p, pairs))[..., 0, 0, 0].sum(1)
    parts = p.reshape(K, -1)
    of_first = jnp.stack([parts[:, 0], parts[:, 1], parts[:, 3]], -1).reshape(1, 1, 1, -1)
    expected = np.exp(-LogisticMixture(K).nll(of_first, LEVELS[::51, None, None, None]))[..., 0, 0, 0]
    np.testing.assert_allclose(joint, expected, rtol=1e-3)


def test_samples_have_their_probabilities_and_the_mean_is_theirs():
    p, n = parameters(2, 4, -1.0), 20_000
    likelihood = LogisticMixture(K)
    x = jax.vmap(likelihood.draw)(example_keys(n), jnp.tile(p[0], (n, 1, 1, 1)))
    assert x.shape == (n, 1, 1, 2)
    np.testing.assert_allclose(x * 255, np.round(x * 255), atol=1e-3)
    pairs = np.stack(np.meshgrid(LEVELS, LEVELS, indexing="ij"), -1).reshape(-1, 1, 1, 2)
    joint = np.exp(-np.float64(likelihood.nll(p, pairs)[:, 0, 0, 0])).reshape(256, 256)
    # Tiles of 64 levels, and the edges alone, where the mass beyond them lies.
    tiles = lambda a: np.array([a[0].sum(), a[1:64].sum(), a[64:128].sum(), a[128:255].sum(), a[255].sum()])  # noqa: E731
    index = np.round(np.asarray(x[:, 0, 0]) * 255).astype(int)
    counts = np.zeros((256, 256))
    np.add.at(counts, (index[:, 0], index[:, 1]), 1 / n)
    for found, expected in ((counts, joint), (counts.T, joint.T), (counts[:, :128], joint[:, :128])):
        error = np.sqrt(tiles(expected) / n)
        assert (np.abs(tiles(found) - tiles(expected)) < 5 * error + 1e-6).all()
    narrow = parameters(2, 5, -4.0)
    narrow = narrow.reshape(1, 1, 1, K, -1).at[..., 1:3].mul(0.2).reshape(1, 1, 1, -1)  # far from the edges
    x = jax.vmap(likelihood.draw)(example_keys(n), jnp.tile(narrow[0], (n, 1, 1, 1)))
    np.testing.assert_allclose(x.mean(0)[0, 0], likelihood.mean(narrow)[0, 0, 0], atol=0.01)


def test_gradients_are_finite_everywhere():
    for scale in (-20.0, 5.0):
        p = parameters(3, 6, scale)
        x = jnp.broadcast_to(jnp.array([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1), (3, 1, 1, 3))
        loss = lambda p, x=x: LogisticMixture(K).nll(p, x).sum()  # noqa: E731
        assert np.isfinite(jax.jit(jax.grad(loss))(p)).all()


def config_of_mixture(**likelihood):
    config = default()
    config.encoder = module("pyramid", features=(8, 16), strides=(4, 2))
    config.bottleneck = module("ladder", layers=(2, 1), features=(2, 4), samples=2)
    config.decoder = module("pyramid")
    config.likelihood = module("logistic_mixture", **likelihood)
    config.objective.weights.kl = 1.0
    config.objective.bound = module("iwae")
    return config


@pytest.mark.slow
def test_a_ladder_learns_color_images_by_it(tmp_path):
    config = config_of_mixture(components=2)
    config.steps, config.batch_size, config.checkpoint_every, config.log_every = 20, 8, 20, 20
    x = np.random.default_rng(0).integers(256, size=(64, 8, 8, 3), dtype=np.uint8)
    run = aejax.fit(config, x, workdir=tmp_path)
    assert run.reconstruct(x[:2]).shape == (2, 8, 8, 3)
    assert run.generate(3).shape == (3, 8, 8, 3)
    found = run.evaluate(x[:16], groups=["likelihood"], options={"likelihood": {"samples": 20}})["likelihood"]
    bits = found["bits_per_dimension"]
    assert 5 < bits.value < 12
    assert "a probability of the levels 0 to 255" in bits.protocol


def test_what_does_not_fit_is_one_line():
    with pytest.raises(aejax.InputError, match=r"'logistic_mixture' is for images, got \(5,\)"):
        models.build(config_of_mixture(), (5,))
    with pytest.raises(aejax.InputError, match=r"likelihood\.components must be a whole number above 0, got 0"):
        models.build(config_of_mixture(components=0), (8, 8, 1))
    config = config_of_mixture()
    config.decoder = module("conv", features=(8, 8))
    model = models.build(config, (8, 8, 1))
    assert model.decoded == (8, 8, 30)
