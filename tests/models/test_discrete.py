"""Discrete bottlenecks against definitions written out in numpy."""

import functools
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from conftest import mostly_slow
from scipy.spatial.transform import Rotation
from sklearn.cluster import KMeans

import aejax
from aejax.models.bottlenecks import quantizer
from aejax.models.bottlenecks import vector_quantizer as vq
from aejax.models.bottlenecks.bsq import BSQ
from aejax.models.bottlenecks.composed import GroupedCodes, ResidualCodes
from aejax.models.bottlenecks.discrete import FSQ, LFQ, GumbelSoftmax
from aejax.models.bottlenecks.ibq import IBQ
from aejax.models.bottlenecks.simvq import SimVQ
from aejax.models.bottlenecks.vector_quantizer import ResidualQuantizer, VectorQuantizer

# Each module in the form with the most of its branches.
MODULES: dict[str, nn.Module] = {
    "vq": VectorQuantizer(7, 3, revive_after=2, metric="cosine", gradient="rotation"),
    "vq, gradient": VectorQuantizer(7, 3, update="gradient", metric="cosine"),
    "residual_vq": ResidualQuantizer(7, 3, levels=2, kmeans=True, revive_after=2),
    "fsq": FSQ((4, 3, 2)),
    "lfq": LFQ(3),
    "lfq, many bits": LFQ(11),
    "gumbel": GumbelSoftmax(5, anneal_steps=4),
    "bsq": BSQ(3),
    "ibq": IBQ(7, 3),
    "simvq": SimVQ(7, 3, gradient="rotation"),
    "residual": ResidualCodes(FSQ((4, 3, 2), symmetric=True), levels=2),
    "grouped": GroupedCodes(VectorQuantizer(7, 3, revive_after=2), groups=2),
}


def modules(*names):
    return pytest.mark.parametrize("module", [MODULES[name] for name in names], ids=names)


@pytest.fixture(scope="module", autouse=True)
def _compile_quickly():
    """Small arrays: compiling takes far longer than computing."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


@functools.partial(jax.jit, static_argnums=0)
def evaluate(module, variables, h, keys=None):
    return module.apply(variables, h, keys=keys)


@functools.partial(jax.jit, static_argnums=0)
def lookup(module, variables, indices):
    return module.apply(variables, indices, method="lookup")


@functools.partial(jax.jit, static_argnums=0)
def step(module, variables, h, keys=None):
    """A training step's code, and the variables after it."""
    code, updated = module.apply(variables, h, keys=keys, train=True, mutable=["codebook"])
    return code, {**variables, **updated}


@functools.partial(jax.jit, static_argnums=0)
def initial(module, h):
    return module.init(jax.random.key(3), h)


def start(module, h, transparent=False, **codebook):
    """Initial variables; `transparent`: the features are the vectors; `codebook` replaces its state."""
    variables = initial(module, h)
    if transparent:
        dense = variables["params"]["dense"]
        dense = {"kernel": np.eye(*dense["kernel"].shape, dtype="f"), "bias": np.zeros(dense["bias"].shape, "f")}
        variables["params"]["dense"] = dense
    if codebook:
        variables["codebook"] = {"codebook": variables["codebook"]["codebook"] | codebook}
    return variables


def codes_of(module, variables):
    """The codebook [codes, features] of a module with one level."""
    return np.asarray(lookup(module, variables, np.arange(module.size)))


# All of them.


@pytest.mark.parametrize(
    ("name", "shape"), mostly_slow([*((name, (4, 5)) for name in MODULES), ("fsq", (5,)), ("residual_vq", (2, 2, 5))])
)
def test_lookup_of_the_indices_is_z(name, shape):
    module = MODULES[name].clone(positions=4) if len(shape) == 1 else MODULES[name]
    h = normal(6, *shape).astype(jnp.bfloat16)

    variables = start(module, h)
    code = evaluate(module, variables, h)
    positions = (4,) if len(shape) == 1 else shape[:-1]
    levels = (2,) if name in ("residual_vq", "residual", "grouped") else ()
    assert code.z.shape[:-1] == (6, *positions)
    assert code.indices.shape == (6, *positions, *levels)
    assert (code.z.dtype, code.indices.dtype) == (jnp.float32, jnp.int32)
    assert 0 <= code.indices.min() <= code.indices.max() < module.size
    assert {value.shape for value in code.losses.values()} <= {(6,)}
    assert {value.shape for value in code.metrics.values()} == {()}
    np.testing.assert_array_equal(lookup(module, variables, code.indices), code.z)


@pytest.mark.slow
@modules("vq", "residual_vq", "gumbel")
def test_only_training_with_a_mutable_codebook_changes_the_state(module):
    h = normal(4, 4, 5)

    @jax.jit
    def states(h):
        variables = module.init(jax.random.key(3), h, keys=keys(4), train=True)
        return variables, module.apply(variables, h, mutable=["codebook"])[1]

    variables, evaluated = states(h)
    jax.tree.map(np.testing.assert_array_equal, variables, start(module, h + 1))
    state = variables["codebook"]
    jax.tree.map(np.testing.assert_array_equal, evaluated["codebook"], state)
    trained = step(module, variables, h, keys(4))[1]["codebook"]
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(trained), strict=True):
        assert before.dtype == after.dtype
        assert before.dtype == jnp.int32 or np.any(before != after)


@pytest.mark.slow
@modules(*MODULES)
def test_losses_and_gradients_are_finite_at_zeros_and_extremes(module):
    h = normal(4, 4, 5)
    variables = start(module, h)

    @jax.jit
    def finite(h):
        def total(params, h):
            code, _ = step(module, {**variables, "params": params}, h, keys(4))
            return (code.z * normal(*code.z.shape)).sum() + sum(loss.sum() for loss in code.losses.values())

        leaves = jax.tree.leaves(jax.value_and_grad(total, (0, 1))(variables["params"], h))
        return jnp.array([jnp.isfinite(leaf).all() for leaf in leaves])

    for size in (0.0, 1.0, 1e4):
        assert finite(size * h).all()


@pytest.mark.slow
@modules("residual_vq", "gumbel")
def test_nothing_is_nan_after_500_steps_and_a_run_resumes_bit_for_bit(module):
    h = normal(500, 4, 1, 5)
    h[100:] = 0.5  # nearly all codes fall out of use for long

    @jax.jit
    def run(variables, h, numbers):
        def one(variables, given):
            code, variables = step(module, variables, given[0], keys(4, seed=given[1]))
            return variables, code

        return jax.lax.scan(one, variables, (h, numbers))

    state, stored = start(module, h[0]), None
    for i in range(0, 500, 125):
        state, codes = run(state, h[i : i + 125], np.arange(i, i + 125))
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((state, codes)))
        stored = jax.device_get(state) if i == 250 else stored
    jax.tree.map(np.testing.assert_array_equal, run(stored, h[375:], np.arange(375, 500))[0], state)


@pytest.mark.slow
@modules("residual_vq", "lfq", "ibq", "grouped")
def test_four_devices_are_one(module):
    """State, code, losses, metrics and gradients, over a few steps; k-means and revival included."""
    h = normal(4, 8, 2, 5)  # steps, batch, positions, features
    variables = start(module, h[0])

    def gradients(params, variables, h, keys, module):
        def loss(params):
            code, updated = step(module, {**variables, "params": params}, h, keys)
            return sum(value.mean() for value in code.losses.values()) + jnp.square(code.z).mean(), (code, updated)

        return jax.grad(loss, has_aux=True)(params)

    def share(params, variables, h, keys):
        grads, (code, updated) = gradients(params, variables, h, keys, module.clone(axis_name="devices"))
        examples = jax.lax.all_gather((code.z, code.indices, code.losses), "devices", tiled=True)
        code = code.replace(z=examples[0], indices=examples[1], losses=examples[2])
        return jax.lax.pmean(grads, "devices"), (code, updated)

    on_one = jax.jit(functools.partial(gradients, module=module))
    on_four = jax.pmap(share, axis_name="devices", in_axes=(None, None, 0, 0), out_axes=None)
    one = four = variables
    for i in range(4):
        k = keys(8, seed=i)
        grads, (code, one) = on_one(variables["params"], one, h[i], k)
        grads4, (code4, four) = on_four(variables["params"], four, h[i].reshape(4, 2, 2, 5), k.reshape(4, 2))
        assert_near((code, one, grads), (code4, four, grads4))


def assert_near(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), a, b)


@pytest.mark.parametrize("indices", [[0, 0, 0, 0, 0], [0, 1, 2, 3, 4], [4, 1, 1, 4, 1], [3, 1, 4, 2]])
def test_perplexity_and_dead_codes(indices):
    shares = np.bincount(indices, minlength=5) / len(indices)
    usage = jax.jit(quantizer.measure_usage, static_argnums=(1, 2))(np.array(indices), 5, None)
    assert usage["perplexity"] == pytest.approx(np.exp(scipy.stats.entropy(shares)), rel=1e-6)
    assert usage["dead_codes"] == pytest.approx((shares == 0).mean(), abs=1e-6)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (VectorQuantizer(update="emma"), "bottleneck.update 'emma' is unknown; did you mean 'ema'"),
        (VectorQuantizer(metric="l2"), "bottleneck.metric 'l2' is unknown; choose one of: cosine, euclidean"),
        (VectorQuantizer(gradient="rotate"), "bottleneck.gradient 'rotate' is unknown; did you mean 'rotation'"),
        (VectorQuantizer(decay=1.0), "bottleneck.decay must be at least 0 and below 1, e.g. 0.99; got 1.0"),
        (VectorQuantizer(update="gradient", kmeans=True), "bottleneck.kmeans needs bottleneck.update='ema'"),
        (VectorQuantizer(update="gradient", revive_after=9), "bottleneck.revive_after needs bottleneck.update='ema'"),
        (ResidualQuantizer(metric="cosine"), "bottleneck.metric must be 'euclidean' for residual_vq"),
        (VectorQuantizer(positions=2), r"bottleneck.positions is for flat features; these have \[2\]: leave it at 1"),
        (FSQ((8, 1)), r"bottleneck.levels must be between 2 and 1000, e.g. \(8, 5, 5, 5\); got \(8, 1\)"),
        (FSQ(()), "bottleneck.levels must be between 2 and 1000"),
        (FSQ((1000,) * 4), r"bottleneck.levels make 1,000,000,000,000 codes; choose fewer than 2\^31"),
        (LFQ(31), "bottleneck.bits must be at most 30, indices are int32; got 31"),
        (LFQ(temperature=0.0), "bottleneck.temperature must be above 0, e.g. 1.0; got 0.0"),
        (GumbelSoftmax(3, temperature=-1.0), "bottleneck.temperature must be above 0, e.g. 1.0; got -1.0"),
        (GumbelSoftmax(3, anneal_to=0.0), "bottleneck.anneal_to must be above 0"),
    ],
)
def test_what_does_not_fit_is_named(module, message):
    with pytest.raises(aejax.InputError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 2, 5)))


# Vector quantisation.


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_nearest_code_by_loops(metric):
    module = VectorQuantizer(6, 3, metric=metric, update="gradient")
    h = normal(5, 2, 3)
    variables = start(module, h, transparent=True)
    table = np.asarray(normal(6, 3, seed=1))
    variables["params"]["codebook"]["codes"] = table
    code = evaluate(module, variables, h)
    for i, j in np.ndindex(5, 2):
        x = np.asarray(h[i, j])
        if metric == "cosine":
            scores = [-(x @ e) / np.linalg.norm(e) for e in table]
        else:
            scores = [sum((a - b) ** 2 for a, b in zip(x, e, strict=True)) for e in table]
        best = min(range(6), key=scores.__getitem__)
        assert code.indices[i, j] == best
        e = table[best] / np.linalg.norm(table[best]) if metric == "cosine" else table[best]
        np.testing.assert_allclose(code.z[i, j], e, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("levels", [0, 2])
def test_each_loss_has_its_value_and_its_gradient_on_its_own_side(levels):
    options = {"codes": 4, "features": 3, "update": "gradient"}
    module = ResidualQuantizer(**options, levels=levels) if levels else VectorQuantizer(**options)
    h = normal(5, 2, 3)
    variables = start(module, h)

    def loss(params, name):
        return module.apply({"params": params}, h).losses[name].sum()

    def largest(tree):
        return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))

    for name, learns in (("commitment", "dense"), ("codebook", "codebook")):
        grads = jax.grad(loss)(variables["params"], name)
        sides = {"dense": largest(grads.pop("dense")), "codebook": largest(grads)}
        assert sides.pop(learns) > 1e-3
        assert sides.popitem()[1] == 0
    if not levels:
        dense = variables["params"]["dense"]
        x, z = np.asarray(h) @ dense["kernel"] + dense["bias"], evaluate(module, variables, h).z
        for value in evaluate(module, variables, h).losses.values():
            np.testing.assert_allclose(value, np.square(x - z).sum((1, 2)), rtol=1e-5)
    ema = VectorQuantizer(4, 3)
    assert set(evaluate(ema, start(ema, h), h).losses) == {"commitment"}


@pytest.mark.parametrize(
    "module", mostly_slow([VectorQuantizer(4, 3), ResidualQuantizer(4, 3), FSQ((7, 5, 5)), LFQ(3)])
)
def test_the_gradient_passes_straight_through(module):
    h, weights = normal(5, 2, 3), normal(5, 2, 3, seed=1)
    variables = start(module, h, transparent=True)
    grad = jax.grad(lambda h: (evaluate(module, variables, h).z * weights).sum())(h)
    if isinstance(module, FSQ):  # but for the bound, half * tanh(x) / width
        weights = weights * (1 - np.tanh(h) ** 2) * np.array([3, 2, 2]) * 1.001 / np.array([3, 2, 2])
    np.testing.assert_allclose(grad, weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("opposite", [False, True])
def test_the_rotation_trick_is_a_rotation_made_by_scipy(opposite):
    x, g = np.asarray(normal(8, 3)), np.asarray(normal(8, 3, seed=2))
    e = -2 * x if opposite else np.asarray(normal(8, 3, seed=1))
    z, pull = jax.vjp(jax.jit(vq.rotate), x, e)
    np.testing.assert_array_equal(z, e)
    grad_x, grad_e = pull(jnp.asarray(g))
    assert not np.any(grad_e)
    for i in range(8):
        a, b = x[i] / np.linalg.norm(x[i]), e[i] / np.linalg.norm(e[i])
        scale = np.linalg.norm(e[i]) / np.linalg.norm(x[i])
        if opposite:  # no plane to turn in; any isometry that takes x to e, here the reflection
            matrix = np.eye(3) - 2 * np.outer(a, a)
        else:
            normal_of_plane = np.cross(a, b) / np.linalg.norm(np.cross(a, b))
            matrix = Rotation.from_rotvec(np.arccos(a @ b) * normal_of_plane).as_matrix()
        np.testing.assert_allclose(scale * matrix @ x[i], e[i], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(grad_x[i], scale * matrix.T @ g[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("module", mostly_slow([VectorQuantizer(4, 3), VectorQuantizer(4, 3, metric="cosine")]))
def test_rotation_changes_the_gradient_and_nothing_else(module):
    h = normal(5, 2, 3)
    variables = start(module, h, transparent=True)
    rotation = module.clone(gradient="rotation")
    np.testing.assert_array_equal(evaluate(module, variables, h).z, evaluate(rotation, variables, h).z)
    grads = [jax.grad(lambda h, m=m: evaluate(m, variables, h).z[..., 0].sum())(h) for m in (module, rotation)]
    assert np.abs(grads[0] - grads[1]).max() > 0.01


@pytest.mark.parametrize("metric", mostly_slow(["euclidean", "cosine"]))
def test_moving_averages_by_loops(metric):
    module = VectorQuantizer(4, 3, decay=0.8, metric=metric)
    batches = np.asarray(normal(5, 6, 2, 3))
    variables = start(module, batches[0], transparent=True)
    state = jax.tree.map(np.asarray, variables["codebook"]["codebook"])
    shares, sums = state["shares"].astype(float), state["sums"].astype(float)
    np.testing.assert_allclose(shares, 0.25)
    for batch in batches:
        table = codes_of(module, variables)
        code, variables = step(module, variables, batch)
        rows = batch.reshape(-1, 3)
        if metric == "cosine":
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        count, total = np.zeros(4), np.zeros((4, 3))
        for row in rows:
            best = np.argmin([np.square(row - e).sum() for e in table])
            count[best] += 1
            total[best] += row
        shares = 0.8 * shares + 0.2 * count / len(rows)
        sums = 0.8 * sums + 0.2 * total / len(rows)
        smooth = (shares + 1e-7) / (shares.sum() + 4e-7) * shares.sum()
        expected = sums / smooth[:, None]
        if metric == "cosine":
            expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(codes_of(module, variables), expected, rtol=1e-4, atol=1e-5)
        assert code.metrics["perplexity"] == pytest.approx(np.exp(scipy.stats.entropy(count)), rel=1e-5)
        assert code.metrics["dead_codes"] == pytest.approx((count == 0).mean(), abs=1e-6)


def test_kmeans_is_as_good_as_that_of_scikit_learn():
    for seed in range(3):
        rows = np.asarray(normal(200, 2, seed=seed))

        def inertia(centres, rows=rows):
            return np.square(rows[:, None] - np.asarray(centres)).sum(-1).min(1).sum()

        centres = jax.jit(vq.fit_kmeans, static_argnums=1)(rows, 8, jax.random.key(seed))
        reference = KMeans(8, n_init=1, random_state=seed).fit(rows).cluster_centers_
        # Both stop in a local optimum that depends on the start; random rows as centres are twice as bad.
        assert inertia(centres) < 1.15 * inertia(reference) < 0.8 * inertia(rows[:8])


def test_the_codes_start_as_the_centers(monkeypatch):
    centers = normal(5, 3)
    monkeypatch.setattr(vq, "fit_kmeans", lambda rows, codes, key, cosine: centers)
    module, h = VectorQuantizer(5, 3, kmeans=True), normal(4, 2, 3)
    code, _ = step(module, start(module, h, transparent=True), h, keys(4))
    np.testing.assert_allclose(code.z, centers[code.indices], rtol=1e-3)


@pytest.mark.slow
def test_the_first_training_batch_alone_starts_the_codebook():
    middles = 10 * np.asarray(normal(5, 3))
    cluster = np.arange(40) % 5
    h = (middles[cluster] + 0.01 * normal(40, 3, seed=1)).reshape(20, 2, 3)
    module = VectorQuantizer(5, 3, kmeans=True, decay=0.9)
    code, variables = step(module, start(module, h, transparent=True), h, keys(20))
    assert len(set(zip(code.indices.ravel().tolist(), cluster.tolist(), strict=True))) == 5  # one code a cluster
    expected = [h.reshape(40, 3)[cluster == i].mean(0) for i in range(5)]
    found = codes_of(module, variables)
    np.testing.assert_allclose(sorted(found.tolist()), sorted(np.array(expected).tolist()), rtol=1e-4, atol=1e-4)
    _, variables = step(module, variables, h + 1, keys(20))
    moved = codes_of(module, variables)
    np.testing.assert_allclose(moved, found + 0.1, rtol=1e-3, atol=1e-3)  # by the average, not from scratch


@pytest.mark.slow
def test_kmeans_of_fewer_vectors_than_codes_is_finite():
    h = normal(2, 2, 3)
    module = VectorQuantizer(9, 3, kmeans=True)
    _, variables = step(module, start(module, h, transparent=True), h, keys(2))
    table = codes_of(module, variables)
    assert np.square(np.asarray(h).reshape(4, 1, 3) - table).sum(-1).min(1).max() < 1e-9  # each vector is a code


@pytest.mark.slow
def test_a_code_without_use_is_replaced_after_exactly_so_many_steps():
    h = normal(6, 2, 3)
    module = VectorQuantizer(3, 3, revive_after=4)
    far = np.array([[0.0, 0, 0], [0, 0.1, 0], [100, 100, 100]], "f") / 3  # sums: a third of the codes
    variables = start(module, h, transparent=True, sums=far)
    rows = np.asarray(h).reshape(-1, 3)
    for number in range(1, 6):
        _, variables = step(module, variables, h, keys(6, seed=number))
        table, age = codes_of(module, variables), variables["codebook"]["codebook"]["ages"][2]
        distance = np.abs(table[2] - rows).max(1).min()
        if number < 4:
            assert age == number
            assert distance > 50
        else:
            assert age == 0
            assert distance < (1e-5 if number == 4 else 10)
    assert list(variables["codebook"]["codebook"]["ages"]) == [0, 0, 0]


def test_revival_takes_different_vectors_by_the_keys():
    h = normal(8, 1, 3)
    module = VectorQuantizer(5, 3, revive_after=1)
    variables = start(module, h, transparent=True, sums=1000 + np.arange(15, dtype="f").reshape(5, 3))
    tables = [codes_of(module, step(module, variables, h, keys(8, seed=seed))[1])[1:] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(tables[0], tables[1])
    assert np.any(tables[0] != tables[2])
    taken = [np.abs(row - np.asarray(h)[:, 0]).max(1).argmin() for row in tables[0]]
    assert len(set(taken)) == 4


@pytest.mark.slow
def test_residuals_are_quantised_in_turn_and_the_error_falls():
    h = normal(30, 2, 3)
    module = ResidualQuantizer(8, 3, levels=3, kmeans=True)
    variables = start(module, h, transparent=True)
    _, variables = step(module, variables, h, keys(30))
    code = evaluate(module, variables, h)
    rest, losses, errors = np.asarray(h), 0.0, []
    for level, name in enumerate(["codebook", "deeper_0", "deeper_1"]):
        single = VectorQuantizer(8, 3)
        state = {key: variables["codebook"][name][key] for key in ("shares", "sums")}
        table = codes_of(single, {**variables, "codebook": {"codebook": state}})
        best = np.square(rest[..., None, :] - table).sum(-1).argmin(-1)
        np.testing.assert_array_equal(code.indices[..., level], best)
        rest = rest - table[best]
        losses += np.square(rest).sum((1, 2))
        errors.append(np.square(rest).sum())
    np.testing.assert_allclose(code.z, h - rest, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(code.losses["commitment"], losses, rtol=1e-4)
    counts = [np.bincount(np.asarray(code.indices)[..., level].ravel(), minlength=8) for level in range(3)]
    perplexity = np.mean([np.exp(scipy.stats.entropy(count)) for count in counts])
    assert code.metrics["perplexity"] == pytest.approx(perplexity, rel=1e-5)
    assert all(after < 0.7 * before for before, after in itertools.pairwise(errors))


def test_without_use_for_keys_training_is_the_same_with_and_without():
    h = normal(6, 2, 3)
    module = VectorQuantizer(5, 3)
    variables = start(module, h)
    jax.tree.map(np.testing.assert_array_equal, step(module, variables, h), step(module, variables, h, keys(6)))


# Finite scalars.

LEVELS = [(8, 5, 5, 5), (4, 3, 2), (1000,)]


@pytest.mark.slow
@pytest.mark.parametrize("levels", LEVELS)
def test_every_index_has_its_own_code_and_back(levels):
    module = FSQ(levels)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 5)))
    indices = np.arange(math.prod(levels))
    z = np.asarray(lookup(module, variables, indices))
    units = [[(i - n // 2) / (n // 2) for i in range(n)] for n in levels]
    expected = [code[::-1] for code in itertools.product(*units[::-1])]  # the first unit turns fastest
    np.testing.assert_allclose(z, expected, rtol=1e-6)
    assert np.abs(z).max() <= 1
    digits = np.round((z + 1) * (np.array(levels) // 2)).astype(int)
    np.testing.assert_array_equal(np.ravel_multi_index(digits.T, levels, order="F"), indices)


@pytest.mark.parametrize("levels", LEVELS)
def test_scalars_are_rounded_as_by_loops_and_every_value_is_reached(levels):
    module = FSQ(levels)
    h = np.linspace(-20, 20, 20001, dtype=np.float32)[:, None, None].repeat(len(levels), 2)
    variables = start(module, h, transparent=True)
    code = evaluate(module, variables, h)
    for unit, n in enumerate(levels):
        z = np.asarray(code.z)[:, 0, unit]
        assert len(np.unique(z)) == n
        assert np.all(np.diff(z) >= 0)
    for i in range(0, 20001, 1234):
        index, radix = 0, 1
        for unit, n in enumerate(levels):
            half = (n - 1) / 2 * 1.001
            offset = 0.0 if n % 2 else 0.5
            value = round(half * math.tanh(h[i, 0, unit] + math.atanh(offset / half)) - offset)
            assert code.z[i, 0, unit] == pytest.approx(value / (n // 2), rel=1e-6)
            index, radix = index + (value + n // 2) * radix, radix * n
        assert code.indices[i, 0] == index
    np.testing.assert_array_equal(evaluate(module, variables, h[10000:10001]).z, 0)  # features of 0


# Lookup-free.


@pytest.mark.parametrize(("bits", "temperature"), mostly_slow([(1, 1.0), (4, 0.5), (4, 2.0), (11, 0.5)], (4, 0.5)))
def test_entropies_by_enumeration_of_all_codes(bits, temperature):
    module = LFQ(bits, temperature=temperature)
    x = np.asarray(normal(3, 2, bits), np.float64) / 2
    code = evaluate(module, start(module, x, transparent=True), x)
    codes = np.array(list(itertools.product([-1, 1], repeat=bits)))[:, ::-1]  # the first bit turns fastest
    distance = np.square(x[:, :, None] - codes).sum(-1)
    p = np.exp(-distance / temperature) / np.exp(-distance / temperature).sum(-1, keepdims=True)
    entropy = -(p * np.log(p)).sum(-1)
    np.testing.assert_allclose(code.losses["sample_entropy"], entropy.sum(1), rtol=1e-4)
    mean = p.mean((0, 1))
    joint = scipy.stats.entropy(mean)
    if bits > 10:
        ones = np.array([mean[codes[:, i] == 1].sum() for i in range(bits)])
        bound = sum(scipy.stats.entropy([q, 1 - q]) for q in ones)
        assert bound > joint
        joint = bound
    assert ("codebook_entropy_upper_bound" in code.metrics) == (bits > 10)  # what is logged says that it is a bound
    np.testing.assert_allclose(code.losses["codebook_entropy"], np.full(3, -joint), rtol=1e-4)
    nearest = distance.argmin(-1)
    np.testing.assert_array_equal(code.indices, nearest)
    np.testing.assert_array_equal(code.z, codes[nearest])
    commitment = np.square(x - codes[nearest]).sum((1, 2))
    np.testing.assert_allclose(code.losses["commitment"], commitment, rtol=1e-5)


def test_the_codebook_entropy_of_many_bits_is_a_bound_and_perplexity_counts_the_codes():
    """The figures of the docstring: 300 codes of 12 bits, each bit 1 in half of them."""
    half = np.random.default_rng(0).permutation(2**11)[:150]
    h = 1e4 * (2.0 * (np.concatenate([half, 2**12 - 1 - half])[:, None, None] >> np.arange(12) & 1) - 1)
    code = evaluate(LFQ(12), start(LFQ(12), h, transparent=True), h)
    np.testing.assert_allclose(code.losses["codebook_entropy"], -12 * np.log(2), rtol=1e-6)  # 8.3
    np.testing.assert_allclose(code.metrics["codebook_entropy_upper_bound"], 12 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(np.log(code.metrics["perplexity"]), np.log(300), rtol=1e-6)  # 5.7


def test_entropies_at_the_ends():
    module = LFQ(3)
    h = 1e4 * np.array(list(itertools.product([-1.0, 1.0], repeat=3)), "f")[:, None]
    losses = evaluate(module, start(module, h, transparent=True), h).losses
    np.testing.assert_array_equal(losses["sample_entropy"], 0)
    np.testing.assert_allclose(losses["codebook_entropy"], -3 * np.log(2), rtol=1e-6)
    losses = evaluate(module, start(module, h, transparent=True), 0 * h).losses
    np.testing.assert_allclose(losses["sample_entropy"], 3 * np.log(2), rtol=1e-6)


# Categories.


def test_kl_to_the_uniform_by_a_sum():
    module = GumbelSoftmax(4)
    h = normal(3, 2, 4)
    code = evaluate(module, start(module, h, transparent=True), h)
    q = np.exp(h) / np.exp(h).sum(-1, keepdims=True)
    np.testing.assert_allclose(code.losses["kl"], (q * np.log(q / 0.25)).sum((1, 2)), rtol=1e-5)
    extreme = evaluate(module, start(module, h, transparent=True), 1e4 * np.eye(4, dtype="f")[:3, None].repeat(2, 1))
    np.testing.assert_allclose(extreme.losses["kl"], 2 * np.log(4), rtol=1e-6)


@pytest.mark.slow
def test_categories_are_drawn_as_often_as_the_softmax_says_and_by_key():
    module = GumbelSoftmax(3)
    n = 4000
    h = np.broadcast_to(np.array([0.0, 1.0, -1.0], "f"), (n, 1, 3))
    variables = start(module, h, transparent=True)
    code, _ = step(module, variables, h, keys(n))
    shares = np.bincount(code.indices.ravel(), minlength=3) / n
    # Deviation of a share: at most sqrt(0.25 / 4000) = 0.008; five of them.
    np.testing.assert_allclose(shares, scipy.special.softmax(h[0, 0]), atol=0.04)
    reverse, _ = step(module, variables, h, keys(n)[::-1])
    np.testing.assert_array_equal(reverse.z, code.z[::-1])
    np.testing.assert_array_equal(evaluate(module, variables, h, keys(n)).indices, code.indices)
    np.testing.assert_array_equal(evaluate(module, variables, h).indices, 1)


@pytest.mark.slow
def test_hard_is_one_hot_with_the_gradient_of_soft():
    h, weights = normal(5, 2, 4), normal(5, 2, 4, seed=1)
    soft = GumbelSoftmax(4, temperature=0.7)
    hard = soft.clone(hard=True)
    variables = start(soft, h, transparent=True)

    def read(module, h):
        return step(module, variables, h, keys(5))[0].z

    relaxed, one_hot = np.asarray(read(soft, h)), read(hard, h)
    np.testing.assert_allclose(relaxed.sum(-1), 1, rtol=1e-6)
    assert relaxed.max() < 1
    np.testing.assert_array_equal(one_hot, np.eye(4)[relaxed.argmax(-1)])
    grads = [jax.grad(lambda h, m=m: (read(m, h) * weights).sum())(h) for m in (soft, hard)]
    np.testing.assert_allclose(*grads, rtol=1e-5, atol=1e-7)
    noise = np.log(relaxed) * 0.7 - h  # the logits' noise, up to a constant per position
    expected = jax.vmap(lambda key: jax.random.gumbel(key, (2, 4)))(keys(5))
    np.testing.assert_allclose(
        noise - noise.mean(-1, keepdims=True), expected - expected.mean(-1, keepdims=True), atol=1e-4
    )


@pytest.mark.slow
def test_the_temperature_anneals_and_stays():
    module = GumbelSoftmax(3, temperature=2.0, anneal_to=0.5, anneal_steps=4)
    h = normal(2, 1, 3)
    variables = start(module, h, transparent=True)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, (1, 3)))(keys(2))
    seen = []
    for _ in range(6):
        code, variables = step(module, variables, h, keys(2))
        seen.append(float(code.metrics["temperature"]))
        np.testing.assert_allclose(code.z, scipy.special.softmax((h + noise) / seen[-1], -1), rtol=1e-5)
    np.testing.assert_allclose(seen, [2 * 0.25 ** (t / 4) for t in (0, 1, 2, 3, 4, 4)], rtol=1e-6)
    assert variables["codebook"]["steps"] == 6
    assert "codebook" not in start(GumbelSoftmax(3), h)
