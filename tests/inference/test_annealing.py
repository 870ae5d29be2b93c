"""Annealed importance sampling against closed forms: of integrals, of invariant densities, and of log p(x)."""

import contextlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import conv, example_keys, fresh, mlp, mostly_slow, subject_of, vectors
from principal import SCALE, data_of, principal
from scipy.special import logsumexp
from scipy.stats import kstest, norm

import aejax
from aejax.config import module
from aejax.evaluation import likelihood
from aejax.inference import annealing, batches, density
from aejax.models.distributions import StandardNormal
from aejax.objectives.likelihoods import Gaussian

ROWS, CENTER, WIDTH, LOG_Z = 600, np.array([1.0, -0.5]), np.array([0.3, 0.8]), 0.7


def path_of(keys, log_z=LOG_Z):
    """From N(0, I) to a Gaussian whose integral is e^log_z, so that all densities between them are Gaussians."""
    prior = StandardNormal(2)
    end = lambda z: log_z + jax.scipy.stats.norm.logpdf(z, CENTER, WIDTH).sum(-1)  # noqa: E731
    return annealing.Path(prior.sample(keys), prior.log_prob, end)


@pytest.fixture(scope="module")
def rows():
    return example_keys(ROWS)


def test_the_schedule_is_a_sigmoid_from_0_to_1():
    betas = annealing.schedule(8)
    expected = 1 / (1 + np.exp(-np.arange(-4.0, 5.0)))
    np.testing.assert_allclose(betas, (expected - expected[0]) / (expected[-1] - expected[0]), atol=1e-7)
    assert betas[0] == 0
    assert betas[-1] == 1


def test_one_step_is_importance_sampling_from_the_start(rows):
    path = path_of(rows)
    log_w = annealing.weigh(path, rows, annealing.schedule(1), jnp.zeros((0, ROWS)))
    z = np.float64(path.z)
    expected = LOG_Z + norm(CENTER, WIDTH).logpdf(z).sum(1) - norm.logpdf(z).sum(1)
    np.testing.assert_allclose(log_w, expected, rtol=1e-4, atol=1e-4)


@jax.jit
def _tuned(pilots, rows, betas):
    sizes = annealing.tune(path_of(pilots), pilots, betas, 3)
    return sizes, annealing.weigh(path_of(rows), rows, betas, sizes)


def test_the_mean_weight_is_the_integral(rows):
    sizes, log_w = _tuned(example_keys(60, seed=1), rows, annealing.schedule(30))
    assert sizes.shape == (29, 3)
    w = np.exp(np.float64(log_w))
    error = w.std() / np.sqrt(ROWS)
    assert error < 0.15
    assert abs(w.mean() - np.exp(LOG_Z)) < 4 * error


@pytest.mark.parametrize("beta", mostly_slow([0.5, 0.0, 1.0]))
def test_a_transition_leaves_its_density_as_it_is(beta):
    """The product of Gaussians to the powers 1 - beta and beta; a step too large for half of the proposals."""
    n = 4000
    precision = (1 - beta) + beta / WIDTH**2
    mean, std = beta * CENTER / WIDTH**2 / precision, precision**-0.5
    keys = example_keys(n, seed=2)
    z = jnp.float32(mean + std * np.random.default_rng(0).normal(size=(n, 2)))
    path = path_of(keys)
    moved, start, end, chance = jax.jit(
        lambda z: annealing._move(path, z, path.start(z), path.end(z), keys, beta, 1.7 * std.min() * jnp.ones(n))
    )(z)
    assert 0.2 < chance.mean() < 0.97
    assert 0.2 < (moved != z).all(1).mean() < 0.97
    for i in range(2):
        assert kstest((np.float64(moved[:, i]) - mean[i]) / std[i], "norm").pvalue > 1e-3
        assert abs(np.corrcoef(moved[:, i], z[:, i])[0, 1]) < 0.9
    np.testing.assert_allclose(start, path.start(moved), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(end, path.end(moved), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_step_sizes_find_the_wanted_acceptance():
    keys, betas = example_keys(40, seed=3), annealing.schedule(200)
    sizes = jax.jit(lambda: annealing.tune(path_of(keys), keys, betas, 1))()
    chances = []
    for i in range(100, 199):
        precision = (1 - betas[i + 1]) + betas[i + 1] / WIDTH**2
        z = betas[i + 1] * CENTER / WIDTH**2 / precision + precision**-0.5 * np.random.default_rng(i).normal(
            size=(40, 2)
        )
        path = path_of(keys)
        z = jnp.float32(z)
        chances.append(_chance(path.start(z), path.end(z), z, keys, betas[i + 1], sizes[i]))
    assert np.mean(chances) == pytest.approx(annealing.ACCEPTED, abs=0.1)


@jax.jit
def _chance(start, end, z, keys, beta, size):
    return annealing._move(path_of(keys), z, start, end, keys, beta, jnp.tile(size, 40))[3].mean()


# Probabilistic PCA.


@pytest.fixture(scope="module")
def loose():
    """A run whose posterior is wrong, which annealing from the prior does not read."""
    return principal(posterior="diagonal", exact=False)


def check_agreement(found, exact):
    """Raises AssertionError unless estimates are within their errors of the exact values, one by one and on average."""
    off, error = found.log_likelihood - exact, found.standard_error
    assert np.median(error) < 0.2
    assert np.percentile(np.abs(off) / error, 95) < 4
    assert abs((off + error**2 / 2).mean()) < 4 * np.linalg.norm(error) / len(off)  # the logarithm's bias


ESTIMATES = {
    "importance": lambda run, x: run.density.estimate(x, 500),
    "annealed": lambda run, x: run.density.anneal(x, 100, 16),
    "annealed from the posterior": lambda run, x: run.density.anneal(x, 30, 16, start="posterior"),
}


@pytest.mark.parametrize("kind", mostly_slow(list(ESTIMATES), "annealed"))
def test_estimates_agree_with_the_exact_likelihood(loose, kind):
    run, true = loose
    x = data_of(true, 150)
    check_agreement(ESTIMATES[kind](run, x), true.logpdf(x))


WRONG_LIKELIHOODS = {
    "constant": lambda nll: nll + 0.01,
    "unnormalized": lambda nll: nll - np.log(SCALE * np.sqrt(2 * np.pi)),
    "scale": lambda nll: 1.05 * nll,
}
WRONG_PRIORS = {"constant": (0.05, 1.0), "scale": (0.0, 1.1)}
READING_PRIORS = ("importance", "annealed from the posterior")  # from the prior, its constants cancel


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG_LIKELIHOODS)
@pytest.mark.parametrize("kind", ESTIMATES)
def test_a_likelihood_that_is_off_does_not_agree(wrong, kind, monkeypatch):
    """What the test above is worth, as that of priors below: each of these changes fails it."""
    nll = Gaussian.nll
    monkeypatch.setattr(Gaussian, "nll", lambda *args, **more: WRONG_LIKELIHOODS[wrong](nll(*args, **more)))
    _check_disagreement(kind)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG_PRIORS)
@pytest.mark.parametrize("kind", READING_PRIORS)
def test_a_prior_that_is_off_does_not_agree(wrong, kind, monkeypatch):
    log_prob, (constant, scale) = StandardNormal.log_prob, WRONG_PRIORS[wrong]
    monkeypatch.setattr(StandardNormal, "log_prob", lambda prior, z: log_prob(prior, z / scale) + constant)
    _check_disagreement(kind)


def _check_disagreement(kind):
    run, true = principal(posterior="diagonal", exact=False)  # with programs of its own
    x = data_of(true, 150)
    with pytest.raises(AssertionError):
        check_agreement(ESTIMATES[kind](run, x), true.logpdf(x))


@pytest.mark.slow
@pytest.mark.parametrize("start", density.STARTS)
def test_more_steps_lower_the_variance(loose, start):
    run, true = loose
    x = data_of(true, 60)
    found = [run.density.anneal(x, steps, 8, start=start) for steps in (1, 10, 100, 1000)]
    errors = [np.square(each.log_likelihood - true.logpdf(x)).mean() ** 0.5 for each in found]
    assert all(b < 0.7 * a for a, b in itertools.pairwise(errors))
    assert errors[-1] < 0.12
    effective = [each.effective_samples.mean() for each in found]
    assert effective == sorted(effective)
    assert effective[-1] > 7


@pytest.mark.slow
def test_the_standard_error_is_the_spread_over_seeds(loose):
    run, true = loose
    x = data_of(true, 20)
    found = [run.density.anneal(x, 60, 32, seed) for seed in range(40)]
    spread = np.std([each.log_likelihood for each in found], 0, ddof=1)
    predicted = np.mean([each.standard_error for each in found], 0)
    assert 0.8 < np.median(spread / predicted) < 1.25
    weights = np.exp(np.stack([each.log_likelihood for each in found]) - true.logpdf(x))  # unbiased, unlike their logs
    error = weights.std(0, ddof=1) / np.sqrt(len(found))
    assert np.abs((weights.mean(0) - 1) / error).max() < 4
    assert abs((weights.mean(0) - 1).sum()) < 4 * np.linalg.norm(error)


@pytest.mark.slow
def test_an_example_does_not_depend_on_chunks_or_on_the_others(loose, monkeypatch):
    run, true = loose
    x = data_of(true, 7)
    whole = run.density.anneal(x, 5, 6)
    for rows in (12, 4):  # fewer examples at once, and fewer chains
        monkeypatch.setattr(batches, "VALUES", rows * 5)
        found = run.density.anneal(x[[3, 1]], 5, 6)
        for a, b in zip(found, whole, strict=True):
            np.testing.assert_allclose(a, b[[3, 1]], rtol=1e-3, atol=1e-3)
    assert np.abs(run.density.anneal(x, 5, 6, seed=1).log_likelihood - whole.log_likelihood).min() > 0


@pytest.mark.slow
def test_chains_of_images_of_latents_agree_with_samples_of_the_prior():
    config = conv()
    config.bottleneck = module("spatial_gaussian", features=1)
    config.likelihood = module("continuous_bernoulli")
    x = np.random.default_rng(0).random((6, 4, 4, 1)).astype(np.float32)
    run = fresh(config, x)
    z = np.random.default_rng(1).normal(size=(20_000, 2, 2, 1)).astype(np.float32)
    decoded = run.model.apply(run.variables, z, method="decode")
    log_p = [-np.float64(run.likelihood.nll(decoded, one)).sum((1, 2, 3)) for one in x]
    check_agreement(run.density.anneal(x, 100, 16), logsumexp(log_p, 1) - np.log(len(z)))


@pytest.mark.slow
def test_binary_values_agree_with_the_sum_over_a_grid():
    config = mlp()
    config.bottleneck, config.likelihood = (
        module("gaussian", features=2, prior="vamp", components=3),
        module("bernoulli"),
    )
    x = (np.random.default_rng(0).random((20, 4, 4, 1)) > 0.5).astype(np.float32)
    run = fresh(config, x)
    for layer in run.variables["params"]["decoder"].values():
        layer["kernel"] *= 3  # or the code would say nothing
    grid = np.stack(np.meshgrid(*[np.linspace(-8, 8, 161)] * 2), -1).reshape(-1, 2).astype(np.float32)
    log_p = np.float64(run.model.apply(run.variables, method="prior").log_prob(grid)) + 2 * np.log(0.1)
    logits = np.float64(run.model.apply(run.variables, grid, method="decode")).reshape(len(grid), -1)
    exact = logsumexp(log_p + x.reshape(20, -1) @ logits.T - np.logaddexp(0, logits).sum(1), 1)
    check_agreement(run.density.anneal(x, 100, 16), exact)


# Evaluation.


@pytest.mark.slow
def test_annealing_is_measured_where_steps_are_given(loose):
    run, true = loose
    x = data_of(true, 60)
    found = likelihood.measure(subject_of(run, x), samples=2, anneal=50, chains=8)
    estimate = run.density.anneal(x, 50, 8)
    assert found["annealed_log_likelihood"].value == pytest.approx(estimate.log_likelihood.mean(), rel=1e-5)
    error = np.linalg.norm(estimate.standard_error) / 60
    assert found["annealed_log_likelihood_error"].value == pytest.approx(error, rel=1e-5)
    assert found["effective_chains"].value == pytest.approx(np.median(estimate.effective_samples), rel=1e-5)
    assert (
        "8 chains of annealed importance sampling, 50 steps from the prior" in found["annealed_log_likelihood"].protocol
    )
    without = likelihood.measure(subject_of(run, x), samples=2)
    assert found.keys() - without.keys() == {
        "annealed_log_likelihood",
        "annealed_log_likelihood_error",
        "effective_chains",
    }


@pytest.mark.parametrize(("chains", "warned"), [(7, False), (8, True)])
def test_few_effective_chains_of_many_are_warned_of(chains, warned):
    few, enough = (density.Estimate(np.zeros(3), np.array([1.0, n, 9.0]), np.zeros(3)) for n in (1.5, 2.0))
    warning = pytest.warns(UserWarning, match="1.5 effective of 8 chains.* take more steps than 30")
    with warning if warned else contextlib.nullcontext():
        density.warn_of_few(few, chains, 30)
    density.warn_of_few(enough, chains, 30)


@pytest.mark.parametrize("name", ["steps", "chains"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True])
def test_steps_and_chains_are_counts(loose, name, value):
    with pytest.raises(aejax.InputError, match=f"{name} must be a whole number above 0, got {value!r}"):
        loose[0].density.anneal(vectors(3, 5), **{name: value})
    option = {"steps": "anneal"}.get(name, name)
    with pytest.raises(aejax.InputError, match=f"{option}.* must be a whole number above 0, got {value!r}"):
        likelihood.measure(subject_of(loose[0], vectors(3, 5)), **{option: value})


@pytest.mark.parametrize(
    ("bottleneck", "name", "start", "reason"),
    [
        (module("gaussian", features=2), "squared_error", "prior", "is an error without a density"),
        (module("gumbel", codes=4), "gaussian", "prior", "no densities of its code"),
        (module("dense", features=2), "gaussian", "prior", "'dense' has a deterministic code"),
        (module("gaussian", features=2, posterior="planar"), "gaussian", "posterior", "which a flow has not"),
        (module("gaussian", features=2), "gaussian", "q", "start 'q' is unknown; choose one of: posterior, prior"),
    ],
)
def test_what_cannot_be_annealed_is_one_line(bottleneck, name, start, reason):
    config = mlp()
    config.bottleneck, config.likelihood = bottleneck, module(name)
    x = vectors(8)
    run = fresh(config, x)
    with pytest.raises(aejax.InputError, match=reason):
        run.density.anneal(x, start=start)
