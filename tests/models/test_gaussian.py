"""Gaussian codes: densities against scipy, flows against their exact Jacobian, priors against what they are made of."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from conftest import assert_trees_equal, example_keys, mostly_slow, shared_among
from scipy.special import expit, logsumexp, softmax

import aejax
from aejax.models.bottlenecks import GaussianBottleneck
from aejax.models.distributions import DiagonalGaussian, FullGaussian, GaussianMixture, StandardNormal
from aejax.models.flows import InverseAutoregressive, Planar

DIMENSIONS = (1, 3)
FLOWS = {"iaf": InverseAutoregressive(8), "planar": Planar()}


def diagonal(seed=0, batch=3, d=3):
    rng = np.random.default_rng(seed)
    mean, log_std = rng.normal(size=(batch, d)), rng.normal(0, 0.5, (batch, d))
    return (
        DiagonalGaussian(jnp.float32(mean), jnp.float32(log_std)),
        mean,
        np.stack([np.diag(np.exp(2 * row)) for row in log_std]),
    )


def full(seed=0, batch=3, d=3):
    rng = np.random.default_rng(seed)
    mean, scale = rng.normal(size=(batch, d)), np.tril(rng.normal(0, 0.7, (batch, d, d)), -1)
    scale += np.eye(d) * np.exp(rng.normal(0, 0.5, (batch, d, 1)))
    return FullGaussian(jnp.float32(mean), jnp.float32(scale)), mean, scale @ scale.swapaxes(1, 2)


def mixture(seed=0, k=4, d=2):
    rng = np.random.default_rng(seed)
    return GaussianMixture(
        *(jnp.float32(a) for a in (rng.normal(size=k), rng.normal(0, 2, (k, d)), rng.normal(0, 0.5, (k, d))))
    )


def mixture_log_prob(logits, mean, std, z):
    """By scipy, one z after another."""
    weights = np.log(softmax(np.asarray(logits, np.float64)))
    rows = np.asarray(z, np.float64).reshape(-1, z.shape[-1])
    each = [[scipy.stats.norm.logpdf(row, m, s).sum() for m, s in zip(mean, std, strict=True)] for row in rows]
    return logsumexp(np.array(each) + weights, axis=1).reshape(z.shape[:-1])


def features(seed=0, batch=5, size=4):
    return jnp.float32(np.random.default_rng(seed).normal(size=(batch, size)))


def started(module, *inputs, seed=0, scale=0.4, **given):
    """Variables with noise on every parameter: at the start biases are zero and densities alike."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *(inputs or (features(),)), **given)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.float32(rng.normal(0, scale, a.shape)), shapes)


@functools.lru_cache
def compiled(module, **fixed):
    return jax.jit(functools.partial(module.apply, **fixed))


def run(module, variables, *inputs, **options):
    """`module.apply`, compiled as a whole: faster than one operation after another."""
    fixed = {key: options.pop(key) for key in ("method", "train") if key in options}
    return compiled(module, **fixed)(variables, *inputs, **options)


def autoencoder(size=3, classes=0, **changes):
    shape = (size,)
    return aejax.Autoencoder(
        aejax.models.MLPEncoder((6,), "tanh"),
        GaussianBottleneck(**{"features": 2, "shape": shape, **changes}),
        aejax.models.MLPDecoder(shape),
        classes=classes,
    )


# Distributions.


@pytest.mark.parametrize("make", [diagonal, full])
@pytest.mark.parametrize("d", mostly_slow(DIMENSIONS, 3))
def test_log_prob_is_scipys(make, d):
    for seed in range(3):
        q, mean, covariance = make(seed, d=d)
        z = np.random.default_rng(9 + seed).normal(0, 2, (5, 3, d)).astype(np.float32)  # five samples of each
        expected = [
            [scipy.stats.multivariate_normal.logpdf(z[s, b], mean[b], covariance[b]) for b in range(3)]
            for s in range(5)
        ]
        np.testing.assert_allclose(q.log_prob(z), expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(q.log_prob(z[2]), expected[2], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(q.covariance(), covariance, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [diagonal, full])
@pytest.mark.parametrize("d", DIMENSIONS)
def test_kl_is_the_closed_form_of_two_gaussians(make, d):
    for seed in range(3):
        q, mean, covariance = make(seed, d=d)
        expected = [
            0.5 * (np.trace(s) + m @ m - d - np.linalg.slogdet(s)[1]) for m, s in zip(mean, covariance, strict=True)
        ]
        np.testing.assert_allclose(q.kl(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_kl_by_unit_is_the_integral_and_zero_for_the_prior():
    q, mean, covariance = diagonal()
    for (b, j), got in np.ndenumerate(q.kl_by_unit()):
        m, s = mean[b, j], np.sqrt(covariance[b, j, j])
        one, prior = scipy.stats.norm(m, s), scipy.stats.norm()
        expected, _ = scipy.integrate.quad(
            lambda z, one=one, prior=prior: one.pdf(z) * (one.logpdf(z) - prior.logpdf(z)), m - 12 * s, m + 12 * s
        )
        assert float(got) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    np.testing.assert_array_equal(DiagonalGaussian(jnp.zeros((2, 3)), jnp.zeros((2, 3))).kl(), [0, 0])
    np.testing.assert_array_equal(FullGaussian(jnp.zeros((2, 3)), jnp.eye(3)[None].repeat(2, 0)).kl(), [0, 0])


@pytest.mark.parametrize("make", [diagonal, full])
def test_samples_have_their_mean_their_covariance_and_their_kl(make):
    q, mean, covariance = make(1)
    n = 20_000
    z = np.asarray(q.sample(np.random.default_rng(0).normal(size=(n, 3, 3)).astype(np.float32)), np.float64)
    for b in range(3):
        deviation = np.sqrt(np.diag(covariance[b]))
        # Five standard errors: of a mean, and of a covariance (at most sqrt(2 / n) of the deviations' product).
        assert np.all(np.abs(z[:, b].mean(0) - mean[b]) < 5 * deviation / np.sqrt(n))
        error = np.abs(np.cov(z[:, b].T) - covariance[b])
        assert np.all(error < 5 * np.sqrt(2 / n) * np.outer(deviation, deviation))
    ratio = np.asarray(q.log_prob(jnp.float32(z)) - StandardNormal(3).log_prob(jnp.float32(z)), np.float64)
    assert np.all(np.abs(ratio.mean(0) - q.kl()) < 5 * ratio.std(0) / np.sqrt(n))


def test_standard_normal_is_scipys_and_draws_by_key():
    prior, z = StandardNormal(3), features(size=3)
    np.testing.assert_allclose(prior.log_prob(z), scipy.stats.norm.logpdf(z).sum(1), rtol=1e-5)
    draws = np.asarray(prior.sample(example_keys(5000)))
    assert draws.shape == (5000, 3)
    assert np.abs(draws.mean(0)).max() < 5 / np.sqrt(5000)
    assert np.abs(np.cov(draws.T) - np.eye(3)).max() < 5 * np.sqrt(2 / 5000)


@pytest.mark.slow
def test_mixture_is_the_logsumexp_of_its_components():
    for seed in range(3):
        prior = mixture(seed)
        z = np.random.default_rng(seed).normal(0, 3, (3, 4, 2)).astype(np.float32)
        expected = mixture_log_prob(prior.logits, prior.mean, np.exp(prior.log_std), z)
        np.testing.assert_allclose(prior.log_prob(z), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(prior.log_prob(z[1]), expected[1], rtol=1e-4, atol=1e-5)
    shifted = prior.replace(logits=prior.logits + 7)  # weights are what the softmax makes of the logits
    np.testing.assert_allclose(shifted.log_prob(z), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_draws_of_a_mixture_have_its_moments_and_belong_to_their_key():
    prior, n = mixture(), 20_000
    keys = example_keys(n)
    z = np.asarray(prior.sample(keys), np.float64)
    w, m, v = softmax(np.float64(prior.logits)), np.float64(prior.mean), np.exp(2 * np.float64(prior.log_std))
    mean = w @ m
    covariance = np.diag(w @ v) + (w[:, None] * (m - mean)).T @ (m - mean)
    deviation = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(z.mean(0) - mean) < 5 * deviation / np.sqrt(n))
    # The fourth moment of a mixture may be above a Gaussian's: ten of a Gaussian's standard errors.
    assert np.all(np.abs(np.cov(z.T) - covariance) < 10 * np.sqrt(2 / n) * np.outer(deviation, deviation))
    np.testing.assert_array_equal(prior.sample(keys[5:9]), np.float32(z[5:9]))


@pytest.mark.slow
def test_a_far_components_draw_does_not_depend_on_the_noise_inside_it():
    """The component and the noise come from different keys: within a component the draws are standard normal."""
    prior = GaussianMixture(jnp.zeros(2), jnp.array([[-100.0], [100.0]]), jnp.zeros((2, 1)))
    z = np.asarray(prior.sample(example_keys(4000)))[:, 0]
    for side in (z[z < 0] + 100, z[z > 0] - 100):
        assert len(side) == pytest.approx(2000, abs=5 * np.sqrt(1000))
        assert scipy.stats.kstest(side, "norm").pvalue > 1e-4


# Flows.


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("d", mostly_slow(DIMENSIONS, 3))
def test_log_determinant_is_that_of_the_exact_jacobian(name, d):
    flow, h = FLOWS[name], features()

    @jax.jit
    def steps(variables, z):
        jacobian = jax.vmap(jax.jacfwd(lambda z, h: flow.apply(variables, z[None], h[None])[0][0]))(z, h)
        return jacobian, flow.apply(variables, z, h), flow.apply(variables, jnp.stack([z, 2 * z]), h)

    for seed in range(3):
        z = jnp.float32(np.random.default_rng(seed).normal(size=(5, d)))
        jacobian, (moved, log_det), several = steps(started(flow, z, h, seed=seed), z)
        sign, expected = np.linalg.slogdet(jacobian)
        np.testing.assert_array_equal(sign, 1)
        np.testing.assert_allclose(log_det, expected, rtol=1e-3, atol=1e-5)
        assert np.abs(log_det).max() > 1e-2  # or the test would say nothing
        np.testing.assert_allclose(several[0][0], moved, rtol=1e-5, atol=1e-6)  # an axis of samples
        np.testing.assert_allclose(several[1][0], log_det, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("d", DIMENSIONS)
def test_inverse_autoregressive_flow_reads_only_earlier_units_and_all_of_them(d):
    flow, h = InverseAutoregressive(8), features()
    z = jnp.float32(np.random.default_rng(0).normal(size=(5, d)))
    variables = started(flow, z, h)
    jacobian = jax.jit(jax.vmap(jax.jacfwd(lambda z, h: flow.apply(variables, z[None], h[None])[0][0])))(z, h)
    np.testing.assert_array_equal(np.triu(jacobian, 1), 0)
    diagonal = np.diagonal(jacobian, axis1=1, axis2=2)
    assert np.all((diagonal > 0) & (diagonal < 1))  # a gate
    rows, columns = np.tril_indices(d, -1)
    assert np.all(np.abs(jacobian[:, rows, columns]).max(0) > 0)  # every earlier unit is read
    by_features = jax.jit(jax.jacfwd(lambda h: flow.apply(variables, z[:1], h[None])[0][0]))(h[0])
    assert np.all(np.abs(by_features).max(1)[1:] > 0)  # the first unit's step reads nothing


def test_inverse_autoregressive_flow_gates_between_z_and_its_mean_and_begins_near_the_identity():
    flow, z, h = InverseAutoregressive(8), features(1, size=3), features()
    variables = jax.tree.map(jnp.zeros_like, started(flow, z, h))
    for m, g in ((0.0, 0.0), (1.5, -3.0)):
        variables["params"]["mean"]["bias"], variables["params"]["gate"]["bias"] = jnp.full(3, m), jnp.full(3, g)
        gate = expit(g + 2)
        moved, log_det = flow.apply(variables, z, h)
        np.testing.assert_allclose(moved, gate * z + (1 - gate) * m, rtol=1e-5)
        np.testing.assert_allclose(log_det, 3 * np.log(gate), rtol=1e-5)


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_a_planar_step_is_the_papers_and_invertible_whatever_its_parameters(scale):
    """Appendix A.1: w.u becomes softplus(w.u) - 1, above -1. The determinant is least where w.z + b = 0."""
    flow, d = Planar(), 3
    for seed in range(10):
        h = features(seed, batch=4)
        variables = started(flow, jnp.zeros((4, d)), h, seed=seed, scale=scale)
        dense = variables["params"]["parameters"]
        u, w, b = np.split(np.float64(h @ dense["kernel"] + dense["bias"]), (d, 2 * d), axis=1)
        length, wu = np.square(w).sum(1, keepdims=True), (w * u).sum(1, keepdims=True)
        u += (np.logaddexp(0, wu) - 1 - wu) * w / length
        crease = -b * w / length
        least = run(flow, variables, jnp.float32(crease), h)[1]
        np.testing.assert_allclose(np.exp(least), np.logaddexp(0, wu)[:, 0], rtol=1e-2, atol=1e-4)
        z = crease + np.linspace(-3, 3, 61)[:, None, None] * w / np.sqrt(length)
        moved, log_det = run(flow, variables, jnp.float32(z), h)
        assert np.all(np.isfinite(log_det))
        expected = z + u * np.tanh((w * z).sum(-1, keepdims=True) + b)
        np.testing.assert_allclose(moved, expected, rtol=1e-3, atol=1e-3 * max(scale, 1))
        along = np.float64((moved * w).sum(-1) / np.sqrt(length[:, 0]))
        assert np.all(np.diff(along, axis=0) > -1e-4)  # monotonous along w, up to rounding: one z for each z'


@pytest.mark.parametrize("name", FLOWS)
def test_no_steps_are_the_diagonal_gaussian(name):
    h, keys = features(), example_keys(5)
    plain, flow = GaussianBottleneck(3), GaussianBottleneck(3, name, depth=0)
    variables = started(plain)
    assert_trees_equal(variables, started(flow))
    for given in (keys, None):
        a, b = (run(module, variables, h, keys=given) for module in (plain, flow))
        assert_trees_equal((a.z, a.losses, a.metrics), (b.z, b.losses, b.metrics))


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("depth", [1, 3])
def test_density_of_a_flow_is_the_change_of_variables_of_all_its_steps(name, depth):
    """The base's mean moves z as its noise does, so the Jacobian by the bias of `mean` is the flow's."""
    bottleneck, h, d = GaussianBottleneck(3, name, depth=depth, hidden=6), features(), 3
    variables, keys = started(bottleneck), example_keys(5)

    def z_of(shift):
        params = variables["params"]
        mean = {**params["mean"], "bias": params["mean"]["bias"] + shift}
        return bottleneck.apply({"params": {**params, "mean": mean}}, h, keys=keys).z

    jacobian = np.asarray(jax.jit(jax.jacfwd(z_of))(jnp.zeros(d)))
    code = run(bottleneck, variables, h, keys=keys)
    noise = jax.vmap(lambda key: jax.random.normal(key, (d,)))(keys)
    base = scipy.stats.norm.logpdf(noise).sum(1) - np.asarray(code.posterior.base.log_std).sum(1)
    log_q = base - np.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(code.posterior.log_prob(code.z), log_q, rtol=1e-4, atol=1e-4)
    log_p = scipy.stats.norm.logpdf(code.z).sum(1)
    np.testing.assert_allclose(code.losses["kl"], log_q - log_p, rtol=1e-4, atol=1e-4)
    if name == "iaf":  # the order of the units turns from step to step, and each reads all the others
        reads = np.abs(jacobian).max(0) > 0
        assert reads.all() if depth > 1 else not np.triu(reads, 1).any()


@pytest.mark.slow
@pytest.mark.parametrize(("posterior", "prior"), [("iaf", "standard"), ("planar", "mixture"), ("full", "mixture")])
def test_a_drawn_kl_is_that_of_a_density(posterior, prior):
    """E_q[p / q] = 1: exp(-kl) is an estimate of one by importance sampling."""
    bottleneck, n = GaussianBottleneck(2, posterior, prior, components=3, hidden=6, samples=2), 10_000
    variables = started(bottleneck, features(batch=1))
    params = variables["params"]
    params["log_std"]["bias"] = jnp.full(2, 0.7)  # q wider than p, or weights would explode
    if prior == "mixture":
        params["mixture_log_std"] = jnp.full((3, 2), -0.5)
    code = run(bottleneck, variables, jnp.repeat(features(batch=1), n, 0), keys=example_keys(n))
    log_ratio = np.float64(code.prior.log_prob(code.z) - code.posterior.log_prob(code.z))
    np.testing.assert_allclose(code.losses["kl"], -log_ratio.mean(0), rtol=1e-3, atol=1e-4)  # the mean over samples
    weights = np.exp(log_ratio).ravel()
    error = weights.std() / np.sqrt(2 * n)
    assert error < 0.05
    assert abs(weights.mean() - 1) < 5 * error


# The bottleneck.


@pytest.mark.parametrize("posterior", mostly_slow(["diagonal", "full", "iaf", "planar"]))
def test_posteriors_start_at_standard_deviation_1_for_any_encoder(posterior):
    """Features of heavy tails, such as inputs that nobody standardized, move nothing but the mean, here taken off."""
    bottleneck, h = GaussianBottleneck(2, posterior, hidden=6), 1e3 * jnp.tan(features())
    variables = jax.jit(bottleneck.init)(jax.random.key(0), h)
    variables["params"]["mean"] = jax.tree.map(jnp.zeros_like, variables["params"]["mean"])
    code = run(bottleneck, variables, h, keys=example_keys(5))
    noise = StandardNormal(2).sample(example_keys(5))
    base = getattr(code.posterior, "base", code.posterior)
    np.testing.assert_array_equal(base.covariance(), np.eye(2)[None].repeat(5, 0))
    if posterior == "planar":
        assert np.all(np.abs(code.z - noise) < 3)  # two steps
        np.testing.assert_array_equal(code.z, run(bottleneck, variables, 0 * h, keys=example_keys(5)).z)
    else:
        expected = expit(2) ** 2 * noise[:, ::-1] if posterior == "iaf" else noise
        np.testing.assert_allclose(code.z, expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("posterior", ["diagonal", "full"])
@pytest.mark.parametrize("d", DIMENSIONS)
def test_kl_is_exact_under_the_standard_normal_prior(posterior, d):
    bottleneck, h = GaussianBottleneck(d, posterior), features()
    variables = started(bottleneck, seed=d)
    code = run(bottleneck, variables, h, keys=example_keys(5))
    mean, covariance = np.float64(code.posterior.mean), np.float64(code.posterior.covariance())
    params = jax.tree.map(np.float64, variables["params"])
    np.testing.assert_allclose(mean, h @ params["mean"]["kernel"] + params["mean"]["bias"], rtol=1e-4, atol=1e-5)
    log_std = h @ params["log_std"]["kernel"] + params["log_std"]["bias"]
    # The Cholesky factor is unique, and its diagonal are the exponentials.
    factor = np.linalg.cholesky(covariance)
    np.testing.assert_allclose(np.log(np.diagonal(factor, axis1=1, axis2=2)), log_std, rtol=1e-3, atol=1e-4)
    assert posterior == "diagonal" or d == 1 or np.abs(np.tril(factor, -1)).max() > 0.1
    expected = 0.5 * (np.trace(covariance, axis1=1, axis2=2) + (mean**2).sum(1) - d) - log_std.sum(1)
    np.testing.assert_allclose(code.losses["kl"], expected, rtol=1e-4, atol=1e-4)
    again = run(bottleneck, variables, h, keys=example_keys(5, seed=1))
    np.testing.assert_array_equal(code.losses["kl"], again.losses["kl"])  # does not depend on what was drawn


@pytest.mark.parametrize("posterior", ["diagonal", "full"])
def test_codes_are_drawn_from_the_posterior(posterior):
    n = 4000
    bottleneck, h = GaussianBottleneck(2, posterior), features(batch=1)
    variables = started(bottleneck)
    code = run(bottleneck, variables, jnp.repeat(h, n, 0), keys=example_keys(n))
    z, mean, covariance = np.float64(code.z), code.posterior.mean[0], np.float64(code.posterior.covariance()[0])
    white = np.linalg.solve(np.linalg.cholesky(covariance), (z - mean).T)
    for row in white:
        assert scipy.stats.kstest(row, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(white)[0, 1]) < 5 / np.sqrt(n)


@pytest.mark.parametrize("posterior", ["diagonal", "full", "iaf", "planar"])
def test_without_keys_the_code_is_the_mean(posterior):
    bottleneck, h = GaussianBottleneck(3, posterior, samples=4, hidden=6), features()
    variables = started(bottleneck)
    code = run(bottleneck, variables, h)
    assert code.z.shape == (5, 3)
    assert code.samples == 0
    np.testing.assert_array_equal(code.z, code.posterior.mean)
    if posterior in ("diagonal", "full"):
        dense = variables["params"]["mean"]
        np.testing.assert_allclose(code.z, h @ dense["kernel"] + dense["bias"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("posterior", "samples"), mostly_slow([("diagonal", 1), ("diagonal", 3), ("full", 3), ("iaf", 3), ("planar", 3)])
)
def test_noise_belongs_to_the_example_and_each_sample_has_its_own(posterior, samples):
    bottleneck, h, keys = GaussianBottleneck(3, posterior, samples=samples, hidden=6), features(), example_keys(5)
    variables = started(bottleneck)
    code = run(bottleneck, variables, h, keys=keys)
    z = np.asarray(code.z)
    assert z.shape == ((5, 3) if samples == 1 else (samples, 5, 3))
    assert code.samples == (0 if samples == 1 else samples)
    assert code.losses["kl"].shape == (5,)
    part = run(bottleneck, variables, h[3:], keys=keys[3:])
    np.testing.assert_allclose(part.z, z[..., 3:, :], rtol=1e-5, atol=1e-6)
    alike = run(bottleneck, variables, jnp.ones_like(h), keys=keys).z.reshape(-1, 3)
    assert len(np.unique(alike, axis=0)) == 5 * samples
    assert np.all(run(bottleneck, variables, h, keys=example_keys(5, seed=1)).z != z)


@pytest.mark.parametrize("posterior", ["diagonal", "full"])
def test_clipped_deviations_keep_the_loss_and_its_gradient_finite(posterior):
    bottleneck, h = GaussianBottleneck(2, posterior), features()
    variables = started(bottleneck)

    @jax.jit
    def run(params):
        def loss(params):
            code = bottleneck.apply({"params": params}, h, keys=example_keys(5))
            return code.losses["kl"].sum() + code.z.sum() + code.posterior.log_prob(code.z + 1e-3).sum(), code

        return jax.value_and_grad(loss, has_aux=True)(params)

    for size in (1e3, -1e3):
        variables["params"]["log_std"]["bias"] = jnp.full(2, size)
        (value, code), grads = run(variables["params"])
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((code.z, value, grads)))
        if posterior == "diagonal":
            np.testing.assert_array_equal(code.posterior.log_std, np.full((5, 2), np.sign(size) * 10))


def units_that_vary(n=8):
    """Features whose units have variances 4, 0.02, 0.005 and 0 over the batch, in blocks: the first unit is
    constant on each of two or four devices."""
    block = jnp.repeat(jnp.array([1.0, -1.0]), n // 2)[:, None]
    return block * jnp.sqrt(jnp.array([4.0, 0.02, 0.005, 0.0])) + 3


def active(bottleneck, h):
    params = started(bottleneck, h)["params"]
    params["mean"] = {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}
    return params


@pytest.mark.slow
def test_active_units_are_those_whose_mean_varies_over_the_batch():
    bottleneck, h = GaussianBottleneck(4), units_that_vary()
    params = active(bottleneck, h)
    assert run(bottleneck, {"params": params}, h, keys=example_keys(8)).metrics["active_units"] == 2
    assert run(bottleneck, {"params": params}, h[:1]).metrics["active_units"] == 0


def test_active_units_are_counted_over_the_batch_of_all_devices():
    h = units_that_vary()
    params = active(GaussianBottleneck(4), h)
    bottleneck = GaussianBottleneck(4, axis_name="devices")
    count = jax.pmap(lambda h: bottleneck.apply({"params": params}, h).metrics["active_units"], axis_name="devices")(
        shared_among(4, h)
    )
    np.testing.assert_array_equal(count, [2, 2, 2, 2])


# Priors and whole models.


@pytest.mark.slow
def test_a_vamp_prior_is_the_mixture_of_its_pseudo_inputs_posteriors():
    model = autoencoder(prior="vamp", components=4)
    x = features(size=3)
    variables = started(model, x)
    pseudo = variables["params"]["bottleneck"]["pseudo_inputs"]
    assert pseudo.shape == (4, 3)
    code = run(model, variables, x, keys=example_keys(5), method="encode")
    posteriors = [run(model, variables, pseudo[k : k + 1], method="encode").posterior for k in range(4)]
    mean, std = (np.concatenate(a) for a in zip(*((q.mean, np.exp(q.log_std)) for q in posteriors), strict=True))
    log_p = mixture_log_prob(np.zeros(4), mean, std, code.z)
    log_q = scipy.stats.norm.logpdf(code.z, code.posterior.mean, np.exp(code.posterior.log_std)).sum(1)
    np.testing.assert_allclose(code.prior.log_prob(code.z), log_p, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(code.losses["kl"], log_q - log_p, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(run(model, variables, method="prior").log_prob(code.z), log_p, rtol=1e-4, atol=1e-4)

    def kl(params):
        return model.apply({"params": params}, x, keys=example_keys(5)).code.losses["kl"].sum()

    grad = jax.jit(jax.grad(kl))(variables["params"])["bottleneck"]["pseudo_inputs"]
    assert np.all(np.abs(grad).max(1) > 0)  # pseudo-inputs are learned


@pytest.mark.slow
def test_pseudo_inputs_of_images_begin_as_images():
    bottleneck = GaussianBottleneck(2, prior="vamp", components=50, shape=(2, 3, 1))
    variables = bottleneck.init(jax.random.key(0), features(), features(1, batch=50))
    pseudo = run(bottleneck, variables, method="pseudo_inputs")
    assert pseudo.shape == (50, 2, 3, 1)
    assert 0 <= pseudo.min() < 0.1 < 0.9 < pseudo.max() <= 1
    assert GaussianBottleneck(2).bind({}).pseudo_inputs() is None


@pytest.mark.slow
def test_a_mixture_prior_has_the_parameters_of_its_components():
    bottleneck, h = GaussianBottleneck(2, prior="mixture", components=4), features()
    variables = started(bottleneck)
    code = run(bottleneck, variables, h, keys=example_keys(5))
    p = variables["params"]
    log_p = mixture_log_prob(p["mixture_logits"], p["mixture_mean"], np.exp(p["mixture_log_std"]), code.z)
    log_q = scipy.stats.norm.logpdf(code.z, code.posterior.mean, np.exp(code.posterior.log_std)).sum(1)
    np.testing.assert_allclose(code.losses["kl"], log_q - log_p, rtol=1e-3, atol=1e-4)
    begun = bottleneck.init(jax.random.key(0), h)["params"]["mixture_mean"]
    assert len(np.unique(begun, axis=0)) == 4  # equal ones would stay equal


@pytest.mark.slow
def test_each_sample_is_decoded_with_its_examples_label():
    model, x, label = autoencoder(samples=3, classes=4), features(size=3), jnp.array([0, 3, 1, 2, 1])
    variables = started(model, x, label=label)
    output = run(model, variables, x, label=label, keys=example_keys(5))
    assert output.decoded.shape == (3, 5, 3)
    hot, dense = np.eye(4)[label], jax.tree.map(np.asarray, variables["params"]["decoder"]["dense_0"])
    for z, decoded in zip(output.code.z, output.decoded, strict=True):
        expected = np.concatenate([z, hot], 1) @ dense["kernel"] + dense["bias"]
        np.testing.assert_allclose(decoded, expected, rtol=1e-4, atol=1e-5)
    other = run(model, variables, x, label=label[::-1], keys=example_keys(5))
    assert np.any(other.code.posterior.mean != output.code.posterior.mean)  # the encoder reads it, too


@pytest.mark.slow
def test_what_does_not_fit_is_named():
    h = features()
    for module, message in (
        (GaussianBottleneck(2, "diagonl"), r"bottleneck.posterior 'diagonl' is unknown; did you mean 'diagonal'"),
        (GaussianBottleneck(2, prior="vampp"), r"bottleneck.prior 'vampp' is unknown; did you mean 'vamp'"),
        (GaussianBottleneck(2, "full", "vamp"), r"prior='vamp' needs bottleneck.posterior='diagonal'"),
        (GaussianBottleneck(2, prior="vamp"), r"prior='vamp' needs the features of its pseudo-inputs"),
    ):
        with pytest.raises(aejax.InputError, match=message) as caught:
            module.init(jax.random.key(0), h)
        assert "\n" not in str(caught.value)
    x, label = features(size=3), jnp.zeros(5, jnp.int32)
    model = autoencoder(classes=3)
    variables = model.init(jax.random.key(0), x, label=label)
    with pytest.raises(aejax.InputError, match=r"conditional on 3 classes: give a label"):
        run(model, variables, x)
    with pytest.raises(aejax.InputError, match=r"conditional on 3 classes: give a label"):
        run(model, variables, jnp.zeros((5, 2)), method="decode")
    with pytest.raises(aejax.InputError, match=r"prior='vamp' has no labels"):
        autoencoder(classes=3, prior="vamp").init(jax.random.key(0), x, label=label)
