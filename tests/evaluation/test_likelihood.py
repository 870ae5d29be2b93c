"""Bounds of log p(x) against closed forms, sums written out, and integrals over a grid of the code."""

import contextlib
import dataclasses
import gc
import math
import weakref

import jax
import numpy as np
import pytest
from conftest import fresh, mlp, mostly_slow, subject_of, vectors
from principal import MEAN, SCALE, data_of, principal
from scipy.special import logsumexp
from scipy.stats import norm

import aejax
from aejax.config import module
from aejax.data import Spec
from aejax.evaluation import Measure, Skipped, likelihood
from aejax.inference import batches
from aejax.inference.density import Estimate, warn_of_few


@pytest.fixture(scope="module")
def exact():
    return principal()


@pytest.fixture(scope="module")
def loose():
    return principal(posterior="diagonal", exact=False)


def test_one_sample_of_the_exact_posterior_is_log_p(exact):
    run, true = exact
    x = data_of(true)
    for seed in range(3):
        np.testing.assert_allclose(run.log_likelihood(x, 1, seed), true.logpdf(x), atol=2e-4)
        np.testing.assert_allclose(run.log_likelihood(x, 7, seed), true.logpdf(x), atol=2e-4)


@pytest.mark.slow
def test_more_samples_tighten_the_bound_up_to_log_p(loose):
    run, true = loose
    x = data_of(true, 400)
    gaps = [(true.logpdf(x) - run.log_likelihood(x, k)).mean() for k in (1, 4, 16, 1000)]
    assert gaps[0] > 1.5 * gaps[1] > 2 * gaps[2] > 0
    np.testing.assert_allclose(run.log_likelihood(x, 1000), true.logpdf(x), atol=0.5)
    assert abs(gaps[3]) < 0.01
    # Of another seed's draws, the same in the mean and not one by one.
    other = run.log_likelihood(x, 4, seed=1)
    assert (true.logpdf(x) - other).mean() == pytest.approx(gaps[1], abs=0.2)
    assert np.abs(other - run.log_likelihood(x, 4)).min() > 0


def written_out(run, x, samples, seed):
    """log w [samples, n] in float64, one draw after another, of a diagonal posterior."""
    params = jax.tree.map(np.float64, run.variables["params"])
    layer = lambda x, p: x @ p["kernel"] + p["bias"]  # noqa: E731
    mean, std = layer(x, params["bottleneck"]["mean"]), np.exp(layer(x, params["bottleneck"]["log_std"]))
    keys = run.density.arrays(x, seed, None)[1]
    log_w = np.empty((samples, len(x)))
    for k in range(samples):
        for i in range(len(x)):
            z = mean[i] + std[i] * np.float64(jax.random.normal(jax.random.fold_in(keys[i], k), (2,)))
            log_w[k, i] = norm(layer(z, params["decoder"]["dense_0"]), SCALE).logpdf(x[i]).sum()
            log_w[k, i] += norm.logpdf(z).sum() - norm(mean[i], std[i]).logpdf(z).sum()
    return log_w


@pytest.mark.parametrize("rows", mostly_slow([4, 1000]))
def test_the_count_is_exact_whatever_the_chunk(loose, rows, monkeypatch):
    run, true = loose
    monkeypatch.setattr(batches, "VALUES", rows * 5)
    x = data_of(true, 3, seed=5)
    log_w = written_out(run, x, 13, seed=2)
    for samples in (1, 3, 13):  # below the chunk, and prime above it
        expected = logsumexp(log_w[:samples], 0) - math.log(samples)
        np.testing.assert_allclose(run.log_likelihood(x, samples, seed=2), expected, atol=1e-4)
        w = np.exp(log_w[:samples] - log_w.max())
        found = run.density.estimate(x, samples, seed=2)
        np.testing.assert_allclose(found.effective_samples, w.sum(0) ** 2 / (w**2).sum(0), rtol=1e-3)
        relative = w.std(0, ddof=1) / w.mean(0) / math.sqrt(samples) if samples > 1 else np.zeros(3)
        np.testing.assert_allclose(found.standard_error, relative, rtol=1e-2, atol=2e-3)


@pytest.mark.slow
def test_the_standard_error_is_the_spread_over_seeds(loose):
    run, true = loose
    x = data_of(true, 20)
    found = [run.density.estimate(x, 500, seed) for seed in range(60)]
    spread = np.std([each.log_likelihood for each in found], 0, ddof=1)
    predicted = np.mean([each.standard_error for each in found], 0)
    assert 0.8 < np.median(spread / predicted) < 1.2
    assert (np.mean([each.effective_samples for each in found], 0) < 400).all()


def test_all_samples_of_the_exact_posterior_are_effective(exact):
    run, true = exact
    found = run.density.estimate(data_of(true), 50)
    np.testing.assert_allclose(found.effective_samples, 50, rtol=1e-2)
    assert found.standard_error.max() < 0.02


@pytest.mark.parametrize(("samples", "warned"), [(49, False), (50, True)])
def test_few_effective_samples_of_many_are_warned_of(samples, warned):
    few, enough = (Estimate(np.zeros(3), np.array([1.0, n, 9.0]), np.zeros(3)) for n in (1.5, 2.0))
    with pytest.warns(UserWarning, match="1.5 effective of 50") if warned else contextlib.nullcontext():
        warn_of_few(few, samples)
    warn_of_few(enough, samples)


@pytest.mark.slow
def test_every_door_warns_of_few_effective_samples():
    """A posterior of a tenth of the true width, far from the true mean."""
    run, true = principal(posterior="diagonal")
    run.variables["params"]["bottleneck"]["mean"]["bias"] += 20
    run.variables["params"]["bottleneck"]["log_std"]["bias"] -= 2
    x = 4 * data_of(true, 20)
    with pytest.warns(UserWarning, match="effective of 50 importance samples.* take more samples than 50"):
        run.log_likelihood(x, 50)
    with pytest.warns(UserWarning, match="effective of 50 importance samples"):
        run.evaluate(x, groups=["likelihood"], options={"likelihood": {"samples": 50}})
    with pytest.warns(UserWarning, match="effective of 64 chains.* take more steps than 1"):
        run.evaluate(x, groups=["likelihood"], options={"likelihood": {"samples": 2, "anneal": 1, "chains": 64}})


@pytest.mark.slow
def test_an_example_does_not_depend_on_chunks_or_on_the_others(loose, monkeypatch):
    run, true = loose
    x = data_of(true, 37)
    functions = (lambda x: run.log_likelihood(x, 29), lambda x: run.elbo(x))
    whole = [function(x) for function in functions]
    some = np.array([30, 2, 11])
    for rows in (12, 1):
        monkeypatch.setattr(batches, "VALUES", rows * 5)
        for function, found in zip(functions, whole, strict=True):
            np.testing.assert_allclose(function(x[some]), found[some], atol=2e-5)
            np.testing.assert_allclose(function(x[::-1]), found[::-1], atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_the_elbo_is_rate_and_distortion_with_weight_one(loose, seed):
    run, true = loose
    x = data_of(true, 5)
    posterior = run.model.apply(run.variables, x, method="encode").posterior
    mean, variance = np.float64(posterior.mean), np.exp(2 * np.float64(posterior.log_std))
    kl = 0.5 * (mean**2 + variance - 1 - np.log(variance)).sum(1)
    found = run.density.parts(x, seed)
    np.testing.assert_allclose(found.rate, kl, rtol=1e-5)
    keys = run.density.arrays(x, seed, None)[1]
    noise = np.stack([jax.random.normal(jax.random.fold_in(key, 0), (2,)) for key in keys])
    expected = norm(run.decode(mean + np.sqrt(variance) * noise), SCALE).logpdf(x).sum(1)
    np.testing.assert_allclose(found.distortion, -expected, rtol=1e-4)
    np.testing.assert_allclose(run.elbo(x, seed), expected - kl, rtol=1e-4)


def test_a_run_measures_examples_that_it_is_given(exact):
    run, true = exact
    x = data_of(true, 50)
    found = run.evaluate(x, groups=["likelihood", "representation"], options={"likelihood": {"samples": 2}})
    assert list(found) == ["likelihood", "representation"]
    assert found["likelihood"]["log_likelihood"].value == pytest.approx(true.logpdf(x).mean(), abs=1e-3)
    assert found["likelihood"]["elbo"].value == pytest.approx(run.elbo(x).mean(), rel=1e-6)
    assert "mean over 50 examples of the given data" in found["likelihood"]["elbo"].protocol
    labeled = run.evaluate(x, np.arange(50) % 2, groups=["representation"])["representation"]
    assert "needs another part to be scored on" in labeled["linear_probe_accuracy"].reason
    with pytest.raises(aejax.InputError, match=r"the run reads examples of \(5,\), but the given data holds \(4,\)"):
        run.evaluate(x[:, :4])
    with pytest.raises(aejax.InputError, match="evaluation group 'likelihod' is unknown; did you mean 'likelihood'"):
        run.evaluate(x, groups=["likelihod"])
    with pytest.raises(aejax.InputError, match="evaluation option of likelihood 'subject' is unknown"):
        run.evaluate(x, groups=["likelihood"], options={"likelihood": {"subject": run}})


# A model's log p(x) by an integral over a grid of its code, which knows no posterior.

GRID = np.stack(np.meshgrid(*[np.linspace(-7, 7, 141)] * 2), -1).reshape(-1, 2).astype(np.float32)


def integral(run, x, label=None, **scale):
    likelihood_ = dataclasses.replace(run.likelihood, variance="fixed", **scale)
    log_p = np.asarray(run.model.apply(run.variables, method="prior").log_prob(GRID)) + 2 * math.log(0.1)
    result = []
    for i in range(len(x)):
        given = {} if label is None else {"label": np.full(len(GRID), label[i])}
        decoded = run.model.apply(run.variables, GRID, method="decode", **given)
        nll = likelihood_.nll(decoded, x[i : i + 1]).reshape(len(GRID), -1).sum(1)
        result.append(logsumexp(log_p - np.float64(nll)))
    return np.array(result)


KINDS = {
    "iaf": {"posterior": "iaf"},
    "planar": {"posterior": "planar"},
    "full": {"posterior": "full", "prior": "mixture", "components": 3},
    "vamp": {"prior": "vamp", "components": 3},
    "several samples": {"samples": 3},
    "conditional": {},
    "learned": {},
    "optimal": {},
    "laplace": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_reaches_its_integral(kind):
    config = mlp(classes=3 if kind == "conditional" else 0)
    config.bottleneck = module("gaussian", features=2, **KINDS[kind])
    name = "laplace" if kind == "laplace" else "gaussian"
    config.likelihood = module(name, scale=2.0, variance=kind if kind in ("learned", "optimal") else "fixed")
    x = vectors(20, seed=3)
    label = np.arange(20) % 3 if config.classes else None
    run = fresh(config, x)
    bottleneck = run.variables["params"]["bottleneck"]  # no narrower than the true posterior
    for part, factor in {"mean": 0.3, "log_std": 0.0, "off_diagonal": 0.1}.items():
        if part in bottleneck:
            bottleneck[part]["kernel"] *= factor
    scale = {"learned": 2 * math.exp(0.4), "optimal": 1.7}.get(kind, 2.0)
    if kind == "learned":
        run.variables["params"]["log_scale"] = np.float32(0.4)
    given = {"scale": scale} if kind == "optimal" else {}
    expected = integral(run, x, label, scale=scale)
    bound = run.elbo(x, label=label, **given)
    found = run.log_likelihood(x, 2000, label=label, **given)
    np.testing.assert_allclose(found, expected, atol=0.25)
    assert (found - expected).mean() == pytest.approx(0, abs=0.03)
    assert bound.mean() < expected.mean() - 0.03
    annealed = run.density.anneal(x, 100, 16, label=label, **given)
    assert np.abs(annealed.log_likelihood - expected).max() < 5 * annealed.standard_error.max() < 1
    assert (annealed.log_likelihood - expected).mean() == pytest.approx(0, abs=0.05)
    if kind == "conditional":
        group = likelihood.measure(subject_of(run, x, label=label), samples=2000)
        assert group["log_likelihood"].value == pytest.approx(found.mean(), rel=1e-5)
        assert group["elbo"].value == pytest.approx(bound.mean(), rel=1e-5)


# Units.


@pytest.mark.slow
def test_densities_are_those_of_the_users_units():
    """x = 3 y + 2 has the density of y over 3, in each of five values."""
    run, true = principal(spec=Spec((5,), (2.0,) * 5, (3.0,) * 5))
    y = data_of(true)
    np.testing.assert_allclose(run.log_likelihood(3 * y + 2, 3), true.logpdf(y) - 5 * math.log(3), atol=1e-3)
    assert run.elbo(3 * y + 2).mean() == pytest.approx(true.logpdf(y).mean() - 5 * math.log(3), abs=0.5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "power"), [("gaussian", 2), ("laplace", 1)])
def test_the_optimal_scale_is_that_of_the_train_part(name, power):
    """A decoder that says b whatever it reads leaves deviations of x - b."""
    run, true = principal(variance="optimal")
    config = run.config.copy_and_resolve_references().unlock()
    config.likelihood = module(name, variance="optimal")
    run.variables["params"]["decoder"]["dense_0"]["kernel"][:] = 0
    run = dataclasses.replace(run, config=config)
    train, test = data_of(true, 300, seed=1), 2 * data_of(true, 40, seed=2)
    deviation = lambda x: (np.abs(x - MEAN) ** power).mean() ** (1 / power)  # noqa: E731
    assert run.density.optimal_scale(train) == pytest.approx(deviation(train), rel=1e-5)
    found = likelihood.measure(subject_of(run, test, train), samples=2)
    scale = deviation(train)
    log_p = norm(MEAN, scale).logpdf(test) if power == 2 else -np.abs(test - MEAN) / scale - math.log(2 * scale)
    assert found["distortion"].value == pytest.approx(-log_p.sum(1).mean(), rel=1e-5)
    assert f"scale {scale:.4g}, the optimum for 300 examples of train" in found["elbo"].protocol
    alone = -run.density.parts(test).distortion.mean()
    assert alone > log_p.sum(1).mean() + 0.1  # its own scale suits an array better


@pytest.mark.slow
def test_active_units_are_those_whose_mean_moves(exact):
    run, true = exact
    x = data_of(true)
    assert likelihood.measure(subject_of(run, x), samples=1)["active_units"].value == 2
    params = jax.tree.map(np.copy, run.variables["params"])
    params["bottleneck"]["mean"]["kernel"][:, 0] *= 0.09 / np.std(x @ params["bottleneck"]["mean"]["kernel"][:, 0])
    run = dataclasses.replace(run, variables={"params": params})  # a variance of 0.0081
    found = likelihood.measure(subject_of(run, x), samples=1)["active_units"]
    assert found.value == 1
    assert found.unit == "of 2 units"


# What a run cannot have.


@pytest.mark.parametrize(
    ("bottleneck", "name", "measured", "reason"),
    mostly_slow(
        [
            (module("dense", features=2), "squared_error", [], "is an error without a density"),
            (module("dense", features=2), "gaussian", ["distortion"], "'dense' has a deterministic code"),
            (
                module("gaussian", features=2),
                "absolute_error",
                ["rate", "active_units"],
                "is an error without a density",
            ),
            (
                module("gumbel", codes=4),
                "gaussian",
                ["elbo", "rate", "distortion", "bits_per_dimension"],
                "no densities of its code for importance weights",
            ),
        ]
    ),
)
def test_what_a_run_cannot_have_is_skipped_metric_by_metric(bottleneck, name, measured, reason):
    config = mlp()
    config.bottleneck, config.likelihood = bottleneck, module(name)
    x = vectors(20)
    run = fresh(config, x)
    found = likelihood.measure(subject_of(run, x), samples=2)
    assert [metric for metric, m in found.items() if isinstance(m, Measure)] == measured
    assert reason in found["log_likelihood"].reason
    with pytest.raises(aejax.InputError, match=reason):
        run.log_likelihood(x)
    if isinstance(found["elbo"], Skipped):
        with pytest.raises(aejax.InputError, match=found["elbo"].reason):
            run.elbo(x)
    else:
        # KL of a uniform prior over 4 codes, exact; the drawn code's likelihood.
        assert 0 <= found["rate"].value <= math.log(4)
        assert "ELBO" in found["bits_per_dimension"].protocol


@pytest.mark.parametrize("samples", [0, -3, 2.0, True])
def test_samples_are_a_count(exact, samples):
    with pytest.raises(aejax.InputError, match="samples must be a whole number above 0"):
        exact[0].log_likelihood(vectors(3, 5), samples)
    with pytest.raises(aejax.InputError, match="samples must be a whole number above 0"):
        likelihood.measure(subject_of(exact[0], vectors(3, 5)), samples=samples)


@pytest.mark.parametrize("seed", [-1, 1.5, "a", 2**32])
def test_seeds_of_samples_are_those_of_other_methods(exact, seed):
    x = vectors(3, 5)
    estimates = (exact[0].elbo, exact[0].density.estimate, exact[0].density.anneal)
    for estimate in estimates:
        with pytest.raises(aejax.InputError, match="seed must be a whole number from 0"):
            estimate(x, seed=seed)
    with pytest.raises(aejax.InputError, match="seed must be a whole number from 0"):
        exact[0].density.dequantize(x, seed)


def test_samples_are_also_whole_numbers_of_numpy(exact):
    x = vectors(3, 5)
    np.testing.assert_array_equal(exact[0].log_likelihood(x, np.int64(2)), exact[0].log_likelihood(x, 2))


def test_a_scale_is_for_runs_that_have_none(exact):
    with pytest.raises(aejax.InputError, match=r"scale is for likelihood\.variance='optimal'"):
        exact[0].elbo(vectors(3, 5), scale=1.0)


@pytest.mark.slow
def test_a_run_is_freed_with_its_programs():
    run = principal()[0]
    run.log_likelihood(vectors(2, 5), 2)
    kept = weakref.ref(run)
    del run
    gc.collect()
    assert kept() is None
