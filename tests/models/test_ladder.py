"""Ladders: linear ones, whose likelihood is a closed form, and what holds for all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from conftest import example_keys

import aejax
from aejax import losses, models
from aejax.config import default, module
from aejax.data import Spec
from aejax.inference.density import Density
from aejax.models import LadderGaussian, PyramidDecoder, PyramidEncoder
from aejax.models.bottlenecks.ladder import Layer
from aejax.models.ladder import merge_patches, spread_patches
from aejax.objectives.likelihoods import Gaussian

SCALE = 0.7  # of the decoder's Gaussian
X = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)


def linear(samples=1, residual=True):
    """Without blocks all layers are linear: three of latent units, at two scales of vectors."""
    return aejax.Autoencoder(
        PyramidEncoder((4, 3), (1, 1), blocks=0),
        LadderGaussian((2, 1), (2, 1), residual, blocks=0, samples=samples),
        PyramidDecoder((6,), blocks=0),
    )


MODEL = linear()


@pytest.fixture(scope="module")
def params():
    """Parameters that are not zero, with standard deviations that do not depend on anything."""
    rng = np.random.default_rng(1)
    found = jax.eval_shape(MODEL.init, jax.random.key(0), X)["params"]
    found = jax.tree.map(lambda a: jnp.float32(rng.normal(0, 0.4, a.shape)), found)
    for part in found["bottleneck"].values():
        for name in ("p_log_std", "q_log_std"):
            if name in part:
                part[name]["kernel"] = jnp.zeros_like(part[name]["kernel"])
    return found


def affine(function, size):
    """The offset [n] and the matrix [size, n] of an affine function, by its values alone."""
    values = np.float64(function(jnp.concatenate([jnp.zeros((1, size)), jnp.eye(size)])))
    return values[0], values[1:] - values[0]


def prior(params):
    """Mean and covariance of z = (z_1, z_2, z_3)."""
    of = MODEL.apply({"params": params}, method="prior")
    mean, matrix = affine(lambda noise: of.generate(noise, 3), 5)
    return mean, matrix.T @ matrix


def log_likelihood(params, x=X):
    mean, covariance = prior(params)
    offset, matrix = affine(lambda z: MODEL.apply({"params": params}, z, method="decode"), 5)
    covariance = matrix.T @ covariance @ matrix + SCALE**2 * np.eye(6)
    return scipy.stats.multivariate_normal.logpdf(x, offset + mean @ matrix, covariance)


def test_importance_samples_agree_with_the_likelihood_and_the_bound_is_below_it(params):
    density = Density(default(), MODEL, Gaussian(SCALE), Spec((6,)), {"params": params})
    estimate = density.estimate(X, 8_000)
    error = (estimate.log_likelihood - log_likelihood(params)) / estimate.standard_error
    assert np.abs(error).max() < 4
    assert estimate.standard_error.max() < 0.3
    elbo = np.mean([density.parts(X, seed).elbo for seed in range(20)], 0)
    assert (elbo < log_likelihood(params)).all()
    few = [density.estimate(np.repeat(X[:1], 500, 0) + 1e-6 * np.arange(500)[:, None], k) for k in (1, 32)]
    gaps = [log_likelihood(params)[0] - each.log_likelihood.mean() for each in few]
    assert gaps[0] > 2 * gaps[1] > 0.02


def test_the_exact_posterior_makes_the_bound_equal_to_the_likelihood():
    """Of one layer of one unit: q of a ladder is Gaussian, and so is the posterior."""
    model = aejax.Autoencoder(
        PyramidEncoder((6,), (1,), blocks=0), LadderGaussian((1,), (1,), blocks=0), PyramidDecoder((6,), blocks=0)
    )
    found = jax.eval_shape(model.init, jax.random.key(0), X)["params"]
    rng = np.random.default_rng(2)
    found = jax.tree.map(lambda a: jnp.float32(rng.normal(0, 0.5, a.shape)), found)
    part, encoder = found["bottleneck"]["parts_0"], found["encoder"]["merge_0"]
    encoder.update(kernel=jnp.eye(6), bias=jnp.zeros(6))
    found["bottleneck"]["starts_0"]["bias"] = jnp.zeros((1, 1, 6))
    part["q_merge"].update(kernel=jnp.concatenate([jnp.zeros((6, 6)), jnp.eye(6)]), bias=jnp.zeros(6))
    offset, matrix = affine(lambda z: model.apply({"params": found}, z, method="decode"), 1)
    variance = 1 / (1 + (matrix**2).sum() / SCALE**2)
    gain = matrix.T / SCALE**2 * variance
    part["q_mean"].update(kernel=jnp.float32(gain), bias=jnp.float32(-offset @ gain))
    bounded = 5 * np.arctanh(np.log(variance) / 2 / 5)
    part["q_log_std"].update(kernel=jnp.zeros((6, 1)), bias=jnp.full(1, bounded, jnp.float32))
    density = Density(default(), model, Gaussian(SCALE), Spec((6,)), {"params": found})
    exact = scipy.stats.multivariate_normal.logpdf(X, offset, matrix.T @ matrix + SCALE**2 * np.eye(6))
    for seed in range(3):
        np.testing.assert_allclose(density.estimate(X, 1, seed).log_likelihood, exact, rtol=1e-4)
    elbo = density.parts(X).elbo  # whose KL is exact, while its reconstruction is sampled
    assert (np.abs(elbo - exact) < 5).all()


def test_samples_of_the_prior_and_both_densities_are_those_of_the_closed_form(params):
    variables = {"params": params}
    of, n = MODEL.apply(variables, method="prior"), 20_000
    assert of.sizes == (2, 2, 1)
    mean, covariance = prior(params)
    z = np.float64(of.sample(example_keys(n)))
    np.testing.assert_allclose(z.mean(0), mean, atol=5 * np.sqrt(covariance.max() / n))
    np.testing.assert_allclose(np.cov(z.T), covariance, atol=8 * covariance.max() / np.sqrt(n))
    points = np.random.default_rng(1).normal(size=(3, 5, 5)).astype(np.float32)
    expected = scipy.stats.multivariate_normal.logpdf(points, mean, covariance)
    np.testing.assert_allclose(of.log_prob(points), expected, rtol=1e-3)

    # q(z|x), by the noise that z is made from
    h = MODEL.apply(variables, X, method="features")
    posterior = MODEL.apply(variables, X, method="encode").posterior

    def infer(noise):
        bound = of.module.bind({"params": params["bottleneck"]})
        scales = tuple(jnp.repeat(each[:1], len(noise), 0) for each in h)
        walked = bound._walk(scales, noise, [each.shape[1:] for each in h], 3)[1]
        return jnp.concatenate([layer.z.reshape(len(noise), -1) for layer in walked], -1)

    mean, matrix = affine(infer, 5)
    expected = scipy.stats.multivariate_normal.logpdf(points[:, 0], mean, matrix.T @ matrix)
    np.testing.assert_allclose(posterior.log_prob(points)[:, 0], expected, rtol=1e-3)


@pytest.mark.parametrize("residual", [True, False])
def test_the_rates_of_the_layers_sum_to_the_kl_which_is_that_of_the_densities(params, residual):
    model, n = linear(residual=residual), 4_000
    run = jax.jit(lambda x, keys: model.apply({"params": params}, x, keys=keys, method="encode"))
    code = run(np.repeat(X[:1], n, 0), example_keys(n))
    rates = {name: np.float64(rate) for name, rate in code.losses.items()}
    np.testing.assert_allclose(rates["kl_1"] + rates["kl_2"] + rates["kl_3"], rates["kl"], rtol=1e-5)
    np.testing.assert_allclose(code.kl_by_unit.sum(-1), rates["kl"], rtol=1e-5)
    np.testing.assert_allclose(code.kl_by_unit[:, :2].sum(-1), rates["kl_1"], rtol=1e-5)
    drawn = np.float64(code.posterior.log_prob(code.z) - code.prior.log_prob(code.z))
    assert abs((drawn - rates["kl"]).mean()) < 5 * (drawn - rates["kl"]).std() / np.sqrt(n)
    assert drawn.mean() > 0.2
    assert min(rates[f"kl_{i}"].mean() for i in (1, 2, 3)) > 0.02


def test_a_ladder_of_one_layer_has_the_kl_of_the_gaussian_bottleneck():
    bottleneck, h = LadderGaussian((1,), (3,), blocks=1), jax.random.normal(jax.random.key(0), (5, 1, 1, 4))
    variables = bottleneck.init(jax.random.key(1), h)
    code = bottleneck.apply(variables, h, keys=example_keys(5))
    mean = bottleneck.apply(variables, h).z
    log_std = jnp.zeros_like(mean)  # as its kernel starts at 0
    np.testing.assert_allclose(code.losses["kl"], losses.gaussian_kl(mean, log_std), rtol=1e-5)
    np.testing.assert_allclose(
        code.posterior.log_prob(code.z), losses.normal_log_prob(code.z, mean, log_std), rtol=1e-5
    )
    np.testing.assert_allclose(code.prior.log_prob(code.z), scipy.stats.norm.logpdf(code.z).sum(1), rtol=1e-5)
    assert code.losses.keys() == {"kl"}


IMAGES = np.random.default_rng(0).uniform(size=(4, 8, 8, 1)).astype(np.float32)


def convolutional(samples=1, remat=False, dtype="float32"):
    return aejax.Autoencoder(
        PyramidEncoder((8, 4), (2, 4), remat=remat, dtype=dtype),
        LadderGaussian((2, 1), (2, 3), samples=samples, remat=remat, dtype=dtype),
        PyramidDecoder((8, 8, 1), remat=remat, dtype=dtype),
    )


@pytest.mark.slow
def test_samples_of_images_are_a_batch_and_the_state_is_what_z_gives():
    model = convolutional(samples=3)
    variables = jax.jit(model.init)(jax.random.key(0), IMAGES)
    variables = jax.tree.map(lambda a: a + 0.02, variables)  # what starts at 0, too
    output = model.apply(variables, IMAGES, keys=example_keys(4))
    code = output.code
    assert (code.z.shape, code.samples) == ((3, 4, 4 * 4 * 2 * 2 + 3), 3)
    again = model.apply(variables, code.z.reshape(12, -1), method="decode")
    np.testing.assert_allclose(again.reshape(output.decoded.shape), output.decoded, rtol=1e-4, atol=1e-4)
    one = convolutional().apply(variables, IMAGES, keys=jax.vmap(jax.random.fold_in, (0, None))(example_keys(4), 1))
    np.testing.assert_allclose(code.z[1], one.code.z, rtol=1e-4, atol=1e-4)
    for density in (code.posterior, code.prior):
        whole = density.log_prob(code.z)
        np.testing.assert_allclose(whole[1], density.log_prob(code.z[1]), rtol=1e-4)
    assert np.isfinite(whole).all()


@pytest.mark.slow
def test_remat_changes_neither_parameters_nor_gradients():
    plain, saving = convolutional(), convolutional(remat=True)
    variables = jax.jit(plain.init)(jax.random.key(0), IMAGES)
    assert jax.tree.structure(jax.eval_shape(saving.init, jax.random.key(0), IMAGES)) == jax.tree.structure(variables)

    def loss(variables, model):
        output = model.apply(variables, IMAGES, keys=example_keys(4), train=True)
        return jnp.square(output.decoded).sum() + output.code.losses["kl"].sum()

    grads = [jax.jit(jax.grad(lambda v, m=model: loss(v, m)))(variables) for model in (plain, saving)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *grads)


def test_patches_merge_and_spread():
    x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    merged = merge_patches(x, 2)
    np.testing.assert_array_equal(merged[1, 1, 2].reshape(2, 2, 3), x[1, 2:4, 4:6])
    np.testing.assert_array_equal(spread_patches(merged, 2), x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bottleneck.layers": (2, 1, 1), "bottleneck.features": (2, 2, 2)}, r"layers at 3 scales, .* features at 2:"),
        ({"encoder": module("mlp", features=(8,))}, r"the encoder has \[\(8,\)\] without .* use encoder\.name=pyramid"),
        ({"bottleneck.layers": (2, 0)}, r"bottleneck\.layers must be whole numbers above 0.*got \(2, 0\)"),
        ({"bottleneck.features": (0, 4)}, r"bottleneck\.features must be whole numbers above 0.*got \(0, 4\)"),
        ({"bottleneck.features": (4,)}, r"features=\(4,\) must have one entry for each scale"),
        ({"encoder.strides": (4,)}, r"encoder\.strides=\(4,\) must have one entry for each scale"),
        ({"encoder.strides": (3, 1)}, r"8x8 is not divisible by 3; .* or change encoder\.strides"),
        (
            {"encoder.strides": (4, 4)},
            r"8x8 is not divisible by 16; resize with data\.size=16 or change encoder\.strides",
        ),
    ],
)
def test_layers_that_do_not_fit_are_one_line(changes, message):
    config = default()
    config.encoder = module("pyramid", features=(8, 16), strides=(4, 2))
    config.bottleneck = module("ladder", layers=(2, 1), features=(2, 4))
    config.decoder = module("pyramid")
    config.update_from_flattened_dict(changes)
    with pytest.raises(aejax.InputError, match=message) as caught:
        models.build(config, (8, 8, 1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("fine", "coarse"), [((2, 2), (4, 4)), ((4, 4), (3, 3)), ((4, 4), (2, 4))])
def test_scales_of_an_encoder_of_ones_own_are_multiples(fine, coarse):
    scales = tuple(jnp.zeros((1, *sides, 3)) for sides in (fine, coarse))
    with pytest.raises(aejax.InputError, match=f"pixels of {coarse[0]}x{coarse[1]} to whole squares of {fine[0]}x"):
        LadderGaussian((1, 1), (2, 2)).init(jax.random.key(0), scales)


def test_strides_merge_pixels_which_vectors_have_not():
    config = default()
    config.encoder = module("pyramid", features=(8, 16), strides=(4, 2))
    config.bottleneck, config.decoder = module("ladder", layers=(2, 1), features=(2, 4)), module("pyramid")
    with pytest.raises(
        aejax.InputError, match=r"strides=\(4, 2\) merges the pixels .* \(12,\) are none; set .* \(1, 1\)"
    ):
        models.build(config, (12,))


@pytest.mark.parametrize("residual", [True, False])
def test_a_prior_that_shrinks_costs_what_the_posterior_differs_from_it(params, residual):
    """Otherwise a decoder that z disturbs makes it narrow, and the layer says nothing from then on."""
    model = linear(residual=residual)

    def rate(log_std):
        part = params["bottleneck"]["parts_0"]
        part = {**part, "p_log_std": {**part["p_log_std"], "bias": jnp.full(2, 5 * jnp.arctanh(log_std / 5))}}
        found = {**params, "bottleneck": {**params["bottleneck"], "parts_0": part}}
        return model.apply({"params": found}, X, method="encode").losses["kl_1"]

    wide, narrow = rate(0.0), rate(-3.0)
    assert (narrow > 5 * wide).all()
    # The difference of the means counts by the square of p's width; the factor of the widths is the same if residual.
    if residual:
        factor = rate(4.0)  # so wide that the difference of the means costs nothing
        np.testing.assert_allclose(narrow - factor, (wide - factor) * np.exp(6.0), rtol=1e-2)


@pytest.mark.parametrize("residual", [True, False])
def test_a_residual_posterior_that_adds_nothing_is_the_prior(residual):
    layer = Layer(features=2, is_top=False, residual=residual, blocks=1)
    state, h, noise = (jax.random.normal(jax.random.key(i), (3, 2, 2, c)) for i, c in enumerate((4, 4, 2)))
    params = layer.init(jax.random.key(3), state, h, noise, True)["params"]
    moved = jax.tree.map(lambda a: a + 0.3, params)  # p's heads start at 0
    zero = jax.tree.map(jnp.zeros_like, {name: moved[name] for name in ("q_mean", "q_log_std")})
    _, sampled = layer.apply({"params": {**moved, **zero}}, state, h, noise, True)
    assert sampled.q is not None
    for q, p in zip(sampled.q, sampled.p, strict=True):
        assert np.abs(p).max() > 0.1  # not the prior that it starts as
        np.testing.assert_allclose(q, p if residual else 0, rtol=1e-6)
