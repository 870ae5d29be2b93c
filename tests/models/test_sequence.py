"""Recurrent and transformer blocks, and sequences of unequal length: padding changes no code, no loss, no gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mlp, mostly_slow, one_device

import aejax
from aejax import data
from aejax.data import Spec
from aejax.models import RNNDecoder, RNNEncoder, SequenceDecoder, SequenceEncoder
from aejax.models.vit import Attention
from aejax.training.step import init, train_step
from aejax.training.task import make_task

PARTS = {
    "gru": (RNNEncoder(6, 2), lambda shape: RNNDecoder(shape, 6)),
    "lstm": (RNNEncoder(6, cell="lstm"), lambda shape: RNNDecoder(shape, 6, cell="lstm")),
    "transformer": (SequenceEncoder(8, 1, 2), lambda shape: SequenceDecoder(shape, 8, 1, 2)),
}
LENGTHS = (7, 3, 1)


def series(lengths=LENGTHS, channels=2, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, channels)).astype(np.float32) for length in lengths]


def drawn(module, x):
    """Variables from numpy, none of them 0."""
    rng = np.random.default_rng(9)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) * 0.5, shapes)


def padded_to(steps, sequences):
    return np.stack([np.pad(x, [(0, steps - len(x)), (0, 0)], constant_values=np.nan) for x in sequences])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_the_gru_is_its_formula():
    """Cho et al. 2014 with the reset gate after the product, as in flax and cuDNN."""
    x = series((5,))[0]
    encoder = RNNEncoder(4)
    params = drawn(encoder, x[None])["params"]
    cell, h = jax.tree.map(np.float64, params["gru_0"]), np.zeros(4)
    dense = lambda name, v: v @ cell[name]["kernel"] + cell[name].get("bias", 0)  # noqa: E731
    for step in x:
        r = sigmoid(dense("ir", step) + dense("hr", h))
        u = sigmoid(dense("iz", step) + dense("hz", h))
        h = (1 - u) * np.tanh(dense("in", step) + r * dense("hn", h)) + u * h
    np.testing.assert_allclose(jax.jit(encoder.apply)({"params": params}, x[None])[0], h, rtol=1e-4, atol=1e-5)


def test_attention_leaves_out_what_is_beyond_the_length_and_what_is_later():
    x = np.random.default_rng(1).normal(size=(2, 5, 4)).astype(np.float32)
    plain = Attention(2)
    variables = drawn(plain, x)
    apply = jax.jit(plain.apply)
    cut = apply(variables, x[:, :3])
    np.testing.assert_allclose(apply(variables, x, jnp.array([3, 3]))[:, :3], cut, rtol=1e-5, atol=1e-6)
    causal = jax.jit(Attention(2, causal=True).apply)(variables, x)
    np.testing.assert_allclose(causal[:, 2], cut[:, -1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(causal[:, -1], apply(variables, x)[:, -1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", mostly_slow(PARTS, "gru"))
def test_codes_and_outputs_are_those_of_each_sequence_alone(name):
    encoder, make = PARTS[name]
    sequences = series()
    x = padded_to(9, sequences)
    of_encoder = drawn(encoder, x)
    z = jax.jit(encoder.apply)(of_encoder, x)
    of_decoder = drawn(make((9, 2)), z)
    y = jax.jit(make((9, 2)).apply)(of_decoder, z)
    for k, alone in list(enumerate(sequences))[1:]:
        np.testing.assert_allclose(jax.jit(encoder.apply)(of_encoder, alone[None])[0], z[k], rtol=1e-4, atol=1e-5)
        short = jax.jit(make((len(alone), 2)).apply)(of_decoder, z[k : k + 1])[0]
        np.testing.assert_allclose(short, y[k, : len(alone)], rtol=1e-4, atol=1e-5)


def task_of(name, steps, **changes):
    part = (
        {"name": "rnn", "cell": name} if name in ("gru", "lstm") else {"name": "transformer", "heads": 2, "layers": 1}
    )
    config = mlp(encoder=aejax.config.module(**part, features=8), decoder=aejax.config.module(**part, features=8))
    config.likelihood = aejax.config.module("gaussian", scale=0.5)
    for key, value in changes.items():
        config[key] = value
    return config, make_task(config, Spec((steps, 2), kind="sequence", padded=True), 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_a_step_with_noise_that_sets_values_stays_finite(name):
    _, task = task_of(name, 7, corruption=NOISE)
    state = init(task, (7, 2), jax.random.key(3))
    batch = {"x": padded_to(7, series()), "index": np.arange(3)}
    moved, metrics = jax.jit(lambda s, b: train_step(s, b, jax.random.key(0), task=task))(state, batch)
    assert np.isfinite(metrics["loss"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(moved.params))


@pytest.mark.parametrize("name", mostly_slow(PARTS, "gru"))
def test_padding_changes_no_loss_and_no_gradient(name):
    """The loss is that of the values that are there, and a step is the same whatever the padding, to rounding."""
    found, sequences = [], series()
    for steps in (7, 12):
        _, task = task_of(name, steps)
        state = init(task, (steps, 2), jax.random.key(3))
        x = padded_to(steps, sequences)
        batch = {"x": x, "index": np.arange(3), "weight": np.ones(3, np.float32)}

        def loss(params, x=x, batch=batch, task=task):
            output = task.apply({"params": params}, x, batch, None)
            terms = task.losses(task.context({"params": params}, x, batch, output, None, None, None))
            return terms["loss"].mean(), (terms["loss"], output)

        gradient, (losses, output) = jax.jit(jax.grad(loss, has_aux=True))(state.params)
        nll = 0.5 * ((x - np.asarray(output.decoded)) / 0.5) ** 2 + 0.5 * np.log(2 * np.pi) + np.log(0.5)
        np.testing.assert_allclose(losses, np.nansum(nll, (1, 2)), rtol=1e-4)
        found.append((output.code.z, losses, gradient))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *found)


NOISE = aejax.config.ConfigDict({"name": "masking", "level": 0.5})


def test_lengths_and_nan_say_the_same(tmp_path):
    sequences = series()
    x = data.pad_sequences(sequences)
    np.testing.assert_array_equal(x, padded_to(7, sequences))
    by_length = data.from_array(np.nan_to_num(x, nan=99.0), length=LENGTHS)
    by_nan = data.from_array(x)
    rows = np.arange(3)
    np.testing.assert_array_equal(by_length.take(rows)["x"], by_nan.take(rows)["x"])
    for source in (by_length, by_nan):
        assert (source.kind, source.padded, source.shape) == ("sequence", True, (7, 2))
    np.savez(tmp_path / "x.npz", x=np.nan_to_num(x), length=np.array(LENGTHS))
    from_file = data.find({"name": str(tmp_path / "x.npz"), "size": 0, "fit": "crop", "memory_mb": 1})["train"]
    np.testing.assert_array_equal(from_file.take(rows)["x"], x)
    spec = Spec.of(by_nan, True)
    np.testing.assert_allclose(spec.mean, np.concatenate(sequences).mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(spec.deviation, np.concatenate(sequences).std(0), rtol=1e-5)
    assert "padded where they are shorter" in spec.describe()
    assert Spec.from_dict(spec.to_dict()) == spec


HOLED = padded_to(7, series())
HOLED[0, 2, 1] = np.nan


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (HOLED, {}, "example 0 holds NaN or infinity .*; NaN may fill the last time steps of a sequence"),
        (padded_to(7, series((3, 0))), {}, "example 1 holds NaN"),
        (
            padded_to(7, series()),
            {"kind": "image"},
            "example 1 holds NaN or infinity in float32, at value .*; remove or fill such",
        ),
        (series((7,))[0][None], {"length": [8]}, "lengths from 8 to 8 must be from 1 to 7"),
        (series((7,))[0][None], {"length": [1, 2]}, r"\(2,\) lengths; give sequences and a length for each"),
    ],
)
def test_nan_elsewhere_and_wrong_lengths_are_one_line(x, options, message):
    with pytest.raises(aejax.InputError, match=message):
        data.from_array(x, **options)


def test_sequences_that_do_not_go_together_are_one_line():
    with pytest.raises(aejax.InputError, match=r"all with as many channels, got \(3, 1\), \(3, 2\)"):
        data.pad_sequences([np.ones((3, 2)), np.ones(3)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder": {"name": "conv"}},
            r"whose padding ConvEncoder would read; choose encoder\.name among: rnn, transf",
        ),
        ({"likelihood": {"name": "gaussian", "variance": "optimal"}}, "variance='optimal' would average over padding"),
        ({"objective": {"weights": {"contractive": 1.0}}}, r"objective\.weights\.contractive would read the padding"),
        ({"encoder": {"name": "transformer", "normalisation": "batch"}}, "'batch' averages over padding"),
    ],
)
def test_what_would_read_padding_is_refused(changes, message):
    config, _ = task_of("gru", 7)
    for section, values in changes.items():
        if section == "objective":
            config.objective.weights = aejax.config.ConfigDict(values["weights"])
        else:
            config[section] = aejax.config.ConfigDict(values)
    with pytest.raises(aejax.InputError, match=message):
        make_task(config, Spec((7, 2), kind="sequence", padded=True), 4)


def test_what_is_no_sequence_or_no_flat_code_is_told():
    for module, x, message in (
        (RNNEncoder(4), np.ones((2, 5)), r"RNNEncoder reads sequences \[batch, time, channels\], got \[2, 5\]"),
        (SequenceEncoder(4), np.ones((2, 5, 5, 1)), "SequenceEncoder reads sequences"),
        (RNNDecoder((5,), 4), np.ones((2, 5)), r"makes sequences \(time, channels\), the input is \(5,\)"),
        (SequenceDecoder((5, 1), 4), np.ones((2, 5, 3)), r"reads flat codes \[batch, d\], got \[2, 5, 3\]"),
        (RNNEncoder(4, cell="gruu"), np.ones((2, 5, 1)), "did you mean 'gru'"),
    ):
        with pytest.raises(aejax.InputError, match=message):
            jax.eval_shape(module.init, jax.random.key(0), jnp.asarray(x, jnp.float32))


@pytest.mark.slow
def test_a_run_of_unequal_sequences_is_used_like_any_other(tmp_path):
    rng = np.random.default_rng(0)
    x = data.pad_sequences([rng.normal(size=(rng.integers(2, 9), 2)) for _ in range(60)])
    part = {"name": "rnn", "features": 6}
    config = mlp(encoder=aejax.config.module(**part), decoder=aejax.config.module(**part), steps=4)
    config.data.standardize = True
    config.bottleneck = aejax.config.module("gaussian", features=2)
    config.objective.weights.kl = 1.0
    config.likelihood.name = "gaussian"
    run = aejax.fit(config, x, tmp_path / "run", quiet=True)
    alone = aejax.fit(config, x, devices=one_device(), quiet=True)
    np.testing.assert_allclose(run.encode(x), alone.encode(x), rtol=1e-4, atol=1e-4)
    loaded = aejax.load_run(tmp_path / "run")
    np.testing.assert_array_equal(loaded.encode(x), run.encode(x))
    y = loaded.reconstruct(x)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))
    measured = loaded.evaluate(x, groups=["reconstruction", "likelihood", "generation"])
    error = np.nansum(np.square(x - y), (1, 2))
    assert measured["reconstruction"]["squared_error"].value == pytest.approx(error.mean(), rel=1e-4)
    per_value = measured["reconstruction"]["squared_error_per_value"].value
    assert per_value == pytest.approx(error.sum() / np.isfinite(x).sum(), rel=1e-4)
    assert np.isfinite(loaded.density.parts(x).distortion).all()
    assert measured["generation"]["precision"].reason.startswith("what is generated has all values")
    assert loaded.generate(3).shape == (3, x.shape[1], 2)
    same = np.random.default_rng(1).normal(size=(40, 5, 2))
    whole = aejax.fit(mlp(steps=4), same, quiet=True, devices=one_device())
    with pytest.raises(aejax.InputError, match="sequences end early, and the run was trained on whole ones"):
        whole.encode(padded_to(5, series((5, 3))))


def test_remat_and_bfloat16_of_a_sequence_transformer_are_near(tmp_path):
    x = padded_to(7, series())
    encoder = SequenceEncoder(8, 1, 2)
    variables = drawn(encoder, x)
    z, saving, rounded = (
        jax.jit(SequenceEncoder(8, 1, 2, **options).apply)(variables, x)
        for options in ({}, {"remat": True}, {"dtype": "bfloat16"})
    )
    np.testing.assert_allclose(saving, z, rtol=1e-5, atol=1e-6)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(rounded), z, rtol=0.1, atol=0.1)
