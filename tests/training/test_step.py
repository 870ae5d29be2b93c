import dataclasses
import functools
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_trees_equal, mlp

import aejax
from aejax.data import Spec, from_array
from aejax.models.layers import fold
from aejax.objectives import Corruption, Objective
from aejax.objectives.likelihoods import Bernoulli, SquaredError
from aejax.training.step import Task, derive_keys, eval_step, eval_variables, gather, init, make_keys, train_step
from aejax.training.task import check_data, make_task


def task(**changes):
    model = aejax.Autoencoder(
        aejax.models.MLPEncoder((2,), "linear"), aejax.models.IdentityBottleneck(), aejax.models.MLPDecoder((3,))
    )
    return Task(
        **{
            "model": model,
            "objective": Objective(SquaredError()),
            "optimizer": optax.sgd(0.05),
            "prepare": lambda x: x,
            **changes,
        }
    )


def batch(n=4, seed=0):
    return {"x": jax.random.normal(jax.random.key(seed), (n, 3)), "index": jnp.arange(n)}


@pytest.mark.parametrize(("row", "value"), [(0, -1e-3), (4999, -1e-3), (4999, 1.001)])
def test_one_value_outside_the_unit_interval_is_found(row, value):
    config = mlp(likelihood__name="bernoulli")
    x = np.tile(np.float32([0, 0.5, 1]), (5000, 2))  # more than are read at once
    feed = SimpleNamespace(source=from_array(x))
    t = make_task(config, Spec((6,)))
    check_data(config, t, feed, feed)
    x[row, 3] = value
    with pytest.raises(aejax.InputError, match=r"wants values in \[0, 1\]"):
        check_data(config, t, feed, feed)


def test_corruption_model_and_objective_draw_apart(monkeypatch):
    """With keys of the model, samples of a prior would be the noise of its posterior."""
    seen = []
    apply, context = Task.apply, Task.context
    monkeypatch.setattr(Task, "apply", lambda *a, **options: seen.append(a[4]) or apply(*a, **options))
    monkeypatch.setattr(Task, "context", lambda *a: seen.append(a[5]) or context(*a))
    t = task(corruption=lambda keys, x: seen.append(keys) or x)

    @jax.jit  # which computes the keys alone
    def draw():
        train_step(init(t, (3,), jax.random.key(0)), batch(), jax.random.key(0), task=t)
        return jnp.concatenate([jax.random.key_data(keys) for keys in seen])

    assert len(np.unique(draw(), axis=0)) == 3 * 4


def test_step_is_gradient_descent_on_the_batch_mean():
    """Against gradients of a linear autoencoder written out by hand."""
    t, b = task(), batch()
    state = init(t, (3,), jax.random.key(1))
    after, metrics = train_step(state, b, jax.random.key(0), task=t)
    x = np.asarray(b["x"], np.float64)
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), state.params)
    w, v = p["encoder"]["dense_0"]["kernel"], p["decoder"]["dense_0"]["kernel"]
    z = x @ w + p["encoder"]["dense_0"]["bias"]
    error = z @ v + p["decoder"]["dense_0"]["bias"] - x
    dv, dw = 2 * z.T @ error / 4, 2 * x.T @ (error @ v.T) / 4
    np.testing.assert_allclose(metrics["loss"], (error**2).sum(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(after.params["decoder"]["dense_0"]["kernel"], v - 0.05 * dv, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after.params["encoder"]["dense_0"]["kernel"], w - 0.05 * dw, rtol=1e-4, atol=1e-6)
    db, da = 2 * error.sum(0) / 4, 2 * (error @ v.T).sum(0) / 4
    norm = np.sqrt(sum((g**2).sum() for g in (dv, dw, db, da)))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
    assert int(after.step) == 1


@pytest.mark.slow
def test_accumulated_steps_equal_one_on_the_joined_batch():
    single, double = task(), task(optimizer=optax.MultiSteps(optax.sgd(0.05), 2).gradient_transformation())
    a, b = batch(seed=0), batch(seed=1)
    joined = {key: jnp.concatenate([a[key], b[key]]) for key in a}
    key = jax.random.key(0)
    state = init(double, (3,), jax.random.key(1))
    for part in (a, b):
        state, _ = train_step(state, part, key, task=double)
    whole, _ = train_step(init(single, (3,), jax.random.key(1)), joined, key, task=single)
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-5, atol=1e-7), state.params, whole.params)


def test_averaged_parameters_follow_their_formula_and_serve_evaluation():
    t = task(ema=0.9)
    state = init(t, (3,), jax.random.key(1))
    kernel = expected = np.asarray(state.params["encoder"]["dense_0"]["kernel"])
    for i in range(5):
        state, _ = train_step(state, batch(seed=i), jax.random.key(0), task=t)
        decay = min(0.9, (1 + i) / (10 + i))
        kernel = np.asarray(state.params["encoder"]["dense_0"]["kernel"])
        expected = decay * expected + (1 - decay) * kernel
    np.testing.assert_allclose(state.ema["encoder"]["dense_0"]["kernel"], expected, rtol=1e-5)
    assert eval_variables(state)["params"] is state.ema
    assert eval_variables(state.replace(ema={}))["params"] is state.params


def test_a_schedule_free_optimizer_is_evaluated_at_its_average():
    """The mean of the iterates z, by hand: y = (1 - b1) z + b1 x is trained, x is evaluated."""
    t = task(optimizer=optax.contrib.schedule_free(optax.sgd(0.05), 0.05, b1=0.9))
    state = init(t, (3,), jax.random.key(1))
    x = z = y = np.asarray(state.params["decoder"]["dense_0"]["bias"])
    step = jax.jit(lambda state, batch: train_step(state, batch, jax.random.key(0), task=t))
    for i in range(3):
        b = batch(seed=i)
        error = np.asarray(t.model.apply(eval_variables(state.replace(ema={})), b["x"]).decoded - b["x"])
        state, _ = step(state, b)
        z = z - 0.05 * 2 * error.mean(0)
        x = x + (z - x) / (i + 1)
        y = 0.1 * z + 0.9 * x
        np.testing.assert_allclose(state.params["decoder"]["dense_0"]["bias"], y, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(state.ema["decoder"]["dense_0"]["bias"], x, rtol=1e-4, atol=1e-6)
    assert eval_variables(state)["params"] is state.ema
    with pytest.raises(aejax.InputError, match="set ema=0"):
        init(task(optimizer=t.optimizer, ema=0.9), (3,), jax.random.key(1))


@pytest.mark.slow
def test_averaged_parameters_move_only_with_an_update():
    t = task(ema=0.9, optimizer=optax.MultiSteps(optax.sgd(0.05), 3).gradient_transformation())
    state = init(t, (3,), jax.random.key(1))
    expected = np.asarray(state.params["encoder"]["dense_0"]["kernel"])
    for i in range(6):
        state, _ = train_step(state, batch(seed=i), jax.random.key(0), task=t)
        if i % 3 == 2:
            decay = min(0.9, (1 + i // 3) / (10 + i // 3))
            expected = decay * expected + (1 - decay) * np.asarray(state.params["encoder"]["dense_0"]["kernel"])
        np.testing.assert_allclose(state.ema["encoder"]["dense_0"]["kernel"], expected, rtol=1e-6)


@pytest.mark.slow
def test_noise_changes_with_the_step_and_reaches_only_the_encoder():
    t = task(corruption=Corruption("gaussian", 0.5), optimizer=optax.sgd(0.0))
    state, key = init(t, (3,), jax.random.key(1)), jax.random.key(0)
    _, first = train_step(state, batch(), key, task=t)
    _, again = train_step(state, batch(), key, task=t)
    _, later = train_step(state.replace(step=jnp.array(1)), batch(), key, task=t)
    assert first["loss"] == again["loss"] != later["loss"]
    keys = fold(derive_keys(jax.random.fold_in(key, 0), batch()), 0)
    output = t.model.apply(eval_variables(state), t.corruption(keys, batch()["x"]))
    clean = np.square(output.decoded - batch()["x"]).sum(1).mean()  # compared with the clean input
    np.testing.assert_allclose(first["loss"], clean, rtol=1e-5)
    sums = [eval_step(state, {**batch(), "weight": jnp.ones(4)}, task=t) for _ in range(2)]
    plain = eval_step(state, {**batch(), "weight": jnp.ones(4)}, task=task())
    assert_trees_equal(sums[0], sums[1])
    assert_trees_equal(sums[0], plain)  # evaluation sees no noise


@pytest.mark.slow
def test_evaluation_counts_only_what_has_weight():
    t = task()
    state = init(t, (3,), jax.random.key(1))
    b = batch(6)
    part = eval_step(state, {**b, "weight": jnp.array([1.0, 1, 1, 1, 0, 0])}, task=t)
    small = eval_step(state, {**{k: v[:4] for k, v in b.items()}, "weight": jnp.ones(4)}, task=t)
    for name in small:
        np.testing.assert_allclose(part[name], small[name], rtol=1e-6)
    assert small["weight"] == 4


def test_squared_error_of_a_bernoulli_is_that_of_its_mean():
    t = task(objective=Objective(Bernoulli()))
    state = init(t, (3,), jax.random.key(1))
    b = {"x": jax.random.uniform(jax.random.key(0), (4, 3)), "weight": jnp.ones(4), "index": jnp.arange(4)}
    mean = jax.nn.sigmoid(t.model.apply(eval_variables(state), b["x"]).decoded)
    sums = eval_step(state, b, task=t)
    np.testing.assert_allclose(sums["squared_error"], np.square(mean - b["x"]).sum(), rtol=1e-5)


def test_standardized_data_has_the_squared_error_in_the_losses_units_too():
    x = np.random.default_rng(0).normal(7, (0.1, 1, 50), (40, 3)).astype(np.float32)
    config = mlp(data__standardize=True)
    t = make_task(config, Spec.of(from_array(x), True))
    state = init(t, (3,), jax.random.key(1))
    b = {"x": jnp.asarray((x - x.mean(0)) / x.std(0)), "weight": jnp.ones(40), "index": jnp.arange(40)}
    sums = jax.jit(functools.partial(eval_step, task=t))(state, b)
    np.testing.assert_allclose(sums["squared_error_standardized"], sums["loss"], rtol=1e-5)
    assert sums["squared_error"] > 100 * sums["loss"]  # in the user's units
    same_units = dataclasses.replace(t, standardized=False)
    assert "squared_error_standardized" not in jax.eval_shape(functools.partial(eval_step, task=same_units), state, b)


def test_gather_takes_rows_of_what_is_held():
    held = {"x": jnp.arange(10.0)[:, None], "label": jnp.arange(10)}
    got = gather(held, {"index": jnp.array([7, 2])})
    np.testing.assert_array_equal(got["x"][:, 0], [7, 2])
    np.testing.assert_array_equal(got["label"], [7, 2])
    assert gather({}, {"index": jnp.array([1]), "x": 5})["x"] == 5


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x, *, keys=None, train=False):
        return nn.Dense(2)(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))


def test_running_statistics_are_updated_in_training_and_used_in_evaluation():
    model = aejax.Autoencoder(Normalised(), aejax.models.IdentityBottleneck(), aejax.models.MLPDecoder((3,)))
    t = task(model=model)
    state, b = init(t, (3,), jax.random.key(1)), batch(8)
    after, _ = train_step(state, b, jax.random.key(0), task=t)
    mean = after.variables["batch_stats"]["encoder"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, 0.1 * b["x"].mean(0), rtol=1e-4, atol=1e-6)
    assert eval_variables(after)["batch_stats"] is after.variables["batch_stats"]


def test_initial_parameters_and_steps_have_keys_of_their_own():
    keys = [jax.random.key_data(key).tolist() for seed in (0, 1) for key in make_keys(seed)]
    assert len(set(map(tuple, keys))) == 4
