"""Missing values: NaN that no loss, gradient or latent depends on, and that models reconstruct."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import mlp, one_device, vectors
from scipy import stats

import aejax
from aejax import data
from aejax.config import module
from aejax.data import Spec, from_array
from aejax.models import Autoencoder, DenseBottleneck, MLPDecoder, MLPEncoder
from aejax.objectives import Objective, SquaredError
from aejax.training.step import eval_step, init, train_step
from aejax.training.task import make_task

GAUSSIAN = {"bottleneck": module("gaussian", features=2), "objective__weights": {"kl": 1.0}}


def holed(n=100, features=6, seed=0, part=0.2):
    """Vectors of rank 2 about means far from 0, with a part of the values missing, but none of the first feature."""
    rng, plane = np.random.default_rng(seed), np.random.default_rng(9).normal(size=(2, features))
    x = rng.normal(size=(n, 2)) @ plane + 0.1 * rng.normal(size=(n, features)) + 5
    x[:, 1:][rng.random((n, features - 1)) < part] = np.nan
    return x.astype(np.float32)


def config_of(**changes):
    given = {"likelihood": module("gaussian", scale=0.5), "data__missing": True, "data__standardize": True}
    return mlp(**{**given, **GAUSSIAN, **changes})


@pytest.fixture(scope="module")
def run():
    return aejax.fit(config_of(steps=200, optim__lr=1e-2), holed(400), quiet=True, devices=one_device())


def test_the_loss_and_its_gradient_are_those_of_the_observed_values():
    """Compared with a Gaussian density of the observed values, and by a model whose encoder reads zeros."""
    x = holed(5)
    config = config_of(data__standardize=False, bottleneck=module("dense", features=2), objective__weights={})
    task = make_task(config, Spec((6,), missing=True), 5)
    state = init(task, (6,), jax.random.key(0))

    def loss(params, read, wanted, observed):
        decoded = task.model.clone(missing=False).apply({"params": params}, read).decoded
        nll = 0.5 * ((decoded - wanted) / 0.5) ** 2 + jnp.log(0.5 * jnp.sqrt(2 * jnp.pi))
        return (nll * observed).sum(1).mean()

    zeros = np.nan_to_num(x)
    wanted = jax.jit(jax.grad(loss))(state.params, zeros, zeros, ~np.isnan(x))
    batch = {"x": x, "index": np.arange(5), "weight": np.ones(5, np.float32)}
    step = jax.jit(lambda state, batch: train_step(state, batch, jax.random.key(0), task=task))
    for garbage in (np.nan, -np.nan):
        batch["x"] = np.where(np.isnan(x), np.float32(garbage), x)
        moved, metrics = step(state, batch)
        np.testing.assert_allclose(metrics["loss"], loss(state.params, zeros, zeros, ~np.isnan(x)), rtol=1e-5)
        norm = np.sqrt(sum(np.square(g).sum() for g in jax.tree.leaves(wanted)))
        np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(moved.params))
    found = jax.jit(lambda state, batch: eval_step(state, batch, task=task))(state, batch)
    decoded = task.model.apply({"params": state.params}, x).decoded
    np.testing.assert_allclose(found["squared_error"], np.nansum((decoded - x) ** 2), rtol=1e-4)


def test_a_corruption_makes_no_value_of_a_missing_one():
    task = make_task(config_of(corruption={"name": "masking", "level": 0.9}), Spec((6,), missing=True), 5)
    state = init(task, (6,), jax.random.key(0))
    step = jax.jit(lambda state, batch: train_step(state, batch, jax.random.key(0), task=task))
    _, metrics = step(state, {"x": holed(5), "index": np.arange(5)})
    assert np.isfinite(metrics["loss"])


def test_masked_arrays_say_what_is_missing_whatever_they_hold_there(run):
    x = holed(20, seed=1)
    ones, twos = (np.ma.MaskedArray(np.where(np.isnan(x), fill, x), np.isnan(x)) for fill in (1.0, 2.0))
    for method in (run.encode, run.reconstruct, run.impute, run.elbo, run.sample_posterior):
        np.testing.assert_array_equal(method(ones), method(x))
        np.testing.assert_array_equal(method(twos), method(-1 * -x))
    with pytest.raises(aejax.InputError, match="values are masked"):
        aejax.fit(mlp(), ones, quiet=True, devices=one_device())
    whole = np.ma.MaskedArray(np.arange(6).reshape(2, 3), [[1, 0, 0], [0, 0, 0]])
    assert from_array(whole, missing=True).take(np.arange(1))["x"].tolist() == [
        [pytest.approx(np.nan, nan_ok=True), 1, 2]
    ]


def test_features_are_standardized_by_what_is_observed():
    x = holed(50).astype(np.float64) + 1e6
    spec = Spec.of(from_array(x, missing=True), standardize=True)
    np.testing.assert_allclose(spec.mean, np.nanmean(x, 0), rtol=1e-12)
    np.testing.assert_allclose(spec.deviation, np.nanstd(x, 0), rtol=1e-8)
    assert Spec.from_dict(spec.to_dict()) == spec
    np.testing.assert_allclose(np.nanmean(spec.check(x), 0), 0, atol=1e-6)


def test_missing_values_are_reconstructed_nearer_than_by_their_mean(run):
    whole, x = holed(200, seed=2, part=0), holed(200, seed=2)
    missing = np.isnan(x)
    found = run.impute(x)
    np.testing.assert_array_equal(found[~missing], x[~missing])
    np.testing.assert_array_equal(found[missing], run.reconstruct(x)[missing])
    mean = np.broadcast_to(run.spec.mean, x.shape)
    assert np.square(found - whole)[missing].mean() < 0.5 * np.square(mean - whole)[missing].mean()


@pytest.mark.slow
def test_densities_are_those_of_observed_values():
    x = holed(8, seed=3)
    plain = aejax.fit(
        config_of(bottleneck=module("dense", features=2), objective__weights={}),
        holed(),
        quiet=True,
        devices=one_device(),
    )
    found = stats.norm.logpdf(x, plain.reconstruct(x), 0.5 * np.array(plain.spec.deviation))
    np.testing.assert_allclose(-plain.density.parts(x).distortion, np.nansum(found, 1), rtol=1e-4)
    # With one value left, log p(x) is an integral over z. A run of a few steps has posteriors as wide as the prior.
    run = aejax.fit(config_of(), holed(), quiet=True, devices=one_device())
    alone = np.full((1, 6), np.nan, np.float32)
    alone[0, 2] = 4.0
    side = np.linspace(-5, 5, 101, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    density = stats.norm.pdf(4.0, run.decode(grid)[:, 2], 0.5 * run.spec.deviation[2]) * stats.norm.pdf(grid).prod(1)
    log_p = np.log(density.sum() * (side[1] - side[0]) ** 2)
    np.testing.assert_allclose(run.log_likelihood(alone, samples=2_000), log_p, atol=0.05)
    assert np.mean([run.elbo(alone, seed)[0] for seed in range(20)]) < log_p + 0.1


@pytest.mark.slow
def test_runs_resume_and_are_measured(tmp_path):
    x = holed(120)
    config = config_of(data__name=str(tmp_path / "x.npy"))
    np.save(tmp_path / "x.npy", x)
    first = aejax.train(config, tmp_path / "run", quiet=True, devices=one_device())
    longer = aejax.config.updated(config, {"steps": 12})
    again = aejax.train(longer, tmp_path / "run", quiet=True, devices=one_device(), change=["steps"])
    assert (first.step, again.step) == (8, 12)
    found = again.evaluate(groups=["reconstruction", "likelihood"])["reconstruction"]
    test = data.load(config.data).test
    test = test.take(np.arange(len(test)))["x"]
    error = np.nansum(np.square(test - again.reconstruct(test)), 1).mean()
    np.testing.assert_allclose(found["squared_error"].value, error, rtol=1e-5)
    run = aejax.load_run(tmp_path / "run")
    assert run.spec.missing
    np.testing.assert_array_equal(run.encode(x), again.encode(x))


def test_a_model_of_ones_own_says_that_it_reads_them():
    def fit(**options):
        model = Autoencoder(MLPEncoder((4,)), DenseBottleneck(2), MLPDecoder(features=(4,), shape=(6,)), **options)
        given = {"model": model, "objective": Objective(SquaredError()), "optimizer": optax.adam(1e-3)}
        return aejax.fit(data=holed(), **given, steps=2, batch_size=8, quiet=True, devices=one_device())

    run = fit(missing=True)
    assert run.config.data.missing
    assert np.isfinite(run.reconstruct(holed(3))).all()
    with pytest.raises(aejax.InputError, match=r"data\.missing=True if NaN are missing"):
        fit()


@pytest.mark.slow
def test_sequences_images_and_counts_may_miss_values():
    rng = np.random.default_rng(0)
    series = rng.normal(size=(40, 12, 2)).astype(np.float32)
    series[:, 9:][rng.random((40, 3, 2)) < 0.5] = np.nan
    recurrent = module("rnn", features=4)
    run = aejax.fit(
        config_of(data__kind="sequence", encoder=recurrent, decoder=recurrent), series, quiet=True, devices=one_device()
    )
    assert np.isfinite(run.impute(series)).all()
    images = rng.random((40, 8, 8)).astype(np.float32)
    images[rng.random((40, 8, 8)) < 0.2] = np.nan
    run = aejax.fit(mlp(likelihood=module("bernoulli"), data__missing=True), images, quiet=True, devices=one_device())
    assert run.impute(images).shape == images.shape
    counts = rng.poisson(3, (40, 6)).astype(np.float32)
    counts[::3, 2] = np.nan
    run = aejax.fit(
        mlp(likelihood=module("negative_binomial"), data__missing=True), counts, quiet=True, devices=one_device()
    )
    assert (run.impute(counts)[~np.isnan(counts)] == counts[~np.isnan(counts)]).all()


def with_row(value):
    x = vectors()
    x[7] = value
    return x


@pytest.mark.parametrize(
    ("changes", "x", "message"),
    [
        ({"data__missing": False}, holed(), r"example 1 .*, at value 2; .*or set data.missing=True"),
        ({}, with_row(np.nan), "example 7 has no value that is not missing; leave it out"),
        ({}, with_row(np.inf), "example 7 holds NaN or infinity in float32, at value 0; remove or fill such values$"),
        ({}, np.where(np.arange(6) == 3, np.nan, vectors()), "feature 3 has no value that is not missing"),
        ({"likelihood": module("gaussian", variance="optimal")}, holed(), "would average over missing values"),
        ({"likelihood": module("multinomial"), "data__standardize": False}, holed(), "reads the total of x"),
        ({"objective__weights": {"contractive": 1.0}}, holed(), "contractive would read missing values"),
        ({"data__normalize": "per_token", "data__standardize": False}, holed(), "without missing values"),
        ({"data__standardize": False}, np.zeros((40, 8, 8), np.uint8), "holds images of uint8 without any"),
        ({"data__binarize": "static", "data__standardize": False}, holed(), "set data.missing=False"),
    ],
)
def test_what_does_not_fit_is_one_line(changes, x, message):
    with pytest.raises(aejax.InputError, match=message) as error:
        aejax.fit(config_of(**changes), x, quiet=True, devices=one_device())
    assert "\n" not in str(error.value)


def test_a_run_without_missing_values_refuses_them():
    run = aejax.fit(mlp(), vectors(), quiet=True, devices=one_device())
    with pytest.raises(aejax.InputError, match=r"example 1 holds NaN .* at value 2"):
        run.encode(holed())
    with pytest.raises(aejax.InputError, match="trained without missing values"):
        run.impute(holed())
