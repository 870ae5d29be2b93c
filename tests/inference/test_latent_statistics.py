"""Statistics of latents: what is measured, where it is kept, and that written latents go back only to their own run."""

import dataclasses
import json
import pickle
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import conv, mlp, one_device, untrained, vectors

import aejax
from aejax.config import module
from aejax.data import Spec, from_array
from aejax.inference import latent_statistics
from aejax.pretrained import from_factors, to_factors
from aejax.workdir import checkpoint

OLD = Path(__file__).parents[1] / "workdir/written_by_0_1.zip"


def tokens():
    """Eight tokens of eight features."""
    config = mlp()
    config.encoder = module("vit", patch=4, features=8, layers=1, heads=2, queries=8)
    config.bottleneck = module("identity")
    config.decoder = module("vit", patch=4, features=8, layers=1, heads=2, tokens=8)
    return config


KINDS = {"vectors": (mlp, (6,)), "maps": (conv, (8, 8, 1)), "tokens": (tokens, (8, 8, 1))}


def run_and_examples(kind, seed=0):
    make, shape = KINDS[kind]
    x = np.random.default_rng(seed).uniform(size=(60, *shape)).astype(np.float32)
    return untrained(make(), Spec(shape), seed), x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", ["npz", "array_record"])
def test_written_latents_have_mean_0_and_deviation_1_and_decode_restores_them(kind, suffix, tmp_path):
    run, x = run_and_examples(kind)
    run.measure_latents(x)
    out, z = tmp_path / f"out.{suffix}", run.encode(x)
    aejax.encode_split(run, from_array(x), out, 16)
    written = aejax.read_latents(out)["latents"]
    axes = tuple(range(z.ndim - 1))
    assert np.abs(z.mean(axes)).max() > 0.01
    assert np.abs(z.std(axes) - 1).max() > 0.1
    np.testing.assert_allclose(written.mean(axes), 0, atol=1e-5)
    np.testing.assert_allclose(written.std(axes), 1, atol=1e-5)
    statistics = aejax.read_statistics(out)
    np.testing.assert_allclose(statistics.mean, z.mean(axes, np.float64), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(statistics.deviation, z.std(axes, np.float64), rtol=1e-5)
    # Rows, copies and pickles go back as well; what a model made of them goes back with the statistics.
    expected = run.reconstruct(x)
    some = aejax.read_latents(out, slice(5, 9))["latents"]
    for z, rows in ((written, slice(None)), (written[3:7].copy(), slice(3, 7)), (some, slice(5, 9))):
        np.testing.assert_allclose(run.decode(z), expected[rows], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run.decode(pickled(written)), expected, rtol=1e-4, atol=1e-5)
    made = jax.numpy.asarray(written)
    np.testing.assert_allclose(run.decode(made, statistics=statistics), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(run.decode(made) - expected).max() > 1e-3


def test_encode_in_memory_returns_the_networks_latents(tmp_path):
    run, x = run_and_examples("vectors")
    before = run.encode(x)
    run.measure_latents(x)
    np.testing.assert_array_equal(run.encode(x), before)
    aejax.encode_split(run, from_array(x), tmp_path / "raw.npz", normalize=False)
    raw = aejax.read_latents(tmp_path / "raw.npz")["latents"]
    np.testing.assert_allclose(raw, before, rtol=1e-5, atol=1e-6)
    assert aejax.read_statistics(tmp_path / "raw.npz") is None
    np.testing.assert_allclose(run.decode(raw), run.decode(before), rtol=1e-4, atol=1e-5)


def test_latents_of_another_run_are_refused(tmp_path):
    run, x = run_and_examples("vectors")
    other, _ = run_and_examples("vectors", seed=1)
    run.measure_latents(x)
    other.measure_latents(x)
    aejax.encode_split(run, from_array(x), tmp_path / "out.npz")
    written = aejax.read_latents(tmp_path / "out.npz")["latents"]
    words = (
        f"statistics of another run .parameters {run.fingerprint}, 60 examples of the given array., and this run has"
    )
    for given in ({"z": written}, {"z": written[2:3]}, {"z": np.asarray(written), "statistics": run.latent_statistics}):
        with pytest.raises(aejax.InputError, match=words):
            other.decode(**given)
    with pytest.raises(aejax.InputError, match="normalized by other statistics than the given ones"):
        run.decode(written, statistics=other.latent_statistics)
    with pytest.raises(aejax.InputError, match=r"the statistics are of 2 channels, the latents' shape is \(4, 3\)"):
        run.latent_statistics.restore(np.zeros((4, 3)))
    with pytest.raises(aejax.InputError, match=r"statistics must be those of a run, run.latent_statistics, got {'mean"):
        run.decode(np.asarray(written), statistics=run.latent_statistics.to_dict())
    assert np.isfinite(run.decode(written)).all()


def test_statistics_survive_selecting_and_joining_and_arithmetic_is_not_guessed(tmp_path):
    run, x = run_and_examples("vectors")
    run.measure_latents(x)
    aejax.encode_split(run, from_array(x), tmp_path / "out.npz")
    z, statistics = aejax.read_latents(tmp_path / "out.npz")["latents"], run.latent_statistics
    rows = [4, 1]
    kept = (z[rows], z[z[:, 0] > -9][rows], z.copy()[rows], np.stack([z[4], z[1]]), np.concatenate([z[4:5], z[1:2]]))
    for each in (*kept, np.vstack([z[4], z[1]]), np.append(z[4:5], z[1:2], 0), np.split(z[rows], 1)[0]):
        assert each.statistics == statistics
        np.testing.assert_allclose(run.decode(each), run.reconstruct(x)[rows], rtol=1e-4, atol=1e-5)
    in_place = z.copy()
    in_place *= 2
    halfway = (z[:5] + z[5:10]) / 2
    for made in (halfway, in_place[3:], np.clip(z, -1, 1), np.concatenate([z, halfway]), z.cumsum(0), pickled(halfway)):
        for use in (run.decode, lambda made: aejax.samplers.fit("gaussian", made)):
            with pytest.raises(
                aejax.InputError, match=r"is a result of arithmetic on normalized latents; give np.asarr"
            ):
                use(made)
    found = run.decode(np.asarray(halfway), statistics=statistics)
    latents = run.encode(x)  # which the normalization maps affinely: halfway is halfway
    np.testing.assert_allclose(found, run.decode((latents[:5] + latents[5:10]) / 2), rtol=1e-4, atol=1e-5)
    restored = np.asarray(z * np.array(statistics.deviation) + np.array(statistics.mean))
    np.testing.assert_allclose(run.decode(restored), run.reconstruct(x), rtol=1e-4, atol=1e-5)
    for plain in (np.asarray(z), jax.numpy.asarray(z), statistics.restore(z), np.where(z > 0, z, 0)):
        assert getattr(plain, "statistics", None) is None
    other, _ = run_and_examples("vectors", seed=1)
    theirs = type(z).of(np.asarray(z), other.measure_latents(x))
    for parts in ([z, np.asarray(z)], [np.asarray(z), z], [z, theirs]):
        with pytest.raises(aejax.InputError, match="normalized latents are joined with others, or with latents of ano"):
            np.concatenate(parts)


def pickled(a):
    return pickle.loads(pickle.dumps(a))


def test_samplers_are_fitted_on_what_the_decoder_reads(tmp_path):
    run, x = run_and_examples("vectors")
    run.measure_latents(x)
    aejax.encode_split(run, from_array(x), tmp_path / "out.npz")
    written = aejax.read_latents(tmp_path / "out.npz")["latents"]
    found, expected = (aejax.samplers.fit("gaussian", z).sample(50, 0) for z in (written, run.encode(x)))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_a_constant_channel_stays_finite():
    run, x = run_and_examples("vectors")
    params = jax.tree.map(np.array, run.variables)
    for name, leaf in params["params"]["bottleneck"]["dense"].items():
        leaf[..., 0] = 0 if name == "kernel" else 3
    statistics = dataclasses.replace(run, variables=params).measure_latents(x)
    assert statistics.mean[0] == pytest.approx(3)
    assert statistics.deviation[0] == 1


def test_digits_of_values_far_from_0_are_kept_and_rounding_is_no_deviation(monkeypatch):
    x = (np.random.default_rng(0).normal(size=(1_000, 2)) * [0.1, 0] + [1e5, 0.1]).astype(np.float32)
    x[::2, 1] = np.nextafter(x[0, 1], np.float32(1))
    encode = lambda arrays: arrays["x"]  # noqa: E731
    found = latent_statistics.measure(encode, from_array(x), "train", "")
    np.testing.assert_allclose(found.mean, x.mean(0, np.float64), rtol=1e-12)
    np.testing.assert_allclose(found.deviation, [x[:, 0].std(dtype=np.float64), 1], rtol=1e-6)
    for most, least, values, count in ((9, 1, 8, 4), (3, 1, 8, 3), (9, 6, 8, 6)):
        for name, value in {"_MOST": most, "_LEAST": least, "_VALUES": values}.items():
            monkeypatch.setattr(latent_statistics, name, value)
        assert latent_statistics.measure(encode, from_array(x), "train", "").of == f"{count} examples of train"


@pytest.mark.parametrize("bottleneck", [module("topk", features=8, k=2), module("fsq", levels=(5, 5))])
def test_discrete_and_sparse_codes_are_left_alone(bottleneck, tmp_path):
    config = mlp()
    config.bottleneck = bottleneck
    run = untrained(config, Spec((6,)))
    aejax.encode_split(run, from_array(vectors(20)), tmp_path / "out.npz")
    found = aejax.read_latents(tmp_path / "out.npz")["latents"]
    np.testing.assert_allclose(found, run.encode(vectors(20)), rtol=1e-5, atol=1e-6)
    assert json.loads((tmp_path / "out.npz.json").read_text())["statistics"] is None


def test_statistics_are_of_the_train_split_and_stay_in_the_workdir(tmp_path, monkeypatch):
    data = tmp_path / "data.npz"
    np.savez(data, train=vectors(80), test=vectors(30, seed=1) + 5)
    config, work = mlp(data__name=str(data), data__validation="train[:20]", data__train="train[20:]"), tmp_path / "work"
    aejax.train(config, work, devices=one_device(), quiet=True)
    run = aejax.load_run(work)
    z = run.encode(vectors(80)[20:])
    assert run.latent_statistics.of == "60 examples of train"
    np.testing.assert_allclose(run.latent_statistics.mean, z.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(run.latent_statistics.deviation, z.std(0), rtol=1e-4)
    assert not (work / "latents").exists()
    data.unlink()
    assert aejax.load_run(work).latent_statistics == run.latent_statistics
    with pytest.raises(aejax.InputError, match=r"cannot be loaded .*no such file.*; give its examples to run.measure"):
        _ = aejax.load_run(work, 4).latent_statistics
    file = work / "checkpoints/8/latents.json"
    file.write_text(json.dumps(run.latent_statistics.to_dict() | {"parameters": "of an earlier step 8"}))
    with pytest.raises(aejax.InputError, match="are measured on the train split"):  # not taken for this run's
        _ = aejax.load_run(work).latent_statistics
    for content in ({}, {"mean": [0.0], "deviation": [0.0], "of": "", "parameters": run.fingerprint}):
        file.write_text(json.dumps(content))
        with pytest.raises(aejax.StorageError, match=r"8/latents.json holds no statistics of latents, got {"):
            _ = aejax.load_run(work).latent_statistics
    file.unlink()
    given = aejax.load_run(work)
    given.measure_latents(vectors(80)[20:])
    assert given.latent_statistics.mean == aejax.load_run(work).latent_statistics.mean == run.latent_statistics.mean
    monkeypatch.setattr("aejax.inference.latent_statistics.write_whole", _full)
    with pytest.warns(UserWarning, match="No space left; the statistics of the latents are not kept"):
        assert aejax.load_run(work).measure_latents(vectors(9)).of == "9 examples of the given array"


def test_statistics_are_copied_and_removed_with_their_checkpoint_and_resuming_leaves_them(tmp_path):
    config, work = mlp(steps=4, checkpoint_every=4, keep=1), tmp_path / "work"
    aejax.fit(config, vectors(100), work, devices=one_device(), quiet=True)
    steps = lambda: sorted(file.parent.name for file in work.rglob("latents.json"))  # noqa: E731
    assert steps() == ["4"]
    early = aejax.load_run(work)
    shutil.copytree(work / "checkpoints/4", tmp_path / "copy/checkpoints/4")
    assert aejax.load_run(tmp_path / "copy").latent_statistics == early.latent_statistics
    config.steps = 8
    later = aejax.fit(config, vectors(100), work, devices=one_device(), quiet=True, change=["steps"])
    assert steps() == ["8"]  # step 4 is removed, with its statistics
    assert later.latent_statistics.mean != early.latent_statistics.mean
    with pytest.warns(
        UserWarning, match=r"latents.json cannot be written .*the statistics of the latents are not kept"
    ):
        early.measure_latents(vectors(9))
    assert checkpoint.list_steps(work) == [8]  # nothing is made in the place of a checkpoint
    assert aejax.load_run(work).latent_statistics == later.latent_statistics


def test_statistics_that_were_kept_beside_the_checkpoints_are_read(tmp_path):
    aejax.fit(mlp(), vectors(100), tmp_path, devices=one_device(), quiet=True)
    (tmp_path / "latents").mkdir()
    (tmp_path / "checkpoints/8/latents.json").rename(tmp_path / "latents/8.json")
    found = aejax.load_run(tmp_path)
    assert found.latent_statistics.of == "80 examples of train"
    found.measure_latents(vectors(9))  # which is kept in the checkpoint, and comes first
    assert aejax.load_run(tmp_path).latent_statistics.of == "9 examples of the given array"


def _full(*_):
    raise aejax.StorageError("No space left")


def test_fit_keeps_the_statistics_of_an_array_that_it_does_not_keep(tmp_path):
    run = aejax.fit(mlp(), vectors(100), tmp_path / "work", devices=one_device(), quiet=True)
    assert run.latent_statistics == aejax.load_run(tmp_path / "work").latent_statistics
    assert run.latent_statistics.of == "80 examples of train"
    (tmp_path / "work/checkpoints/8/latents.json").unlink()
    with pytest.raises(aejax.InputError, match=r"trained by aejax.fit on an array that it does not keep"):
        _ = aejax.load_run(tmp_path / "work").latent_statistics
    four = aejax.fit(mlp(), vectors(100), quiet=True)  # in memory, on four devices
    np.testing.assert_allclose(four.latent_statistics.mean, run.latent_statistics.mean, rtol=1e-3, atol=1e-5)
    again = pickled(four)
    with pytest.raises(aejax.InputError, match=r"give its examples to run.measure_latents"):
        _ = dataclasses.replace(again).latent_statistics


@pytest.mark.parametrize("name", ["vae"])
def test_a_workdir_of_an_earlier_version_is_measured(name, tmp_path):
    shutil.unpack_archive(OLD, tmp_path)
    run = aejax.load_run(tmp_path / name)
    train = aejax.data.load(run.config.data).train
    z = run.encode(train.take(np.arange(len(train)))["x"])
    np.testing.assert_allclose(run.latent_statistics.deviation, z.std(0), rtol=1e-4)


def test_files_of_earlier_versions_are_the_networks_latents(tmp_path):
    run, x = run_and_examples("vectors")
    out = tmp_path / "out.npz"
    aejax.encode_split(run, from_array(x), out, normalize=False)
    about = json.loads((tmp_path / "out.npz.json").read_text())
    del about["statistics"]
    (tmp_path / "out.npz.json").write_text(json.dumps(about))
    np.testing.assert_allclose(run.decode(aejax.read_latents(out)["latents"]), run.reconstruct(x), rtol=1e-4, atol=1e-5)
    aejax.encode_split(run, from_array(x), out, normalize=False)  # it is complete
    run.measure_latents(x)
    with pytest.raises(aejax.InputError, match=r"of another command \(its latents are normalized otherwise, or not\)"):
        aejax.encode_split(run, from_array(x), out)
    (tmp_path / "out.npz.json").unlink()
    with pytest.warns(UserWarning, match=r"out.npz.json is missing: the latents are taken for ones that are not norm"):
        aejax.read_latents(out)


# Factors of published models

MEAN, DEVIATION = np.array([0.5, -1.0, 2.0]), np.array([2.0, 0.5, 1.0])


def test_all_pipelines_of_diffusers_get_latents_of_deviation_1():
    """By the formulas of Stable Diffusion, Stable Diffusion 3 and SDXL."""
    z = MEAN + DEVIATION * np.random.default_rng(0).normal(size=(200_000, 3))
    settings = to_factors("AutoencoderKL", z.mean(0), z.std(0))
    scale, shift = settings["scaling_factor"], settings["shift_factor"]
    assert (z * scale).std() == pytest.approx(1)
    assert ((z - shift) * scale).mean() == pytest.approx(0, abs=1e-9)
    normalized = (z - settings["latents_mean"]) * scale / settings["latents_std"]
    np.testing.assert_allclose(normalized.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(normalized.std(0), 1)
    mean, deviation = from_factors(settings, 3, "config.json")
    np.testing.assert_allclose((z - mean) / deviation, normalized)
    assert set(to_factors("AutoencoderTiny", MEAN, DEVIATION)) == {"scaling_factor", "shift_factor"}
    assert set(to_factors("VQModel", MEAN, DEVIATION)) == {"scaling_factor"}


@pytest.mark.parametrize(
    ("settings", "mean", "deviation"),
    [
        ({}, 0, 1),
        ({"scaling_factor": 0.18215}, 0, 1 / 0.18215),
        ({"scaling_factor": 0.3611, "shift_factor": 0.1159}, 0.1159, 1 / 0.3611),
        ({"scaling_factor": 0.5, "shift_factor": None, "latents_mean": [1, 2], "latents_std": [3, 4]}, [1, 2], [6, 8]),
        ({"scaling_factor": 0.5, "latents_mean": [1, 2], "latents_std": None}, 0, 2),
    ],
)
def test_factors_are_read_as_pipelines_apply_them(settings, mean, deviation):
    found = from_factors(settings, 2, "config.json")
    np.testing.assert_allclose(found[0], np.broadcast_to(mean, 2))
    np.testing.assert_allclose(found[1], np.broadcast_to(deviation, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scaling_factor": 0}, "scaling_factor must not be 0"),
        ({"scaling_factor": "0.2"}, "scaling_factor must be a number, got '0.2'"),
        ({"shift_factor": [1, 2]}, r"shift_factor must be a number, got \[1, 2\]"),
        ({"latents_mean": [1], "latents_std": [1, 2]}, r"latents_mean must be a list of 2 numbers.*, got \[1\]"),
        ({"latents_mean": [1, 2], "latents_std": [1, -2]}, "scaling_factor and latents_std must be above 0"),
    ],
)
def test_wrong_factors_are_one_line(settings, message):
    with pytest.raises(aejax.InputError, match=f"folder: {message}"):
        from_factors(settings, 2, "folder")
