"""Hierarchical runs: samples at a temperature, layers completed from above, and measures by layer."""

import jax
import numpy as np
import pytest
import scipy.stats
from conftest import fresh, mlp

import aejax
from aejax.config import default, module
from aejax.evaluation import Subject
from aejax.evaluation.pictures import of_subject
from aejax.inference.hierarchy import sample_prior
from aejax.models.distributions import GaussianMixture, HierarchicalPrior, StandardNormal

X = np.random.default_rng(0).uniform(size=(200, 8, 8, 1)).round().astype(np.float32)


def run_of(bottleneck):
    config = default()
    config.encoder = module("pyramid", features=(8, 16), strides=(4, 2))
    config.bottleneck = bottleneck
    config.decoder = module("pyramid")
    config.likelihood = module("bernoulli")
    config.objective.weights.kl = 1.0
    if bottleneck.name == "hierarchical":
        config.encoder, config.decoder = module("mlp", features=(8,)), module("mlp", features=(8,))
    run = fresh(config, X)
    rng = np.random.default_rng(1)  # what starts at 0, too
    run.variables["params"] = jax.tree.map(
        lambda a: a + rng.normal(0, 0.03, a.shape).astype(a.dtype), run.variables["params"]
    )
    return run


@pytest.fixture(scope="module", params=["hierarchical", pytest.param("ladder", marks=pytest.mark.slow)])
def run(request):
    ladder = module("ladder", layers=(2, 1), features=(2, 4))
    return run_of(ladder if request.param == "ladder" else module("hierarchical", features=(3, 2), hidden=((4,),)))


def prior_of(run):
    return run.model.apply(run.variables, method="prior")


def test_a_temperature_multiplies_the_deviations_of_its_layer(run):
    prior, layers = prior_of(run), len(run.density.layers)
    keys = jax.random.split(jax.random.key(0), 6)
    plain, sizes = np.asarray(prior.sample(keys)), prior.sizes
    np.testing.assert_allclose(sample_prior(prior, keys, 1.0, (8, 8, 1)), plain, rtol=1e-4, atol=1e-5)
    cold = sample_prior(prior, keys, 0, (8, 8, 1))
    np.testing.assert_allclose(cold, np.tile(cold[:1], (6, 1)), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(cold[:, -sizes[-1] :], 0)
    top_alone = sample_prior(prior, keys, [0] * (layers - 1) + [2], (8, 8, 1))
    np.testing.assert_allclose(top_alone[:, -sizes[-1] :], 2 * plain[:, -sizes[-1] :], rtol=1e-5)
    np.testing.assert_allclose(top_alone, run.complete(top_alone, layers), rtol=1e-4, atol=1e-5)
    bottom_alone = sample_prior(prior, keys, [1] + [0] * (layers - 1), (8, 8, 1))
    np.testing.assert_allclose(bottom_alone[:, sizes[0] :], cold[:, sizes[0] :], rtol=1e-4, atol=1e-5)
    deviation = (bottom_alone - cold)[:, : sizes[0]]
    doubled = sample_prior(prior, keys, [2] + [0] * (layers - 1), (8, 8, 1))
    np.testing.assert_allclose((doubled - cold)[:, : sizes[0]], 2 * deviation, rtol=1e-3, atol=1e-4)
    assert np.abs(deviation).min() > 0
    assert run.generate(2, temperature=0.5).shape == (2, 8, 8, 1)


def test_a_layer_is_completed_by_the_means_below_it(run):
    z, sizes = run.encode(X[:3]), run.density.layers
    np.testing.assert_array_equal(run.complete(z, 1), z)
    below = run.complete(z, 2)
    np.testing.assert_array_equal(below[:, sizes[0] :], z[:, sizes[0] :])
    # The mean has the largest density given the others.
    prior = prior_of(run)
    best = prior.log_prob(below)
    for direction in np.eye(sizes[0], z.shape[1], dtype=np.float32)[:3]:
        assert (prior.log_prob(below + 0.1 * direction) < best).all()
        assert (prior.log_prob(below - 0.1 * direction) < best).all()


def test_measures_by_layer_sum_to_those_of_the_whole(run):
    found = run.evaluate(X, groups=["likelihood"], options={"likelihood": {"samples": 2}})["likelihood"]
    layers = len(run.density.layers)
    rates = [found[f"rate_{i}"].value for i in range(1, layers + 1)]
    assert sum(rates) == pytest.approx(found["rate"].value, rel=1e-4)
    assert min(rates) > 0
    for i, size in enumerate(run.density.layers, 1):
        assert 0 <= found[f"active_units_{i}"].value <= size
        assert found[f"active_units_{i}"].unit == f"of {size:,} units"
    if run.config.bottleneck.name == "hierarchical":
        assert sum(found[f"active_units_{i}"].value for i in (1, 2)) == found["active_units"].value
    else:
        by_unit = run.density.parts(X).by_unit
        active = [(part.mean(0) > 0.01).sum() for part in np.split(by_unit, np.cumsum(run.density.layers)[:-1], 1)]
        assert active == [found[f"active_units_{i}"].value for i in range(1, layers + 1)]


def test_the_report_traverses_a_unit_of_each_layer(run):
    picture = of_subject.traversals(Subject.of_array(run, X))
    assert "unit of each layer" in picture.caption
    assert len(picture.figure.axes) >= 1


@pytest.mark.parametrize("temperature", [-1.0, (1.0,), (1.0, 1.0, 1.0, 1.0), float("nan"), "x", (1.0, "x")])
def test_temperatures_that_fit_no_layers_are_one_line(run, temperature):
    with pytest.raises(aejax.InputError, match=r"temperature must be a number of 0 or above, or . of them") as caught:
        run.generate(2, temperature=temperature)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layer", [0, 4, True, 1.0])
def test_a_layer_that_is_none_is_one_line(run, layer):
    with pytest.raises(aejax.InputError, match=r"layer must be a whole number from 1 to [23], got"):
        run.complete(run.encode(X[:1]), layer)


def test_a_normal_prior_has_a_temperature_and_others_have_none():
    run = fresh(mlp(bottleneck=module("gaussian", features=2)), X)
    keys = jax.random.split(jax.random.key(0), 4)
    np.testing.assert_allclose(sample_prior(StandardNormal(2), keys, 0.5, (2,)), StandardNormal(2).sample(keys) / 2)
    assert run.generate(3, temperature=0.5).shape == (3, 8, 8, 1)
    with pytest.raises(aejax.InputError, match="temperature must be a number of 0 or above, got -1"):
        run.generate(3, temperature=-1)
    mixture = GaussianMixture(np.zeros(1), np.zeros((1, 2)), np.zeros((1, 2)))
    with pytest.raises(aejax.InputError, match="is for normal priors, and the run's is a GaussianMixture"):
        sample_prior(mixture, keys, 0.5, (2,))
    sampler = aejax.samplers.fit("gaussian", scipy.stats.norm.rvs(size=(50, 2), random_state=0))
    for changes in ({"sampler": sampler}, {}):
        plain = run if changes else fresh(mlp(bottleneck=module("dense", features=2)), X)
        with pytest.raises(aejax.InputError, match="temperature is for samples of the model's prior; leave it out"):
            plain.generate(3, temperature=0.5, **changes)
    with pytest.raises(aejax.InputError, match="'gaussian' has no layers of latent units; use decode"):
        run.complete(np.zeros((1, 2)), 1)
    assert not isinstance(run.model.apply(run.variables, method="prior"), HierarchicalPrior)
