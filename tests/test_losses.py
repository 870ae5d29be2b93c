"""Every function of `aejax.losses` against numpy and scipy in float64, its gradients, and the examples of its docs."""

import doctest
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.signal
import scipy.stats
from conftest import context
from scipy.special import expit, gammaln, log_softmax, softmax, xlogy

import aejax
from aejax import losses
from aejax.objectives import Objective
from aejax.objectives.likelihoods import Bernoulli

FUNCTIONS = {name for name in losses.__all__ if inspect.isfunction(getattr(losses, name))}


def values(seed, shape, low=-2.0, high=2.0):
    """float64 numbers that float32 holds exactly."""
    return np.float64(np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32))


N, D, K = 5, 3, 6
LOGITS, X, LOG_STD = values(0, (N, D)), values(1, (N, D), 0, 1), values(2, (N, D), -1, 0.5)
Z, MEAN = values(3, (N, D)), values(4, (N, D))
SCALE = np.tril(values(5, (N, D, D)), -1) + np.exp(LOG_STD)[:, None] * np.eye(D)
LOG_W, LOG_Q, LOG_P = values(6, (K, N), -5, 5), values(7, (K, N)), values(8, (K, N))
COUNTS = np.float64(np.arange(N * D).reshape(N, D) % 7)
P, STD, Q, LEVELS = expit(LOGITS), np.exp(LOG_STD), softmax(LOGITS, -1), np.linspace(0, 255, N * D).round() / 255


def kl_by_quadrature():
    """KL(N(mean, std^2) || N(0, 1)), the integral of q (log q - log p)."""
    found, normal = np.zeros((N, D)), scipy.stats.norm
    for i in np.ndindex(N, D):
        grid = MEAN[i] + STD[i] * np.linspace(-12, 12, 4_001)
        log_q = normal.logpdf(grid, MEAN[i], STD[i])
        found[i] = scipy.integrate.simpson(np.exp(log_q) * (log_q - normal.logpdf(grid)), x=grid)
    return found


def full_kl():
    covariance = SCALE @ SCALE.swapaxes(1, 2)
    return 0.5 * (np.trace(covariance, 0, 1, 2) + (MEAN**2).sum(1) - D - np.linalg.slogdet(covariance)[1])


def aggregate():
    """log q(z) and sum_j log q(z_j), in loops over scipy."""
    joint, units = np.zeros(N), np.zeros(N)
    for i in range(N):
        densities = scipy.stats.norm.pdf(Z[i], MEAN, STD)  # [batch, d]
        joint[i] = np.log(densities.prod(1).mean())
        units[i] = sum(np.log(densities[:, j].mean()) for j in range(D))
    return joint, units


def dip(covariance, diagonal):
    return sum(
        diagonal * (covariance[i, j] - 1) ** 2 if i == j else covariance[i, j] ** 2 for i in range(D) for j in range(D)
    )


def mmd(a, b, kernel):
    def mean(x, y):
        return np.mean(
            [kernel(((p - q) ** 2).sum()) for i, p in enumerate(x) for j, q in enumerate(y) if x is not y or i != j]
        )

    return mean(a, a) + mean(b, b) - 2 * mean(a, b)


def negative_binomial(x, log_mean, log_dispersion):
    t = np.exp(log_dispersion)
    return scipy.stats.nbinom.logpmf(x, t, t / (t + np.exp(log_mean)))


def ordinal():
    below = np.column_stack([np.zeros(N), expit(np.sort(Z, 1) - MEAN[:, :1]), np.ones(N)])
    return np.diff(below)[np.arange(N), np.arange(N) % 4]


def logistic_nll():
    edges = LEVELS.reshape(N, D)[..., None] + np.array([-0.5, 0.5]) / 255
    edges[edges < 0], edges[edges > 1] = -np.inf, np.inf
    return -np.log(np.diff(scipy.stats.logistic.cdf(edges, MEAN[..., None], 0.5))[..., 0])


IWAE, (JOINT, UNITS) = -np.log(np.exp(LOG_W).mean(0)), aggregate()
PARTS = [-np.log(np.exp(LOG_W[i::2]).mean(0)) for i in range(2)]  # every second sample is one of two groups
COVARIANCE, POSTERIOR = np.cov(MEAN.T, bias=True), np.diag((STD**2).mean(0))
NORMALIZER = 2 * np.arctanh(1 - 2 * P) / (1 - 2 * P)

SIGNALS = values(20, (2, 40)), values(21, (2, 40))


def spectrum(x, window, hop):
    """By SciPy, [..., frames, frequencies]."""
    found = scipy.signal.stft(x, window="hann", nperseg=window, noverlap=window - hop, boundary=None, padded=False)
    return np.abs(found[2]).swapaxes(-1, -2)


def spectral_distance(x, y, window):
    a, b = spectrum(x, window, window // 4), spectrum(y, window, window // 4)
    ratio = np.linalg.norm(a - b, axis=(1, 2)) / np.linalg.norm(a, axis=(1, 2))
    return ratio + np.abs(np.log(a) - np.log(b)).mean((1, 2))


def signal_to_distortion(x, y):
    projection = (x * y).sum(-1, keepdims=True) / (x * x).sum(-1, keepdims=True) * x
    return 20 * np.log10(np.linalg.norm(projection, axis=-1) / np.linalg.norm(y - projection, axis=-1))


# For each function the arguments and the value of each of its calls.
CASES = {
    "stft_magnitude": [((SIGNALS[0], 16, 4), spectrum(SIGNALS[0], 16, 4))],
    "stft_distance": [((*SIGNALS, 16), spectral_distance(*SIGNALS, 16))],
    "multiscale_stft_distance": [
        ((*SIGNALS, (16, 8)), (spectral_distance(*SIGNALS, 16) + spectral_distance(*SIGNALS, 8)) / 2)
    ],
    "si_sdr": [(SIGNALS, signal_to_distortion(*SIGNALS))],
    "bernoulli_nll": [((LOGITS, X), -X * np.log(P) - (1 - X) * np.log(1 - P))],
    "continuous_bernoulli_nll": [((LOGITS, X), -X * np.log(P) - (1 - X) * np.log(1 - P) - np.log(NORMALIZER))],
    "continuous_bernoulli_mean": [((LOGITS,), P / (2 * P - 1) + 1 / (2 * np.arctanh(1 - 2 * P)))],
    "gaussian_nll": [((MEAN, X, LOG_STD), -scipy.stats.norm.logpdf(X, MEAN, STD))],
    "laplace_nll": [((MEAN, X, LOG_STD), -scipy.stats.laplace.logpdf(X, MEAN, STD))],
    "discretized_logistic_nll": [((MEAN, LEVELS.reshape(N, D), np.log(0.5)), logistic_nll())],
    "stirling_remainder": [((X * 20,), gammaln(X * 20 + 1) - xlogy(X * 20, X * 20) + X * 20), ((0.0,), 0.0)],
    "poisson_nll": [((MEAN, COUNTS), -scipy.stats.poisson.logpmf(COUNTS, np.exp(MEAN)))],
    "negative_binomial_nll": [((MEAN, COUNTS, LOG_STD), -negative_binomial(COUNTS, MEAN, LOG_STD))],
    "zero_inflated_negative_binomial_nll": [
        (
            (MEAN, COUNTS, LOG_STD, LOGITS),
            -np.log(P * (COUNTS == 0) + (1 - P) * np.exp(negative_binomial(COUNTS, MEAN, LOG_STD))),
        )
    ],
    "multinomial_nll": [((LOGITS, COUNTS), -scipy.stats.multinomial.logpmf(COUNTS, COUNTS.sum(1), Q))],
    "categorical_nll": [((LOGITS, np.arange(N) % D), -np.log(Q[np.arange(N), np.arange(N) % D]))],
    "ordinal_nll": [((MEAN[:, 0], np.arange(N) % 4, np.sort(Z, 1)), -np.log(ordinal()))],
    "student_t_nll": [((MEAN, X, LOG_STD, LOGITS), -scipy.stats.t.logpdf(X, np.exp(LOGITS), MEAN, STD))],
    "beta_nll": [((LOGITS, X, LOG_STD), -scipy.stats.beta.logpdf(X, STD * P, STD * (1 - P)))],
    "optimal_log_scale": [((0.09, 2), np.log(0.3)), ((0.3, 1), np.log(0.3)), ((0.0, 2), np.log(1e-4))],
    "normal_log_prob": [((Z, MEAN, LOG_STD), scipy.stats.norm.logpdf(Z, MEAN, STD).sum(1))],
    "gaussian_kl_by_unit": [((MEAN, LOG_STD), kl_by_quadrature())],
    "gaussian_kl": [((MEAN, LOG_STD), kl_by_quadrature().sum(1))],
    "full_gaussian_kl": [((MEAN, SCALE), full_kl())],
    "monte_carlo_kl": [((LOG_Q, LOG_P), (LOG_Q - LOG_P).mean(0)), ((LOG_Q[0], LOG_P[0]), LOG_Q[0] - LOG_P[0])],
    "categorical_kl": [((LOGITS,), scipy.stats.entropy(Q, np.full((N, D), 1 / D), axis=1))],
    "kl_sparsity": [((X, 0.3), sum(scipy.stats.entropy([0.3, 0.7], [m, 1 - m]) for m in X.mean(0)))],
    "free_bits": [((X, nats), sum(max(nats, m) for m in X.mean(0))) for nats in (0.0, np.median(X.mean(0)), 9.0)],
    "aggregate_log_prob": [((Z, MEAN, LOG_STD), (JOINT, UNITS)), ((Z[:2], MEAN, LOG_STD), (JOINT[:2], UNITS[:2]))],
    "total_correlation": [((Z, MEAN, LOG_STD), JOINT - UNITS)],
    "dimension_kl": [((LOG_P[0], Z, MEAN, LOG_STD), UNITS - LOG_P[0])],
    "dip": [((MEAN,), dip(COVARIANCE, 10.0)), ((MEAN, POSTERIOR, 0.3), dip(COVARIANCE + POSTERIOR, 0.3))],
    "mmd": [
        ((Z, MEAN[:4], "rbf", 0.7), mmd(Z, MEAN[:4], lambda d: np.exp(-d / (2 * D * 0.49)))),
        ((Z, MEAN[:4]), mmd(Z, MEAN[:4], lambda d: sum(6 * s / (6 * s + d) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10)))),
    ],
    "elbo": [((LOG_P[0], X[:, 0], 4.0), LOG_P[0] + 4 * X[:, 0]), ((LOG_P[0], X[:, 0]), LOG_P[0] + X[:, 0])],
    "log_weights": [((LOG_W, LOG_Q, LOG_P, 0.3), -LOG_W + 0.3 * (LOG_P - LOG_Q)), ((LOG_W, 0, 0), -LOG_W)],
    "iwae": [((LOG_W,), IWAE)],
    "miwae": [((LOG_W, 1), IWAE), ((LOG_W, 2), sum(PARTS) / 2), ((LOG_W, K), -LOG_W.mean(0))],
    "ciwae": [((LOG_W, share), -share * LOG_W.mean(0) + (1 - share) * IWAE) for share in (0.0, 0.3, 1.0)],
    "dreg": [((LOG_W, LOG_P, LOG_Q), IWAE)],
    "piwae": [((LOG_W, LOG_P, LOG_Q, 2), IWAE)],
    "commitment_loss": [((SCALE, 2 * Z[..., None]), ((SCALE - 2 * Z[..., None]) ** 2).sum((1, 2)))],
    "codebook_loss": [((Z, MEAN), ((Z - MEAN) ** 2).sum(1))],
    "bernoulli_entropy": [((LOGITS,), scipy.stats.bernoulli(P).entropy())],
    "categorical_entropy": [((log_softmax(LOGITS, -1),), scipy.stats.entropy(Q, axis=1))],
}


@pytest.fixture(scope="module")
def computed():
    """The value of each call of CASES, compiled as one program."""
    calls = [(name, i) for name, cases in CASES.items() for i in range(len(cases))]
    arrays = {
        call: {k: jnp.float32(a) for k, a in enumerate(CASES[call[0]][call[1]][0]) if isinstance(a, np.ndarray)}
        for call in calls
    }

    def run(arrays):
        return {
            (name, i): getattr(losses, name)(*(arrays[name, i].get(k, a) for k, a in enumerate(CASES[name][i][0])))
            for name, i in calls
        }

    return jax.jit(run)(arrays)


def test_every_function_has_a_case():
    assert set(CASES) == FUNCTIONS


@pytest.mark.parametrize("name", CASES)
def test_values(name, computed):
    for i, (_, expected) in enumerate(CASES[name]):
        got = computed[name, i]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), got, expected)
        jax.tree.map(lambda a, b: np.testing.assert_equal(np.shape(a), np.shape(b)), got, expected)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_examples(name):
    function = getattr(losses, name)
    examples = doctest.DocTestFinder(recurse=False).find(function, name, globs=dict(function.__globals__))
    assert examples[0].examples
    with np.printoptions(precision=3, suppress=True):
        assert doctest.DocTestRunner(verbose=False).run(examples[0]).failed == 0


def test_every_function_says_what_it_returns():
    for name in FUNCTIONS:
        assert inspect.getdoc(getattr(losses, name)).startswith(("Returns ", "Estimates ")), name


# Gradients.


def gradients(function, *arrays):
    """Those of the sum of a function's values, for each of its arguments."""
    arrays = [jnp.float32(a) for a in arrays]
    return jax.jit(jax.grad(lambda *a: function(*a).sum(), tuple(range(len(arrays)))))(*arrays)


def test_dreg_squares_the_encoders_weights_and_piwae_has_those_of_its_groups():
    w = softmax(LOG_W, 0)
    to_log_w, to_decoder, to_encoder = gradients(losses.dreg, LOG_W, LOG_P, LOG_Q)
    np.testing.assert_array_equal(to_log_w, 0)
    np.testing.assert_allclose(to_decoder, -w, rtol=1e-4)
    np.testing.assert_allclose(to_encoder, -(w**2), rtol=1e-4)
    to_log_w, to_decoder, to_encoder = gradients(lambda *a: losses.piwae(*a, groups=2), LOG_W, LOG_P, LOG_Q)
    np.testing.assert_array_equal(to_log_w, 0)
    np.testing.assert_allclose(to_decoder, -w, rtol=1e-4)
    for i in range(2):
        np.testing.assert_allclose(to_encoder[i::2], -softmax(LOG_W[i::2], 0) / 2, rtol=1e-4)


def test_commitment_moves_the_features_and_the_codebook_loss_the_codes():
    to_x, to_codes = gradients(losses.commitment_loss, Z, MEAN)
    np.testing.assert_allclose(to_x, 2 * (Z - MEAN), rtol=1e-5)
    np.testing.assert_array_equal(to_codes, 0)
    to_x, to_codes = gradients(losses.codebook_loss, Z, MEAN)
    np.testing.assert_array_equal(to_x, 0)
    np.testing.assert_allclose(to_codes, 2 * (MEAN - Z), rtol=1e-5)


@pytest.mark.parametrize(
    ("function", "array"),
    [
        (losses.bernoulli_entropy, [-1e4, -100.0, 0.0, 100.0, 1e4]),
        (lambda logits: losses.categorical_entropy(jax.nn.log_softmax(logits)), [[0.0, 1e4], [0.0, 0.0]]),
        (losses.categorical_kl, [[0.0, 1e4], [0.0, 0.0]]),
        (lambda z: losses.kl_sparsity(z, 0.3), [[0.0, 1.0], [0.0, 1.0]]),
        (lambda logits: losses.bernoulli_nll(logits, 0.3), [-1e4, -100.0, 0.0, 100.0, 1e4]),
        (lambda logits: losses.continuous_bernoulli_nll(logits, 0.3), [-1e4, -0.1, 0.0, 1e-7, 0.1, 1e4]),
        (losses.continuous_bernoulli_mean, [-1e4, -0.1, 0.0, 1e-7, 0.1, 1e4]),
        (lambda x: losses.discretized_logistic_nll(x, jnp.array([[0.0], [0.5], [1.0]]), -5.0), [-9.0, 0.0, 9.0]),
        (losses.iwae, [[-1e4, 0.0], [1e4, 0.0]]),
    ],
)
def test_extreme_arguments_have_finite_values_and_gradients(function, array):
    assert np.all(np.isfinite(function(jnp.float32(array))))
    assert np.all(np.isfinite(gradients(function, array)[0]))


def test_the_optimal_scale_is_the_likeliest_and_has_no_gradient():
    errors = Z - MEAN
    for power, nll in ((2, losses.gaussian_nll), (1, losses.laplace_nll)):
        best = losses.optimal_log_scale(jnp.float32((np.abs(errors) ** power).mean()), power)
        at, below, above = (float(nll(MEAN, Z, best + step).mean()) for step in (0.0, -0.1, 0.1))
        assert at < min(below, above)
    assert float(jax.grad(lambda a: losses.optimal_log_scale(a, 2))(0.5)) == 0


def test_the_mean_of_a_continuous_bernoulli_near_the_uniform_one():
    """Where float64 still has the digits that the formula loses in float32."""
    logits = np.linspace(-0.095, 0.095, 20)
    expected = expit(logits) / np.tanh(logits / 2) - 1 / logits
    np.testing.assert_allclose(losses.continuous_bernoulli_mean(jnp.float32(logits)), expected, atol=2e-7)


# In use.


def test_drawn_kl_is_the_closed_form_on_average():
    z = MEAN + STD * np.random.default_rng(0).normal(size=(20_000, N, D))
    log_q, log_p = (scipy.stats.norm.logpdf(z, *of).sum(-1) for of in ((MEAN, STD), (0, 1)))
    got = losses.monte_carlo_kl(jnp.float32(log_q), jnp.float32(log_p))
    error = (log_q - log_p).std(0) / np.sqrt(20_000)
    assert np.all(np.abs(got - losses.gaussian_kl(MEAN, LOG_STD)) < 5 * error)


def test_the_loss_of_a_vae_in_ones_own_loop_is_that_of_its_objective():
    kl = losses.gaussian_kl(MEAN, LOG_STD)
    mine = losses.elbo(losses.bernoulli_nll(jnp.float32(LOGITS), X).sum(-1), kl, beta=4.0)
    objective = Objective(Bernoulli(), {"kl": 4.0})(context(X, jnp.float32(LOGITS), losses={"kl": kl}))
    np.testing.assert_allclose(mine, objective["loss"], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: losses.iwae(LOG_W[:0]),
            r"a bound needs at least one sample, got log weights of shape \(0, 5\)",
        ),
        (lambda: losses.miwae(LOG_W, 4), "miwae.groups must divide the 6 samples, got 4"),
        (lambda: losses.piwae(LOG_W, LOG_P, LOG_Q, 0), "piwae.groups must divide the 6 samples, got 0"),
        (lambda: losses.ciwae(LOG_W, 1.5), r"ciwae.share must be in \[0, 1\], got 1.5"),
        (lambda: losses.kl_sparsity(X, 1.0), "kl_sparsity.target must be between 0 and 1, got 1.0"),
        (lambda: losses.mmd(Z, MEAN, "rfb"), "mmd.kernel 'rfb' is unknown; choose one of: imq, rbf"),
        (lambda: losses.mmd(Z, MEAN, scale=0.0), "mmd.scale must be above 0, got 0.0"),
    ],
)
def test_arguments_out_of_range_are_named(call, message):
    with pytest.raises(aejax.InputError, match=message):
        call()
