"""Each way of reviving dead units, on a case where plain training leaves them dead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import aejax
from aejax import config as config_lib
from aejax.config import module
from aejax.models import build
from aejax.models.pre_encoder import tie
from aejax.training import optimizers, paths
from aejax.training.resampling import resample

SIZE, UNITS = 8, 16
LOW = np.arange(UNITS) >= 4


def activations(n=2_000, seed=0, active=1):
    """Sums of a few of 16 directions, with a mean."""
    rng = np.random.default_rng(seed)
    words = rng.normal(size=(UNITS, SIZE))
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    chosen = np.argsort(rng.random((n, UNITS)), 1) < active
    return ((chosen * (1 + rng.random((n, UNITS)))) @ words + 0.3 * rng.normal(size=SIZE)).astype(np.float32)


def far_below(params, bias=-5.0):
    """Sets most units so low that no example activates them."""
    dense = params["bottleneck"]["dense"]
    return {**params, "bottleneck": {**params["bottleneck"], "dense": {**dense, "bias": jnp.where(LOW, bias, 0.0)}}}


def below(params):
    """The same, less far: ghost gradients raise a bias slowly."""
    return far_below(params, -3.0)


def small(params):
    """Sets most units so close to 0 that others are always larger."""
    dense = params["bottleneck"]["dense"]
    kernel = jnp.where(LOW, 0.001, 1.0) * dense["kernel"]
    return {**params, "bottleneck": {**params["bottleneck"], "dense": {**dense, "kernel": kernel}}}


TOPK, RELU = {"name": "topk", "k": 2}, {"name": "relu"}
# By option: the bottleneck without it, how its units die, and what the option adds to bottleneck and weights.
OPTIONS = {
    "auxiliary loss": (TOPK, small, {"revive": 4}, {"revival": 0.5}),
    "resampling": (RELU, far_below, {"resample": 50}, {}),
    "ghost gradients": (RELU, below, {}, {"ghost": 1.0}),
    "pre-activations": ({"name": "jumprelu"}, far_below, {}, {"pre_activation": 0.05}),
}


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_revives_units_that_plain_training_leaves_dead(option):
    bottleneck, kill, attributes, weights = OPTIONS[option]
    dead = []
    for changes, terms in (({}, {}), (attributes, weights)):
        config = config_lib.default()
        config.update({"steps": 600, "batch_size": 64, "checkpoint_every": 600, "log_every": 100})
        config.optim.lr = 1e-2
        config.bottleneck = module(**{**bottleneck, "features": UNITS, "dead_after": 20, **changes})
        config.decoder = module("dictionary", initial_norm=1.0)
        config.objective.weights = terms
        decoder = build(config, (SIZE,)).decoder
        start = lambda params, decoder=decoder: kill(tie(decoder, params))  # noqa: E731
        run = aejax.fit(config, x := activations(), adjust=start, quiet=True, devices=jax.devices()[:1])
        dead.append((np.asarray(run.encode(x)) == 0).all(0)[LOW].mean())
    assert dead[0] > 0.5
    assert dead[1] <= dead[0] / 2


def test_resampling_is_what_it_says():
    config = config_lib.default()
    config.bottleneck = module("relu", features=UNITS, dead_after=5, resample=3)
    config.decoder = module("dictionary")
    model, x = build(config, (SIZE,)), activations(32)
    params = model.init(jax.random.key(0), x)["params"]
    idle = np.where(LOW, 7, 1).astype(np.int32)
    state = {"sparse": {"bottleneck": {"idle": jnp.asarray(idle)}}}
    output = model.apply({"params": params, **state}, x)
    optimizer = optimizers.build(config.optim, 10)
    _, moments = optimizer.update(params, optimizer.init(params), params)

    def after(step):
        given = (model, jnp.int32(step), jax.random.key(1), x, output.decoded, output)
        return jax.tree.map(np.asarray, resample(*given, params, moments, state))

    same = after(1)
    jax.tree.map(np.testing.assert_array_equal, same, jax.tree.map(np.asarray, (params, moments, state)))
    changed, of_moments, of_state = after(2)
    flat, before = paths.flatten(changed), jax.tree.map(np.asarray, paths.flatten(params))
    kernel, rows = flat["bottleneck/dense/kernel"], flat["decoder/dense_0/kernel"]
    for path, axis in (("bottleneck/dense/kernel", 1), ("bottleneck/dense/bias", 0), ("decoder/dense_0/kernel", 0)):
        keep = ~LOW
        np.testing.assert_array_equal(np.compress(keep, flat[path], axis), np.compress(keep, before[path], axis))
        for tree in (of_moments[1].mu, of_moments[1].nu) if hasattr(of_moments[1], "mu") else ():
            assert not np.compress(LOW, paths.flatten(tree)[path], axis).any()
    missed = np.asarray(x - output.decoded)
    missed = missed / np.linalg.norm(missed, axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(length[LOW], length[~LOW].mean(), rtol=1e-5)
    columns = np.linalg.norm(kernel, axis=0)
    np.testing.assert_allclose(columns[LOW], 0.2 * columns[~LOW].mean(), rtol=1e-5)
    cosines = (rows / length[:, None])[LOW] @ missed.T
    np.testing.assert_allclose(cosines.max(1), 1, rtol=1e-5)  # each is the direction of an example
    assert len(set(cosines.argmax(1))) > 2
    np.testing.assert_allclose((kernel / columns).T[LOW], (rows / length[:, None])[LOW], atol=1e-5)
    assert not flat["bottleneck/dense/bias"][LOW].any()
    np.testing.assert_array_equal(of_state["sparse"]["bottleneck"]["idle"], np.where(LOW, 0, 1))


def test_examples_are_drawn_by_their_squared_losses():
    """Of losses of 1 and 4, the larger is drawn 16 times as often."""
    config = config_lib.default()
    config.bottleneck = module("relu", features=UNITS, dead_after=5, resample=1)
    config.decoder = module("dictionary")
    model, x = build(config, (SIZE,)), np.eye(2, SIZE, dtype=np.float32) * [[1], [2]]
    params = model.init(jax.random.key(0), x)["params"]
    state = {"sparse": {"bottleneck": {"idle": jnp.where(jnp.arange(UNITS) == 3, 9, 0)}}}
    output = model.apply({"params": params, **state}, x)

    def draw(key):
        changed = resample(model, jnp.int32(0), key, x, jnp.zeros_like(x), output, params, {}, state)[0]
        return jnp.argmax(changed["decoder"]["dense_0"]["kernel"][3])

    drawn = jax.vmap(draw)(jax.random.split(jax.random.key(0), 4_000))
    assert drawn.mean() == pytest.approx(16 / 17, abs=0.015)  # four standard errors


@pytest.mark.parametrize("name", ["topk", "batch_topk", "jumprelu"])
def test_new_units_of_topk_and_jumprelu_can_be_active_and_are_no_copies(name):
    """Their columns are as long as the others', and each has an example of its own, until no example is left."""
    config = config_lib.default()
    options = {} if name == "jumprelu" else {"k": 2}
    config.bottleneck = module(name, features=UNITS, dead_after=5, resample=3, **options)
    config.decoder = module("dictionary")
    model, x = build(config, (SIZE,)), activations(8)
    variables = model.init(jax.random.key(0), x)
    params = variables["params"]
    if name == "jumprelu":
        params["bottleneck"]["log_threshold"] = jnp.where(LOW, 3.0, -1.0)
    state = {"sparse": {"bottleneck": {**variables["sparse"]["bottleneck"], "idle": jnp.where(LOW, 7, 1)}}}
    output = model.apply({"params": params, **state}, x)
    given = (model, jnp.int32(2), jax.random.key(1), x, output.decoded, output)
    changed, _, after = resample(*given, params, {}, state)
    flat, before = paths.flatten(changed), paths.flatten(params)
    rows, columns = np.asarray(flat["decoder/dense_0/kernel"]), np.asarray(flat["bottleneck/dense/kernel"]).T
    new = np.flatnonzero((rows != np.asarray(before["decoder/dense_0/kernel"])).any(1))
    assert len(new) == len(x) < LOW.sum()  # the others wait for the next time
    np.testing.assert_array_equal(
        after["sparse"]["bottleneck"]["idle"][LOW], np.where(np.isin(np.arange(4, 16), new), 0, 8 - 1)
    )
    missed = np.asarray(x - output.decoded)
    missed = missed / np.linalg.norm(missed, axis=1, keepdims=True)
    lengths = [np.linalg.norm(each, axis=1) for each in (rows, columns)]
    assert sorted((rows[new] / lengths[0][new, None] @ missed.T).argmax(1)) == list(range(len(x)))
    np.testing.assert_allclose(lengths[1][new], lengths[1][~LOW].mean(), rtol=1e-5)
    np.testing.assert_allclose(lengths[0][new], 0.2 * lengths[0][~LOW].mean(), rtol=1e-5)
    if name == "jumprelu":
        np.testing.assert_allclose(flat["bottleneck/log_threshold"][new], -1, rtol=1e-6)


def test_rows_of_unit_norm_stay_so_and_lose_the_gradient_along_them():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(5, 3)).astype(np.float32)
    kernel /= np.linalg.norm(kernel, axis=1, keepdims=True)
    params = {"decoder": {"dense_0": {"kernel": kernel, "bias": np.ones(3, np.float32)}}}
    grads = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), params)
    config = config_lib.default().optim
    config.update({"name": "sgd", "lr": 0.1})
    optimizer = optimizers.keep_unit_norm(optimizers.build(config, 10), "decoder/dense_0/kernel", 1)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    g = grads["decoder"]["dense_0"]["kernel"]
    moved = kernel - 0.1 * np.stack([g[i] - (g[i] @ kernel[i]) * kernel[i] for i in range(5)])
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    layer = updates["decoder"]["dense_0"]
    np.testing.assert_allclose(kernel + layer["kernel"], moved, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(layer["bias"], -0.1 * grads["decoder"]["dense_0"]["bias"], rtol=1e-6)


@pytest.mark.slow
def test_a_trained_dictionary_has_unit_norm_and_starts_tied():
    x = activations()
    config = config_lib.default()
    config.update({"steps": 20, "batch_size": 64, "checkpoint_every": 20})
    config.bottleneck = module("topk", features=UNITS, k=2)
    config.decoder = module("dictionary", unit_norm=True)
    run = aejax.fit(config, x, quiet=True)
    rows = run.variables["params"]["decoder"]["dense_0"]["kernel"]
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    config.decoder = module("dictionary", initial_norm=0.3, initial_bias="geometric_median")
    config.optim.lr, config.steps, config.checkpoint_every = 1e-9, 1, 1
    params = aejax.fit(config, x, quiet=True).variables["params"]
    layer = params["decoder"]["dense_0"]
    np.testing.assert_allclose(layer["kernel"], params["bottleneck"]["dense"]["kernel"].T, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(layer["kernel"], axis=1), 0.3, rtol=1e-5)
    distance = lambda c: np.linalg.norm(x - c, axis=1).mean()  # noqa: E731
    train = x[: int(0.8 * len(x))]
    assert distance(layer["bias"]) < distance(train.mean(0)) + 1e-4
