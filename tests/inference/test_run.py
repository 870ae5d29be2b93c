import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import conv, mlp, mostly_slow, one_device, vectors

import aejax
from aejax.evaluation import reconstruction
from aejax.inference.batches import limit_batch
from aejax.workdir import checkpoint


def images(n=60, size=8):
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 1), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("images")
    config = conv()
    aejax.fit(config, images(), workdir, devices=one_device())
    return workdir


@pytest.fixture(scope="module")
def run(folder):
    return aejax.load_run(folder)


def test_loaded_run_reproduces_what_was_saved(run):
    np.testing.assert_allclose(run.encode(run.inputs), run.latents, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run.decode(run.latents), run.reconstructions, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run.reconstruct(run.inputs), run.reconstructions, rtol=1e-5, atol=1e-6)
    assert run.latents.shape == (6, 4, 4, 1)
    assert run.inputs.min() >= 0
    assert run.inputs.max() <= 1


def test_uint8_and_float_images_mean_the_same(run):
    x = images(5)
    np.testing.assert_allclose(run.encode(x), run.encode(x / 255), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(run.encode(x[..., 0]), run.encode(x))
    np.testing.assert_allclose(run.in_users_units(x), x / 255, rtol=1e-6)


@pytest.mark.parametrize("n", mostly_slow([1, 3, 256, 300]))
def test_batches_leave_no_trace(run, n):
    x = images(n)
    z = run.encode(x)
    assert len(z) == n
    np.testing.assert_allclose(z[-1:], run.encode(x[-1:]), rtol=1e-5, atol=1e-6)


def test_a_batch_of_large_examples_has_few_and_at_least_one():
    shapes = (6,), (28, 28, 1), (64, 64, 3), (256, 256, 3), (2048, 2048, 3)
    assert [limit_batch(shape) for shape in shapes] == [1024, 1024, 85, 5, 1]
    assert limit_batch((6,), 4096) == 4096


def test_generate_draws_from_a_gaussian_of_the_latents(folder):
    run = aejax.load_run(folder)  # whose decoder is replaced
    assert run.generate(3).shape == (3, 8, 8, 1)
    np.testing.assert_array_equal(run.generate(3, seed=1), run.generate(3, seed=1))
    assert np.any(run.generate(3, seed=1) != run.generate(3, seed=2))
    drawn, run = [], dataclasses.replace(run)  # other tests share the fixture
    object.__setattr__(run, "decode", lambda z, label: drawn.append(z) or z)
    run.generate(200_000)
    z, latents = drawn[0].reshape(200_000, -1), run.latents.reshape(6, -1)
    np.testing.assert_allclose(z.mean(0), latents.mean(0), atol=0.02 * latents.std())
    np.testing.assert_allclose(np.cov(z.T), np.cov(latents.T), atol=0.03 * latents.var())


@pytest.mark.slow
def test_standardised_vectors_keep_the_users_units(tmp_path):
    x = vectors() * 100 + 1000
    config = mlp(data__standardize=True, steps=300, checkpoint_every=300, optim__lr=1e-2)
    run = aejax.fit(config, x, tmp_path, devices=one_device())
    again = aejax.load_run(tmp_path)
    np.testing.assert_allclose(again.reconstruct(x[:8]), run.reconstruct(x[:8]), rtol=1e-5)
    np.testing.assert_allclose(run.inputs.mean(), 1000, rtol=0.1)
    assert reconstruction.squared_error(x, run.reconstruct(x)) < x.var(0).sum()  # better than the mean


@pytest.mark.slow
def test_vectors_of_bytes_are_numbers_not_pixels():
    x = vectors() * 10
    run = aejax.fit(mlp(), x, devices=one_device())
    whole = np.random.default_rng().integers(0, 30, (9, 6), np.uint8)
    np.testing.assert_allclose(run.encode(whole), run.encode(whole.astype(np.float32)), rtol=1e-6)


@pytest.mark.slow
def test_averaged_parameters_serve(tmp_path):
    run = aejax.fit(mlp(ema=0.9), vectors(), tmp_path, devices=one_device())
    saved = checkpoint.load_newest(tmp_path).state
    np.testing.assert_array_equal(
        run.variables["params"]["bottleneck"]["dense"]["kernel"], saved["ema"]["bottleneck"]["dense"]["kernel"]
    )
    assert np.any(saved["ema"]["bottleneck"]["dense"]["kernel"] != saved["params"]["bottleneck"]["dense"]["kernel"])


@pytest.mark.slow
def test_fit_without_a_workdir_leaves_nothing_and_serves(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run = aejax.fit(mlp(), vectors(), devices=one_device())
    assert list(tmp_path.iterdir()) == []
    assert run.encode(vectors(3)).shape == (3, 2)


@pytest.mark.parametrize(
    ("method", "value", "message"),
    [
        ("encode", np.zeros((2, 9, 8, 1), np.uint8), r"reads examples of \(8, 8, 1\), the input holds.*\(9, 8, 1\)"),
        ("encode", np.zeros((2, 8, 8, 3), np.uint8), r"\(8, 8, 3\)"),
        ("encode", np.full((2, 8, 8, 1), 255.0), r"must lie in \[0, 1\]"),
        ("encode", np.full((2, 8, 8, 1), np.nan), "NaN"),
        ("encode", np.zeros((0, 8, 8, 1)), "no numbers"),
        ("decode", np.zeros((2, 5)), r"latents are \(n, \*\(4, 4, 1\)\), the given ones \(2, 5\)"),
        ("decode", np.zeros((0, 4, 4, 1)), r"the given ones \(0, 4, 4, 1\)"),
        ("generate", 0, "num of at least 1"),
    ],
)
def test_wrong_shapes_are_named(run, method, value, message):
    with pytest.raises(aejax.InputError, match=message):
        getattr(run, method)(value)


def test_no_run_to_load(tmp_path):
    with pytest.raises(aejax.InputError, match="no checkpoint here"):
        aejax.load_run(tmp_path / "nope")


@pytest.mark.slow
def test_a_step_that_was_not_saved_is_named_beside_those_that_were(tmp_path):
    run = aejax.fit(mlp(), vectors(), tmp_path, devices=one_device())
    with pytest.raises(aejax.InputError, match="no checkpoint of step 7; saved are 4, 8"):
        aejax.load_run(tmp_path, 7)
    with pytest.raises(aejax.InputError, match="step='bset' must be a whole number, 'newest' or 'best'"):
        aejax.load_run(tmp_path, "bset")
    with pytest.raises(aejax.InputError, match=r"sampler must be what aejax.samplers.fit\(name, latents\) gives"):
        run.generate(2, sampler="flow")


class Foreign:
    """An array of another library that numpy cannot read, as one that needs a gradient."""

    def __array__(self, *_, **__):
        raise RuntimeError("call detach() first")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda run: run.encode(Foreign()),
            r"the input: give numbers, all of one shape, in a NumPy array \(RuntimeError: call detach",
        ),
        (lambda run: run.encode([[1, 2], [3]]), "the input: give numbers, all of one shape"),
        (lambda run: run.encode(5), r"shape \(\)"),
        (lambda run: run.encode(images(1)[0]), r"one example without its batch axis; give \[n, ...\], e.g. x\[None\]"),
        (lambda run: run.encode(images(1)[0, ..., 0]), "one example without its batch axis"),
        (lambda run: run.decode(5), r"the given ones \(\)"),
        (lambda run: run.decode("abc"), "the latents: give numbers, all of one shape, not"),
        (lambda run: run.decode(run.latents[0]), "without its batch axis"),
        (lambda run: run.decode(Foreign()), "the latents: give numbers, all of one shape"),
        (lambda run: run.generate("3"), "whole num of at least 1, got '3'"),
        (lambda run: run.generate(2.5), "whole num of at least 1, got 2.5"),
        (lambda run: run.generate(10**12), "takes .* GiB of memory and this machine has .*; ask for fewer"),
        (
            lambda run: run.generate(np.int64(2**62)),
            "takes .* GiB of memory and this machine has .*; ask for fewer",
        ),  # times 700 wraps
        (lambda run: run.generate(10**5000), "num=a value of int takes"),
        (lambda run: aejax.load_run(".", 10**5000), "step=a value of int must be a whole number"),
        (lambda run: run.generate(2, seed=-1), r"seed must be a whole number from 0 to 2\*\*32 - 1, got -1"),
        (lambda run: run.sample_posterior(images(2), seed="x"), "seed must be a whole number"),
        (lambda run: aejax.samplers.fit("gaussian", run.latents, seed=1.5), "seed must be a whole number"),
        (lambda run: aejax.samplers.fit(["gaussian"], run.latents), "sampler .* is unknown"),
        (lambda run: aejax.samplers.fit("gaussian", Foreign()), "codes: give numbers, all of one shape"),
        (lambda run: aejax.samplers.fit("gaussian", run.latents).sample(10**15), "GiB of memory"),
        (lambda run: aejax.load_run("a\0b"), "a path must be text|is no name of a file"),
        (lambda run: aejax.load_run("a" * 5_000), "a path must be text|is no name of a file"),
        (lambda run: aejax.load_run(5), "a path must be text|is no name of a file"),
        (lambda run: aejax.load_run(".", None), "step=None must be a whole number"),
        (lambda run: aejax.load_run(".", 1.5), "step=1.5 must be a whole number"),
    ],
)
def test_odd_arguments_are_told_in_one_line(run, call, message):
    with pytest.raises(aejax.InputError, match=message) as error:
        call(run)
    assert "\n" not in str(error.value)


def test_bfloat16_is_read_as_float32(run):
    z = run.latents.astype(jnp.bfloat16)
    np.testing.assert_array_equal(run.decode(z), run.decode(z.astype(np.float32)))
    x = (images(2) / 255).astype(jnp.bfloat16)
    np.testing.assert_array_equal(run.encode(x), run.encode(x.astype(np.float32)))


def test_one_saved_latent_generates_nothing(run):
    with pytest.raises(aejax.InputError, match="one alone would give one example again and again"):
        dataclasses.replace(run, latents=run.latents[:1]).generate(3)
    with pytest.warns(UserWarning, match="the 6 saved latents are all the same"):
        dataclasses.replace(run, latents=np.zeros_like(run.latents)).generate(3)
