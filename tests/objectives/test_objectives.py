"""Likelihoods against scipy and quadrature, the weighted sum, schedules and corruption."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from conftest import context, example_keys
from scipy.special import expit

import aejax
from aejax.objectives import LIKELIHOODS, Corruption, Objective
from aejax.objectives.likelihoods import (
    AbsoluteError,
    Bernoulli,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
    SquaredError,
)
from aejax.objectives.schedules import cyclical, linear


def decoded_and_x(seed, shape=(4, 2, 3, 1)):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape).astype(np.float32), rng.uniform(size=shape).astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_bernoulli_is_the_log_probability_in_nats(seed):
    logits, x = decoded_and_x(seed)
    logits, x = 3 * logits, np.round(x)
    expected = -scipy.stats.bernoulli.logpmf(x.astype(int), expit(logits)).reshape(4, -1).sum(1)
    terms = Objective(Bernoulli())(context(x, logits))
    np.testing.assert_allclose(terms["reconstruction"], expected, rtol=1e-4)
    np.testing.assert_allclose(Objective(Bernoulli()).mean(logits), expit(logits), rtol=1e-5)


def test_bernoulli_stays_finite_far_out():
    terms = Objective(Bernoulli())(context([[0.0, 1.0]], jnp.array([[1e4, -1e4]])))
    np.testing.assert_allclose(terms["loss"], [2e4])


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_gaussian_and_laplace_are_densities_of_that_scale(seed, scale):
    decoded, x = decoded_and_x(seed)
    np.testing.assert_allclose(
        Gaussian(scale).nll(decoded, x), -scipy.stats.norm.logpdf(x, decoded, scale), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        Laplace(scale).nll(decoded, x), -scipy.stats.laplace.logpdf(x, decoded, scale), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("likelihood", "density"), [(Gaussian, scipy.stats.norm), (Laplace, scipy.stats.laplace)])
def test_learned_and_optimal_scales(likelihood, density):
    decoded, x = decoded_and_x(0)
    learned = likelihood(2.0, "learned").nll(decoded, x, jnp.log(0.25))
    np.testing.assert_allclose(learned, -density.logpdf(x, decoded, 0.5), rtol=1e-4, atol=1e-5)
    _, best = density.fit((x - decoded).ravel(), floc=0)  # the maximum of the likelihood, by scipy
    optimal = likelihood(variance="optimal").nll(decoded, x)
    np.testing.assert_allclose(optimal, -density.logpdf(x, decoded, best), rtol=1e-3, atol=1e-4)
    assert np.isfinite(likelihood(variance="optimal").nll(x, x)).all()


@pytest.mark.parametrize("logit", [-8.0, -1.0, -0.11, -0.09, 0.0, 1e-4, 0.3, 30.0])
def test_continuous_bernoulli_is_a_density_with_its_mean(logit):
    likelihood, l = ContinuousBernoulli(), jnp.float32(logit)  # noqa: E741
    grid = np.linspace(0, 1, 20_001)
    density = np.exp(-np.asarray(likelihood.nll(l, jnp.asarray(grid, jnp.float32)), np.float64))
    assert scipy.integrate.simpson(density, x=grid) == pytest.approx(1, abs=2e-4)
    assert float(likelihood.mean(l)) == pytest.approx(scipy.integrate.simpson(grid * density, x=grid), abs=2e-4)
    assert np.isfinite(jax.grad(lambda v: likelihood.nll(v, jnp.float32(0.3)))(l))


@pytest.mark.parametrize("scale", [0.001, 0.05, 1.0])
@pytest.mark.parametrize("mean", [-0.2, 0.0, 0.5, 1.1])
def test_discretised_logistic_is_a_distribution_over_256_levels(mean, scale):
    levels = jnp.arange(256) / 255
    nll = DiscretizedLogistic(scale).nll(jnp.full(256, mean), levels)
    assert np.isfinite(nll).all()
    assert float(jnp.exp(-nll).sum()) == pytest.approx(1, abs=1e-3)
    edges = (np.arange(257) - 0.5) / 255
    edges[0], edges[-1] = -np.inf, np.inf
    expected = np.diff(scipy.stats.logistic.cdf(edges, mean, scale))
    seen = expected > 1e-3
    np.testing.assert_allclose(np.exp(-nll)[seen], expected[seen], rtol=1e-2)  # float32 near the levels' edges


def test_squared_and_absolute_error_are_summed_over_values_and_kept_per_example():
    x = jnp.arange(12.0).reshape(2, 2, 3, 1)
    terms = Objective(SquaredError())(context(x, jnp.zeros((2, 2, 3, 1))))
    np.testing.assert_array_equal(terms["loss"], [55, 451])  # sums of squares of 0..5 and of 6..11
    np.testing.assert_array_equal(Objective(AbsoluteError())(context(x, jnp.zeros_like(x)))["loss"], [15, 51])


@pytest.mark.slow
def test_every_likelihood_prefers_its_own_mean_at_the_input():
    x = jnp.full((1, 3), 0.5)
    for name, likelihood in LIKELIHOODS.items():
        loss = likelihood()
        if name in ("beta", "mixed") or loss.levels or loss.decoded_shape((1, 1, 3)) != (1, 1, 3):  # decodes no x
            continue
        at = jnp.zeros_like(x) if "bernoulli" in name else x  # logits
        near, far = (loss.nll(at + d, x).sum() for d in (0.0, 0.5))
        assert near < far, name
        np.testing.assert_allclose(loss.mean(at), x, atol=1e-6, err_msg=name)


def test_hidden_patches_alone_count_where_there_is_a_mask():
    x = jnp.arange(32.0).reshape(2, 4, 4, 1)
    mask = jnp.array([[[1.0, 0], [0, 0]], [[0, 0], [0, 1]]])
    loss = Objective(SquaredError())(context(x, jnp.zeros_like(x), mask=mask))["loss"]
    np.testing.assert_array_equal(loss, [np.square(x[0, :2, :2]).sum(), np.square(x[1, 2:, 2:]).sum()])


def test_terms_are_weighted_and_logged_unweighted():
    z = jnp.array([[1.0, -2.0], [0.0, 4.0]])
    objective = Objective(SquaredError(), {"l1": 0.5, "mine": 3.0, "reconstruction": 2.0})
    terms = objective(context(jnp.ones((2, 3)), jnp.zeros((2, 3)), z, losses={"mine": jnp.array([1.0, 2.0])}))
    np.testing.assert_array_equal(terms["l1"], [3, 4])
    np.testing.assert_array_equal(terms["mine"], [1, 2])
    np.testing.assert_array_equal(terms["reconstruction"], [3, 3])
    np.testing.assert_array_equal(terms["loss"], [6 + 1.5 + 3, 6 + 2 + 6])


def test_a_discriminators_terms_are_weighted_too():
    terms = Objective(SquaredError(), {"fooled": 2.0})(context(jnp.ones((2, 3))), {"fooled": jnp.array([1.0, 3.0])})
    np.testing.assert_array_equal(terms["loss"], [2, 6])


@pytest.mark.parametrize("scheduled", ["l1", "reconstruction"])
def test_schedules_multiply_the_weight_and_are_over_in_evaluation(scheduled):
    schedule = {"name": "linear", "steps": 10}
    c = lambda step: context(jnp.ones((1, 3)), jnp.zeros((1, 3)), jnp.array([[1.0, 2.0]]), step=step)  # noqa: E731
    weights = {"l1": 2.0, "reconstruction": 4.0}
    of = lambda **changed: Objective(SquaredError(), {**weights, **changed})(c(None))["loss"][0]  # noqa: E731
    without = of(**{scheduled: 0.0})
    objective = Objective(SquaredError(), weights, schedules={scheduled: schedule})
    for step in (0, 5, 10, 99, None):
        step = None if step is None else jnp.array(step)
        expected = without + linear(step, 10) * (of() - without)
        assert float(objective(c(step))["loss"][0]) == pytest.approx(float(expected))


def test_cyclical_goes_up_and_starts_again():
    steps = jnp.arange(24)
    expected = [min((s % 5) / 5 / 0.4, 1.0) if s < 20 else 1.0 for s in range(24)]
    np.testing.assert_allclose(cyclical(steps, 20, cycles=4, ratio=0.4), expected, atol=1e-5)
    whole = np.where(steps < 20, steps % 5 / 5, 1)  # a cycle that rises to its end
    np.testing.assert_allclose(cyclical(steps, 20, cycles=4, ratio=1), whole, atol=1e-5)
    np.testing.assert_allclose(linear(steps, 10), np.minimum(np.arange(24) / 10, 1))


def test_unknown_terms_options_and_schedules_are_named():
    c = context(jnp.zeros((1, 2)))
    with pytest.raises(aejax.InputError, match=r"term 'l2' is unknown; choose one of: .*code_l2"):
        Objective(SquaredError(), {"l2": 1.0})(c)
    with pytest.raises(aejax.InputError, match=r"options.l1: option 'c' is unknown; choose one of: decoder_norms$"):
        Objective(SquaredError(), {"l1": 1.0}, options={"l1": {"c": 1}})(c)
    with pytest.raises(aejax.InputError, match=r"options.mmd: option 'kernal' is unknown; did you mean 'kernel'"):
        Objective(SquaredError(), {"mmd": 1.0}, options={"mmd": {"kernal": "rbf"}})(c)
    with pytest.raises(aejax.InputError, match=r"schedules.l1.name 'lin' is unknown"):
        Objective(SquaredError(), {"l1": 1.0}, schedules={"l1": {"name": "lin", "steps": 1}})
    with pytest.raises(aejax.InputError, match=r"objective.schedules.kl is there but objective.weights.kl is not"):
        Objective(SquaredError(), {}, schedules={"kl": {"name": "linear", "steps": 1}})
    with pytest.raises(aejax.InputError, match=r"steps must be a whole number above 0, got 0"):
        Objective(SquaredError(), {"l1": 1.0}, schedules={"l1": {"name": "linear", "steps": 0}})
    with pytest.raises(aejax.InputError, match=r"objective.bound.name 'iwa' is unknown; did you mean 'iwae'"):
        Objective(SquaredError(), bound={"name": "iwa"})
    with pytest.raises(aejax.InputError, match=r"weights.reconstruction has no effect beside objective.bound;"):
        Objective(SquaredError(), {"reconstruction": 2.0}, bound={"name": "iwae"})


@pytest.mark.parametrize("cls", [Gaussian, Laplace, DiscretizedLogistic])
@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_scales_must_be_above_zero(cls, scale):
    with pytest.raises(aejax.InputError, match=r"likelihood.scale must be above 0"):
        cls(scale)


def test_variances_must_exist():
    with pytest.raises(aejax.InputError, match=r"likelihood.variance 'learnt' is unknown; did you mean 'learned'"):
        Gaussian(variance="learnt")
    with pytest.raises(aejax.InputError, match="choose 'learned'"):
        DiscretizedLogistic(variance="optimal")


@pytest.mark.parametrize("name", ["gaussian", "masking", "salt_and_pepper"])
def test_noise_belongs_to_the_example_and_the_key(name):
    corrupt = Corruption(name, 0.4)
    x, keys = jnp.full((8, 50), 0.5), example_keys(8)
    noisy = corrupt(keys, x)
    np.testing.assert_array_equal(corrupt(keys[3:5], x[3:5]), noisy[3:5])
    assert jnp.any(noisy[0] != noisy[1])
    assert jnp.any(corrupt(example_keys(8, seed=1), x) != noisy)


def test_noise_has_its_level():
    x, keys = jnp.full((200, 100), 0.5), example_keys(200)
    masked = Corruption("masking", 0.3)(keys, x)
    assert set(np.unique(masked)) == {0, 0.5}
    assert abs(float((masked == 0).mean()) - 0.3) < 0.02  # four standard deviations of a fraction of 20,000
    noise = Corruption("gaussian", 0.3)(keys, x) - x
    assert abs(float(noise.std()) - 0.3) < 0.01
    assert abs(float(noise.mean())) < 0.01
    salted = Corruption("salt_and_pepper", 0.3)(keys, x)
    for value in (0, 1):
        assert abs(float((salted == value).mean()) - 0.15) < 0.015
    np.testing.assert_array_equal(Corruption()(keys, x), x)


@pytest.mark.parametrize(
    ("name", "level"),
    [("masking", 1.0), ("salt_and_pepper", 1.0), ("gaussian", -1.0), ("gaussian", 0.0), ("salt", 0.1)],
)
def test_corruption_checks_its_level(name, level):
    with pytest.raises(aejax.InputError, match=r"corruption"):
        Corruption(name, level)


@pytest.mark.parametrize(
    ("objective", "late"),
    [
        ({"weights": {"l1": 1.0}, "schedules": {"l1": {"name": "linear", "steps": 9}}}, {"schedules.l1": 9}),
        ({"weights": {"l1": 1.0}, "schedules": {"l1": {"name": "cyclical", "steps": 8}}}, {}),
        ({"weights": {"capacity": 1.0}}, {"options.capacity": 10_000}),
        ({"weights": {"capacity": 1.0}, "options": {"capacity": {"steps": 8}}}, {}),
    ],
)
def test_schedules_that_outlast_training_are_named(objective, late):
    found = Objective(SquaredError(), **objective).unfinished(8)
    assert found == {f"objective.{key}.steps": steps for key, steps in late.items()}
