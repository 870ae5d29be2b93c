import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MEANT, mlp, mostly_slow

import aejax
from aejax import config as config_lib
from aejax.models.bottlenecks import BOTTLENECKS
from aejax.models.bottlenecks.sparse import BatchTopK, JumpReLU, TopK
from aejax.registry import instantiate

AXIS = "devices"
UNITS = 6
EACH = [TopK(UNITS, k=2, dead_after=3), BatchTopK(UNITS, k=2, dead_after=3), JumpReLU(UNITS, dead_after=3)]


def features(seed=0, batch=8, size=4):
    return np.random.default_rng(seed).normal(size=(batch, size)).astype(np.float32)


def start(module, h):
    return module.init(jax.random.key(1), h)


def units(variables, h):
    """The dense layer in numpy."""
    dense = jax.tree.map(np.asarray, variables["params"]["dense"])
    return h @ dense["kernel"] + dense["bias"]


def exact(module, pre, state=None, **options):
    """The code of units that are given: the dense layer is the identity."""
    dense = {"kernel": np.eye(module.features, dtype=np.float32), "bias": np.zeros(module.features, np.float32)}
    variables = module.init(jax.random.key(0), pre)
    variables = {**variables, **(state or {}), "params": {**variables["params"], "dense": dense}}
    return module.apply(variables, pre, **options)


def trained(module, pre, state=None):
    """The code of a training step of units that are given."""
    return exact(module, pre, state, train=True, mutable=["sparse"])[0]


def step(module, variables, h):
    """One training step without a change of parameters."""
    code, updated = module.apply(variables, h, train=True, mutable=["sparse"])
    return code, {**variables, **updated}


def with_bias(variables, unit, value):
    bias = variables["params"]["dense"]["bias"].at[unit].set(value)
    dense = {**variables["params"]["dense"], "bias": bias}
    return {**variables, "params": {**variables["params"], "dense": dense}}


@pytest.mark.parametrize("k", [1, 3, UNITS])
def test_topk_keeps_the_largest_of_each_row(k):
    module, h = TopK(UNITS, k), features()
    variables = start(module, h)
    code = module.apply(variables, h)
    dense = np.maximum(units(variables, h), 0)
    smallest = np.sort(dense, 1)[:, -k][:, None]
    np.testing.assert_allclose(code.z, np.where(dense >= smallest, dense, 0), rtol=1e-5, atol=1e-6)
    assert float(code.metrics["l0"]) == pytest.approx((np.asarray(code.z) > 0).sum(1).mean())
    assert set(code.metrics) == {"l0"}
    assert code.revival is None
    if k == UNITS:
        np.testing.assert_allclose(code.z, dense, rtol=1e-5, atol=1e-6)


def test_topk_keeps_exactly_k_of_equal_units_and_none_below_zero():
    pre = np.array([[1, 2, 2, 2, 0], [-1, -2, -3, -4, -5], [-1, 3, -1, -1, -1]], np.float32)
    z = exact(TopK(5, k=2), pre).z
    np.testing.assert_array_equal(z, [[0, 2, 2, 0, 0], [0, 0, 0, 0, 0], [0, 3, 0, 0, 0]])


@pytest.mark.parametrize("module", [TopK(UNITS, k=2), BatchTopK(UNITS, k=2)])
def test_gradients_flow_through_kept_units_alone(module):
    pre = features(size=UNITS)
    weights = features(1, size=UNITS)
    grad = jax.grad(lambda pre: (trained(module, pre).z * weights).sum())(pre)
    kept = np.asarray(trained(module, pre).z) > 0
    np.testing.assert_array_equal(grad, np.where(kept, weights, 0))


@pytest.mark.parametrize("k", [1, 3])
def test_batch_topk_keeps_the_largest_of_the_batch(k):
    pre = features(size=UNITS)
    code = trained(BatchTopK(UNITS, k), pre)
    cut = max(np.sort(pre.ravel())[-k * len(pre)], 0)
    np.testing.assert_array_equal(code.z, np.where(pre >= cut, pre, 0))
    if k == 1:  # enough are positive
        assert (np.asarray(code.z) > 0).sum() == len(pre)
        assert float(code.metrics["l0"]) == 1
        assert len({int(n) for n in (np.asarray(code.z) > 0).sum(1)}) > 1  # the examples share k * batch


def test_batch_topk_keeps_all_of_the_equal_units_at_its_cut():
    pre = np.array([[3, 1], [2, 2], [0, 2]], np.float32)
    np.testing.assert_array_equal(trained(BatchTopK(2, k=1), pre).z, [[3, 0], [2, 2], [0, 2]])


@pytest.mark.parametrize("kind", [TopK, BatchTopK])
@pytest.mark.parametrize("features", [8, 300])  # by dense products, and by kept units
def test_annealing_keeps_fewer_units_from_step_to_step(kind, features):
    pre = np.abs(np.random.default_rng(0).normal(size=(5, features))).astype(np.float32) + 0.1
    module = kind(features, k=1, anneal_from=4, anneal_steps=3)
    state = {"sparse": {"steps": jnp.int32(0), **({"threshold": jnp.float32(0)} if kind is BatchTopK else {})}}
    for kept in (4, 3, 2, 1, 1):
        code, state = exact(module, pre, state, train=True, mutable=["sparse"])
        active = np.asarray(code.z) > 0
        np.testing.assert_array_equal(active.sum(), kept * len(pre))
        cut = np.sort(pre.ravel())[-kept * len(pre)] if kind is BatchTopK else np.sort(pre, 1)[:, -kept, None]
        np.testing.assert_array_equal(active, pre >= cut)
    if kind is TopK:
        assert (np.asarray(exact(module, pre, {"sparse": {"steps": jnp.int32(0)}}).z) > 0).sum() == len(pre)


@pytest.mark.parametrize("options", [{"anneal_from": 1}, {"anneal_from": 9}, {"anneal_from": 4}, {"anneal_steps": 5}])
def test_annealing_that_cannot_be_meant_is_refused(options):
    options = {"anneal_steps": 5, **options} if options != {"anneal_from": 4} else options
    with pytest.raises(aejax.InputError, match=r"bottleneck\.anneal_from must be from bottleneck\.k=2"):
        start(TopK(UNITS, k=2, **options), features())


def test_batch_topk_sees_the_batch_in_training_alone():
    module, pre = BatchTopK(UNITS, k=1), features(size=UNITS)
    pre[0, 0] = 3  # among the largest of the batch, but not of the other one
    other = np.concatenate([pre[:1], 10 + pre[1:]])
    state = {"sparse": {"threshold": jnp.float32(0.5)}}
    np.testing.assert_array_equal(exact(module, pre, state).z[0], exact(module, other, state).z[0])
    np.testing.assert_array_equal(exact(module, pre, state).z, np.where(pre >= 0.5, pre, 0))
    assert np.any(trained(module, pre, state).z[0])
    assert not np.any(trained(module, other, state).z[0])


def test_batch_topk_averages_its_threshold():
    module, h = BatchTopK(UNITS, k=2, decay=0.7), features()
    variables = start(module, h)
    dense = np.maximum(units(variables, h), 0)
    np.testing.assert_allclose(
        module.apply(variables, h).z, dense, rtol=1e-5, atol=1e-6
    )  # before any step: threshold 0
    average = None
    for seed in range(4):
        code, variables = step(module, variables, features(seed))
        smallest = np.min(np.asarray(code.z)[np.asarray(code.z) > 0])
        average = smallest if average is None else 0.7 * average + 0.3 * smallest
        assert float(variables["sparse"]["threshold"]) == pytest.approx(average, rel=1e-5)
    silent = {**variables, "params": jax.tree.map(jnp.zeros_like, variables["params"])}
    assert float(step(module, silent, h)[1]["sparse"]["threshold"]) == pytest.approx(average, rel=1e-5)
    np.testing.assert_allclose(module.apply(variables, h).z, np.where(dense >= average, dense, 0), rtol=1e-5, atol=1e-6)


def test_jumprelu_is_the_formula():
    module, h = JumpReLU(UNITS, threshold=0.2), features()
    variables = start(module, h)
    np.testing.assert_allclose(np.exp(variables["params"]["log_threshold"]), 0.2, rtol=1e-6)
    log_threshold = np.linspace(-3, 0, UNITS).astype(np.float32)
    variables = {"params": {**variables["params"], "log_threshold": log_threshold}}
    pre = units(variables, h)
    active = pre > np.exp(log_threshold)
    code = module.apply(variables, h)
    np.testing.assert_allclose(code.z, pre * active, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(code.losses["l0"], active.sum(1))
    assert float(code.metrics["l0"]) == pytest.approx(active.sum(1).mean())


def jumprelu_gradients(bandwidth, pre, log_threshold, weights):
    """Of (z * weights).sum() and of l0.sum(): to the units and to the log threshold."""
    module = JumpReLU(pre.shape[1], bandwidth=bandwidth)
    dense = {"kernel": np.eye(pre.shape[1], dtype=np.float32), "bias": np.zeros(pre.shape[1], np.float32)}

    def loss(pre, log_threshold, which):
        code = module.apply({"params": {"dense": dense, "log_threshold": log_threshold}}, pre)
        return (code.z * weights).sum() if which == "z" else code.losses["l0"].sum()

    return {which: jax.grad(loss, (0, 1))(pre, log_threshold, which) for which in ("z", "l0")}


@pytest.mark.slow
def test_jumprelu_has_the_pseudo_derivatives_of_the_paper():
    pre, bandwidth = features(batch=64, size=3), 0.4
    log_threshold, weights = np.log([0.1, 0.3, 1.0]).astype(np.float32), features(1, 64, 3)
    threshold = np.exp(log_threshold)
    kernel = np.abs((pre - threshold) / bandwidth) < 0.5
    assert kernel.any(0).all()  # or nothing is tested
    grads = jumprelu_gradients(bandwidth, pre, log_threshold, weights)
    # Equations 11 and 12; the last factor is the derivative of exp(log_threshold).
    to_z = -threshold / bandwidth * (kernel * weights).sum(0) * threshold
    to_l0 = -1 / bandwidth * kernel.sum(0) * threshold
    np.testing.assert_allclose(grads["z"][1], to_z, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(grads["l0"][1], to_l0, rtol=1e-5)
    np.testing.assert_array_equal(grads["z"][0], weights * (pre > threshold))
    np.testing.assert_array_equal(grads["l0"][0], 0)


@pytest.mark.parametrize("seed", mostly_slow(range(3)))
def test_jumprelu_descends_the_expected_number_of_active_units(seed):
    """The mean pseudo-derivative is the slope of the mean of the step function over a bandwidth."""
    pre, bandwidth = features(seed, 2000, 2), np.float32(0.3)
    threshold = np.array([0.2, 0.6], np.float32)
    slope = jumprelu_gradients(float(bandwidth), pre, np.log(threshold), 1.0)["l0"][1] / threshold
    above, below = ((pre > threshold + sign * bandwidth / 2).sum(0) for sign in (1, -1))
    np.testing.assert_allclose(slope, (above - 1.0 * below) / bandwidth, rtol=1e-3)


def test_jumprelu_lowers_l0_by_its_gradient():
    module, h = JumpReLU(UNITS), features(batch=512)
    params = start(module, h)["params"]
    value = jax.jit(jax.value_and_grad(lambda p: module.apply({"params": p}, h).losses["l0"].mean()))
    first, grads = value(params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    for _ in range(100):
        params = jax.tree.map(lambda p, g: p - g, params, value(params)[1])
    assert value(params)[0] < 0.7 * first


@pytest.mark.parametrize("module", EACH)
def test_a_unit_dies_after_so_many_steps_and_comes_back(module):
    h = np.abs(features(batch=32))
    variables = with_bias(start(module, h), 2, -100.0)
    for steps in range(1, 5):
        code, variables = step(module, variables, h)
        assert variables["sparse"]["idle"].dtype == jnp.int32
        assert int(variables["sparse"]["idle"][2]) == steps
        dead = np.asarray(variables["sparse"]["idle"]) >= 3
        assert dead[2] == (steps >= 3)
        assert float(code.metrics["dead_units"]) == pytest.approx(dead.mean())
    evaluated = module.apply(variables, h)
    np.testing.assert_allclose(evaluated.metrics["dead_units"], dead.mean())
    code, variables = step(module, with_bias(variables, 2, 100.0), h)
    assert int(variables["sparse"]["idle"][2]) == 0
    assert float(code.metrics["dead_units"]) == pytest.approx(dead.mean() - 1 / UNITS)


def test_one_example_keeps_a_unit_alive():
    pre = np.full((8, UNITS), -1, np.float32)
    pre[5, 3] = 1
    for module in EACH:
        _, updated = exact(module, pre, train=True, mutable=["sparse"])
        np.testing.assert_array_equal(updated["sparse"]["idle"], [1, 1, 1, 0, 1, 1])


@pytest.mark.parametrize("kind", [TopK, BatchTopK, JumpReLU])
@pytest.mark.parametrize("train", [True, False])
def test_revival_is_the_largest_dead_units(kind, train):
    options = {} if kind is JumpReLU else {"k": 2}
    module = kind(UNITS, dead_after=5, revive=2, **options)
    idle = np.array([7, 0, 5, 4, 9, 0], np.int32)
    pre = features(size=UNITS)
    pre = np.where(idle >= 5, pre / 100, 1 + np.abs(pre))  # a training step finds the same units dead
    state = {"sparse": {"idle": idle, **({"threshold": jnp.float32(1.0)} if kind is BatchTopK else {})}}
    read = trained if train else exact
    code = read(module, pre, state)
    dead = np.maximum(pre, 0) * (idle >= 5)
    expected = np.where(dead >= np.sort(dead, 1)[:, -2][:, None], dead, 0)
    assert ((dead > 0).sum(1) == 3).any()  # or there was nothing to choose
    np.testing.assert_array_equal(code.revival, expected)
    alive = read(module, pre, {"sparse": {**state["sparse"], "idle": 0 * idle}})
    np.testing.assert_array_equal(alive.revival, 0)
    gone = read(module, -np.abs(pre), {"sparse": {**state["sparse"], "idle": 0 * idle + 9}})
    np.testing.assert_array_equal(gone.revival, 0)  # none is positive
    grad = jax.grad(lambda pre: read(module, pre, state).revival.sum())(pre)
    np.testing.assert_array_equal(grad, expected > 0)


@pytest.mark.parametrize("module", EACH)
def test_state_changes_in_training_alone(module):
    h = features()
    variables = with_bias(start(module, h), 2, -100.0)
    once = module.init(jax.random.key(1), h, train=True)["sparse"]
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves((variables["sparse"], once)))
    _, evaluated = module.apply(variables, h, mutable=["sparse"])
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(evaluated))
    _, trained = step(module, variables, h)
    assert any(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(trained["sparse"]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [TopK, BatchTopK, JumpReLU])
@pytest.mark.parametrize("train", [True, False])
def test_four_devices_are_one(kind, train):
    options = {"dead_after": 2, "revive": 2} | ({} if kind is JumpReLU else {"k": 1})
    one, four = kind(UNITS, **options), kind(UNITS, axis_name=AXIS, **options)
    variables = with_bias(start(one, features()), 0, -100.0)

    def run(module, variables, h):
        def loss(params):
            v = {**variables, "params": params}
            code, updated = module.apply(v, h, train=train, mutable=["sparse"])
            return (jnp.square(code.z).sum(1) + sum(code.losses.values())).mean(), (code, updated)

        grads, (code, updated) = jax.grad(loss, has_aux=True)(variables["params"])
        if module.axis_name:
            grads = jax.lax.pmean(grads, AXIS)
        return (code.z, code.losses, code.revival), (code.metrics, updated, grads)

    mapped = jax.pmap(lambda v, h: run(four, v, h), axis_name=AXIS, in_axes=(None, 0), out_axes=(0, None))
    for seed in range(3):
        h = features(seed)
        h[:2] *= 5  # the first device has most of the large ones
        a, b = run(one, variables, h), mapped(variables, h.reshape(4, 2, -1))
        b = jax.tree.map(lambda x: x.reshape(8, *x.shape[2:]), b[0]), b[1]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), a, b)
        assert jax.tree.map(jnp.shape, a) == jax.tree.map(jnp.shape, b)
        np.testing.assert_array_equal(a[1][1]["sparse"]["idle"], b[1][1]["sparse"]["idle"])
        variables = {**variables, **a[1][1]}
    assert bool(variables["sparse"]["idle"][0]) == train


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("topk", {"k": 9}, r"bottleneck\.k must be from 1 to bottleneck\.features=6, got 9"),
        ("topk", {"k": 2, "dead_after": -1}, r"bottleneck\.dead_after must be 0 or a whole number above it"),
        ("topk", {"k": 2, "dead_after": 3, "revive": 7}, r"bottleneck\.revive=7 is above bottleneck\.features=6"),
        ("topk", {"k": 2, "revive": 2}, r"bottleneck\.revive needs bottleneck\.dead_after"),
        ("batch_topk", {}, r"needs bottleneck\.k"),
        ("batch_topk", {"k": 7}, r"bottleneck\.k must be from 1 to bottleneck\.features=6, got 7"),
        ("batch_topk", {"k": 2, "decay": 1.0}, r"bottleneck\.decay must be at least 0 and below 1, got 1\.0"),
        ("jumprelu", {"bandwidth": 0.0}, r"bottleneck\.bandwidth must be above 0, got 0\.0"),
        ("jumprelu", {"threshold": -0.1}, r"bottleneck\.threshold must be above 0, got -0\.1"),
    ],
)
def test_bad_options_are_named_in_a_line(name, options, message):
    with pytest.raises(aejax.InputError, match=message) as caught:
        start(instantiate("bottleneck", BOTTLENECKS, {"name": name, "features": UNITS, **options}), features())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module", EACH)
def test_codes_are_float32_and_features_are_flattened(module):
    h = jnp.asarray(features(size=12).reshape(8, 2, 2, 3), jnp.bfloat16)
    variables = start(module, h)
    code, variables = step(module, variables, h)
    assert code.z.shape == (8, UNITS)
    assert {leaf.dtype for leaf in jax.tree.leaves(code.replace(kept=None))} == {jnp.dtype("float32")}
    assert all(jnp.shape(leaf) == () for leaf in code.metrics.values())
    flat = module.apply(variables, h.reshape(8, -1))
    np.testing.assert_array_equal(module.apply(variables, h).z, flat.z)


def linear(bottleneck, **changes):
    """A config of a sparse autoencoder on raw inputs."""
    changes = {"steps": 1, "checkpoint_every": 1, **changes}
    return mlp(encoder=config_lib.module("mlp"), bottleneck=bottleneck, decoder=config_lib.module("mlp"), **changes)


LINEAR = {
    "topk": linear(config_lib.module("topk", features=UNITS, k=2)),
    "batch_topk": linear(config_lib.module("batch_topk", features=UNITS, k=2)),
    "jumprelu": linear(config_lib.module("jumprelu", features=UNITS)),
    "l1": linear(config_lib.module("dense", features=UNITS, activation="relu"), objective__weights={"l1": 0.1}),
}
MEAN = np.float32([3, -2, 1, 0, 5])


@pytest.mark.parametrize("config", LINEAR.values(), ids=LINEAR)
def test_the_decoders_bias_is_subtracted_from_what_is_encoded(config):
    model, x = aejax.models.build(config, (5,)), features(size=5)
    variables = model.init(jax.random.key(0), x)
    params = variables["params"]
    moved = {**params, "decoder": {"dense_0": {**params["decoder"]["dense_0"], "bias": MEAN}}}
    before, after = model.apply(variables, x), model.apply({**variables, "params": moved}, x + MEAN)
    np.testing.assert_allclose(after.code.z, before.code.z, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(after.decoded, before.decoded + MEAN, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"pre_bias": False},
        {"encoder__features": (5,)},
        {"decoder__features": (5,)},
        {"decoder__output": "relu"},
        {"likelihood__name": "bernoulli"},
        {"bottleneck": config_lib.module("dense", features=UNITS, activation="relu")},
    ],
)
def test_other_models_have_no_pre_encoder_bias(changes):
    config = linear(**{"bottleneck": config_lib.module("topk", features=UNITS, k=2), **changes})
    assert not aejax.models.build(config, (5,)).pre_bias


@pytest.mark.slow
@pytest.mark.filterwarnings(MEANT)
@pytest.mark.parametrize("kind", ["topk", "l1"])
@pytest.mark.parametrize("devices", [1, 4])
def test_it_starts_at_the_mean_of_the_train_split(kind, devices):
    config = config_lib.from_dict(config_lib.to_dict(LINEAR[kind])).unlock()
    config.optim.lr, config.ema, config.data.train = 1e-9, 0.5, "train[:60]"
    x = features(batch=100, size=5) + MEAN
    run = aejax.fit(config, x, devices=jax.devices()[:devices], quiet=True)
    np.testing.assert_allclose(run.variables["params"]["decoder"]["dense_0"]["bias"], x[:60].mean(0), atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings(MEANT)
def test_a_run_from_before_the_pre_encoder_bias_loads_and_resumes_without(tmp_path, monkeypatch):
    x = features(batch=100, size=5) + MEAN
    config, old = (linear(config_lib.module("topk", features=UNITS, k=2), steps=4) for _ in range(2))
    old.pre_bias = False
    written = config_lib.to_dict
    with monkeypatch.context() as patch:  # configs were saved without the key
        patch.setattr(config_lib, "to_dict", lambda c: {k: v for k, v in written(c).items() if k != "pre_bias"})
        whole = aejax.fit(old, x, tmp_path / "whole", quiet=True)
    assert not whole.model.pre_bias
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    for file in (tmp_path / "resumed").rglob("*"):
        assert not file.is_file() or b"pre_bias" not in file.read_bytes()
    for step in (3, 4):
        shutil.rmtree(tmp_path / "resumed" / "checkpoints" / str(step))
    with pytest.warns(match="the checkpoint of step 4 is missing"):
        resumed = aejax.fit(config, x, tmp_path / "resumed", quiet=True)
    jax.tree.map(np.testing.assert_array_equal, resumed.variables, whole.variables)
    assert not aejax.load_run(tmp_path / "resumed").model.pre_bias
    aejax.fit(config, x, tmp_path / "resumed", quiet=True)  # finished: not another config's


@pytest.mark.slow
def test_units_of_data_with_a_mean_live_and_are_found():
    """The dictionary of sparse sums is found whether or not they have a mean, which dwarfs them."""
    rng, size, units, active = np.random.default_rng(0), 32, 64, 3
    words = rng.normal(size=(units, size))
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    sums = np.zeros((20_000, units))
    np.put_along_axis(
        sums, rng.integers(0, units, (20_000, active)), 0.5 + np.abs(rng.normal(size=(20_000, active))), 1
    )
    config = linear(config_lib.module("topk", features=units, k=active), steps=1000, checkpoint_every=1000)
    config.batch_size, config.optim.lr, config.optim.schedule = 256, 3e-3, "cosine"
    found = []
    for pre_bias in (True, False):
        config.pre_bias = pre_bias
        run = aejax.fit(config, (sums @ words + 1.5 * rng.normal(size=size)).astype(np.float32), quiet=True)
        kernel = np.asarray(run.variables["params"]["decoder"]["dense_0"]["kernel"])
        kernel /= np.maximum(np.linalg.norm(kernel, axis=1, keepdims=True), 1e-9)
        found.append((words @ kernel.T).max(1).mean())
    assert found[0] > 0.9 > 0.8 > found[1]
