"""Measures of signals by the number of levels, quantizer dropout, and signals in chunks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import config_of, example_keys, fresh, mlp, subject_of

import aejax
from aejax.data import Spec
from aejax.evaluation import Measure, Skipped, levels
from aejax.models import ResidualQuantizer, ResNetDecoder, ResNetEncoder


def signals(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def codec():
    config = config_of("audio_rvq")
    config.encoder.features = config.decoder.features = (4, 4)
    config.data.standardize = False
    return moved(fresh(config, signals(8, 64, 1), spec=Spec((64, 1), kind="sequence")))


def moved(run):
    """A run whose kernels are away from 0, with codebooks of about the size of what they quantize."""
    rng = np.random.default_rng(3)
    jitter = lambda leaf: leaf + rng.normal(0, 0.3, leaf.shape).astype(np.float32)  # noqa: E731
    run.variables["params"] = jax.tree.map(jitter, dict(run.variables["params"]))
    run.variables["codebook"] = jax.tree.map(
        lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32) if leaf.ndim == 2 else leaf,
        dict(run.variables["codebook"]),
    )
    return run


def test_si_sdr_does_not_depend_on_the_scale_of_either_and_is_a_ratio_of_powers():
    x = np.float32([[1, -1, 1, -1], [0, 0, 0, 0], [1, 2, 3, 4]])[..., None]
    y = np.float32([[1.1, -0.9, 0.9, -1.1], [1, 1, 1, 1], [2, 4, 6, 8]])[..., None]
    np.testing.assert_allclose(levels.si_sdr(x, y), [20, np.nan, 100], rtol=1e-5)
    np.testing.assert_allclose(levels.si_sdr(7 * x, y / 3), levels.si_sdr(x, y), rtol=1e-5)


def test_levels_are_measured_by_what_their_sums_decode_to(codec):
    x = signals(8, 64, 1, seed=1)
    found = levels.measure(subject_of(codec, x))
    books = [codec.variables["codebook"]["bottleneck"][name] for name in ("codebook", "deeper_0")]
    tables = [book["sums"] / book["shares"][:, None] for book in books]
    indices = codec.indices(x)
    for k in (1, 2):
        z = sum(tables[level][indices[..., level]] for level in range(k))
        decoded = codec.decode(z)
        assert found[f"squared_error_by_level_{k}"].value == pytest.approx(
            np.square(x - decoded).sum((1, 2)).mean(), rel=1e-3
        )
        assert found[f"si_sdr_by_level_{k}"].value == pytest.approx(
            levels.si_sdr(x, decoded).mean(), rel=1e-3, abs=1e-3
        )
    assert found["si_sdr"].value == pytest.approx(found["si_sdr_by_level_2"].value, rel=1e-3, abs=1e-4)
    with pytest.raises(aejax.InputError, match="the run's codes are"):
        codec.lookup(np.zeros((1, 16, 3), int))


def test_vectors_and_codes_without_levels_are_skipped():
    run = fresh(mlp(), signals(8, 6))
    found = levels.measure(subject_of(run, signals(8, 6)))
    assert all(isinstance(value, Skipped) for value in found.values())
    assert not any(isinstance(value, Measure) for value in found.values())


@pytest.mark.parametrize("dropout", [0.0, 0.5, 1.0])
def test_dropout_keeps_the_first_levels_of_a_fraction_of_the_examples(dropout):
    module = ResidualQuantizer(codes=5, features=3, levels=4, update="gradient", dropout=dropout)
    h = signals(400, 2, 6)
    variables = module.init(jax.random.key(0), h)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), variables)
    apply = jax.jit(functools.partial(module.apply, train=True))
    code = apply(variables, h, keys=example_keys(400))
    sums = np.stack([module.apply(variables, code.indices[..., :k], method="lookup") for k in range(1, 5)])
    fits = np.isclose(sums, code.z, atol=1e-4).all((2, 3))
    assert fits.any(0).all()  # each is the sum of the first levels
    kept = fits.argmax(0) + 1
    share = np.bincount(kept, minlength=5)[1:] / 400
    np.testing.assert_allclose(share, np.array([0, 0, 0, 1 - dropout]) + dropout / 4, atol=0.08)
    x = module.apply(variables, h, method=lambda m, h: m.dense(h))
    errors = np.cumsum(np.square(x - sums).sum((2, 3)), 0)
    np.testing.assert_allclose(code.losses["commitment"], errors[kept - 1, np.arange(400)], rtol=1e-3)
    still = module.apply(variables, h)
    np.testing.assert_allclose(still.z, sums[-1], atol=1e-4)
    if dropout:
        with pytest.raises(aejax.InputError, match="give keys="):
            module.apply(variables, h, train=True)


@pytest.mark.parametrize("causal", [True, False])
def test_chunks_are_parts_of_the_whole(codec, causal):
    run = codec
    if not causal:
        config = codec.config.copy_and_resolve_references()
        config.encoder.update({"causal": False, "whole_frames": False})
        config.decoder.causal = False
        run = moved(fresh(config, signals(8, 64, 1), spec=Spec((64, 1), kind="sequence")))
    x = signals(2, 402, 1, seed=2)
    whole = run.signals.encode(x)
    assert whole["indices"].shape == (2, 101, 2)
    np.testing.assert_allclose(run.signals.encode(x[:, :64])["z"], run.encode(x[:, :64]), atol=1e-5)
    np.testing.assert_allclose(run.signals.decode(run.encode(x[:, :64])), run.reconstruct(x[:, :64]), atol=1e-5)
    for chunk in (4, 100):
        parts = run.signals.encode(x, chunk)
        np.testing.assert_array_equal(parts["indices"], whole["indices"])
        np.testing.assert_allclose(parts["z"], whole["z"], atol=1e-5)
        np.testing.assert_allclose(run.signals.decode(whole["z"], chunk), run.signals.decode(whole["z"]), atol=1e-5)
    if causal:
        later = run.signals.encode(np.concatenate([x[:, :200], signals(2, 202, 1, seed=5)], 1))
        np.testing.assert_allclose(later["z"][:, :50], whole["z"][:, :50], atol=1e-5)


@pytest.mark.parametrize("blocks", [1, 2])
def test_receptive_fields_are_no_shorter_than_what_is_read(blocks):
    """A wrong one would be seen in chunks only where kernels are large there."""
    decoder = ResNetDecoder((64, 1), (3, 3), blocks, normalisation="none", causal=True, activation="linear")
    z = signals(1, 16, 2)
    params = jax.tree.map(lambda leaf: jnp.ones_like(leaf), decoder.init(jax.random.key(0), z))
    read = np.abs(jax.jacobian(lambda z: decoder.apply(params, z)[0, :, 0])(z)[:, 0]).sum(-1) > 0
    distance = [k // 4 - np.flatnonzero(row)[0] for k, row in enumerate(read) if k >= 56]
    assert max(distance) <= decoder.receptive_field <= max(distance) + 2
    encoder = ResNetEncoder((3, 3), blocks, normalisation="none", causal=True, activation="linear")
    x = signals(1, 256, 1)
    params = jax.tree.map(lambda leaf: jnp.ones_like(leaf), encoder.init(jax.random.key(0), x))
    row = np.abs(jax.grad(lambda x: encoder.apply(params, x)[0, -1].sum())(x)[0, :, 0]) > 0
    assert 4 * 63 - np.flatnonzero(row)[0] + 1 == encoder.receptive_field


def test_what_cannot_be_coded_in_chunks_is_one_line(codec):
    with pytest.raises(aejax.InputError, match=r"chunk must be a multiple of 4, the samples of a position, got 6"):
        codec.signals.encode(signals(1, 64, 1), 6)
    with pytest.raises(aejax.InputError, match=r"signals must be \[n, time, 1\], got \(1, 64\)"):
        codec.signals.encode(signals(1, 64))
    with pytest.raises(aejax.InputError, match="signals are sequences whose codes are shorter ones"):
        _ = fresh(mlp(), signals(8, 6)).signals
    config = codec.config.copy_and_resolve_references()
    config.encoder.update({"normalisation": "group", "causal": False, "whole_frames": False})
    with pytest.raises(aejax.InputError, match="normalisation='group' averages over a whole segment"):
        _ = fresh(config, signals(8, 64, 1), spec=Spec((64, 1), kind="sequence")).signals
