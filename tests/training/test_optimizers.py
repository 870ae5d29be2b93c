import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import aejax
from aejax.training import optimizers


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


def test_accumulation_averages_gradients_into_one_update():
    tx = optimizers.build(options(name="sgd", lr=1.0, accumulate=2), 10)
    params = {"a": jnp.zeros(2)}
    state = tx.init(params)
    first, state = tx.update({"a": jnp.array([1.0, 0.0])}, state, params)
    second, state = tx.update({"a": jnp.array([3.0, 4.0])}, state, params)
    np.testing.assert_array_equal(first["a"], 0)
    np.testing.assert_allclose(second["a"], [-2, -2], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "adma"}, "did you mean 'adam'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"warmup": 10}, "leaves nothing of 10 steps"),
        ({"options": {"beta": 1}}, "optim.options do not fit 'adam'"),
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
