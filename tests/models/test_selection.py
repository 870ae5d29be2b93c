"""The largest units and the products of kept codes against sorting and dense products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aejax import config as config_lib
from aejax import models
from aejax.config import module
from aejax.models.bottlenecks import BOTTLENECKS
from aejax.models.bottlenecks.selection import (
    Kept,
    combine,
    find_largest,
    find_largest_of_batch,
    is_worthwhile,
    keep_fewer,
    project_largest,
)


def values(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# The last two widths are not cut into chunks.
@pytest.mark.parametrize(("features", "k"), [(1024, 5), (1024, 1), (640, 10), (512, 16), (96, 2), (70, 3), (64, 20)])
@pytest.mark.parametrize("kind", ["distinct", "ties", "equal", "relu"])
def test_the_largest_are_those_of_a_stable_sort(features, k, kind):
    x = values(20, features)
    if kind == "ties":  # few values, so that equal ones lie in many chunks
        x = np.round(x) + 0.0  # -0 is below 0 for `jax.lax.top_k`, and equal for NumPy
    if kind == "equal":
        x = np.zeros_like(x)
    if kind == "relu":
        x = np.maximum(x - 2, 0)
    kept = jax.jit(find_largest, static_argnums=1)(x, k)
    expected = np.argsort(-x, 1, kind="stable")[:, :k]  # the first among equal ones
    np.testing.assert_array_equal(kept.indices, expected)
    np.testing.assert_array_equal(kept.values, np.take_along_axis(x, expected, 1))


def test_the_largest_have_the_gradient_of_their_places():
    x, weights = values(6, 512), values(6, 4, seed=1)
    grad = jax.grad(lambda x: (find_largest(x, 4).values * weights).sum())(x)
    expected = np.zeros_like(x)
    np.put_along_axis(expected, np.argsort(-x, 1, kind="stable")[:, :4], weights, 1)
    np.testing.assert_array_equal(grad, expected)


def test_a_kept_code_is_multiplied_like_a_dense_one():
    """Units that occur twice count twice."""
    kernel, coefficients = values(30, 7), values(9, 4, seed=1)
    indices = np.random.default_rng(2).integers(0, 30, (9, 4))
    weights = values(9, 7, seed=3)

    def dense(coefficients, kernel):
        z = sum(jax.nn.one_hot(indices[:, j], 30) * coefficients[:, j, None] for j in range(4))
        return (z @ kernel * weights).sum(), z

    def sparse(coefficients, kernel):
        kept = Kept(coefficients, indices)
        return (combine(kept, kernel) * weights).sum(), kept.spread(30)

    for a, b in zip(*(jax.value_and_grad(f, (0, 1), True)(coefficients, kernel) for f in (dense, sparse)), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), a, b)


def test_projecting_to_the_largest_units_has_the_gradient_of_a_dense_layer():
    x, kernel, bias, weights = values(9, 7), values(7, 200, seed=1), values(200, seed=2) / 10, values(9, 3, seed=3)
    bias[:50] -= 100
    x[0] = -100 * x[0]

    def dense(x, kernel, bias):
        return (jax.lax.top_k(jax.nn.relu(x @ kernel + bias), 3)[0] * weights).sum()

    def sparse(x, kernel, bias):
        return (project_largest(x, kernel, bias, 3).values * weights).sum()

    found, expected = (jax.value_and_grad(f, (0, 1, 2))(x, kernel, bias) for f in (sparse, dense))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)
    silent = jax.grad(sparse, (0, 1, 2))(x, kernel, bias - 1e4)  # no unit is positive, and none has a gradient
    assert not any(np.any(leaf) for leaf in silent)


def test_units_of_any_example_are_multiplied_like_a_dense_code():
    """The k * batch kept units of a whole batch, of which some examples have more than k and others none."""
    x, kernel, weights = values(6, 40), values(40, 3, seed=1), values(6, 3, seed=2)
    x[0] += 5
    x[1] -= 9
    outer, bias = values(4, 40, seed=3), values(40, seed=4)
    h = values(6, 4, seed=5)

    def dense(x, kernel):
        cut = jax.lax.top_k(x.ravel(), 18)[0][-1]
        return (jnp.where(x >= cut, x, 0) @ kernel * weights).sum()

    def sparse(x, kernel):
        return (combine(find_largest_of_batch(x, 3), kernel) * weights).sum()

    def projected(of_batch):
        def loss(h, outer, bias, kernel):
            kept = project_largest(h, outer, bias, 3, True) if of_batch else None
            units = jax.nn.relu(h @ outer + bias)
            z = units if kept is None else kept.spread(40)
            z = jnp.where(z >= jax.lax.top_k(units.ravel(), 18)[0][-1], z, 0) if kept is None else z
            return (z @ kernel * weights).sum()

        return jax.value_and_grad(loss, (0, 1, 2, 3))(h, outer, bias, kernel)

    assert (np.bincount(np.asarray(find_largest_of_batch(x, 3).rows).ravel(), minlength=6)[:2] == [18, 0]).all()
    pairs = [[jax.value_and_grad(f, (0, 1))(x, kernel) for f in (dense, sparse)], [projected(False), projected(True)]]
    for expected, found in pairs:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected)


@pytest.mark.parametrize("of_batch", [False, True])
def test_fewer_are_the_largest_of_the_kept(of_batch):
    x = np.abs(values(6, 40)) + 0.1
    found = find_largest_of_batch(x, 5) if of_batch else find_largest(x, 5)
    z = np.asarray(keep_fewer(found, jnp.float32(2.5 if of_batch else 2)).spread(40))
    cut = np.sort(x.ravel())[-15] if of_batch else np.sort(x, 1)[:, -2:].min(1, keepdims=True)
    np.testing.assert_array_equal(z, np.where(x >= cut, x, 0))


@pytest.mark.parametrize(("size", "name"), [(8, "topk"), (12, "topk"), (8, "batch_topk")])
def test_training_by_kept_units_is_training_by_dense_ones(size, name, monkeypatch):
    """Loss and gradients of a whole model, with both decoders and both ways."""
    x = values(16, size) + 1
    config = config_lib.default()
    config.bottleneck = module(name, features=256, k=3)
    assert is_worthwhile(256, 3)
    found = []
    for decoder in ("dictionary", "mlp"):
        config.decoder = module(decoder)
        model = models.build(config, (size,))
        state = model.init(jax.random.key(0), x)
        params = state.pop("params")
        params["decoder"]["dense_0"]["bias"] += x.mean(0)

        def loss(p, model=model, state=state):
            output = model.apply({"params": p, **state}, x, train=True, mutable=list(state))[0]
            return jnp.square(output.decoded - x).sum()

        found.append(jax.value_and_grad(loss)(params))
    monkeypatch.setattr("aejax.models.bottlenecks.sparse.is_worthwhile", lambda features, k: False)
    found.append(jax.value_and_grad(loss)(params))  # of dense products alone
    for other in found[:2]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), other, found[2])


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("features", [20, 300])
def test_matching_pursuit_is_its_algorithm(k, features):
    config = config_lib.default()
    config.bottleneck = module("matching_pursuit", features=features, k=k)
    config.decoder = module("dictionary", tied=True, unit_norm=True)
    model, x = models.build(config, (6,)), values(8, 6)
    variables = model.init(jax.random.key(0), x)
    output = model.apply(variables, x, train=True)
    atoms = np.asarray(variables["params"]["bottleneck"]["dense"]["kernel"]).T
    for row, z, decoded in zip(x, np.asarray(output.code.z), np.asarray(output.decoded), strict=True):
        residual, expected = row.copy(), np.zeros(features, np.float32)
        for _ in range(k):
            products = atoms @ residual
            best = int(np.argmax(products))
            value = max(products[best], 0)
            expected[best] += value
            residual = residual - value * atoms[best]
        np.testing.assert_allclose(z, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(row - decoded, residual, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "x", "expected"),
    [
        ({}, (-1.0, -2.0, -3.0), (0.0, 0.0, 0.0)),
        (
            {"tolerance": 0.5},
            (1.0, 0.7, 0.3),
            (1.0, 0.7, 0.0),
        ),  # the length is sqrt(0.58) after one step, 0.3 after two
        ({"tolerance": 0.8}, (1.0, 0.7, 0.3), (1.0, 0.0, 0.0)),
    ],
)
def test_matching_pursuit_stops_where_nothing_is_left_for_its_atoms(options, x, expected):
    bottleneck = BOTTLENECKS["matching_pursuit"](3, k=3, **options)
    variables = {"params": {"dense": {"kernel": jnp.eye(3)}}}
    np.testing.assert_allclose(bottleneck.apply(variables, jnp.array([x])).z[0], expected)


@pytest.mark.parametrize(("stop_at_repeat", "expected"), [(False, 0.5 + 0.375 + 0.28125), (True, 0.5 + 0.375)])
def test_the_first_atom_that_is_chosen_again_is_the_last_one_if_so_set(stop_at_repeat, expected):
    """The atoms have length 0.5, so that a step leaves three quarters of a residual."""
    bottleneck = BOTTLENECKS["matching_pursuit"](3, k=3, stop_at_repeat=stop_at_repeat)
    z = bottleneck.apply({"params": {"dense": {"kernel": 0.5 * jnp.eye(3)}}}, jnp.array([[1.0, 0.2, 0.0]])).z
    np.testing.assert_allclose(z, [[expected, 0, 0]])
