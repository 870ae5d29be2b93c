"""Likelihoods of counts and columns: against PyTorch, scvi-tools and SciPy over extremes; sums, samples, and runs."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.stats
from conftest import mlp, mostly_slow, one_device, vectors
from scipy.special import expit, softmax

import aejax
from aejax import losses
from aejax.config import module
from aejax.models import Autoencoder, DenseBottleneck, MLPDecoder, MLPEncoder
from aejax.objectives import (
    Bernoulli,
    Beta,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    Laplace,
    Multinomial,
    NegativeBinomial,
    Objective,
    Ordinal,
    Poisson,
    SquaredError,
    StudentT,
    ZeroInflatedNegativeBinomial,
)

REFERENCES = np.load(Path(__file__).with_name("likelihood_references.npz"))
X, LOGS, LOGITS, FRACTIONS = (REFERENCES[key] for key in ("counts", "logs", "logits", "fractions"))
GRID = np.meshgrid(X, LOGS, LOGS, LOGITS, indexing="ij")
T_GRID = np.meshgrid(np.concatenate([-X, X]), LOGS, LOGS, indexing="ij")
BETA_GRID = np.meshgrid(FRACTIONS, LOGS[1:-1], LOGS[1:], indexing="ij")
# The arguments of each function and what libraries return for them.
CALLS = {
    "poisson_nll": (lambda: (GRID[1][..., 0, 0], GRID[0][..., 0, 0]), "poisson"),
    "negative_binomial_nll": (lambda: (GRID[1][..., 0], GRID[0][..., 0], GRID[2][..., 0]), "negative_binomial"),
    "zero_inflated_negative_binomial_nll": (lambda: (GRID[1], GRID[0], *GRID[2:]), "zero_inflated"),
    "student_t_nll": (lambda: (T_GRID[1], T_GRID[0], 0.0, T_GRID[2]), "student_t"),
    "beta_nll": (lambda: (BETA_GRID[1], BETA_GRID[0], BETA_GRID[2]), "beta"),
}


@pytest.mark.parametrize("name", CALLS)
def test_in_float64_they_are_those_of_other_libraries(name):
    """To 1e-6; scvi-tools adds 1e-8 to what it takes logarithms of, so its own are compared where that is little."""
    arguments, key = CALLS[name]
    with jax.enable_x64(True):
        found = -np.asarray(getattr(losses, name)(*map(jnp.asarray, arguments())))
    expected = REFERENCES[key]
    # lgamma(x + t) - lgamma(t) of PyTorch loses digits for the largest inverse dispersions.
    seen = np.isfinite(expected)
    if key == "zero_inflated":
        seen &= (GRID[1] > -2) & (GRID[2] > -2)
    assert seen.mean() > 0.3
    np.testing.assert_allclose(found[seen], expected[seen], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CALLS)
def test_in_float32_values_keep_their_digits_and_gradients_are_finite(name):
    function, arguments = getattr(losses, name), CALLS[name][0]()
    with jax.enable_x64(True):
        exact = np.asarray(function(*(jnp.asarray(np.float64(np.float32(a))) for a in arguments)))
    narrow = tuple(jnp.float32(a) for a in arguments)
    found = np.asarray(function(*narrow))
    # The argument x - m of a deviance is the difference of logarithms, which are rounded themselves.
    scale = {"student_t_nll": lambda m, x, s, d: 0.0, "beta_nll": lambda m, x, c: 0.1 * np.exp(c)}
    size = scale.get(name, lambda m, x, *_: np.abs(x - np.exp(m)))(*arguments)
    np.testing.assert_array_less(np.abs(found - exact), 3e-6 * (1 + np.abs(exact) + size))
    wide = tuple(jnp.clip(a * 4, -40, 40) if i != 1 else a for i, a in enumerate(narrow))
    for values in (narrow, wide):
        which = [i for i in range(len(values)) if i != 1 and values[i].ndim]
        grads = jax.grad(lambda *a: function(*a).sum(), which)(*values)
        assert all(np.isfinite(grad).all() for grad in grads)
        assert np.isfinite(function(*values)).all()


def test_probabilities_sum_to_one():
    x = jnp.arange(4_000.0)
    for log_mean in (-3.0, 0.0, 3.0):
        rows = [losses.poisson_nll(log_mean, x)]
        for log_dispersion in (-0.5, 0.0, 5.0):
            rows.append(losses.negative_binomial_nll(log_mean, x, log_dispersion))
            rows.append(losses.zero_inflated_negative_binomial_nll(log_mean, x, log_dispersion, 0.5))
        np.testing.assert_allclose(np.exp(-np.stack(rows)).sum(1), 1, atol=1e-4)
    ways = jnp.stack([a.ravel() for a in jnp.meshgrid(*[jnp.arange(6.0)] * 3)], -1)
    ways = ways[ways.sum(-1) == 5]
    p = np.exp(-losses.multinomial_nll(jnp.array([0.3, -1.0, 2.0]), ways))
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-5)
    categorical, ordinal = Categorical(4), Ordinal(4)
    for kind in (categorical, ordinal):
        decoded = jnp.float32(np.random.default_rng(0).normal(size=kind.decoded_shape((1,))) * 3)
        p = [np.exp(-kind.nll(decoded, jnp.full(1, k))) for k in range((4.0).__int__())]
        np.testing.assert_allclose(np.sum(p), 1, rtol=1e-5)


def test_densities_integrate_to_one():
    x = np.linspace(-1_000, 1_000, 400_001)
    density = np.exp(-losses.student_t_nll(0.7, jnp.float32(x), jnp.log(0.5), jnp.log(3.0)))
    np.testing.assert_allclose(scipy.integrate.simpson(density, x=x), 1, rtol=1e-4)
    x = np.linspace(0, 1, 20_001)
    density = np.exp(-losses.beta_nll(0.7, jnp.float32(x), jnp.log(7.0)))
    np.testing.assert_allclose(scipy.integrate.simpson(density, x=x), 1, rtol=1e-4)


def test_ordinal_levels_are_differences_of_logistic_functions_and_finite_far_away():
    kind, decoded = Ordinal(3), jnp.array([[-1.0, 0.5], [400.0, -400.0], [-400.0, 400.0]])
    cuts = np.array([-1.0, -1.0 + np.log1p(np.exp(0.5))])
    expected = np.diff(np.concatenate([[0], scipy.stats.logistic.cdf(cuts), [1]]))
    np.testing.assert_allclose(np.exp(kind.logits(decoded[:1]))[0, 0], expected, rtol=1e-5)
    for level in range(3):
        x = jnp.full((3, 1), level)
        assert np.isfinite(kind.nll(decoded, x)).all()
        assert np.isfinite(jax.grad(lambda d, x=x: kind.nll(d, x).sum())(decoded)).all()


@pytest.mark.parametrize(
    ("kind", "decoded", "mean", "variance"),
    [
        (Bernoulli(), [0.5], scipy.stats.bernoulli(0.6225).mean(), 0.6225 * 0.3775),
        (ContinuousBernoulli(), [2.0], 0.65652, 0.06865),
        (ContinuousBernoulli(), [-2.0], 0.34348, 0.06865),
        (Gaussian(scale=2.0), [1.0], 1.0, 4.0),
        (Laplace(scale=2.0), [1.0], 1.0, 8.0),
        (DiscretizedLogistic(scale=0.03), [0.5], 0.5, 0.0009 * np.pi**2 / 3),
        (StudentT(scale=0.5, df=9.0), [1.0], 1.0, 0.25 * 9 / 7),
        (Beta(), [1.0, np.log(5.0)], 0.73106, 0.73106 * 0.26894 / 6),
        (Poisson(), [np.log(3.0)], 3.0, 3.0),
        (NegativeBinomial(), [np.log(3.0)], 3.0, 3 + 9 / 2),
        (NegativeBinomial(dispersion="value"), [np.log(3.0), np.log(0.5)], 3.0, 3 + 9 / 0.5),
        (ZeroInflatedNegativeBinomial(), [np.log(3.0), 0.0], 1.5, 0.5 * 7.5 + 9 / 4),
        (Categorical(3), np.log([0.5, 0.2, 0.3]), 0.8, 0.2 + 1.2 - 0.64),
    ],
)
def test_samples_have_the_moments(kind, decoded, mean, variance):
    n = 40_000
    keys, scale = jax.random.split(jax.random.key(1), n), jnp.log(jnp.full(1, 2.0))
    learned = scale if kind.scale_shape((1,)) else None
    x = np.asarray(jax.jit(jax.vmap(lambda key: kind.draw(key, jnp.float32(decoded), learned)))(keys), np.float64)
    assert x.shape == (n, 1)
    np.testing.assert_allclose(x.mean(), mean, atol=5 * np.sqrt(variance / n))
    np.testing.assert_allclose(x.var(), variance, rtol=0.1)
    if not isinstance(kind, Categorical):
        np.testing.assert_allclose(kind.mean(jnp.float32(decoded)), [mean], rtol=1e-4)


def test_a_sample_of_a_multinomial_has_its_total_and_probabilities():
    kind, p = Multinomial(total=50.0), np.array([0.5, 0.2, 0.3])
    keys = jax.random.split(jax.random.key(0), 5_000)
    x = np.asarray(jax.vmap(lambda key: kind.draw(key, jnp.log(jnp.float32(p))))(keys))
    np.testing.assert_array_equal(x.sum(1), 50)
    np.testing.assert_allclose(x.mean(0), 50 * p, atol=5 * np.sqrt(50 * 0.25 / 5_000))
    np.testing.assert_allclose(kind.mean(jnp.log(jnp.float32(p))), 50 * p, rtol=1e-5)


def test_an_error_has_no_samples():
    with pytest.raises(aejax.InputError, match="SquaredError is an error without a density"):
        SquaredError().draw(jax.random.key(0), jnp.zeros(2))
    with pytest.raises(aejax.InputError, match="fitted to each batch"):
        Gaussian(variance="optimal").draw(jax.random.key(0), jnp.zeros(2))


@pytest.mark.parametrize(
    "kind",
    [
        *(Poisson(library=library) for library in ("none", "observed")),
        *(NegativeBinomial(library, dispersion="value") for library in ("none", "observed")),
        ZeroInflatedNegativeBinomial(),
        Multinomial(),
        Beta(),
        StudentT(),
        Categorical(3),
        Ordinal(3),
    ],
    ids=lambda kind: type(kind).__name__,
)
def test_extremes_of_what_is_decoded_have_finite_gradients(kind):
    width = kind.decoded_shape((2,))[0]
    extremes = np.float32([-1e4, -100.0, 0.0, 100.0, 1e4])
    decoded = jnp.float32(np.random.default_rng(0).choice(extremes, (200, width)))
    x = jnp.tile(jnp.float32([[0.0, 1.0]]), (200, 1))
    scale = jnp.float32([1e4, -1e4]) if kind.scale_shape((2,)) else None
    value, grads = jax.value_and_grad(lambda d: kind.nll(d, x, scale).sum())(decoded)
    assert np.isfinite(value)
    assert np.isfinite(grads).all()


# In runs.


def counts(n=64, features=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.poisson(rng.gamma(1.0, 8.0, (n, 1)) * rng.dirichlet(np.ones(features), n)) + (np.arange(features) == 0)


COUNT_CONFIGS = {
    "poisson": {},
    "negative_binomial": {"dispersion": "value"},
    "zero_inflated_negative_binomial": {"library": "observed"},
    "multinomial": {"total": 20.0},
}


@pytest.fixture(scope="module", params=mostly_slow(COUNT_CONFIGS, "zero_inflated_negative_binomial"))
def run(request):
    config = mlp(
        likelihood=module(request.param, **COUNT_CONFIGS[request.param]), bottleneck=module("gaussian", features=2)
    )
    config.objective.weights = {"kl": 1.0}
    return aejax.fit(config, counts(), quiet=True, devices=one_device())


def test_a_run_on_counts_reconstructs_means_and_generates_counts(run):
    x = counts()
    reconstructed = run.reconstruct(x)
    assert reconstructed.shape == x.shape
    if run.likelihood.reads_input and run.config.likelihood.name == "multinomial":
        np.testing.assert_allclose(reconstructed.sum(1), x.sum(1), rtol=1e-4)
    drawn = run.generate(50)
    np.testing.assert_array_equal(drawn, np.round(drawn))
    assert (drawn >= 0).all()
    assert np.ptp(drawn) > 0
    means = run.generate(50, draw=False)
    assert (means != np.round(means)).any()
    np.testing.assert_array_equal(drawn, run.generate(50))
    assert np.isfinite(run.log_likelihood(x[:8], samples=4)).all()


def test_the_distortion_is_minus_scipys_log_probability(run):
    """Of a run whose latents hardly vary, so that one sample of a code is its mean."""
    x = counts()[:4]
    encoder = {**run.variables["params"]["bottleneck"]}
    encoder["log_std"] = {"kernel": 0 * encoder["log_std"]["kernel"], "bias": encoder["log_std"]["bias"] - 20}
    still = dataclasses.replace(run, variables={"params": {**run.variables["params"], "bottleneck": encoder}})
    decoded = np.float64(still.model.apply(still.variables, still.encode(x), method="decode"))
    name, stats = run.config.likelihood.name, scipy.stats
    if name == "poisson":
        expected = stats.poisson.logpmf(x, np.exp(decoded)).sum(1)
    elif name == "multinomial":
        expected = stats.multinomial.logpmf(x, x.sum(1), softmax(decoded, 1))
    else:
        log_mean, rest = decoded[:, :6], decoded[:, 6:]
        inflated = name == "zero_inflated_negative_binomial"
        mean = softmax(log_mean, 1) * x.sum(1, keepdims=True) if inflated else np.exp(log_mean)
        t = np.exp(still.variables["params"]["log_scale"] if inflated else rest)
        expected = stats.nbinom.logpmf(x, t, t / (t + mean))
        if inflated:
            zero = expit(rest)
            expected = np.log((x == 0) * zero + (1 - zero) * np.exp(expected))
        expected = expected.sum(1)
    np.testing.assert_allclose(-still.density.parts(x).distortion, expected, rtol=1e-4)


def test_each_label_has_its_dispersion():
    label = np.arange(64) % 2
    kind = module("negative_binomial", dispersion="feature_label")
    config = mlp(likelihood=kind, bottleneck=module("gaussian", features=2), classes=2, steps=12)
    config.objective.weights = {"kl": 1.0}
    x = counts()
    x[label == 1] = np.random.default_rng(0).negative_binomial(0.3, 0.05, (32, 6))
    run = aejax.fit(config, x, label=label, quiet=True, devices=one_device())
    scale = run.variables["params"]["log_scale"]
    assert scale.shape == (2, 6)
    assert np.all(scale != 0)
    assert np.ptp(scale, 0).min() > 0
    drawn = run.generate(4, label=np.array([0, 1, 0, 1]))
    np.testing.assert_array_equal(drawn, np.round(drawn))
    output = run.model.apply(run.variables, jnp.float32(x[:4]), label=jnp.int32(label[:4]))
    np.testing.assert_array_equal(output.log_scale, scale[label[:4]])
    found = run.density.parts(x[:4], label=label[:4])
    assert np.isfinite(found.elbo).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"likelihood": module("poisson")}, r"example \d+, value \d is -?\d.*reads counts: whole numbers from 0"),
        ({"likelihood": module("categorical", levels=3)}, r"reads levels from 0 to 2"),
        ({"likelihood": module("mixed", columns=("gaussian", *["poisson"] * 5))}, r"value [1-5] is .* reads counts"),
        ({"likelihood": module("poisson"), "data__standardize": True}, "set data.standardize=False"),
        ({"likelihood": module("poisson", library="known")}, "likelihood.library 'known' is unknown; choose one of"),
        ({"likelihood": module("negative_binomial", dispersion="gene")}, "likelihood.dispersion 'gene' is unknown"),
        ({"likelihood": module("negative_binomial", dispersion="feature_label")}, "needs labels; set classes"),
        ({"likelihood": module("multinomial", library="none")}, "library of multinomial is 'observed'"),
        ({"likelihood": module("student_t", variance="optimal")}, "no closed form for Student's t"),
        ({"likelihood": module("student_t", df=0.0)}, "likelihood.df must be above 0"),
        ({"likelihood": module("ordinal", levels=1)}, "likelihood.levels must be at least 2"),
        ({"likelihood": module("poisson", total=0.0)}, "likelihood.total must be above 0"),
        ({"likelihood": module("beta"), "pretrain__steps": 2}, "likelihoods of one parameter"),
    ],
)
def test_what_does_not_fit_is_one_line(changes, message):
    with pytest.raises(aejax.InputError, match=message):
        aejax.fit(mlp(**changes), vectors(), quiet=True, devices=one_device())


@pytest.mark.slow
def test_a_model_of_ones_own_must_make_the_parameters():
    def fit(**options):
        width = options.pop("width", 12)
        model = Autoencoder(MLPEncoder((5,)), DenseBottleneck(2), MLPDecoder((width,)), **options)
        given = {"objective": Objective(ZeroInflatedNegativeBinomial()), "optimizer": optax.adam(1e-3)}
        return aejax.fit(data=counts(), model=model, **given, steps=2, batch_size=16, quiet=True, devices=one_device())

    with pytest.raises(aejax.InputError, match=r"parameters of shape \(12,\) and the model makes \(6,\)"):
        fit(width=6)
    with pytest.raises(aejax.InputError, match=r"learns parameters of shape \(6,\) beside the decoder"):
        fit(decoded=(12,))
    run = fit(decoded=(12,), learned_scale=True, scale_shape=(6,))
    assert run.reconstruct(counts()).shape == (64, 6)
    assert run.config.likelihood.name == "zero_inflated_negative_binomial"
