"""A latent library size: its KL, prior by batch, and place in the decoded means, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import config_of, example_keys, one_device
from scipy import stats

import aejax
from aejax.data.cells import sample_cells
from aejax.inference.parts import describe_parts
from aejax.models import LibraryDecoder, LibraryEncoder, LibraryGaussian, build
from aejax.models.likelihoods import ZeroInflatedNegativeBinomial
from aejax.objectives import Objective
from aejax.training.initializers import compute_library


@pytest.fixture(scope="module")
def cells():
    x, _, batch = sample_cells(160, 12)
    return x, batch


@pytest.fixture(scope="module")
def run(cells):
    config = config_of("scvi", "tiny,latent_library")
    return aejax.fit(config, cells[0], label=cells[1], quiet=True, devices=one_device())


def test_its_kl_is_that_of_two_gaussians_and_its_prior_that_of_the_batch():
    bottleneck, h, label = LibraryGaussian(3, classes=2), jnp.ones((6, 8)), jnp.arange(6) % 2
    variables = bottleneck.init(jax.random.key(0), h, label=label)
    params = {**variables["params"], "library_mean": np.float32([5.0, 7.0]), "library_log_std": np.float32([-1.0, 0.5])}
    params["mean"] = {**params["mean"], "bias": np.float32([6.0])}
    params["log_std"] = {**params["log_std"], "bias": np.float32([-0.7])}
    code = bottleneck.apply({"params": params}, h, label=label, keys=example_keys(6))
    assert code.z.shape == (6, 4)
    mean = np.asarray(code.posterior.mean[:, -1])
    p = [stats.norm(5, np.exp(-1)), stats.norm(7, np.exp(0.5))]
    grid = np.linspace(-10, 20, 20_001)
    for i in range(6):
        q = stats.norm(mean[i], np.exp(-0.7))
        kl = np.trapezoid(q.pdf(grid) * (q.logpdf(grid) - p[i % 2].logpdf(grid)), grid)
        np.testing.assert_allclose(code.losses["kl_library"][i], kl, rtol=1e-4)
        log_p = stats.norm.logpdf(code.z[i, :3]).sum() + p[i % 2].logpdf(code.z[i, 3])
        np.testing.assert_allclose(code.prior.log_prob(code.z)[i], log_p, rtol=1e-5)
    average = bottleneck.apply({"params": params}, method="prior_of")
    z = np.asarray(average.sample(jax.random.split(jax.random.key(0), 4_000)))
    np.testing.assert_allclose(z.mean(0), [0, 0, 0, 6], atol=0.06)
    np.testing.assert_allclose(z.std(0), [1, 1, 1, np.exp(-0.25)], rtol=0.05)


def test_the_decoder_adds_it_to_log_fractions():
    decoder, rng = LibraryDecoder((10,), code=2, features=(4,), parameters=2), np.random.default_rng(0)
    z = np.float32(rng.normal(size=(3, 5)))  # two units, the library, two of a label
    variables = decoder.init(jax.random.key(0), z)
    decoded = np.asarray(decoder.apply(variables, z))
    np.testing.assert_allclose(np.exp(decoded[:, :5]).sum(1), np.exp(z[:, 2]), rtol=1e-5)
    longer = np.asarray(decoder.apply(variables, z + np.float32([0, 0, 1, 0, 0])))
    np.testing.assert_allclose(longer - decoded, np.repeat([[1.0, 0.0]], 5, 1).repeat(3, 0), atol=1e-5)
    with pytest.raises(aejax.InputError, match=r"decoder.parameters=3 does not divide the decoded \(10,\)"):
        LibraryDecoder((10,), code=2, parameters=3).init(jax.random.key(0), z)


def test_its_encoder_has_two_networks_that_drop_other_units():
    encoder, x = LibraryEncoder((50,), activation="linear", hidden_dropout=0.5), jnp.ones((4, 3))
    variables = encoder.init(jax.random.key(0), x)
    some = np.asarray(encoder.apply(variables, x, keys=example_keys(4), train=True))
    assert some.shape == (4, 100)
    assert ((some[:, :50] == 0) != (some[:, 50:] == 0)).any(1).all()


def test_the_prior_is_that_of_the_train_split_and_stays(run):
    params = run.variables["params"]["bottleneck"]
    mean, deviation = compute_library(run.train_split, run.spec, 3)
    np.testing.assert_allclose(params["library_mean"], mean, rtol=1e-6)  # after training
    np.testing.assert_allclose(np.exp(params["library_log_std"]), deviation, rtol=1e-5)
    arrays = run.train_split.take(np.arange(len(run.train_split)))
    for each in range(3):
        log = np.log(np.maximum(arrays["x"].sum(1), 1))[arrays["label"] == each]
        np.testing.assert_allclose([mean[each], deviation[each]], [log.mean(), log.std()], rtol=1e-5)


def test_a_run_counts_its_kl_and_generates_counts(run, cells):
    x, batch = cells
    z = run.encode(x, batch)
    assert z.shape == (160, 3)
    np.testing.assert_allclose(run.encode(x), z, rtol=1e-6)  # the encoder reads no batch
    parts = run.density.parts(x[:5], label=batch[:5])
    np.testing.assert_allclose(parts.elbo, run.log_likelihood(x[:5], samples=1, label=batch[:5]), atol=60)
    assert run.generate(4, label=np.zeros(4, int)).shape == (4, 12)


def test_a_model_of_its_own_is_the_config_again():
    config = config_of("scvi", "tiny,latent_library")
    model = build(config, (12,))
    assert (model.bottleneck.classes, model.decoder.shape) == (3, (24,))
    sections = describe_parts(model, Objective(ZeroInflatedNegativeBinomial(), {"kl_library": 1.0}), (12,))
    assert {key: sections["bottleneck"][key] for key in ("name", "features")} == {"name": "library", "features": 2}
    assert sections["decoder"]["code"] == 2
