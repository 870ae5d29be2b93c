"""PatchGAN: its network, its games and penalties, its adaptive weight and its schedule, against formulas by hand."""

import doctest
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_trees_equal, conv, example_keys, mostly_slow, one_device
from flax import serialization
from scipy.special import log_expit
from sklearn.datasets import load_digits

import aejax
from aejax import adversarial, data
from aejax.config import module
from aejax.distributed.partition import Partition
from aejax.models.bottlenecks import BOTTLENECKS
from aejax.objectives import Objective, PatchGAN, SquaredError
from aejax.objectives.discriminators.patch_network import ActNorm, PatchConv, PatchNetwork, receptive_field
from aejax.training import vmapped
from aejax.training.step import Task, eval_step, init, train_step
from aejax.workdir import checkpoint, metrics_log

SIDE = 8


def images(n=8, seed=0, side=SIDE, channels=1):
    return np.random.default_rng(seed).random((n, side, side, channels)).astype(np.float32)


def task(discriminator=None, weights=None, optimizer=None, axis_name=None, last="decoder/conv_1/kernel", **options):
    model = aejax.Autoencoder(
        aejax.models.ConvEncoder((3,)),
        BOTTLENECKS["conv"](2),
        aejax.models.ConvDecoder((SIDE, SIDE, 1), (3,)),
    )
    options = {"features": (3,), "lr": 0.01, "last_layer": last} | options
    return Task(
        model,
        Objective(SquaredError(), {"adversarial": 0.7} if weights is None else weights),
        optimizer or optax.sgd(0.001),
        lambda x: x,
        discriminator=PatchGAN(**options) if discriminator is None else discriminator,
        axis_name=axis_name,
    )


def batch(n=8, seed=0):
    return {"x": jnp.asarray(images(n, seed)), "index": jnp.arange(n)}


def begun(t, seed=1):
    """The state before the first step, with noise on every parameter, the model's and the discriminator's."""
    rng = np.random.default_rng(seed)
    state = jax.jit(lambda key: init(t, (SIDE, SIDE, 1), key))(jax.random.key(seed))
    stir = lambda tree: jax.tree.map(lambda a: a + jnp.float32(rng.normal(0, 0.1, a.shape)), tree)  # noqa: E731
    critic = {**state.critic, "params": stir(state.critic["params"])}
    if "ema" in critic:
        critic["ema"] = jax.tree.map(jnp.copy, critic["params"])
    return state.replace(params=stir(state.params), critic=critic)


def stepper(t):
    return jax.jit(partial(train_step, task=t, key=jax.random.key(0)))


def largest(tree):
    return max((np.abs(leaf).max() for leaf in jax.tree.leaves(tree)), default=0)


def close(a, b, rtol=1e-4, atol=1e-6):
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=rtol, atol=atol), a, b)


def context_of(t, state, given, step=0):
    keys = example_keys(len(given["x"]))
    output = t.model.apply({"params": state.params}, given["x"])
    step = None if step is None else jnp.asarray(step)
    return t.context(
        {"params": state.params}, given["x"], given, output, keys, step, t.discriminator.view(state.critic)
    )


# Games and penalties.


def test_the_examples_of_the_losses():
    with np.printoptions(precision=3, suppress=True):
        assert doctest.testmod(adversarial).failed == 0


@pytest.mark.parametrize("game", adversarial.GAMES)
def test_games_are_their_formulas(game):
    real, fake = np.random.default_rng(0).normal(0, 2, (2, 50)).astype(np.float32)
    expected = {
        "hinge": (np.maximum(0, 1 - real) + np.maximum(0, 1 + fake), -fake),
        "vanilla": (-log_expit(real) - log_expit(-fake), log_expit(-fake)),
        "non_saturating": (-log_expit(real) - log_expit(-fake), -log_expit(fake)),
        "wasserstein": (fake - real, -fake),
    }[game]
    np.testing.assert_allclose(adversarial.GAMES[game].discriminator(real, fake), expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(adversarial.GAMES[game].generator(fake), expected[1], rtol=1e-5, atol=1e-6)


def test_r1_of_a_curved_discriminator_by_finite_differences():
    x = np.random.default_rng(0).normal(size=(4, 3))
    judge = lambda x: np.sin(x).prod(-1) + (x**2).sum(-1)  # noqa: E731
    slopes = [(judge(x + 1e-5 * e) - judge(x - 1e-5 * e)) / 2e-5 for e in np.eye(3)]
    found = adversarial.r1(lambda x: jnp.sin(x).prod(-1) + (x**2).sum(-1), jnp.float32(x))
    np.testing.assert_allclose(found, 0.5 * np.square(slopes).sum(0), rtol=1e-4)


@pytest.mark.parametrize("game", ["hinge", pytest.param("vanilla", marks=pytest.mark.slow)])
def test_the_discriminators_loss_is_the_sum_of_game_and_penalties(game):
    t = task(game=game, r1=3.0, lecam=0.5, lecam_decay=0.9, normalization="none", features=(3,))
    state, step, network = begun(t), stepper(t), PatchNetwork((3,), "none")
    averages = {"real": 0.0, "fake": 0.0}

    @jax.jit
    def judge(params, x, decoded):
        slopes = jax.vmap(jax.jacfwd(lambda x: network.apply(params, x[None])[0].mean()))(x)
        return network.apply(params, x), network.apply(params, decoded), slopes

    for i in range(2):
        given, params = batch(seed=i), {"params": state.critic["params"]}
        decoded = t.model.apply({"params": state.params}, given["x"]).decoded
        real, fake, slopes = map(np.asarray, judge(params, given["x"], decoded))
        r1 = 0.5 * np.square(slopes).reshape(8, -1).sum(-1).mean()
        lecam = (np.square(real - averages["fake"]) + np.square(fake - averages["real"])).mean()
        loss = np.mean(adversarial.GAMES[game].discriminator(real, fake)) + 3 * r1 + 0.5 * lecam
        state, metrics = step(state, given)
        wanted = {"r1": r1, "lecam": lecam, "critic_loss": loss, "critic_real": real.mean(), "critic_fake": fake.mean()}
        for name, value in wanted.items():
            assert float(metrics[name]) == pytest.approx(float(value), rel=1e-4), name
        for name, logits in (("real", real), ("fake", fake)):
            averages[name] = 0.9 * averages[name] + 0.1 * logits.mean()
            assert float(state.critic["averages"][name]) == pytest.approx(averages[name], rel=1e-4)


@pytest.mark.slow
def test_the_term_is_what_the_game_says_of_reconstructions():
    t = task(game="non_saturating", normalization="none")
    state, given = begun(t), batch()
    c = context_of(t, state, given)
    logits = PatchNetwork((3,), "none").apply({"params": state.critic["params"]}, c.output.decoded)
    found = t.discriminator.terms(c.discriminator, c)["adversarial"]
    np.testing.assert_allclose(found, -log_expit(np.asarray(logits)).mean((1, 2)), rtol=1e-5)


# The network.


@pytest.mark.parametrize("layers", mostly_slow([1, 2, 3]))
def test_a_logit_sees_its_receptive_field(layers):
    side, n = receptive_field(layers), 2 * receptive_field(layers) + 7
    network = PatchNetwork((2,) * layers, "none")
    variables = network.init(jax.random.key(0), jnp.zeros((1, n, n, 1)))
    variables = jax.tree.map(lambda a: jnp.abs(a) + 0.1, variables)  # so that nothing cancels
    center = jax.eval_shape(network.apply, variables, jnp.zeros((1, n, n, 1))).shape[1] // 2
    seen = jax.grad(lambda x: network.apply(variables, x)[0, center, center])(jnp.ones((1, n, n, 1)))[0, ..., 0] != 0
    assert (seen.any(0).sum(), seen.any(1).sum()) == (side, side)


def test_the_default_is_the_70x70_discriminator():
    """Isola et al. 2017, section 6.1.2: C64-C128-C256-C512; of 256x256 it makes 30x30 logits."""
    network = PatchNetwork(PatchGAN().features)
    logits, variables = jax.eval_shape(
        partial(network.init_with_output, jax.random.key(0)), jnp.zeros((1, 256, 256, 3))
    )
    assert logits.shape == (1, 30, 30)
    kernels = {name: layer["kernel"].shape for name, layer in variables["params"].items() if "kernel" in layer}
    widths = {"conv_0": (3, 64), "conv_1": (64, 128), "conv_2": (128, 256), "conv_3": (256, 512), "logit": (512, 1)}
    assert kernels == {name: (4, 4, *width) for name, width in widths.items()}
    assert [name for name in variables["params"] if name.startswith("norm")] == ["norm_1", "norm_2", "norm_3"]
    assert "bias" not in variables["params"]["conv_1"]  # the normalization has one


def test_spectral_norm_divides_by_the_largest_singular_value():
    layer, x = PatchConv(5, spectral=True), jnp.asarray(images(2, channels=3))
    variables = layer.init(jax.random.key(0), x)
    kernel = variables["params"]["kernel"] * np.linspace(1, 3, 5)
    largest_one = np.linalg.svd(np.asarray(kernel).reshape(-1, 5), compute_uv=False)[0]
    variables = {**variables, "params": {**variables["params"], "kernel": kernel}}
    step = jax.jit(lambda variables: layer.apply(variables, x, train=True, mutable=["spectral"])[1])
    for _ in range(200):
        variables |= step(variables)
    y = layer.apply(variables, x)
    plain = PatchConv(5).apply({"params": variables["params"]}, x)
    np.testing.assert_allclose(y, plain / largest_one, rtol=1e-3, atol=1e-6)
    # The gradient is that of kernel / largest: the kernel's own direction is projected out.
    grad = jax.grad(
        lambda kernel: layer.apply({**variables, "params": {"kernel": kernel, "bias": jnp.zeros(5)}}, x).sum()
    )(kernel)
    assert abs(np.vdot(grad, kernel)) < 1e-3 * np.linalg.norm(grad) * np.linalg.norm(kernel)
    fresh = layer.init(jax.random.key(1), x)  # near already, before the first step
    matrix = np.asarray(fresh["params"]["kernel"]).reshape(-1, 5)
    ratio = np.linalg.norm(matrix @ fresh["spectral"]["u"]) / np.linalg.svd(matrix, compute_uv=False)[0]
    assert 0.9 < ratio <= 1 + 1e-5


def test_actnorm_standardizes_the_first_batch_and_keeps_its_statistics():
    layer, rng = ActNorm(), np.random.default_rng(0)
    first, second = (np.float32(rng.normal(3, 2, (4, 5, 5, 3)) * [1, 2, 3]) for _ in range(2))
    variables = layer.init(jax.random.key(0), first)
    np.testing.assert_array_equal(layer.apply(variables, first), first)  # not in evaluation, nor by `init`
    y, updated = layer.apply(variables, first, train=True, mutable=["actnorm"])
    np.testing.assert_allclose([y.mean((0, 1, 2)), y.std((0, 1, 2))], [[0] * 3, [1] * 3], atol=1e-4)
    variables |= updated
    for train in (True, False):
        y, updated = layer.apply(variables, second, train=train, mutable=["actnorm"])
        np.testing.assert_allclose(y, (second - first.mean((0, 1, 2))) / first.std((0, 1, 2)), rtol=1e-3, atol=1e-4)
        assert_trees_equal(variables["actnorm"], {**variables, **updated}["actnorm"])
    slopes = jax.grad(
        lambda x: (
            layer.apply(
                {"params": variables["params"], **layer.init(jax.random.key(0), x)}, x, train=True, mutable=["actnorm"]
            )[0]
            ** 2
        ).sum()
    )(jnp.asarray(first))
    assert largest(slopes) > 0.1  # the statistics count as constants


# The adaptive weight.


def by_hand(t, state, given):
    """The gradients of the reconstruction and of the adversarial term, each alone."""

    def loss(params, name):
        output = t.model.apply({"params": params}, given["x"])
        c = t.context(
            {"params": params}, given["x"], given, output, None, jnp.zeros(()), t.discriminator.view(state.critic)
        )
        return t.losses(c)[name].mean()

    gradients = jax.jit(lambda params: [jax.grad(loss)(params, name) for name in ("reconstruction", "adversarial")])
    return gradients(state.params)


def test_the_adaptive_weight_is_the_ratio_of_gradients_at_the_last_layer():
    t = task(normalization="none")
    state, given = begun(t), batch()
    after, metrics = stepper(t)(state, given)
    rest, judged = by_hand(t, state, given)
    pick = lambda tree: np.linalg.norm(tree["decoder"]["conv_1"]["kernel"])  # noqa: E731
    weight = 0.7 * pick(rest) / (pick(judged) + 1e-6)
    assert float(metrics["adversarial_weight"]) == pytest.approx(weight, rel=1e-4)
    assert pick(judged) > 1e-3
    close(after.params, jax.tree.map(lambda p, a, b: p - 0.001 * (a + weight * b), state.params, rest, judged))
    assert float(metrics["loss"]) == pytest.approx(
        float(metrics["reconstruction"] + weight * metrics["adversarial"]), rel=1e-4
    )
    fixed = task(normalization="none", adaptive=False)
    after, metrics = stepper(fixed)(state, given)
    close(after.params, jax.tree.map(lambda p, a, b: p - 0.001 * (a + 0.7 * b), state.params, rest, judged))
    assert "adversarial_weight" not in metrics


def test_the_adaptive_weight_is_a_constant():
    slope = jax.grad(lambda g: adversarial.adaptive_weight(g, {"kernel": jnp.ones(2)}))({"kernel": jnp.ones(2)})
    np.testing.assert_array_equal(slope["kernel"], 0)


@pytest.mark.slow
def test_evaluation_leaves_the_term_out_where_its_weight_is_adaptive():
    given = {**batch(), "weight": jnp.ones(8)}
    for adaptive in (True, False):
        t = task(adaptive=adaptive, normalization="none")
        sums = eval_step(begun(t), given, task=t)
        assert sums["adversarial"] != 0
        wanted = sums["reconstruction"] + (0 if adaptive else 0.7 * sums["adversarial"])
        assert float(sums["loss"]) == pytest.approx(float(wanted), rel=1e-5)


# Its schedule and its averages.


@pytest.mark.parametrize("adaptive", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_before_its_start_neither_side_gets_a_gradient(adaptive):
    t = task(start=2, adaptive=adaptive, lecam=1.0, normalization="actnorm", features=(3,))
    plain = Task(t.model, Objective(SquaredError()), t.optimizer, t.prepare)
    state, step, step_of_plain = begun(t), stepper(t), stepper(plain)
    alone, first = state.replace(critic={}), state.critic
    for i in range(3):
        assert_trees_equal(state.params, alone.params)
        assert_trees_equal(state.critic, first)
        (state, metrics), (alone, _) = step(state, batch(seed=i)), step_of_plain(alone, batch(seed=i))
        assert (float(metrics["adversarial"]) != 0) == (i == 2)
    assert largest(jax.tree.map(lambda a, b: a - b, state.params, alone.params)) > 1e-6
    assert largest(jax.tree.map(lambda a, b: a - b, state.critic["params"], first["params"])) > 1e-3


@pytest.mark.slow
def test_the_averaged_discriminator_judges():
    t = task(ema=0.75, normalization="none")
    state, step = begun(t), stepper(t)
    average = state.critic["params"]
    for i in range(2):
        state, _ = step(state, batch(seed=i))
        average = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, average, state.critic["params"])
        close(state.critic["ema"], average)
    assert t.discriminator.view(state.critic)["params"] is state.critic["ema"]
    assert task().discriminator.view(begun(task()).critic)["params"] is not None


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"normalization": "batch"}, {"normalization": "actnorm", "spectral": True}])
def test_neither_sides_gradient_reaches_the_other(options):
    t = task(features=(3,), r1=1.0, lecam=1.0, **options)
    state = begun(t)

    def of_terms(view):
        c = context_of(t, state, batch())
        return t.discriminator.terms(view, c)["adversarial"].sum()

    def of_loss(params):
        c = context_of(t, state.replace(params=params), batch())
        return t.discriminator.update(state.critic, c, lambda tree, how: tree)[1]["critic_loss"]

    view = t.discriminator.view(state.critic)
    view = {"params": view["params"]}  # other collections hold counters
    rest = {k: v for k, v in t.discriminator.view(state.critic).items() if k != "params"}
    assert largest(jax.grad(lambda v: of_terms({**rest, **v}))(view)) == 0
    assert largest(jax.grad(of_loss)(state.params)) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"spectral": True, "r1": 1.0, "lecam": 0.5, "ema": 0.5},
        {"adaptive": False, "game": "wasserstein"},
        {"start": 8, "lecam": 0.5},
    ],
)
def test_accumulated_steps_update_both_sides_as_one(options):
    """Four steps of two examples as one of eight, three updates in a row."""
    options = {"normalization": "none", **options}
    whole = task(**options)
    if "start" in options:
        whole = task(**options | {"start": options["start"] // 4})
    parts = task(optimizer=optax.MultiSteps(optax.sgd(0.001), 4).gradient_transformation(), accumulate=4, **options)
    one, four = begun(whole), begun(parts)
    step_of_whole, step_of_part = stepper(whole), stepper(parts)
    for i in range(3):
        given = batch(seed=i)
        one, _ = step_of_whole(one, given)
        for j in range(4):
            before = four
            four, _ = step_of_part(four, {name: value[2 * j : 2 * j + 2] for name, value in given.items()})
            assert (largest(jax.tree.map(lambda a, b: a - b, four.params, before.params)) > 0) == (j == 3)
        close(four.params, one.params, rtol=1e-4, atol=1e-5)
        same = [name for name in one.critic if name not in ("opt_state", "averages")]
        close({n: four.critic[n] for n in same}, {n: one.critic[n] for n in same}, rtol=1e-3, atol=1e-5)
        for name in ("real", "fake") if "averages" in one.critic else ():
            close(four.critic["averages"][name], one.critic["averages"][name])


@pytest.mark.slow
@pytest.mark.parametrize("normalization", ["batch", "actnorm"])
def test_four_devices_step_as_one(normalization):
    after = []
    # Plain gradient descent: Adam would hide the gradient's size.
    cls = type("Descending", (PatchGAN,), {"optimizer": property(lambda self: optax.sgd(0.01))})
    options = {"normalization": normalization, "spectral": True, "r1": 1.0, "lecam": 0.5, "ema": 0.5}
    discriminator = cls(features=(2, 3), last_layer="decoder/conv_1/kernel", **options)
    x = np.random.default_rng(0).random((8, 16, 16, 1)).astype(np.float32) * np.linspace(0.2, 1, 8)[:, None, None, None]
    given = {"x": x.astype(np.float32), "index": np.arange(8)}
    for count in (1, 4):
        partition = Partition(jax.devices()[:count])
        t = task(discriminator, axis_name=partition.axis_name)
        model = t.model.clone(decoder=aejax.models.ConvDecoder((16, 16, 1), (3,)))
        t = Task(**{**vars(t), "model": model})
        state = jax.device_get(jax.jit(lambda key, t=t: init(t, (16, 16, 1), key))(jax.random.key(0)))

        def steps(state, held, given, reduce, t=t):
            for _ in range(2):
                state, metrics = train_step(state, given, jax.random.key(0), task=t, reduce=reduce)
            return state, metrics

        after.append(jax.device_get(partition.compile(steps)(partition.place(state), {}, partition.share(given))))
    (one, metrics), (four, others) = after
    close(others, metrics, rtol=2e-3, atol=1e-4)
    close((four.params, four.critic), (one.params, one.critic), rtol=2e-3, atol=1e-5)
    assert set(one.critic["variables"]) == {"spectral", {"batch": "batch_stats"}.get(normalization, normalization)}


@pytest.mark.slow
def test_the_state_round_trips_through_bytes_and_goes_on_alike():
    t = task(
        optimizer=optax.MultiSteps(optax.adam(0.01), 2).gradient_transformation(),
        accumulate=2,
        ema=0.5,
        lecam=1.0,
        spectral=True,
        normalization="actnorm",
    )
    step = stepper(t)
    state, _ = step(begun(t), batch())
    restored = serialization.from_bytes(begun(t), serialization.to_bytes(state))
    assert_trees_equal(restored, state)
    for _ in range(2):
        restored, state = step(restored, batch(seed=1))[0], step(state, batch(seed=1))[0]
    assert_trees_equal(restored, state)
    assert set(state.critic) == {"params", "opt_state", "variables", "averages", "ema", "gradients"}
    assert set(begun(task(normalization="none")).critic) == {"params", "opt_state"}


# In runs.


def small_run(**changes):
    """An experiment on 8x8 images with every option of the discriminator."""
    adversary = module(
        "patchgan",
        features=(3,),
        last_layer="decoder/conv_1/kernel",
        normalization="actnorm",
        spectral=True,
        r1=0.1,
        lecam=0.1,
        ema=0.9,
        start=3,
    )
    config = conv(**changes, adversary=adversary, objective__weights={"adversarial": 0.5})
    config.optim.update(name="sgd", lr=1e-3)  # Adam would magnify how devices round
    return config


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_resumes_bit_for_bit_and_is_the_same_on_one_device_and_four(accumulate, tmp_path):
    config = small_run(optim__accumulate=accumulate)
    x = images(64)
    for name, devices in (("one", one_device()), ("four", jax.devices())):
        aejax.fit(config, x, tmp_path / name, devices=devices, quiet=True)
    one, four = (checkpoint.load_newest(tmp_path / name).state for name in ("one", "four"))
    close(one["params"], four["params"], rtol=1e-3, atol=1e-4)
    assert ("gradients" in four["critic"]) == (accumulate > 1)
    shutil.rmtree(tmp_path / "four/checkpoints/8")
    with pytest.warns(match="the checkpoint of step 8 is missing"):
        aejax.fit(config, x, tmp_path / "four", quiet=True)  # from step 4
    assert_trees_equal(checkpoint.load_newest(tmp_path / "four").state, four)
    last = metrics_log.read(tmp_path / "one")[-2:]
    assert any("train/adversarial_weight" in record and "train/critic_real" in record for record in last)


@pytest.mark.slow
def test_runs_that_train_together_are_as_each_alone(tmp_path):
    splits = data.split({"train": data.from_array(images(64))}, small_run().data)
    configs = [small_run(seed=seed) for seed in (0, 1)]
    folders = [tmp_path / f"together{i}" for i in range(2)]
    vmapped.train_together(configs, folders, data=splits, devices=one_device(), quiet=True)
    for i, config in enumerate(configs):
        aejax.train(config, tmp_path / f"alone{i}", data=splits, devices=one_device(), quiet=True)
        alone, together = (checkpoint.load_newest(tmp_path / f"{name}{i}").state for name in ("alone", "together"))
        close(together["params"], alone["params"], rtol=1e-3, atol=1e-4)
        close(together["critic"]["params"], alone["critic"]["params"], rtol=1e-2, atol=1e-3)


MOST = 0.5  # dB


@pytest.mark.slow
def test_five_seeds_neither_diverge_nor_lose_much_when_the_discriminator_starts():
    """PSNR of digits ends at most MOST below what it was when the discriminator started, and below a run without it."""
    x = jnp.asarray(load_digits().images, jnp.float32)[..., None] / 16
    train, test = x[:1_500], x[1_500:]
    model = aejax.Autoencoder(
        aejax.models.MLPEncoder((64,)), BOTTLENECKS["dense"](12), aejax.models.MLPDecoder((SIDE, SIDE, 1), (64,))
    )
    discriminator = PatchGAN(
        features=(8,), lr=1e-3, start=200, last_layer="decoder/dense_1/kernel", lecam=0.01, normalization="batch"
    )

    def run(discriminator, seed):
        weights = {"adversarial": 0.2} if discriminator else {}
        t = Task(model, Objective(SquaredError(), weights), optax.adam(3e-3), lambda x: x, discriminator=discriminator)

        def step(state, rows):
            return train_step(state, {"x": train[rows], "index": rows}, jax.random.key(0), task=t)

        def half(state, key):
            state, metrics = jax.lax.scan(step, state, jax.random.randint(key, (200, 16), 0, len(train)))
            error = jnp.square(model.apply({"params": state.params}, test).decoded - test).mean()
            return state, (-10 * jnp.log10(error), metrics["loss"])

        keys = jax.random.split(jax.random.key(seed))
        return jax.lax.scan(half, init(t, (SIDE, SIDE, 1), keys[0]), keys)[1]

    judge, plain = (jax.jit(partial(run, each)) for each in (discriminator, None))
    for seed in range(5):
        (before, judged), losses = judge(seed)
        (_, alone), _ = plain(seed)
        assert np.all(np.isfinite(losses))
        assert judged > before - MOST, seed
        assert judged > alone - MOST, seed


# Bad input.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"features": (4, 4)},
            r"sees 16x16 pixels, but images have 8x8; use data.size=16 or adversary.features=\(4,\)",
        ),
        (
            {"last_layer": "decoder/conv_out"},
            "adversary.last_layer: 'decoder/conv_out' matches none of the .*e.g. decoder/conv_0/bias",
        ),
        ({"accumulate": 2}, "accumulate=2, but the optimizer is no optax.MultiSteps"),
    ],
)
def test_a_discriminator_that_does_not_fit_is_one_line(options, message):
    with pytest.raises(aejax.InputError, match=message):
        jax.eval_shape(lambda: init(task(**options), (SIDE, SIDE, 1), jax.random.key(0)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"game": "hing"}, "adversary.game 'hing' is unknown; did you mean 'hinge'"),
        ({"normalization": "group"}, "adversary.normalization 'group' is unknown"),
        ({"features": ()}, r"adversary.features must name the width of at least one convolution"),
        ({"r1": -1.0}, r"adversary.r1 must not be negative, got -1.0"),
        ({"ema": 1.0}, r"adversary.ema must be in \[0, 1\), got 1.0"),
        ({"lecam_decay": 1.0}, r"adversary.lecam_decay must be in \[0, 1\), got 1.0"),
        ({"lr": 0.0}, r"adversary.lr must be above 0, got 0.0"),
    ],
)
def test_options_out_of_range_are_one_line(options, message):
    with pytest.raises(aejax.InputError, match=message):
        PatchGAN(**options)


def test_vectors_are_no_images():
    output = aejax.Output(aejax.Code(z=jnp.zeros((1, 2))), jnp.zeros((1, 5)))
    with pytest.raises(aejax.InputError, match=r"judges images \(height, width, channels\), got \(5,\)"):
        PatchGAN(features=(3,)).init(jax.random.key(0), output)
