"""Bits per dimension against closed forms: of densities, of dequantized levels, and of probabilities of levels."""

import dataclasses
import itertools
import math

import jax
import numpy as np
import pytest
from conftest import fresh, mlp, mostly_slow, subject_of, vectors
from principal import data_of, principal
from scipy.stats import kstest, norm

import aejax
from aejax.config import module
from aejax.evaluation import Subject, likelihood


@pytest.fixture(scope="module")
def exact():
    return principal()


def test_bits_are_of_each_value(exact):
    run, true = exact
    x = data_of(true, 20)
    found = likelihood.measure(subject_of(run, x), samples=2)
    assert found["log_likelihood"].value == pytest.approx(true.logpdf(x).mean(), abs=1e-4)
    assert found["bits_per_dimension"].value == pytest.approx(-np.log2(true.pdf(x)).mean() / 5, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("stored", "bits"), [("uint8", 8), ("float", 0)])
def test_a_uniform_density_on_the_unit_interval_has_eight_bits_a_level(stored, bits):
    config = mlp()
    config.bottleneck = module("gaussian", features=2)
    config.likelihood = module("continuous_bernoulli")  # of logits 0: uniform
    x = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 1)).astype(np.uint8)
    x = x if stored == "uint8" else np.float32(x / 255)
    run = fresh(config, x)
    run.variables["params"]["decoder"] = jax.tree.map(np.zeros_like, run.variables["params"]["decoder"])
    # The code says nothing, so that the posterior may be the prior.
    run.variables["params"]["bottleneck"] = jax.tree.map(np.zeros_like, run.variables["params"]["bottleneck"])
    found = likelihood.measure(subject_of(run, x), samples=2)
    assert found["bits_per_dimension"].value == pytest.approx(bits, abs=1e-5)
    assert ("uniform dequantization, 1 draws" in found["bits_per_dimension"].protocol) == bool(bits)
    assert found["rate"].value == pytest.approx(0, abs=1e-6)
    assert found["active_units"].value == 0


def levels(name="gaussian", **of_likelihood):
    """A run whose decoder says 0.4 for every value, whatever its code, and images of 8 bits."""
    config = mlp()
    config.bottleneck = module("gaussian", features=2)
    config.likelihood = module(name, **of_likelihood)
    x = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 1)).astype(np.uint8)
    run = fresh(config, x)
    for part in ("decoder", "bottleneck"):  # whose posterior may be the prior
        run.variables["params"][part] = jax.tree.map(np.zeros_like, run.variables["params"][part])
    run.variables["params"]["decoder"]["dense_1"]["bias"] = np.full(16, 0.4, np.float32)
    return run, x


def test_noise_fills_the_cells_of_the_levels():
    run, x = levels()
    drawn = np.stack([run.density.dequantize(x, seed) for seed in range(200)])
    np.testing.assert_array_equal(np.minimum(np.floor(drawn * 256), 255), np.broadcast_to(x, drawn.shape))
    u = 256 * np.float64(drawn) - x
    assert kstest(u.ravel(), "uniform").pvalue > 1e-3
    assert np.abs(np.corrcoef(u.reshape(200, -1)[:, :2].T)[0, 1]) < 0.3
    np.testing.assert_array_equal(run.density.dequantize(x[[7, 2]], 3), drawn[3][[7, 2]])
    with pytest.raises(aejax.InputError, match="dequantization is of images of uint8, from 0 to 255, got float32"):
        run.density.dequantize(np.float32(x / 255))


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.3, 0.005])
def test_bits_of_levels_are_the_mean_over_their_cells_and_bound_the_bits_of_the_cells(scale):
    run, x = levels(scale=scale)
    found = likelihood.measure(subject_of(run, x), samples=1, dequantize=200)["bits_per_dimension"]
    cells = np.arange(257) / 256
    z = (cells - 0.4) / scale
    # The integral of ((v - m) / s)^2 over a cell, times 256.
    squares = np.diff(z**3) / 3 * scale * 256
    mean = squares / 2 / math.log(2) + math.log2(scale * math.sqrt(2 * math.pi)) + 8
    assert found.value == pytest.approx(mean[x].mean(), rel=1e-3)
    low, high = np.where(z[1:] > 0, (-z[1:], -z[:-1]), (z[:-1], z[1:]))  # on the side of the smaller tail
    log_cell = norm.logcdf(high) + np.log1p(-np.exp(norm.logcdf(low) - norm.logcdf(high)))
    assert found.value > -log_cell[x].mean() / math.log(2) - 1e-3
    assert "uniform dequantization, 200 draws of (x + u) / 256" in found.protocol
    assert "the log-likelihood of 1 importance samples" in found.protocol


def test_bits_of_a_code_without_weights_are_those_of_the_elbo():
    config = mlp()
    config.bottleneck, config.likelihood = module("gumbel", codes=4), module("gaussian", scale=0.3)
    x = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 1)).astype(np.uint8)
    run = fresh(config, x)
    found = likelihood.measure(subject_of(run, x), samples=2, dequantize=2)["bits_per_dimension"]
    elbo = np.mean([run.elbo(run.density.dequantize(x, seed)).mean() for seed in range(2)])
    assert found.value == pytest.approx(8 - elbo / 16 / math.log(2), rel=1e-5)
    assert "from the ELBO" in found.protocol


@pytest.mark.parametrize("draws", [0, True, 1.5])
def test_draws_of_noise_are_a_count(exact, draws):
    with pytest.raises(aejax.InputError, match="dequantize, the number of draws, must be a whole number above 0"):
        likelihood.measure(subject_of(exact[0], vectors(3, 5)), dequantize=draws)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bernoulli", "discretised_logistic"])
def test_probabilities_of_levels_get_no_correction(name):
    config = mlp()
    config.bottleneck = module("gaussian", features=2)
    config.likelihood = module(name)
    x = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 1)).astype(np.uint8)
    found = likelihood.measure(subject_of(fresh(config, x), x), samples=2)
    nats = found["log_likelihood"].value
    assert found["bits_per_dimension"].value == pytest.approx(-nats / 16 / math.log(2), rel=1e-6)
    assert ("cross-entropy" in found["elbo"].protocol) == (name == "bernoulli")
    assert found["elbo"].value == pytest.approx(-found["rate"].value - found["distortion"].value, rel=1e-6)
    if name == "bernoulli":
        binary = np.where(x > 99, 255, 0).astype(np.uint8)
        found = likelihood.measure(subject_of(fresh(config, x), binary), samples=2)
        assert "binary values" in found["elbo"].protocol


# Binary values that are drawn anew.


def gray(way, folder):
    """A run that has seen binary images, drawn from gray ones of its own data."""
    config = mlp()
    config.bottleneck, config.likelihood = module("gaussian", features=2), module("bernoulli")
    x = np.random.default_rng(0).integers(0, 256, (200, 4, 4, 1)).astype(np.uint8)
    np.save(folder / "x.npy", x)
    config.data.update({"name": str(folder / "x.npy"), "binarize": way, "binarize_seed": 7})
    return fresh(config, x), x


@pytest.mark.parametrize("way", mostly_slow(["dynamic", "static"]))
def test_binary_values_are_drawn_as_often_as_is_asked(way, tmp_path):
    run, _ = gray(way, tmp_path)
    subject = Subject.of(run)
    found = likelihood.measure(subject, samples=3, binary_draws=4)
    parts = [subject.redraw(seed) for seed in range(4)]
    each = [run.log_likelihood(part.x, 3).mean() for part in parts]
    assert found["redrawn_log_likelihood"].value == pytest.approx(np.mean(each), rel=1e-5)
    assert found["redrawn_log_likelihood_spread"].value == pytest.approx(np.std(each, ddof=1), rel=1e-3)
    assert (
        "over 4 binarizations of 20 examples of test, by the seeds 0 to 3" in found["redrawn_log_likelihood"].protocol
    )
    assert all(set(np.unique(part.x)) == {0, 255} for part in parts)
    assert all((a.x != b.x).any() for a, b in itertools.combinations(parts, 2))
    np.testing.assert_array_equal(subject.redraw(7).x, subject.test.x)  # the run's own seed
    config = run.config.copy_and_resolve_references().unlock()
    config.data.binarize = "none"
    many = np.mean([subject.redraw(seed).x / 255 for seed in range(60)], 0)
    values = Subject.of(dataclasses.replace(run, config=config)).test.x / 255
    assert np.abs(many - values).max() < 5 * 0.5 / np.sqrt(60)


@pytest.mark.parametrize("way", ["none", "threshold"])
def test_binary_values_that_nothing_draws_are_one_line(way, tmp_path):
    run, x = gray(way, tmp_path)
    for subject in (Subject.of(run), subject_of(run, x)):
        with pytest.raises(aejax.InputError, match=r"drawn again for the run's own data with data\.binarize=dynamic"):
            likelihood.measure(subject, samples=2, binary_draws=2)
    with pytest.raises(aejax.InputError, match="binary_draws must be a whole number above 0, got 0"):
        likelihood.measure(subject, samples=2, binary_draws=0)
