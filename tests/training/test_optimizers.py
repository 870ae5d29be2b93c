import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_trees_equal, mlp, mostly_slow, one_device, vectors

import aejax
from aejax import data
from aejax.training import optimizers
from aejax.training.vmapped import train_together
from aejax.workdir import checkpoint, metrics_log


def options(**changes):
    config = aejax.config.default().optim
    config.update(changes)
    return config


def test_schedule_warms_up_then_decays_to_zero():
    rate = optimizers.build_schedule(options(lr=0.5, warmup=10, schedule="cosine"), 110)
    np.testing.assert_allclose(rate(0), 0, atol=1e-7)
    np.testing.assert_allclose(rate(5), 0.25, rtol=1e-6)
    np.testing.assert_allclose(rate(10), 0.5, rtol=1e-6)
    np.testing.assert_allclose(rate(60), 0.25, rtol=1e-5)  # half way down a cosine
    np.testing.assert_allclose(rate(110), 0, atol=1e-7)
    np.testing.assert_allclose(optimizers.build_schedule(options(lr=0.5, schedule="linear"), 100)(75), 0.125, rtol=1e-6)
    np.testing.assert_allclose(optimizers.build_schedule(options(lr=0.5), 100)(99), 0.5)


def update(tx, grads, params):
    return tx.update(grads, tx.init(params), params)[0]


def test_clipping_bounds_the_norm_before_the_step():
    grads = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([0.0, 4.0])}
    step = update(optimizers.build(options(name="sgd", lr=1.0, clip=1.0), 10), grads, grads)
    np.testing.assert_allclose(step["a"], [-0.6, 0], rtol=1e-6)
    np.testing.assert_allclose(step["b"], [0, -0.8], rtol=1e-6)


def test_weight_decay_is_decoupled_and_spares_biases():
    params = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full((2,), 3.0)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    step = update(optimizers.build(options(lr=0.1, weight_decay=0.5), 10), zeros, params)
    np.testing.assert_allclose(step["kernel"], -0.1 * 0.5 * params["kernel"], rtol=1e-6)
    np.testing.assert_array_equal(step["bias"], 0)


def test_adam_is_optax_adam_with_its_options():
    grads = {"a": jnp.array([1.0, -2.0])}
    ours = update(optimizers.build(options(lr=0.1, options={"b1": 0.5}), 10), grads, grads)
    np.testing.assert_allclose(ours["a"], update(optax.adam(0.1, b1=0.5), grads, grads)["a"], rtol=1e-6)


def test_normalized_adam_does_not_heed_the_scale_of_a_parameters_gradient():
    grads = {"a": jnp.array([1.0, -2.0, 0.1]), "b": jnp.array([3.0])}
    scaled = {"a": 1e3 * grads["a"], "b": 1e-3 * grads["b"]}
    tx = optimizers.build(options(name="adam_normalized", lr=0.1), 10)
    state, other = tx.init(grads), tx.init(grads)
    for factor in (1.0, 5.0, 0.1):  # plain Adam would heed how it changes from step to step
        step, state = tx.update(jax.tree.map(functools.partial(jnp.multiply, factor), grads), state, grads)
        same, other = tx.update(scaled, other, grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), step, same)


def test_accumulation_averages_gradients_into_one_update():
    tx = optimizers.build(options(name="sgd", lr=1.0, accumulate=2), 10)
    params = {"a": jnp.zeros(2)}
    state = tx.init(params)
    first, state = tx.update({"a": jnp.array([1.0, 0.0])}, state, params)
    second, state = tx.update({"a": jnp.array([3.0, 4.0])}, state, params)
    np.testing.assert_array_equal(first["a"], 0)
    np.testing.assert_allclose(second["a"], [-2, -2], rtol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_large_gradients_are_skipped_as_if_they_had_not_been(accumulate):
    """Neither parameters nor moments change, nor does the step of the schedule."""
    changes = {"lr": 0.1, "schedule": "linear", "accumulate": accumulate}
    params = {"a": jnp.zeros(2)}
    small = [{"a": jnp.array([1.0, -2.0]) * n} for n in (1.0, 0.5, 0.3, 0.7)]
    large = [{"a": jnp.array([3.0, 4.1])}, {"a": jnp.array([jnp.nan, 0.0])}]  # of norms 5.08 and NaN
    skips, plain = optimizers.build(options(**changes, skip=5.0), 10), optimizers.build(options(**changes), 10)
    state, expected = skips.init(params), plain.init(params)
    for gradient in small:
        for skipped in large:
            step, state = jax.jit(skips.update)(skipped, state, params)
            np.testing.assert_array_equal(step["a"], 0)
        step, state = skips.update(gradient, state, params)
        wanted, expected = plain.update(gradient, expected, params)
        np.testing.assert_allclose(step["a"], wanted["a"], rtol=1e-5)
    assert np.abs(step["a"]).min() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "adma"}, "did you mean 'adam'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"warmup": 10}, "leaves nothing of 10 steps"),
        ({"options": {"beta": 1}}, "optim.options do not fit 'adam'"),
        ({"name": "muon", "options": {"beta": "x"}}, r"optim.options.beta must be a finite number"),
        ({"name": "prodigy", "lr": 1.0, "options": {"decay": 1.0}}, "optim.options do not fit 'prodigy'"),
        ({"name": "prodigy", "lr": 1.0, "weight_decay": 0.1}, "set optim.options.weight_decay instead"),
        ({"name": "prodigy"}, r"optim.lr=0.001 multiplies its estimate; set optim.lr=1"),
        ({"name": "schedule_free", "schedule": "cosine"}, "set optim.schedule=constant"),
        ({"name": "schedule_free", "options": {"b1": 0.0}}, "b1 must be above 0"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(aejax.InputError, match=message):
        optimizers.build(options(**changes), 10)


def test_momentum_and_the_place_of_the_clip():
    """Clipped gradients, then momentum: two steps against optax, where the order shows."""
    ours = optimizers.build(options(name="sgd", lr=0.1, clip=1.0, options={"decay": 0.9}), 10)
    theirs = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9))
    params = {"a": jnp.zeros(2)}
    states = [tx.init(params) for tx in (ours, theirs)]
    for grads in ({"a": jnp.array([3.0, 4.0])}, {"a": jnp.array([0.1, 0.0])}):
        (a, first), (b, second) = (tx.update(grads, s, params) for tx, s in zip((ours, theirs), states, strict=True))
        states = [first, second]
        np.testing.assert_allclose(a["a"], b["a"], rtol=1e-6)


def test_warm_up_is_counted_in_steps_under_accumulation():
    rate = optimizers.build_schedule(options(lr=0.5, warmup=4, accumulate=2), 100)  # called once an update
    np.testing.assert_allclose([rate(0), rate(1), rate(2), rate(3)], [0, 0.25, 0.5, 0.5], rtol=1e-6)


PARAMS = {
    "dense": {"kernel": (64, 16), "bias": (16,)},
    "conv": {"kernel": (3, 3, 4, 32), "bias": (32,)},
    "codes": {"codebook": (8, 4)},
}
SHAPES = {"is_leaf": lambda shape: isinstance(shape, tuple)}


def normal(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32), PARAMS, **SHAPES)


def kernel_axes(params):
    """The axes that a kernel reduces and those of its outputs, written out."""
    dense, conv = optax.contrib.MuonDimensionNumbers(0, 1), optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)
    nobody = {"bias": None}
    return {"dense": {"kernel": dense, **nobody}, "conv": {"kernel": conv, **nobody}, "codes": {"codebook": None}}


def matrices(params):
    return jax.tree.map(lambda a: a.ndim > 1, params)


def unit_norms(grads, params):
    return jax.tree.map(lambda g: g / jnp.sqrt(jnp.sum(g**2)), grads)


WARM = {"warmup": 4}  # of the learning rate, which some of them read themselves
RAMP = optax.join_schedules([optax.linear_schedule(0.0, 0.1, 4), optax.constant_schedule(0.1)], [4])
DIRECT = {
    "adam_normalized": ({}, lambda: optax.chain(optax.stateless(unit_norms), optax.adam(0.1))),
    "rmsprop": ({"options": {"momentum": 0.9}}, lambda: optax.rmsprop(0.1, momentum=0.9)),
    "adafactor": ({"options": {"min_dim_size_to_factor": 16}}, lambda: optax.adafactor(0.1, 16)),
    "muon": (WARM, lambda: optax.contrib.muon(RAMP, muon_weight_dimension_numbers=kernel_axes, consistent_rms=0.2)),
    "prodigy": ({"options": {"estim_lr0": 1e-3}}, lambda: optax.contrib.prodigy(0.1, estim_lr0=1e-3)),
    "schedule_free": (WARM, lambda: optax.contrib.schedule_free_adamw(0.1, 4)),
    "schedule_free with decay": (
        {"weight_decay": 0.5},
        lambda: optax.contrib.schedule_free(optax.adamw(0.1, b1=0.0, weight_decay=0.5, mask=matrices), 0.1),
    ),
}


@pytest.mark.parametrize("case", mostly_slow(DIRECT, "schedule_free"))
def test_an_optimizer_is_that_of_optax_in_a_plain_loop(case):
    changes, direct = DIRECT[case]
    ours = optimizers.build(options(**{"name": case.split()[0], "lr": 0.1, **changes}), 100)
    ends = []
    for tx in (ours, direct()):
        params = normal(0)
        state = jax.jit(tx.init)(params)
        step = jax.jit(tx.update)
        for i in range(6):
            updates, state = step(normal(i + 1), state, params)
            params = optax.apply_updates(params, updates)
        ends.append((params, state))
    (params, state), (theirs, their_state) = ends
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), params, theirs)
    assert np.any(params["dense"]["kernel"] != normal(0)["dense"]["kernel"])
    averaged = optimizers.average(state, params)
    if case.startswith("schedule_free"):
        expected = optax.contrib.schedule_free_eval_params(their_state, theirs)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), averaged, expected)
        assert np.any(averaged["dense"]["kernel"] != params["dense"]["kernel"])
    else:
        assert averaged is None


def test_muon_orthogonalizes_kernels_as_matrices_and_gives_all_steps_of_one_size():
    """Singular values that are nearly equal, and a root mean square that no shape changes; Adam's first step is 1."""
    step = jax.jit(lambda tree: update(optimizers.build(options(name="muon", lr=1.0), 10), tree, tree))(normal(0))
    for name in ("dense", "conv"):
        matrix = np.asarray(step[name]["kernel"]).reshape(-1, step[name]["kernel"].shape[-1])
        values = np.linalg.svd(matrix, compute_uv=False) / (0.2 * np.sqrt(max(matrix.shape)))
        assert values.min() > 0.5
        assert values.max() < 1.5
        assert np.sqrt(np.mean(matrix**2)) == pytest.approx(0.2, rel=0.3)
    for name, leaf in (("dense", "bias"), ("conv", "bias"), ("codes", "codebook")):
        np.testing.assert_allclose(np.abs(step[name][leaf]), 1.4737, rtol=1e-3)  # Nesterov's (0.9 * 0.1 / 0.19 + 1)


NEW = {"adafactor": {}, "muon": {}, "prodigy": {"optim__lr": 1.0}, "schedule_free": {"optim__accumulate": 2}}


def train(workdir, config, devices, **kwargs):
    splits = data.split({"train": data.from_array(vectors())}, config.data)
    return aejax.train(config, workdir, data=splits, devices=jax.devices()[:devices], quiet=True, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("name", NEW)
def test_an_optimizer_resumes_bit_for_bit_and_is_the_same_sharded_and_vmapped(name, tmp_path):
    config = mlp(optim__name=name, **NEW[name])
    asked = iter(range(2))
    assert train(tmp_path / "cut", config, 4, stop=lambda: next(asked, None) is None).step == 6
    train(tmp_path / "cut", config, 4)
    run = train(tmp_path / "whole", config, 4)
    cut, whole = (checkpoint.load_newest(tmp_path / folder) for folder in ("cut", "whole"))
    assert_trees_equal(cut.state, whole.state)
    assert_trees_equal(cut.samples, whole.samples)
    assert bool(whole.state["ema"]) == (name == "schedule_free")
    np.testing.assert_allclose(run.reconstruct(run.inputs), run.reconstructions, rtol=1e-5, atol=1e-6)

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=5e-3, atol=1e-4)  # noqa: E731
    sharded = train(tmp_path / "sharded", mlp(optim__name=name, partition__name="sharded", **NEW[name]), 4)
    jax.tree.map(close, sharded.variables, run.variables)
    lrs = (config.optim.lr / 2, config.optim.lr)
    configs = [mlp(optim__name=name, **{**NEW[name], "optim__lr": lr}) for lr in lrs]
    splits = data.split({"train": data.from_array(vectors())}, config.data)
    folders = [tmp_path / f"together{i}" for i in range(2)]
    together = train_together(configs, folders, data=splits, devices=one_device(), quiet=True)
    jax.tree.map(close, together[1].variables, run.variables)  # not with the learning rate of the first
    half, full = (each.variables["params"]["encoder"]["dense_0"]["kernel"] for each in together)
    assert np.any(half != full)


@pytest.mark.slow
def test_an_average_serves_validation_a_warm_start_and_a_frozen_model(tmp_path):
    config = mlp(optim__name="schedule_free", optim__lr=0.05, optim__freeze="encoder/")
    run = train(tmp_path, config, 1)
    state = checkpoint.load_newest(tmp_path).state
    assert_trees_equal(run.variables["params"], state["ema"])
    assert np.any(state["ema"]["decoder"]["dense_0"]["kernel"] != state["params"]["decoder"]["dense_0"]["kernel"])
    assert_trees_equal(state["ema"]["encoder"], state["params"]["encoder"])
    x = data.split({"train": data.from_array(vectors())}, config.data).validation.take(np.arange(10))["x"]
    error = np.square(run.reconstruct(x) - x).sum(1).mean()
    assert metrics_log.read(tmp_path)[-1]["validation/squared_error"] == pytest.approx(error, rel=1e-5)
    warm = aejax.fit(mlp(optim__lr=1e-9), vectors(), init_from=run, devices=one_device(), quiet=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), warm.variables, run.variables)
