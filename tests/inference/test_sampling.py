"""Runs that draw by samplers, the samplers that their workdirs keep, the picture and the command."""

import dataclasses
import re
from pathlib import Path
from types import SimpleNamespace

import commands
import jax
import numpy as np
import pytest
from absl import flags
from conftest import command, mlp, mostly_slow, one_device, untrained, vectors

import aejax
from aejax import data, samplers
from aejax.config import module
from aejax.inference import sampling
from aejax.models.bottlenecks import BOTTLENECKS

TINY = {"width": 8, "layers": 1, "heads": 2, "steps": 2}  # of the transformer
LABEL = np.arange(60) % 3


def images(n=40):
    return np.random.default_rng(0).integers(0, 256, (n, 8, 8, 1), np.uint8)


def small(bottleneck, **changes):
    return mlp(
        encoder=module("mlp", features=(8,)), bottleneck=bottleneck, decoder=module("mlp", features=(8,)), **changes
    )


@pytest.fixture(scope="module")
def continuous(tmp_path_factory):
    """Of vectors, conditional, with a prior."""
    workdir = tmp_path_factory.mktemp("continuous")
    config = small(module("gaussian", features=2), classes=3, objective__weights={"kl": 1.0})
    return aejax.fit(config, vectors(60), workdir, label=LABEL, devices=one_device()), workdir


@pytest.fixture(scope="module")
def discrete(tmp_path_factory):
    """A run of digits whose codes are 2 levels at 3 positions."""
    workdir = tmp_path_factory.mktemp("discrete")
    config = small(module("residual_vq", codes=4, levels=2, features=3, positions=3), data__name="digits")
    return aejax.train(config, workdir, devices=one_device()), workdir


@pytest.mark.parametrize(
    ("name", "options"),
    mostly_slow([("gaussian", {}), ("mixture", {"components": 2}), ("flow", {"width": 4, "depth": 2, "steps": 2})]),
)
def test_generate_decodes_what_the_sampler_draws(continuous, name, options):
    run, _ = continuous
    sampler = samplers.fit(name, run.encode(vectors(60), LABEL), **options)
    expected = run.decode(sampler.sample(4, seed=9), LABEL[:4])
    np.testing.assert_array_equal(run.generate(4, seed=9, label=LABEL[:4], sampler=sampler), expected)
    assert np.any(expected != run.generate(4, seed=9, label=LABEL[:4]))


@pytest.mark.parametrize(
    ("size", "bottleneck", "method"),
    [(None, "gaussian", "sample_posterior"), (None, "dense", "encode"), (8, "vq", "indices")],
)
def test_samplers_are_fitted_to_what_the_decoder_was_trained_on(size, bottleneck, method, monkeypatch):
    """Of a model with a prior to samples of its posteriors, and of discrete codes to their indices."""
    splits = data.split({"train": data.from_array(vectors(60))}, mlp().data)
    monkeypatch.setattr(data, "load", lambda section, trained_on: splits)
    called = {name: lambda x, label=None, name=name: (name, x) for name in ("sample_posterior", "encode", "indices")}
    model = SimpleNamespace(bottleneck=BOTTLENECKS[bottleneck])
    run = SimpleNamespace(
        config=mlp(), trained_on={}, latents=np.zeros((8, 2)), codebook_size=size, model=model, **called
    )
    name, x = sampling.encode_train(run, limit=9)
    assert name == method
    assert len(x) == 9
    np.testing.assert_array_equal(sampling.encode_train(run, limit=9)[1], x)


@pytest.mark.slow
def test_generate_looks_up_the_codes_that_the_sampler_draws(discrete):
    run, _ = discrete
    assert run.codebook_size == 4
    indices = run.indices(images())
    assert indices.shape == (40, 3, 2)
    sampler = samplers.fit("autoregressive", indices, size=4, **TINY)
    expected = run.decode(run.lookup(sampler.sample(4, seed=9)))
    np.testing.assert_array_equal(run.generate(4, seed=9, sampler=sampler), expected)


@pytest.mark.slow
def test_a_sampler_of_another_run_is_refused(continuous, discrete):
    other = samplers.fit("autoregressive", np.zeros((9, 3, 2), int), size=9, **TINY)
    latents = samplers.fit("gaussian", vectors(9))
    with pytest.raises(aejax.InputError, match=r"'gaussian' is for continuous codes and these are discrete"):
        discrete[0].generate(2, sampler=latents)
    with pytest.raises(aejax.InputError, match=r"'autoregressive' is for discrete codes and these are continuous"):
        continuous[0].generate(2, label=[0, 1], sampler=other)
    with pytest.raises(aejax.InputError, match=r"the run's codes are \(n, \*\(2,\)\), the sampler's \(n, \*\(6,\)\)"):
        continuous[0].generate(2, label=[0, 1], sampler=latents)
    with pytest.raises(aejax.InputError, match=r"the sampler has 9 codes, the run 4; fit one"):
        discrete[0].generate(2, sampler=other)
    with pytest.raises(aejax.InputError, match="the run is conditional: give label="):
        continuous[0].generate(2, sampler=samplers.fit("gaussian", vectors(9, 2)))


# What a workdir keeps


@pytest.mark.slow
def test_a_workdir_keeps_the_sampler_until_its_options_change(discrete, monkeypatch):
    run, workdir = discrete
    fitted = sampling.load_or_fit(run, workdir, "autoregressive", **TINY)
    assert fitted.kind.size == run.codebook_size
    assert fitted.shape == (3, 2)
    kept = sampling.locate(run, workdir, "autoregressive") / "sampler.npz"
    assert kept == Path(workdir) / "samplers" / f"8-{run.fingerprint}" / "autoregressive" / "sampler.npz"
    other = dataclasses.replace(run, variables=jax.tree.map(lambda a: a + 1, run.variables))
    assert not sampling.locate(other, workdir, "autoregressive").exists()  # of other parameters at the same step
    monkeypatch.setattr(sampling, "encode_train", lambda run: pytest.fail("fitted again"))
    again = sampling.load_or_fit(run, workdir, "autoregressive", **TINY)
    np.testing.assert_array_equal(again.sample(9), fitted.sample(9))
    monkeypatch.setattr(sampling, "encode_train", lambda run: np.zeros((9, 3, 2), int))
    assert sampling.load_or_fit(run, workdir, "autoregressive", **{**TINY, "steps": 3}).kind.steps == 3
    kept.write_bytes(b"damaged")
    with pytest.warns(match=r"sampler.npz cannot be read .*; fit the sampler anew"):
        assert sampling.load_or_fit(run, workdir, "autoregressive", **TINY).kind.steps == 2
    assert samplers.load(kept.parent).kind.steps == 2
    with pytest.raises(aejax.InputError, match="'flow' is for continuous codes and these are discrete"):
        sampling.load_or_fit(run, workdir, "flow")


@pytest.mark.slow
def test_what_a_sampler_is_fitted_on(discrete, continuous, monkeypatch):
    """Indices, or draws of the posterior, of the train split."""
    run, _ = discrete
    train = data.read(data.load(run.config.data).train)
    indices = run.indices(train["x"])
    np.testing.assert_array_equal(sampling.encode_train(run), indices)
    part = sampling.encode_train(run, limit=50)
    assert part.shape == (50, 3, 2)
    assert np.any(part != indices[:50])  # not the first, which a sorted data set would make all alike
    run, _ = continuous
    splits = data.split({"train": data.from_array(vectors(60), LABEL)}, run.config.data)
    monkeypatch.setattr(data, "load", lambda *_: splits)
    train = data.read(splits.train)
    drawn = sampling.encode_train(run)
    np.testing.assert_array_equal(drawn, run.sample_posterior(train["x"], label=train["label"]))
    assert np.any(drawn != run.encode(train["x"], train["label"]))


@pytest.mark.slow
def test_labels_of_draws(continuous, discrete):
    np.testing.assert_array_equal(sampling.choose_labels(continuous[0], 5), [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(sampling.choose_labels(continuous[0], 2, 2), [2, 2])
    assert sampling.choose_labels(discrete[0], 5) is None
    with pytest.raises(aejax.InputError, match="label 3 is unknown; the run's labels are whole numbers from 0 to 2"):
        sampling.choose_labels(continuous[0], 5, 3)
    with pytest.raises(aejax.InputError, match="label 0 is unknown; the run's labels are none: it is not conditional"):
        sampling.choose_labels(discrete[0], 5, 0)


# The command


def sample(*arguments):
    return commands.run("sample", *arguments)


@pytest.mark.slow
def test_the_command_fits_keeps_and_draws(discrete, tmp_path):
    run, workdir = discrete
    given = (f"--workdir={workdir}", "--num=5", "--seed=3", "--prior=configs/priors/transformer.py:tiny")
    status, output, errors = sample(*given, "--prior.steps=6", f"--out={tmp_path / 'new' / 'a.npz'}")
    assert (status, errors) == (0, "")
    assert output == f"{tmp_path / 'new' / 'a.npz'}\n"
    kept = samplers.load(sampling.locate(run, workdir, "autoregressive"))
    assert (kept.kind.width, kept.kind.steps) == (8, 6)
    with np.load(tmp_path / "new" / "a.npz") as held:
        np.testing.assert_allclose(held["samples"], run.generate(5, seed=3, sampler=kept), atol=1e-5)


@pytest.mark.slow
def test_the_command_draws_a_picture_by_label(continuous, tmp_path):
    status, _, errors = sample(f"--workdir={continuous[1]}", "--num=5", "--label=2", f"--out={tmp_path / 'a.png'}")
    assert (status, errors) == (0, "")
    assert (tmp_path / "a.png").stat().st_size > 2_000
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_images_that_cannot_be_drawn_go_to_an_npz(tmp_path, monkeypatch):
    module = command("sample")
    monkeypatch.setattr(module.command, "load", lambda workdir, step: SimpleNamespace(spec=data.Spec((4, 5))))
    flags.FLAGS(["sample", "--workdir=unused", f"--out={tmp_path / 'a.png'}"])
    with pytest.raises(aejax.InputError, match=r"examples of \(4, 5\) are not images, .*; write them to an .npz"):
        module.sample()


SLIPS = {
    "--num=0": r"--num must be at least 1, got 0",
    "--out={file}/a.png": r".*cannot be written: a file is in its place",
    "--sampler=flow": r"sampler 'flow' is for continuous codes and these are discrete; choose: autoregressive",
    "--sampler=flow --prior=configs/priors/transformer.py": r"--prior holds 'autoregressive', not the sampler 'flow'",
    "--prior=configs/priors/transformer.py --prior.wdth=3": r".*did you mean 'width'",
    "--temperature=1,x": r"--temperature must be numbers with commas, got 1,x",
    "--temperature=0.5": r"temperature is for samples of the model's prior; leave it out",
}


@pytest.mark.slow
def test_a_slip_is_one_clear_line(discrete, tmp_path):
    (tmp_path / "file").touch()
    given = (f"--workdir={discrete[1]}", f"--out={tmp_path / 'a.png'}")
    for slip, message in SLIPS.items():
        status, _, errors = sample(*given, *slip.format(file=tmp_path / "file").split())
        assert status == 1, slip
        assert re.fullmatch(rf"error: {message}.*\n", errors), (slip, errors)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert not (Path(discrete[1]) / "samplers" / "8" / "flow").exists()


def test_a_posterior_sample_is_the_first_of_several_importance_samples():
    run = untrained(mlp(bottleneck=module("gaussian", features=3, samples=4)))
    x = images(5)
    keys = jax.random.split(jax.random.key(7), 5)
    code = run.model.apply(run.variables, run.spec.prepare(x), keys=keys, method="encode")
    assert code.z.shape == (4, 5, 3)
    np.testing.assert_allclose(run.sample_posterior(x, seed=7), code.z[0], rtol=1e-5, atol=1e-6)
