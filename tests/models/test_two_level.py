"""Two layers under a VampPrior: linear ones, whose likelihood is a mixture of Gaussians, and grids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from conftest import example_keys, mostly_slow

import aejax
from aejax import losses
from aejax.config import default
from aejax.data import Spec
from aejax.inference.density import Density
from aejax.models import MLPDecoder, MLPEncoder, TwoLevelVamp
from aejax.objectives.likelihoods import Gaussian

SCALE = 0.7  # of the decoder's Gaussian
X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
K = 3  # pseudo-inputs


def linear(samples=1, features=(2, 1)):
    bottleneck = TwoLevelVamp(features, hidden=0, components=K, samples=samples, shape=(4,))
    return aejax.Autoencoder(MLPEncoder(), bottleneck, MLPDecoder((4,)))


MODEL = linear()


def parameters(model=MODEL):
    """Parameters that are not zero, with standard deviations that do not depend on anything."""
    rng = np.random.default_rng(1)
    found = jax.eval_shape(model.init, jax.random.key(0), X)["params"]
    found = jax.tree.map(lambda a: jnp.float32(rng.normal(0, 0.3, a.shape)), found)
    for part in found["bottleneck"].values():
        if isinstance(part, dict):
            part["log_std"]["kernel"] = jnp.zeros_like(part["log_std"]["kernel"])
    found["bottleneck"]["q_1"]["log_std"]["bias"] += 0.4  # wider than the posterior: weights without heavy tails
    return found


def log_likelihood(params, x=X):
    """By hand: z_2 is a mixture of K Gaussians with one covariance, and all that follows is linear."""
    p = jax.tree.map(np.float64, params)
    q_2, p_1, decoder = p["bottleneck"]["q_2"], p["bottleneck"]["p_1"], p["decoder"]["dense_0"]
    means = p["bottleneck"]["pseudo_inputs"] @ q_2["mean"]["kernel"] + q_2["mean"]["bias"]  # [K, 1]
    to_1, var_2 = p_1["mean"]["kernel"], np.exp(2 * q_2["log_std"]["bias"])
    joint = np.concatenate([to_1.T, np.eye(1)])  # z of z_2
    covariance = joint @ np.diag(var_2) @ joint.T + np.diag([*np.exp(2 * p_1["log_std"]["bias"]), 0])
    w = decoder["kernel"]
    terms = [
        scipy.stats.multivariate_normal.logpdf(
            x,
            np.concatenate([mean @ to_1 + p_1["mean"]["bias"], mean]) @ w + decoder["bias"],
            w.T @ covariance @ w + SCALE**2 * np.eye(4),
        )
        for mean in means
    ]
    return np.logaddexp.reduce(terms, 0) - np.log(K)


def test_importance_samples_agree_with_the_likelihood_and_the_bound_is_below_it():
    params = parameters()
    density = Density(default(), MODEL, Gaussian(SCALE), Spec((4,)), {"params": params})
    estimate = density.estimate(X, 4_000)
    error = (estimate.log_likelihood - log_likelihood(params)) / estimate.standard_error
    assert np.abs(error).max() < 4
    assert estimate.standard_error.max() < 0.3
    elbo = np.mean([density.parts(X, seed).elbo for seed in range(20)], 0)
    assert (elbo < log_likelihood(params)).all()


def test_annealed_chains_agree_with_the_likelihood():
    params = parameters()
    density = Density(default(), MODEL, Gaussian(SCALE), Spec((4,)), {"params": params})
    estimate = density.anneal(X, steps=60, chains=32)
    error = (estimate.log_likelihood - log_likelihood(params)) / estimate.standard_error
    assert np.abs(error).max() < 4
    assert estimate.standard_error.max() < 0.2


def test_the_rates_sum_to_the_kl_which_is_that_of_the_densities():
    model, n, params = linear(samples=3), 3_000, parameters()
    run = jax.jit(lambda x, keys: model.apply({"params": params}, x, keys=keys, method="encode"))
    code = run(np.repeat(X[:1], n, 0), example_keys(n))
    rates = {name: np.float64(rate) for name, rate in code.losses.items()}
    np.testing.assert_allclose(rates["kl_1"] + rates["kl_2"], rates["kl"], rtol=1e-5)
    drawn = np.float64(code.posterior.log_prob(code.z) - code.prior.log_prob(code.z)).mean(0)
    assert abs((drawn - rates["kl"]).mean()) < 5 * (drawn - rates["kl"]).std() / np.sqrt(n)
    # The upper layer's by itself: at z_2 of q, its density minus the mixture's.
    p = jax.tree.map(np.float64, params["bottleneck"])["q_2"]
    mean, std = X[0] @ p["mean"]["kernel"] + p["mean"]["bias"], np.exp(p["log_std"]["bias"])
    z = np.float64(code.z)[..., 2:]
    of_pseudo = np.float64(params["bottleneck"]["pseudo_inputs"]) @ p["mean"]["kernel"] + p["mean"]["bias"]
    log_p = np.logaddexp.reduce(scipy.stats.norm.logpdf(z[..., 0, None], of_pseudo[:, 0], std), -1) - np.log(K)
    expected = (scipy.stats.norm.logpdf(z, mean, std)[..., 0] - log_p).mean(0)
    np.testing.assert_allclose(rates["kl_2"], expected, rtol=1e-3, atol=1e-4)


def started(features, hidden):
    """A bottleneck with gated layers whose parameters are not those that it starts with, and its prior."""
    model = aejax.Autoencoder(
        MLPEncoder(), TwoLevelVamp(features, hidden=hidden, components=K, shape=(4,)), MLPDecoder((4,))
    )
    rng = np.random.default_rng(2)
    shapes = jax.eval_shape(model.init, jax.random.key(0), X)
    variables = jax.tree.map(lambda a: jnp.float32(rng.normal(0, 0.4, a.shape)), shapes)
    return model, variables


def test_the_prior_and_the_posterior_integrate_to_one():
    model, variables = started((1, 1), hidden=4)
    line = np.linspace(-12, 12, 401, dtype=np.float32)
    grid = jnp.stack(jnp.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 1, 2)
    code = model.apply(variables, X[:1], method="encode")
    for density in (model.apply(variables, method="prior"), code.posterior):
        total = np.exp(np.float64(density.log_prob(grid))).sum() * (line[1] - line[0]) ** 2
        assert total == pytest.approx(1, abs=2e-3)


def test_samples_of_the_prior_are_those_of_its_density():
    model, variables = started((1, 1), hidden=4)
    prior, n = model.apply(variables, method="prior"), 20_000
    assert prior.sizes == (1, 1)
    z = np.float64(jax.jit(prior.sample)(example_keys(n)))
    line = np.linspace(-12, 12, 401, dtype=np.float32)
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    p = np.exp(np.float64(prior.log_prob(grid))) * (line[1] - line[0]) ** 2
    mean = p @ grid
    covariance = (grid - mean).T @ (p[:, None] * (grid - mean))
    np.testing.assert_allclose(z.mean(0), mean, atol=5 * np.sqrt(covariance.max() / n))
    np.testing.assert_allclose(np.cov(z.T), covariance, atol=8 * covariance.max() / np.sqrt(n))
    cold = np.float64(prior.sample(example_keys(500), jnp.zeros(2)))  # at the means of the components
    assert len(np.unique(cold.round(4), axis=0)) == K
    np.testing.assert_allclose(cold, prior.generate(cold * [0, 1], 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("samples", mostly_slow([1, 3]))
def test_the_decoder_reads_both_layers_and_what_the_code_holds_is_that(samples):
    bottleneck = TwoLevelVamp((2, 3), hidden=4, components=K, samples=samples, shape=(4,))
    model = aejax.Autoencoder(MLPEncoder(), bottleneck, MLPDecoder((4,)))
    variables = jax.jit(model.init)(jax.random.key(0), X)
    output = model.apply(variables, X, keys=example_keys(5))
    assert output.code.z.shape == ((3, 5, 5) if samples == 3 else (5, 5))
    decode = lambda z: model.apply(variables, z, method="decode")  # noqa: E731
    z = output.code.z.reshape(-1, 5)
    np.testing.assert_allclose(decode(z), output.decoded.reshape(-1, 4), rtol=1e-5, atol=1e-6)
    assert np.abs(jax.jacobian(lambda z: decode(z[None])[0])(z[0])).max(0).min() > 1e-3  # each unit is read


def test_pseudo_inputs_are_learned():
    variables = {"params": parameters()}
    kl = lambda params: MODEL.apply({"params": params}, X, keys=example_keys(5)).code.losses["kl"].sum()  # noqa: E731
    grad = jax.jit(jax.grad(kl))(variables["params"])["bottleneck"]["pseudo_inputs"]
    assert (np.abs(grad).max(1) > 0).all()


def test_with_the_exact_posterior_every_weight_is_the_likelihood():
    """With equal pseudo-inputs the prior is Gaussian, of which the posterior of z_2 and z_1 is one, too."""
    model, params = linear(features=(1, 1)), parameters(linear(features=(1, 1)))
    b, decoder = params["bottleneck"], params["decoder"]["dense_0"]
    b["pseudo_inputs"] = jnp.zeros((K, 4))
    # p(z_2) is q(z_2|x = 0): so q(z_2|x) is exact if x says nothing of z_2, that is if the decoder reads neither layer.
    decoder["kernel"], b["q_2"]["mean"]["kernel"] = jnp.zeros((2, 4)), jnp.zeros((4, 1))
    of_z = b["p_1"]["mean"]["kernel"]
    b["q_1"]["mean"]["kernel"] = jnp.concatenate([jnp.zeros((4, 1)), of_z])
    for head in ("mean", "log_std"):
        b["q_1"][head]["bias"] = b["p_1"][head]["bias"]
    density = Density(default(), model, Gaussian(SCALE), Spec((4,)), {"params": params})
    exact = scipy.stats.norm.logpdf(X, decoder["bias"], SCALE).sum(1)
    np.testing.assert_allclose(density.estimate(X, 1).log_likelihood, exact, rtol=1e-5)
    np.testing.assert_allclose(density.parts(X).rate, 0, atol=1e-5)


@pytest.mark.parametrize(
    ("features", "message"),
    [((3,), r"features must be the units of z_1 and z_2, got \(3,\)"), ((3, 0), r"whole numbers above 0.*\(3, 0\)")],
)
def test_layers_that_do_not_fit_are_one_line(features, message):
    with pytest.raises(aejax.InputError, match=message) as caught:
        TwoLevelVamp(features, shape=(4,)).init(jax.random.key(0), X, X)
    assert "\n" not in str(caught.value)


def test_without_the_features_of_its_pseudo_inputs_it_says_so():
    with pytest.raises(aejax.InputError, match="needs the features of its pseudo-inputs"):
        TwoLevelVamp((2, 2), shape=(4,)).init(jax.random.key(0), X)


HEADS = ("mean", "log_std")


def linear_of(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def gated(x, layers, i=0):
    return linear_of(x, layers[f"dense_{i}"]) / (1 + np.exp(-linear_of(x, layers[f"gate_{i}"])))


def test_gated_layers_multiply_by_their_gates():
    model, variables = started((1, 1), hidden=4)
    params = jax.tree.map(np.float64, variables["params"]["bottleneck"])
    h = gated(gated(X, params["q_2_layers"]), params["q_2_layers"], 1)
    mean, log_std = (linear_of(h, params["q_2"][name]) for name in HEADS)
    code = model.apply(variables, X, method="encode")
    np.testing.assert_allclose(code.z[:, 1:], mean, rtol=1e-4, atol=1e-5)
    z = jnp.concatenate([code.z[:, :1], mean + 0.3], 1)
    q_2 = losses.normal_log_prob(z[:, 1:], jnp.float32(mean), jnp.float32(log_std))
    of_x, of_z, both = (params[name] for name in ("q_1_of_x", "q_1_of_z", "q_1_layers"))
    h = np.concatenate([gated(X, of_x), gated(mean + 0.3, of_z)], 1)
    q_1 = losses.normal_log_prob(
        z[:, :1], *(jnp.float32(linear_of(gated(h, both), params["q_1"][name])) for name in HEADS)
    )
    np.testing.assert_allclose(code.posterior.log_prob(z), q_2 + q_1, rtol=1e-3)
