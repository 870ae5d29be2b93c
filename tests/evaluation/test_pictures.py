"""What the figures hold, by their artists' data; and which of them a run has."""

import itertools
import sys
import types

import numpy as np
import pytest
from conftest import mlp, one_device, vectors
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

import aejax
from aejax import data
from aejax.config import module
from aejax.evaluation import Skipped, Subject, pictures
from aejax.evaluation.pictures import charts, examples, latents, of_subject
from aejax.evaluation.pictures.style import CLASSES, CLASSES_IN_THE_DARK, MUTED, draw_mosaics, gap_of, in_rows, mosaic

LABEL = np.arange(60, dtype=np.int32) % 3


def tiles_of(axes, rows, columns, size=8):
    """The mosaic that axes show, taken apart again: [rows, columns, size, size, 4]."""
    image, step = axes.images[0].get_array(), size + max(1, size // 14)
    return np.array([[image[i * step :, j * step :][:size, :size] for j in range(columns)] for i in range(rows)])


def texts(labels):
    return [label.get_text() for label in labels]


# Mosaics


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", range(2))
def test_a_mosaic_holds_each_tile_at_its_place(channels, seed):
    tiles = np.random.default_rng(seed).uniform(size=(2, 3, 28, 20, channels))
    image, gap = mosaic(tiles), 2
    assert image.shape == (2 * 28 + gap, 3 * 20 + 2 * gap, 4)
    for i in range(2):
        for j in range(3):
            place = image[i * 30 : i * 30 + 28, j * 22 : j * 22 + 20]
            np.testing.assert_allclose(place[..., :3], np.broadcast_to(tiles[i, j], (28, 20, 3)), rtol=1e-6)
            assert (place[..., 3] == 1).all()
    assert (image[[28, 29]] == 0).all()
    assert (image[:, [20, 21, 42, 43]] == 0).all()
    assert gap_of(tiles) == gap
    assert gap_of(np.zeros((1, 1, 8, 8, 1))) == 1


def test_names_stand_at_the_middles_of_their_tiles():
    tiles = np.broadcast_to(np.linspace(0, 1, 6).reshape(2, 3, 1, 1, 1), (2, 3, 15, 28, 1))
    axes = draw_mosaics([tiles], ["a", "b"], ["c", "d", "e"]).axes[0]
    image = np.asarray(axes.images[0].get_array())
    middle = lambda tile: np.argwhere(np.isclose(image[..., 0], tile[0, 0]) & (image[..., 3] == 1)).mean(0)  # noqa: E731
    np.testing.assert_allclose(axes.get_yticks(), [middle(tile)[0] for tile in tiles[:, 0]])
    np.testing.assert_allclose(axes.get_xticks(), [middle(tile)[1] for tile in tiles[0]])


def test_what_is_missing_of_the_last_row_is_clear():
    tiles = in_rows(np.ones((5, 4, 4, 1)), 3)
    alpha = mosaic(tiles)[..., 3]
    assert [alpha[i * 5 + 1, j * 5 + 1] for i in range(2) for j in range(3)] == [1, 1, 1, 1, 1, 0]
    assert mosaic(tiles + 7).max() == 1  # clipped


# Examples


def test_reconstructions_show_the_first_the_worst_and_the_best():
    rng = np.random.default_rng(0)
    inputs = rng.uniform(0.4, 0.6, (30, 8, 8, 1))
    errors = rng.permutation(30) + 1.0
    outputs = inputs + np.sqrt(errors / 64)[:, None, None, None] * rng.choice([-1, 1], (30, 8, 8, 1))
    figure = examples.reconstructions(inputs, outputs, columns=4)
    order = np.argsort(-errors)
    expected = {"first": np.arange(4), "": np.arange(4, 8), "worst": order[:4], "best": order[::-1][:4]}
    assert [axes.get_ylabel() for axes in figure.axes] == list(expected)
    for axes, rows in zip(figure.axes, expected.values(), strict=True):
        shown = tiles_of(axes, 2, 4)[..., 0]
        np.testing.assert_allclose(shown[0], inputs[rows, ..., 0], atol=1e-6)
        np.testing.assert_allclose(shown[1], outputs[rows, ..., 0].clip(0, 1), atol=1e-6)
        assert texts(axes.get_xticklabels()) == [f"{e:.2g}" for e in errors[rows]]


def test_errors_fit_below_their_images():
    errors = np.array([123_456.0, 234_567.0, 99_999.0, 1_234.0, 200.0, 0.25, 1.4e-5, 1.5e-7])
    inputs = np.zeros((8, 8, 8, 1))
    figure = examples.reconstructions(inputs, inputs + np.sqrt(errors / 64)[:, None, None, None])
    (axes,) = figure.axes
    assert texts(axes.get_xticklabels()) == ["1.2e+05", "2.3e+05", "99999", "1234", "200", "0.25", "1.4e-05", "1.5e-07"]
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(a.x1 + 1 < b.x0 for a, b in itertools.pairwise(boxes))


def test_few_reconstructions_are_shown_once():
    figure = examples.reconstructions(np.zeros((3, 8, 8, 1)), np.ones((3, 8, 8, 1)))
    assert [axes.get_ylabel() for axes in figure.axes] == ["first"]
    np.testing.assert_array_equal(tiles_of(figure.axes[0], 2, 3)[..., 0].mean((1, 2, 3)), [0, 1])


@pytest.mark.parametrize(("side", "channels", "times"), [(256, 3, 1), (28, 1, 8)])
def test_error_maps_hold_each_pixel_and_a_scale_of_colors(side, channels, times, tmp_path):
    x = np.random.default_rng(0).integers(0, 200, (2, side, side, channels)) / 255
    y = x + np.array([0.25, -0.5])[:, None, None, None] * (np.arange(side) < side // 2)[:, None, None]
    assert examples.enlarge(x.shape[1:]) == times
    figure = examples.error_maps(x, y)
    with Image.open(pictures.as_png(figure, tmp_path / "maps.png")) as opened:
        png = np.asarray(opened.convert("RGB")).astype(int)
    errors = np.abs(x - np.clip(y, 0, 1)).mean(-1)
    columns = x, np.clip(y, 0, 1), colormaps["magma"](errors / errors.max())[..., :3]
    assert texts(figure.axes[-1].get_xticklabels()) == ["0", f"{errors.max():.2g}"]
    size = side * times
    top, left = np.argwhere((png != 255).any(-1) & (np.arange(len(png)) > 33)[:, None]).min(0)
    for row in range(2):
        for column, images in enumerate(columns):
            place = png[top + row * (size + 8) :, left + column * (size + 8) :][:size, :size]
            expected = np.broadcast_to(images[row], (side, side, 3)).repeat(times, 0).repeat(times, 1) * 255
            np.testing.assert_allclose(place, expected, atol=0.51)  # rounded to 8 bits


def test_vectors_are_joined_to_their_reconstructions():
    x = vectors(20)
    figure = examples.reconstructions(x, x + 1)
    assert len(figure.axes) == 2
    for axes, columns in zip(figure.axes, ([0, 1], [1, 2]), strict=True):
        np.testing.assert_allclose([s.get_offsets() for s in axes.collections], [x[:, columns], x[:, columns] + 1])
        for i, line in enumerate(axes.lines):
            np.testing.assert_allclose(line.get_xydata(), [x[i, columns], x[i, columns] + 1])
    assert len(examples.points(x, x, ("data", "samples")).axes[0].lines) == 0


def test_samples_go_row_by_row():
    images = np.linspace(0, 1, 6)[:, None, None, None] * np.ones((6, 8, 8, 3))
    axes = draw_mosaics([in_rows(images, 3)], rows=["a", "b"]).axes[0]
    np.testing.assert_allclose(tiles_of(axes, 2, 3)[:, :, 0, 0, 0], np.linspace(0, 1, 6).reshape(2, 3), atol=1e-6)
    assert texts(axes.get_yticklabels()) == ["a", "b"]


# Charts


def oklab(colors):
    """Ottosson 2020, "A perceptual color space for image processing": from linear sRGB [n, 3]."""
    to_lms = [[0.4122215, 0.5363325, 0.0514460], [0.2119035, 0.6806995, 0.1073970], [0.0883025, 0.2817188, 0.6299787]]
    to_lab = [
        [0.2104543, 0.7936178, -0.0040720],
        [1.9779985, -2.4285922, 0.4505937],
        [0.0259040, 0.7827718, -0.8086758],
    ]
    return np.cbrt(colors @ np.array(to_lms).T) @ np.array(to_lab).T


def test_ten_labels_differ_in_the_dark():
    encoded = np.array([to_rgb(color) for color in (*CLASSES_IN_THE_DARK, "#1b1d24")])  # the last is the card's
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    light = linear @ [0.2126, 0.7152, 0.0722] + 0.05
    assert (light[:-1] / light[-1]).min() > 4.4
    lab = oklab(linear)
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2)) > 0.12


def test_curves_show_every_record():
    history = [{"step": s, "train/loss": 9.0 / s} for s in (1, 2, 3)]
    history += [{"step": 3, "validation/loss": 4.0, "validation/kl": 1.0, "validation/kl_per_value": 0.1}]
    axes = charts.curves(history).axes
    assert [a.get_title(loc="left") for a in axes] == ["loss", "kl"]
    assert [list(line.get_xdata()) for line in axes[0].lines] == [[1, 2, 3], [3]]
    assert list(axes[0].lines[0].get_ydata()) == [9, 4.5, 3]
    assert list(axes[1].lines[0].get_ydata()) == [1]


def test_usage_is_sorted_in_shares():
    axes = charts.usage([np.array([1, 5, 2])], size=4).axes[0]
    np.testing.assert_allclose(axes.patches[0].get_data().values, [62.5, 25, 12.5])
    assert list(axes.lines[0].get_ydata()) == [25, 25]
    assert axes.get_xlim() == (0.5, 4.5)
    assert charts.usage([np.array([1, 5, 2])], size=2**18).axes[0].get_xlim() == (0.5, 12.5)
    assert len(charts.usage([np.ones(3), np.ones(2)], size=4).axes[0].patches) == 2


@pytest.mark.parametrize("units", [5, 100])
def test_activity_is_sorted(units):
    deviations = np.random.default_rng(0).uniform(size=units)
    axes = charts.activity(deviations, threshold=0.1).axes[0]
    bars = [p.get_height() for p in axes.patches] if units == 5 else axes.patches[0].get_data().values
    np.testing.assert_allclose(bars, np.sort(deviations)[::-1])
    assert list(axes.lines[0].get_ydata()) == [0.1, 0.1]
    assert not charts.activity(deviations).axes[0].lines


# Latents


def test_codes_of_two_numbers_are_their_own_map():
    z = vectors(10, 2)
    for method in latents.PROJECTIONS:
        points, names = latents.project(z, method)
        np.testing.assert_array_equal(points, z)
        assert names == ("unit 1", "unit 2")


@pytest.mark.parametrize("seed", range(3))
def test_the_map_is_that_of_pca(seed):
    z = vectors(50, 5, seed) * [5, 1, 1, 4, 1]
    points, names = latents.project(z)
    u, s, _ = np.linalg.svd(z - z.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(u * s)[:, :2], rtol=1e-4, atol=1e-4)
    assert names[1] == f"component 2 ({100 * s[1] ** 2 / (s**2).sum():.0f}% of the variance)"


@pytest.mark.slow
def test_the_map_of_tsne_keeps_groups_apart():
    z = vectors(60, 5) + 20 * (np.arange(60) % 2)[:, None]
    points, _ = latents.project(z, "tsne")
    centres = np.stack([points[k::2].mean(0) for k in range(2)])
    nearest = np.linalg.norm(points[:, None] - centres, axis=-1).argmin(1)
    np.testing.assert_array_equal(nearest, np.arange(60) % 2)


def test_umap_is_asked_where_it_is(monkeypatch):
    class UMAP:
        def __init__(self, **_):
            pass

        def fit_transform(self, z):
            return 2 * z[:, :2]

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=UMAP))
    z = vectors(9, 5)
    np.testing.assert_array_equal(latents.project(z, "umap")[0], 2 * z[:, :2])
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(aejax.InputError, match=r"needs umap-learn: pip install umap-learn"):
        latents.project(z, "umap")


def test_a_map_that_cannot_be():
    with pytest.raises(aejax.InputError, match="projection 'pcs' is unknown; choose one of: pca"):
        latents.project(vectors(9, 5), "pcs")
    with pytest.raises(aejax.InputError, match="one number has no plane"):
        latents.project(vectors(9, 1))


def test_of_many_labels_the_most_frequent_have_colours():
    place, names = latents.classes(np.array([5, 7, 5]), 3)
    assert (place.tolist(), names) == ([0, 1, 0], ["5", "7"])
    label = np.repeat(np.arange(12), [1, 2, 3, 4, 5, 1, 6, 7, 8, 9, 10, 11])
    place, names = latents.classes(label, len(label))
    assert names == ["2", "3", "4", "6", "7", "8", "9", "10", "11"]
    assert {(a, b) for a, b in zip(label.tolist(), place.tolist(), strict=True) if b == -1} == {
        (0, -1),
        (1, -1),
        (5, -1),
    }
    assert place[label == 8][0] == names.index("8")
    assert latents.classes(None, 4)[0].tolist() == [0] * 4


def test_the_map_has_the_colours_of_labels_and_names_them_at_their_medians():
    z, label = vectors(30, 2), LABEL[:30] + 4
    axes = latents.latent_map(z, ("a", "b"), label).axes[0]
    dots = axes.collections[0]
    np.testing.assert_allclose(dots.get_offsets(), z)
    assert [to_hex(c) for c in dots.get_facecolors()] == [CLASSES[k] for k in label - 4]
    assert texts(axes.texts) == ["4", "5", "6"]
    np.testing.assert_allclose(axes.texts[1].get_position(), np.median(z[label == 5], 0))
    many = latents.latent_map(z, ("a", "b"), np.arange(30)).axes[0].collections[0]
    assert to_hex(many.get_facecolors()[-1]) == MUTED


@pytest.mark.parametrize("seed", range(2))
def test_the_plane_lies_as_the_codes_do(seed):
    z = vectors(2_000, 2, seed) * [1, 3] + [5, 0]
    codes, first, second = latents.grid(z, side=6)
    low, high = np.quantile(z, [0.01, 0.99], axis=0)
    np.testing.assert_allclose(codes[[0, 5, 30]], [[low[0], high[1]], [high[0], high[1]], low], rtol=1e-5)
    scaled = (codes - low) / (high - low)
    images = np.zeros((36, 8, 8, 3))
    images[..., :2] = scaled[:, None, None]
    axes = latents.plane(images, first, second).axes[0]
    shown = tiles_of(axes, 6, 6)[:, :, 0, 0]
    np.testing.assert_allclose(shown[..., 0], np.tile(np.linspace(0, 1, 6), (6, 1)), atol=1e-6)
    np.testing.assert_allclose(shown[..., 1], np.tile(np.linspace(1, 0, 6), (6, 1)).T, atol=1e-6)
    assert texts(axes.get_xticklabels())[::4] == [f"{low[0]:.1f}", f"{high[0]:.1f}"]
    assert texts(axes.get_yticklabels())[::4] == [f"{high[1]:.1f}", f"{low[1]:.1f}"]
    for ticks, length in ((axes.get_xticks(), 6 * 8), (axes.get_yticks(), 6 * 8)):
        assert 0 < ticks[0] < 8  # of the first tile, of eight pixels, and of the last
        assert length - 8 < ticks[-1] < length + 8


def test_a_traversal_moves_one_unit_at_a_time():
    z = vectors(500, 4) * [1, 5, 0.1, 2]
    codes, units = latents.traversal(z, z[3], (0.1, 0.5, 0.9), rows=3)
    assert units.tolist() == [1, 3, 0]
    for row, unit in zip(codes, units, strict=True):
        np.testing.assert_allclose(row[:, unit], np.quantile(z[:, unit], (0.1, 0.5, 0.9)), rtol=1e-5)
        np.testing.assert_allclose(np.delete(row, unit, 1), np.tile(np.delete(z[3], unit), (3, 1)), rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_slerp_turns_evenly_and_lengths_change_evenly(seed):
    a, b = vectors(2, 5, seed).astype(np.float64) * [[1], [3]]
    t = np.linspace(0, 1, 7)
    path = latents.slerp(a, b, t)
    np.testing.assert_allclose(path[[0, -1]], [a, b])
    length = np.linalg.norm(path, axis=1)
    np.testing.assert_allclose(length, np.linspace(np.linalg.norm(a), np.linalg.norm(b), 7))
    unit = path / length[:, None]
    angles = np.arccos((unit[:-1] * unit[1:]).sum(1))
    total = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    np.testing.assert_allclose(angles, total / 6)
    assert np.linalg.matrix_rank(path, tol=1e-6) == 2  # in the plane of a and b


def test_slerp_goes_straight_where_there_is_no_circle():
    a, t = np.array([1.0, 2.0, 0.0]), np.array([0, 0.25, 1])
    for b in (3 * a, -a, 0 * a):
        for x, y in ((a, b), (b, a)):
            np.testing.assert_allclose(latents.slerp(x, y, t), [x, 0.75 * x + 0.25 * y, y], atol=1e-9)


@pytest.mark.parametrize("alike", [True, False])
def test_pairs_are_of_like_or_unlike_labels_and_use_an_example_once(alike):
    label = np.array([0, 0, 0, 1, 1, 2, 1, 2, 2])
    pairs = of_subject._choose_pairs(label, len(label), alike)
    assert len(pairs) == 3 if alike else 4
    assert len({i for pair in pairs for i in pair}) == 2 * len(pairs)
    assert all((label[a] == label[b]) == alike for a, b in pairs)
    assert of_subject._choose_pairs(None, 5, False) == [(0, 1), (2, 3)]


# Of a run


def subject_of(config, x, label=None, workdir=None):
    run = aejax.fit(config, x, workdir, label=label, devices=one_device())
    return Subject.of(run, data.split({"train": data.from_array(x, label)}, run.config.data))


def images(n=60):
    return np.random.default_rng(0).integers(0, 256, (n, 8, 8, 1), np.uint8)


@pytest.fixture(scope="module")
def conditional():
    config = mlp(bottleneck=module("gaussian", features=2), likelihood__name="bernoulli", classes=3)
    return subject_of(config, images(), LABEL)


@pytest.fixture(scope="module")
def discrete():
    return subject_of(
        mlp(bottleneck=module("residual_vq", codes=8, features=4, positions=3, levels=2, update="gradient")), images()
    )


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("points")
    return workdir, subject_of(mlp(bottleneck__features=3), vectors(60), workdir=workdir)


def drawn(subject):
    found = dict(pictures.draw(subject))
    return {n: p for n, p in found.items() if not isinstance(p, Skipped)}, {
        n: p.reason for n, p in found.items() if isinstance(p, Skipped)
    }


@pytest.mark.slow
def test_pictures_of_a_conditional_code_of_two_numbers(conditional):
    found, skipped = drawn(conditional)
    assert skipped == {
        "usage": "the code is not discrete",
        "firing_frequency": "no unit is ever 0: the code is not sparse",
    }
    assert all(p.caption.endswith(".") for p in found.values())
    run, test = conditional.run, conditional.test
    codes, _, _ = latents.grid(test.latents)
    shown = tiles_of(found["plane"].figure.axes[0], 20, 20)[..., 0]
    expected = run.decode(codes, np.repeat(test.label[0], 400)).reshape(20, 20, 8, 8)
    np.testing.assert_allclose(shown, expected, atol=1e-5)
    assert f"with label {test.label[0]}" in found["plane"].caption
    labels = np.unique(test.label)
    rows = tiles_of(found["samples"].figure.axes[0], len(labels), 8)[..., 0]
    expected = run.generate(8 * len(labels), label=np.repeat(labels, 8)).reshape(rows.shape)
    np.testing.assert_allclose(rows, expected, atol=1e-5)


@pytest.mark.slow
def test_interpolations_begin_and_end_at_reconstructions(conditional):
    found, _ = drawn(conditional)
    test = conditional.test
    pairs = of_subject._choose_pairs(test.label, len(test), alike=True)
    for axes, (a, b) in zip(found["interpolations"].figure.axes, pairs, strict=True):
        shown = tiles_of(axes, 2, of_subject.STEPS)[..., 0]
        for row in shown:
            np.testing.assert_allclose(row[[0, -1]], test.reconstructions[[a, b], ..., 0], atol=1e-5)
        assert texts(axes.get_yticklabels()) == ["linear", "spherical"]
        line = latents.lerp(test.latents[a], test.latents[b], np.linspace(0, 1, of_subject.STEPS))
        decoded = conditional.run.decode(line.astype(np.float32), np.repeat(test.label[a], len(line)))
        np.testing.assert_allclose(shown[0], decoded[..., 0], atol=1e-5)


@pytest.mark.slow
def test_traversals_start_from_the_first_example(conditional):
    test = conditional.test
    axes = drawn(conditional)[0]["traversals"].figure.axes[0]
    assert texts(axes.get_xticklabels()) == [f"{100 * q:.0f}%" for q in of_subject.QUANTILES]
    unit = int(texts(axes.get_yticklabels())[0].removeprefix("unit ")) - 1
    assert unit == test.latents.std(0).argmax()
    z = np.tile(test.latents[0], (len(of_subject.QUANTILES), 1))
    z[:, unit] = np.quantile(test.latents[:, unit], of_subject.QUANTILES)
    expected = conditional.run.decode(z, np.repeat(test.label[0], len(z)))
    np.testing.assert_allclose(tiles_of(axes, 2, len(z))[0][..., 0], expected[..., 0], atol=1e-5)


@pytest.mark.slow
def test_pictures_of_a_discrete_code(discrete):
    found, skipped = drawn(discrete)
    assert set(found) == {"reconstructions", "error_maps", "samples", "map", "usage"}
    assert skipped["traversals"] == "a discrete code has no units to vary"
    indices = discrete.run.indices(discrete.test.x)
    for book, stairs in enumerate(found["usage"].figure.axes[0].patches):
        counts = np.sort(np.bincount(indices[..., book].ravel()))[::-1]
        np.testing.assert_allclose(stairs.get_data().values, 100 * counts[counts > 0] / counts.sum())


@pytest.mark.slow
def test_pictures_of_vectors(points):
    found, skipped = drawn(points[1])
    assert set(found) == {"reconstructions", "samples", "map", "activity"}
    assert skipped["interpolations"] == "examples of (6,) are not images, volumes or sequences"
    heights = [p.get_height() for p in found["activity"].figure.axes[0].patches]
    np.testing.assert_allclose(heights, np.sort(points[1].test.latents.std(0))[::-1], rtol=1e-5)


@pytest.mark.slow
def test_a_training_leaves_pictures(points):
    workdir, subject = points
    for path in pictures.save(subject.run, workdir):
        assert path.stat().st_size > 5_000
        assert path.parent.name == "8"


def test_no_curves_without_logs(tmp_path):
    assert pictures.of_logs(tmp_path) == Skipped("the workdir holds no validation yet")


@pytest.mark.parametrize("method", ["tsne", "umap"])
def test_codes_that_are_all_the_same_are_not_projected(method, monkeypatch):
    monkeypatch.setattr(latents, "check_projection", lambda method: None)
    with pytest.raises(aejax.InputError, match=f"all codes are the same: {method} has nothing to tell apart"):
        latents.project(np.ones((5, 3)), method)
