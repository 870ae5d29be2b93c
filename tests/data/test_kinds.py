"""Kinds of data: what arrays are taken for, what they are told to be, and what a run keeps of it."""

import numpy as np
import pytest
from conftest import mlp, one_device, section, untrained, whole

import aejax
from aejax import data
from aejax.data import Spec
from aejax.data.synthetic import SOLID_FACTORS, draw_solids, make_volumes


def series(n=40, time=12, channels=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, time, channels)).astype(np.float32) * 5


@pytest.mark.parametrize(
    ("x", "kind", "shape"),
    [
        (series(2)[:, 0], "vector", (3,)),
        (series(2), "sequence", (12, 3)),
        (np.zeros((2, 6, 3), np.uint8), "image", (6, 3, 1)),
        (np.full((2, 6, 3), 0.5), "image", (6, 3, 1)),
        (np.zeros((2, 6, 5, 12), np.uint8), "image", (6, 5, 12)),
        (np.zeros((2, 6, 6, 3), np.uint8), "image", (6, 6, 3)),
        (np.zeros((2, 4, 5, 6, 1), np.uint8), "volume", (4, 5, 6, 1)),
        (np.full((2, 4, 5, 6, 2), -9.0), "volume", (4, 5, 6, 2)),
    ],
)
def test_kinds_are_guessed_where_they_are_unambiguous(x, kind, shape):
    source = data.from_array(x)
    assert (source.kind, source.shape) == (kind, shape)
    assert Spec.of(source, False).kind == kind


@pytest.mark.parametrize(
    ("x", "kind", "shape"),
    [
        (series(2)[..., 0], "sequence", (12, 1)),
        (np.full((2, 6, 3), 0.5), "sequence", (6, 3)),
        (np.zeros((2, 6, 3), np.uint8), "sequence", (6, 3)),
        (series(2), "image", (12, 3, 1)),
        (np.zeros((2, 4, 4, 4), np.uint8), "volume", (4, 4, 4, 1)),
        (np.zeros((2, 4, 4, 4), np.uint8), "image", (4, 4, 4)),
    ],
)
def test_kinds_are_taken_as_told(x, kind, shape):
    source = data.from_array(x, kind=kind)
    assert (source.kind, source.shape) == (kind, shape)
    assert (source.dtype == np.uint8) == (kind != "sequence" and x.dtype == np.uint8)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (series(2, 3), {}, r"must lie in \[0, 1\], found .*; scale them, .*, or set data.kind: image for .*, sequence"),
        (np.full((2, 4, 5, 6), 7.0), {}, r"found 7.0 to 7.0; .* set data.kind: image for .*, volume for \[n, depth"),
        (series(2), {"kind": "volume"}, r"shape \(2, 12, 3\), and data.kind=volume means \[n, depth, height, width\]"),
        (series(2), {"kind": "vector"}, r"data.kind=vector means \[n, features\]; change one"),
        (series(2)[..., None], {"kind": "sequence"}, r"data.kind=sequence means \[n, time\] or \[n, time, channels\]"),
        (series(2), {"kind": "table"}, "data.kind 'table' is unknown"),
        (np.zeros((2, 6, 6), np.int64), {"kind": "image"}, "images of int64; give uint8"),
        (series(2), {"kind": "image", "unit": True}, r"float images must lie in \[0, 1\], found .*data.kind=image"),
        (series(2), {"kind": "sequence", "size": 4}, "data.size resizes uint8 images only"),
    ],
)
def test_ambiguous_and_contradictory_kinds_are_one_line(x, options, message):
    with pytest.raises(aejax.InputError, match=message) as raised:
        data.from_array(x, **options)
    assert "\n" not in str(raised.value)


def test_what_is_assumed_of_cubes_and_of_few_time_steps_is_said():
    with pytest.warns(UserWarning, match=r"images of 6 channels or gray volumes: taken for images; .*data.kind=volume"):
        assert data.from_array(np.zeros((2, 6, 6, 6), np.uint8)).kind == "image"
    with pytest.warns(UserWarning, match="3 time steps and 12 channels; time is assumed to be the first axis"):
        data.from_array(series(2).swapaxes(1, 2))


def test_files_and_configs_state_a_kind(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((20, 4, 4, 4), np.uint8))
    file = str(tmp_path / "x.npy")
    assert data.load(section(name=file, kind="volume")).train.shape == (4, 4, 4, 1)
    with pytest.raises(aejax.InputError, match=r"digits holds images of \(8, 8, 1\), and data.kind=volume"):
        data.load(section(name="digits", kind="volume"))
    np.savez(tmp_path / "x.npz", train=series(20), test=np.full((5, 12, 3), 0.5, np.float32))
    with pytest.raises(aejax.InputError, match=r"the test split holds images and train sequences; set data\.kind"):
        data.load(section(name=str(tmp_path / "x.npz")))
    assert data.load(section(name=str(tmp_path / "x.npz"), kind="sequence")).test.shape == (12, 3)
    with pytest.raises(aejax.InputError, match=r"data\.kind 'sequences' is unknown"):
        aejax.config.check(mlp(data__kind="sequences"))


@pytest.mark.parametrize(
    ("shape", "kind", "layers"), [((6,), "vector", 0), ((3, 6), "vector", 3), ((8, 8, 1), "image", 0)]
)
def test_specs_from_before_kinds_mean_what_they_meant(shape, kind, layers):
    old = {"shape": list(shape), "mean": [], "deviation": [], "binary": False}
    spec = Spec.from_dict(old)
    assert (spec.kind, spec.layers, spec.limits) == (kind, layers, ())
    assert Spec.from_dict(spec.to_dict()) == spec == Spec(shape)


@pytest.mark.parametrize(("x", "kind"), [(series(), ""), (series(40, 4, 6).reshape(40, 4, 3, 2), "volume")])
def test_each_channel_is_standardized_over_all_positions(x, kind):
    x = x * np.linspace(1, 9, x.shape[-1]) + 100
    source = data.from_array(x, kind=kind) if x.ndim == 3 else data.from_array(x[..., None], kind=kind)
    x = x.reshape(len(x), *source.shape)
    spec = Spec.of(source, True)
    axes = tuple(range(x.ndim - 1))
    np.testing.assert_allclose(spec.mean, x.mean(axes, np.float64), rtol=1e-6)
    np.testing.assert_allclose(spec.deviation, x.std(axes, dtype=np.float64), rtol=1e-5)
    read = spec.check(x)
    np.testing.assert_allclose(read, (x - x.mean(axes)) / x.std(axes), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(spec.restore(read), x, rtol=1e-5)
    np.testing.assert_allclose(spec.standardize(x.astype(np.float32)), read, rtol=1e-3, atol=1e-4)
    with pytest.raises(aejax.InputError, match=r"is for vectors.*holds images in \[0, 1\]"):
        Spec.of(data.from_array(np.zeros((2, 4, 4), np.uint8)), True)


def test_the_density_counts_the_change_of_units_at_each_position():
    x, deviation = series(6), (2.0, 3.0, 5.0)
    config = mlp(
        bottleneck=aejax.config.module("gaussian", features=2), likelihood=aejax.config.module("gaussian", scale=1.5)
    )
    plain = untrained(config, Spec((12, 3), kind="sequence"))
    scaled = untrained(config, Spec((12, 3), (0.0,) * 3, deviation, kind="sequence"))
    np.testing.assert_allclose(
        scaled.reconstruct(x * deviation), plain.reconstruct(x) * deviation, rtol=1e-4, atol=1e-4
    )
    change = scaled.density.parts(x * deviation).distortion.mean() - plain.density.parts(x).distortion.mean()
    # The noise of an example depends on its bytes, so the distortions agree only roughly: 12 log(30) is 40.8.
    assert abs(change - 12 * np.log(30)) < 4
    mean = plain.density.parts(x).distortion.mean() + 12 * np.log(30)
    np.testing.assert_allclose(scaled.density.parts(x * deviation).distortion.mean(), mean, rtol=0.03)


def test_a_run_of_sequences_is_told_at_its_start_and_resumes_bit_for_bit(tmp_path, capsys):
    x = series()
    config = mlp(steps=8, data__standardize=True)
    straight = aejax.fit(config, x, tmp_path / "straight", devices=one_device())
    assert "32 sequences of 12 time steps, 3 channels (data.kind would say otherwise)" in capsys.readouterr().err
    half = mlp(steps=4, data__standardize=True)
    aejax.fit(half, x, tmp_path / "halves", devices=one_device(), quiet=True)
    resumed = aejax.fit(config, x, tmp_path / "halves", devices=one_device(), quiet=True, change=["steps"])
    np.testing.assert_array_equal(resumed.encode(x), straight.encode(x))
    loaded = aejax.load_run(tmp_path / "straight")
    assert loaded.spec.kind == "sequence"
    np.testing.assert_array_equal(loaded.reconstruct(x), straight.reconstruct(x))
    assert loaded.generate(3).shape == (3, 12, 3)
    with pytest.raises(aejax.InputError, match=r"one example without its batch axis"):
        loaded.encode(x[0])
    with pytest.raises(aejax.InputError, match=r"the run reads examples of \(12, 3\), the input .*\(3, 1\)"):
        loaded.encode(x[:, 0])
    measured = loaded.evaluate(x, groups=["reconstruction"])["reconstruction"]
    assert measured["squared_error"].value == pytest.approx(
        np.square(x - loaded.reconstruct(x)).reshape(40, -1).sum(1).mean(), rel=1e-4
    )
    assert measured["psnr"].reason == "PSNR is for images and volumes"
    layered = mlp(steps=8, data__standardize=True, data__name=loaded.config.data.name)
    splits = data.split({"train": data.from_array(x, layers=12)}, layered.data)
    with pytest.raises(aejax.InputError, match=r"trained on sequences of \(12, 3\), the data now holds vectors"):
        aejax.train(layered, tmp_path / "straight", data=splits, devices=one_device(), quiet=True)


def test_images_of_any_range_are_trained_on_and_measured_in_their_units(tmp_path):
    x = (np.random.default_rng(1).normal(size=(40, 8, 8, 2)) * 300 - 1000).astype(np.float32)
    config = mlp(data__kind="image", data__standardize=True)
    run = aejax.fit(config, x, tmp_path / "run", devices=one_device(), quiet=True)
    low, high = float(x.min()), float(x.max())
    assert (run.spec.bounds, run.spec.units) == ((low, high), "the data's own units")
    measured = run.evaluate(x, groups=["reconstruction"])["reconstruction"]
    error = np.square(x - run.reconstruct(x)).reshape(40, -1).mean(1)
    assert measured["psnr"].value == pytest.approx(10 * np.log10((high - low) ** 2 / error).mean(), rel=1e-4)
    assert 0 < measured["ssim"].value < 1
    x8 = np.full((2, 8, 8, 2), 7, np.uint8)
    np.testing.assert_array_equal(run.in_users_units(x8).round(3), 7)  # and not 7/255
    with pytest.raises(aejax.InputError, match=r"wants values in \[0, 1\]"):
        aejax.fit(mlp(data__kind="image", likelihood__name="bernoulli"), x, devices=one_device(), quiet=True)


def test_volumes_of_uint8_are_read_as_unit_values(tmp_path):
    x = np.random.default_rng(1).integers(0, 256, (20, 3, 4, 5), np.uint8)
    source = data.from_array(x, kind="volume")
    spec = Spec.of(source, False)
    np.testing.assert_allclose(spec.prepare(whole(source)["x"]), x[..., None] / np.float32(255), rtol=1e-6)
    run = aejax.fit(mlp(data__kind="volume"), x, devices=one_device(), quiet=True)
    assert run.reconstruct(x).shape == (20, 3, 4, 5, 1)
    assert run.spec.bounds == (0, 1)
    with pytest.raises(aejax.InputError, match=r"float volumes must lie in \[0, 1\], found"):
        run.encode(x.astype(np.float32))


def test_solids_have_the_volume_the_place_and_the_direction_of_their_factors():
    source = make_volumes(0)
    assert len(source) == np.prod(list(SOLID_FACTORS.values()))
    arrays = source.take(np.arange(0, len(source), 7))
    x, factors = arrays["x"][..., 0] / 255, arrays["factors"]
    np.testing.assert_array_equal(arrays["label"], factors[:, 0])
    mass = x.sum((1, 2, 3))
    fine = factors[:: len(factors) // 20]  # drawn with sharper edges
    radius = 1.5 + 0.45 * fine[:, 1]
    volume = draw_solids(fine, 48).sum((1, 2, 3, 4)) / 255 / 27
    np.testing.assert_allclose(volume, 2 * 4 / 3 * np.pi * radius**3, rtol=0.08)
    at = np.arange(16) + 0.5
    for axis in (1, 2, 3):
        others = tuple({1, 2, 3} - {axis})
        np.testing.assert_allclose(x.sum(others) @ at / mass, 6.5 + factors[:, axis + 1], atol=0.02)
    down, across = (at[:, None] - 6.5 - factors[:, k][:, None, None] for k in (3, 4))
    flat = x.sum(1)
    products = (
        (flat * down * across.swapaxes(1, 2)).sum((1, 2)),
        (flat * (across.swapaxes(1, 2) ** 2 - down**2)).sum((1, 2)),
    )
    turned = np.arctan2(2 * products[0], products[1]) / 2  # of the longest axis
    error = np.abs((turned - factors[:, 5] * np.pi / 4 + np.pi / 2) % np.pi - np.pi / 2)
    assert error.max() < 0.1


def test_volumes_take_another_size():
    assert make_volumes(8).shape == (8, 8, 8, 1)
