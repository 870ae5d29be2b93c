"""Pictures of sequences and volumes."""

import numpy as np
import pytest
from conftest import mlp, one_device, untrained

import aejax
from aejax import data
from aejax.data import Spec
from aejax.evaluation import Subject, pictures, report
from aejax.evaluation.pictures import tiles


def test_a_volume_is_its_three_slices_side_by_side():
    x = np.random.default_rng(0).uniform(size=(2, 3, 4, 5, 1)).astype(np.float32)
    tile = tiles.as_tiles(x, Spec((3, 4, 5, 1)))
    assert tile.shape == (2, 4, 5 + 1 + 5 + 1 + 4, 1)
    np.testing.assert_array_equal(tile[:, :, :5], x[:, 1])
    np.testing.assert_array_equal(tile[:, :3, 6:11], x[:, :, 2])
    np.testing.assert_array_equal(tile[:, :3, 12:], x[:, :, :, 2])
    np.testing.assert_array_equal(tile[:, 3, 5:], 1)


def test_values_of_another_range_and_many_channels_become_gray():
    x = np.random.default_rng(0).uniform(-5, 15, (2, 4, 4, 12)).astype(np.float32)
    spec = Spec((4, 4, 12), kind="image", limits=(-5.0, 15.0))
    np.testing.assert_allclose(tiles.as_tiles(x, spec), ((x + 5) / 20).mean(-1, keepdims=True), rtol=1e-5)
    assert "mean of 12 channels. Black is -5, white 15." in tiles.describe(spec)


def test_thumbnails_of_curves_rise_where_the_values_do():
    x = np.linspace(0, 1, 30, dtype=np.float32)[None, :, None] * [1, -1]
    small = tiles.as_thumbnails(
        np.concatenate([x, np.where(np.arange(30)[:, None] < 15, x, np.nan)]), Spec((30, 2), kind="sequence")
    )
    assert small.shape == (2, 32, 64, 1)
    dark = small[0, :, :, 0] < 0.5
    rows = np.arange(16)
    rising, falling = (np.array([rows[part[:, k]].mean() for k in range(64)]) for part in (dark[:16], dark[16:]))
    assert np.all(np.diff(rising) <= 0)
    assert np.all(np.diff(falling) >= 0)
    assert rising[0] > 13 > 2 > rising[-1]
    assert not (small[1, :, 36:, 0] < 0.5).any()  # the sequence has ended


def drawn(axes):
    return [line.get_ydata() for line in axes.lines]


def test_curves_are_the_values_and_lie_below_each_other():
    rng = np.random.default_rng(1)
    inputs, outputs = rng.normal(size=(2, 9, 20, 2)).astype(np.float32)
    errors = np.square(inputs - outputs).sum((1, 2))
    figure = tiles.draw_reconstructions(inputs, outputs, errors)
    panels = [axes for axes in figure.axes if axes.lines]
    first, apart = drawn(panels[0]), tiles.spread(np.concatenate([inputs, outputs]))
    np.testing.assert_allclose(first[1], inputs[0, :, 1] + apart[1], rtol=1e-5)
    np.testing.assert_allclose(first[2], outputs[0, :, 0] + apart[0], rtol=1e-5)
    assert min(first[0].min(), first[2].min()) > max(first[1].max(), first[3].max())
    assert [axes.get_xlabel() for axes in panels[8:12]] == [f"{e:.3g}" for e in -np.sort(-errors)[:4]]


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "kind"), [((20, 3), "sequence"), ((5, 6, 4, 1), "volume"), ((6, 6, 5), "image")])
def test_every_picture_and_the_report_of_each_kind_are_drawn(shape, kind, tmp_path):
    x = np.random.default_rng(0).uniform(size=(40, *shape)).astype(np.float32)
    if kind == "sequence":
        x = np.where(np.arange(20)[:, None] < np.random.default_rng(1).integers(5, 21, (40, 1, 1)), x, np.nan)
    part = (
        aejax.config.module("rnn", features=4)
        if kind == "sequence"
        else aejax.config.module("mlp", features=(8,), activation="tanh")
    )
    config = mlp(data__kind=kind, encoder=part, decoder=part)
    run = aejax.fit(config, x, tmp_path / "run", devices=one_device(), quiet=True)
    subject = Subject.of(run, data.split({"train": data.from_array(x, kind=kind)}, run.config.data))
    found = dict(pictures.draw(subject))
    wanted = {"reconstructions", "samples", "traversals", "interpolations", "map", "activity"}
    wanted |= {"error_maps", "plane"} if kind != "sequence" else set()
    assert {name for name, picture in found.items() if isinstance(picture, pictures.Picture)} == wanted
    for name in wanted:
        assert pictures.as_png(found[name].figure, tmp_path / f"{name}.png").stat().st_size > 1_000
    page = report.write(subject, {}, found, tmp_path).read_text()
    assert 'class="sprite input"' in page
    assert {path.name for path in pictures.save(run, tmp_path / "run")} >= {"curves.png", "reconstructions.png"}


def test_what_has_no_picture_is_told():
    subject = Subject.of_array(untrained(mlp(), Spec((3, 6))), np.ones((9, 3, 6), np.float32))
    reason = pictures.PICTURES["traversals"](subject).reason
    assert reason == "examples of (3, 6) are not images, volumes or sequences"
