"""Hierarchies whose layers are all linear: log p(x), the joint prior and the KL are closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from conftest import context, example_keys

import aejax
from aejax import losses
from aejax.data import Spec
from aejax.inference.density import Density
from aejax.models import GaussianBottleneck, HierarchicalGaussian, MLPDecoder, MLPEncoder
from aejax.objectives import Objective
from aejax.objectives.likelihoods import Gaussian

SCALE = 0.7  # of the decoder's Gaussian
STD = np.array([0.6, 0.9])  # of h_1 given h_2
A = np.array([1.1, -0.8])  # each unit of h_1 depends on one of h_2
OFFSET = np.array([0.2, -0.4])
B = np.array([0.1, 0.0, -0.3, 0.5])
# Orthogonal columns, with which the posterior of h_1 has no correlations.
W = np.array([[1.0, 0.5], [-1.0, 0.5], [0.5, 1.0], [0.5, -1.0]]).T  # h_1 to x
X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
MODEL_OF = {
    samples: aejax.Autoencoder(MLPEncoder(), HierarchicalGaussian((2, 2), ((),), samples=samples), MLPDecoder((4,)))
    for samples in (1, 3, 16)
}


def layer(mean, offset, std):
    """The parameters of a linear conditional."""
    heads = {"mean": (mean, offset), "log_std": (np.zeros_like(mean), np.log(std))}
    return {name: {"kernel": jnp.float32(k), "bias": jnp.float32(b)} for name, (k, b) in heads.items()}


def parameters(widen=1.0, shift=0.0):
    """The model with its own posterior as q, or with one that is too wide, and shifted."""
    prior_precision = 1 / (A**2 + STD**2)
    variance = 1 / (prior_precision + (W**2).sum(1) / SCALE**2)
    gain = W.T / SCALE**2 * variance
    at = -B @ gain + OFFSET * prior_precision * variance
    above = 1 / (1 + A**2 / STD**2)
    back = np.diag(A / STD**2 * above)
    bottleneck = {
        "q_0": layer(gain, at + shift, widen * np.sqrt(variance)),
        "q_1": layer(back, -OFFSET @ back + shift, widen * np.sqrt(above)),
        "p_0": layer(np.diag(A), OFFSET, STD),
    }
    return {"bottleneck": bottleneck, "decoder": {"dense_0": {"kernel": jnp.float32(W), "bias": jnp.float32(B)}}}


PRIOR = (  # mean and covariance of z = (h_1, h_2)
    np.concatenate([OFFSET, np.zeros(2)]),
    np.block([[np.diag(A**2 + STD**2), np.diag(A)], [np.diag(A), np.eye(2)]]),
)


def log_likelihood(x=X):
    covariance = W.T @ PRIOR[1][:2, :2] @ W + SCALE**2 * np.eye(4)
    return scipy.stats.multivariate_normal.logpdf(x, OFFSET @ W + B, covariance)


def posterior(params, x):
    """The mean and the covariance of q(z|x), by composing its two linear layers."""
    q = jax.tree.map(np.float64, params["bottleneck"])
    first = x @ q["q_0"]["mean"]["kernel"] + q["q_0"]["mean"]["bias"]
    back = q["q_1"]["mean"]["kernel"]
    own, above = (np.diag(np.exp(2 * q[name]["log_std"]["bias"])) for name in ("q_0", "q_1"))
    mean = np.concatenate([first, first @ back + q["q_1"]["mean"]["bias"]])
    return mean, np.block([[own, own @ back], [back.T @ own, back.T @ own @ back + above]])


@jax.jit
def log_weights(params, keys, x):
    """Of 16 samples: [16, batch]."""
    output = MODEL_OF[16].apply({"params": params}, x, keys=keys)
    z, nll = output.code.z, losses.gaussian_nll(output.decoded, x, np.log(SCALE)).sum(-1)
    return losses.log_weights(nll, output.code.posterior.log_prob(z), output.code.prior.log_prob(z), 1.0)


def test_with_the_exact_posterior_every_weight_is_the_likelihood():
    x = np.tile(X, (100, 1))
    log_w = log_weights(parameters(), example_keys(500), x)
    np.testing.assert_allclose(log_w, np.tile(log_likelihood(x), (16, 1)), rtol=1e-4)


def test_importance_samples_agree_with_the_likelihood_within_their_standard_error():
    params = parameters(1.3, 0.2)
    density = Density(aejax.config.default(), MODEL_OF[3], Gaussian(SCALE), Spec((4,)), {"params": params})
    estimate = density.estimate(X, 4_000)
    error = (estimate.log_likelihood - log_likelihood()) / estimate.standard_error
    assert np.abs(error).max() < 4
    assert estimate.standard_error.max() < 0.03
    elbo = density.parts(np.repeat(X[:1], 2_000, 0) + 1e-6 * np.arange(2_000)[:, None]).elbo
    q, p = posterior(params, X[0]), PRIOR
    gap = log_likelihood()[0] - expected_elbo(params, q, p)
    assert gap > 0.3
    assert abs(elbo.mean() - (log_likelihood()[0] - gap)) < 5 * elbo.std() / np.sqrt(2_000)


def gaussian_kl(q, p):
    """KL of Gaussians, each a mean and a covariance."""
    (m, s), (n, t) = q, p
    inverse = np.linalg.inv(t)
    logs = np.linalg.slogdet(t)[1] - np.linalg.slogdet(s)[1]
    return 0.5 * (np.trace(inverse @ s) + (n - m) @ inverse @ (n - m) - len(m) + logs)


def expected_elbo(params, q, p):
    decoded, variance = q[0][:2] @ W + B, np.trace(W.T @ q[1][:2, :2] @ W)
    log_p = scipy.stats.norm.logpdf(X[0], decoded, SCALE).sum() - variance / 2 / SCALE**2
    return log_p - gaussian_kl(q, p)


def test_the_bound_rises_with_more_samples_and_its_gap_closes():
    n, params = 500, parameters(1.3, 0.2)
    log_w = np.float64(log_weights(params, example_keys(n), np.repeat(X[:1], n, 0)))
    gaps = {k: log_likelihood()[0] - np.logaddexp.reduce(log_w[:k] - np.log(k)) for k in (1, 4, 16)}
    error = {k: gap.std() / np.sqrt(n) for k, gap in gaps.items()}
    for few, many in ((1, 4), (4, 16)):
        assert gaps[few].mean() - gaps[many].mean() > 4 * np.hypot(error[few], error[many])
    assert abs(gaps[16].mean()) < 0.05 + 4 * error[16]


def test_the_rates_of_the_layers_sum_to_the_kl_and_that_is_the_exact_one_in_expectation():
    n, params = 4_000, parameters(1.3, 0.2)
    run = jax.jit(lambda x, keys: MODEL_OF[3].apply({"params": params}, x, keys=keys, method="encode").losses)
    found = {name: np.float64(rate) for name, rate in run(np.repeat(X[:1], n, 0), example_keys(n)).items()}
    assert found.keys() == {"kl", "kl_1", "kl_2"}
    np.testing.assert_allclose(found["kl_1"] + found["kl_2"], found["kl"], rtol=1e-5)
    exact = gaussian_kl(posterior(params, X[0]), PRIOR)
    assert abs(found["kl"].mean() - exact) < 5 * found["kl"].std() / np.sqrt(n)
    q, p = posterior(params, X[0]), PRIOR
    assert abs(found["kl_2"].mean() - expected_top(q)) < 5 * found["kl_2"].std() / np.sqrt(n)
    assert gaussian_kl(q, p) - expected_top(q) > 0.1  # and so each layer has its part


def expected_top(q):
    """The expected KL(q(h_2|h_1) || N(0, I)): the KL of the joint, with h_1's own subtracted."""
    own = np.linalg.inv(q[1][:2, :2])
    conditional = q[1][2:, 2:] - q[1][2:, :2] @ own @ q[1][:2, 2:]
    varied = q[1][2:, 2:] - conditional  # the mean's variance
    return 0.5 * (np.trace(conditional + varied) + q[0][2:] @ q[0][2:] - 2 - np.linalg.slogdet(conditional)[1])


def test_samples_of_the_prior_and_its_density_are_those_of_the_closed_form():
    prior = MODEL_OF[1].apply({"params": parameters()}, method="prior")
    assert prior.sizes == (2, 2)
    n = 20_000
    z = np.float64(prior.sample(example_keys(n)))
    np.testing.assert_allclose(z.mean(0), PRIOR[0], atol=5 * 1.4 / np.sqrt(n))
    np.testing.assert_allclose(np.cov(z.T), PRIOR[1], atol=5 * 3 / np.sqrt(n))
    points = np.random.default_rng(1).normal(size=(3, 7, 4)).astype(np.float32)
    expected = scipy.stats.multivariate_normal.logpdf(points, *PRIOR)
    np.testing.assert_allclose(prior.log_prob(points), expected, rtol=1e-4)
    decoded = MODEL_OF[1].apply({"params": parameters()}, z[:3].astype(np.float32), method="decode")
    np.testing.assert_allclose(decoded, z[:3, :2] @ W + B, rtol=1e-4, atol=1e-5)


def test_the_density_of_the_posterior_is_that_of_the_closed_form():
    params = parameters(1.3, 0.2)
    code = MODEL_OF[1].apply({"params": params}, X, method="encode")
    points = np.random.default_rng(1).normal(size=(3, 5, 4)).astype(np.float32)
    of = [posterior(params, x) for x in X]
    for i, q in enumerate(of):
        log_q = code.posterior.log_prob(points)[:, i]
        np.testing.assert_allclose(log_q, scipy.stats.multivariate_normal.logpdf(points[:, i], *q), rtol=1e-3)
    np.testing.assert_allclose(code.z, [q[0] for q in of], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(code.posterior.mean, code.z)


@pytest.mark.parametrize("samples", [1, 3])
def test_one_layer_is_the_gaussian_bottleneck(samples):
    plain, one = GaussianBottleneck(2, samples=samples), HierarchicalGaussian((2,), samples=samples)
    params = plain.init(jax.random.key(0), X)["params"]
    expected = plain.apply({"params": params}, X, keys=example_keys(5))
    code = one.apply({"params": {"q_0": params}}, X, keys=example_keys(5))
    np.testing.assert_array_equal(code.z, expected.z)
    assert code.losses.keys() == {"kl"}
    assert code.metrics == expected.metrics
    assert code.samples == expected.samples
    np.testing.assert_allclose(code.losses["kl"], expected.losses["kl"], rtol=1e-6)
    for part in ("posterior", "prior"):
        of, wanted = (getattr(each, part).log_prob(code.z) for each in (code, expected))
        np.testing.assert_allclose(of, wanted, rtol=1e-6)


@pytest.mark.slow
def test_piwae_and_dreg_part_the_gradients_of_a_hierarchy():
    """With one group PIWAE's gradient is IWAE's; DReG's towards q is 0 where q is the posterior."""
    params = parameters(1.3, 0.2)

    def grads(params, name, **options):
        def loss(params):
            variables = {"params": params}
            output = MODEL_OF[3].apply(variables, X, keys=example_keys(5))
            c = context(X, output.decoded, output.code.z, apply=MODEL_OF[3].apply, variables=variables)
            objective = Objective(Gaussian(SCALE), bound={"name": name, **options})
            return objective(c.__class__(**{**vars(c), "output": output}))["loss"].mean()

        return jax.jit(jax.grad(loss))(params)

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)  # noqa: E731
    iwae, piwae, dreg = grads(params, "iwae"), grads(params, "piwae"), grads(params, "dreg")
    jax.tree.map(close, piwae, iwae)
    miwae, apart = grads(params, "miwae", groups=3), grads(params, "piwae", groups=3)
    for name in ("q_0", "q_1"):
        jax.tree.map(close, apart["bottleneck"][name], miwae["bottleneck"][name])
    for found in (apart, dreg):
        jax.tree.map(close, found["decoder"], iwae["decoder"])
        jax.tree.map(close, found["bottleneck"]["p_0"], iwae["bottleneck"]["p_0"])
    exact = grads(parameters(), "dreg")["bottleneck"]
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves((exact["q_0"], exact["q_1"]))) < 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": ()}, r"bottleneck\.features has no layer; give the units of each"),
        ({"features": (3, 0), "hidden": ((4,),)}, r"bottleneck\.features must be whole numbers above 0.*got \(3, 0\)"),
        ({"features": (3, 2)}, r"the 2 layers, 1 sequences, e\.g\. \(\(100, 100\),\), got \(\)"),
        ({"features": (3, 2), "hidden": 4}, r"bottleneck\.hidden must hold .* got 4"),
        ({"features": (3, 2), "hidden": (4, 4)}, r"bottleneck\.hidden must hold .* got \(4, 4\)"),
        ({"features": (3, 2), "hidden": ((4, 0),)}, r"bottleneck\.hidden must be whole numbers above 0.*got \(4, 0\)"),
    ],
)
def test_layers_that_do_not_fit_are_one_line(options, message):
    with pytest.raises(aejax.InputError, match=message) as caught:
        HierarchicalGaussian(**options).init(jax.random.key(0), X)
    assert "\n" not in str(caught.value)
