import dataclasses
import gzip
import io
import os
import struct
import tarfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import MNIST, assert_trees_equal, mlp, needs_mnist, section, whole
from PIL import Image
from sklearn.datasets import load_digits

import aejax
from aejax import data
from aejax.data import synthetic, tfds_prepare
from aejax.data import tfds as tfds_sources

# Batches


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_batches_are_a_function_of_seed_and_step_and_each_epoch_passes_every_row_once(seed):
    n, size = 103, 10
    steps = [data.shuffle_rows(n, size, seed)(step) for step in range(20)]
    np.testing.assert_array_equal(data.shuffle_rows(n, size, seed)(13), steps[13])
    for epoch in (steps[:10], steps[10:]):
        assert max(Counter(np.concatenate(epoch).tolist()).values()) == 1
    assert np.any(np.concatenate(steps[:10]) != np.concatenate(steps[10:]))
    assert np.any(data.shuffle_rows(n, size, seed + 1)(0) != steps[0])
    assert set(np.concatenate(steps).tolist()) <= set(range(n))


def test_batch_larger_than_the_data_is_named():
    with pytest.raises(aejax.InputError, match="batch_size=11 is larger than the 10 training examples"):
        data.shuffle_rows(10, 11, 0)(0)


def test_padded_batches_weigh_each_example_once():
    rows, weights = zip(*(data.pad_rows(10, 4, step) for step in range(3)), strict=True)
    assert np.concatenate(weights).sum() == 10
    assert np.concatenate(rows)[np.concatenate(weights) > 0].tolist() == list(range(10))
    assert np.concatenate(rows).max() == 9


def test_what_fills_a_batch_is_distributed_as_the_examples():
    """A mean or covariance of the whole batch must not be that of one example."""
    rows, _ = data.pad_rows(3, 9, 0)
    assert rows.tolist() == [0, 1, 2] * 3
    assert data.pad_rows(10, 4, 2)[0].tolist() == [8, 9, 0, 1]


def test_each_run_draws_its_permutations_once(monkeypatch):
    drawn, real = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: drawn.append(seed) or real(seed))
    orders = [data.shuffle_rows(103, 10, seed) for seed in range(20)]
    for step in range(20):
        for rows in orders:
            rows(step)
            rows(max(0, step - 1))  # a dispatch between two epochs
    assert len(drawn) == 20 * 2


@pytest.mark.parametrize("start", [0, 7])
def test_streamed_batches_equal_held_ones(start):
    source = data.from_array(np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), np.uint8), np.arange(50))

    def rows_of(step):
        return data.shuffle_rows(50, 8, 3)(step)

    held, streamed = (data.Feed(source, budget, lambda x: x) for budget in (source.nbytes, source.nbytes - 1))
    assert held.held
    assert not streamed.held
    batches = list(streamed.batches(rows_of, start, 15))
    assert len(batches) == 15 - start
    for a, b in zip(held.batches(rows_of, start, 15), batches, strict=True):
        np.testing.assert_array_equal(a["index"], b["index"])
        np.testing.assert_array_equal(held.held["x"][a["index"]], b["x"])
        np.testing.assert_array_equal(b["label"], b["index"])
        assert b["x"].dtype == np.uint8


# Sources and splits


def test_digits_are_scikit_learns():
    source = synthetic.make_digits(0)
    arrays = whole(source)
    assert source.shape == (8, 8, 1)
    np.testing.assert_allclose(arrays["x"][..., 0] / 255 * 16, load_digits().images, atol=0.04)  # rounding to 1/255
    np.testing.assert_array_equal(arrays["label"], load_digits().target)
    assert synthetic.make_digits(28).shape == whole(synthetic.make_digits(28))["x"].shape[1:] == (28, 28, 1)


def test_toy_clouds_are_what_they_say():
    plane = whole(synthetic.make_plane(0))["x"]
    deviations = np.linalg.svd(plane - plane.mean(0), compute_uv=False) / np.sqrt(len(plane))
    np.testing.assert_allclose(deviations, [1, 0.7, 0.05], rtol=0.05)
    assert synthetic.make_sheet(0).shape == (5,)


# Factors of variation


def numbered(n=100, seed=0):
    """Vectors whose first value is their row, with labels and factors that tell it too."""
    row = np.arange(n)
    x = np.random.default_rng(seed).normal(size=(n, 3))
    x[:, 0] = row
    return data.from_array(x, row % 7, factors=np.stack([row // 10, row % 10], 1))


def assert_rows_belong_together(arrays):
    row = arrays["x"][:, 0].astype(int)
    np.testing.assert_array_equal(arrays["factors"], np.stack([row // 10, row % 10], 1))
    assert arrays["factors"].dtype == np.int32
    np.testing.assert_array_equal(arrays["label"], row % 7)


def test_factors_stay_with_their_examples():
    source = numbered()
    parts = data.split({"train": source}, section(train="train[10%:40%]+train[60%:]"))
    assert list(map(len, parts)) == [70, 15, 15]
    assert_rows_belong_together(parts.train.take(np.array([69, 0, 31, 29, 30])))
    for part in (*parts, source.subset(np.array([5, 99, 5]), "some")):
        assert_rows_belong_together(data.read(part, chunk=4))


def test_joined_splits_have_what_all_of_them_have():
    """Or a row of the one without would be given what was in memory before."""
    x = np.arange(20.0).reshape(10, 2)
    wholes = {
        "train": data.from_array(x, np.arange(10), factors=np.ones((10, 1), int)),
        "test": data.from_array(-x, np.arange(10)),
    }
    joined = data.select(wholes, "test+train")
    for rows in ([3, 12], [3], [12]):
        assert set(joined.take(np.array(rows))) == {"x", "label"}
    np.testing.assert_array_equal(joined.take(np.array([12, 3]))["x"], [x[2], -x[3]])
    assert set(data.select(wholes, "train+test[:0%]").take(np.arange(2))) == {"x", "label", "factors"}


@pytest.mark.parametrize("budget", [2**20, 0])
def test_factors_do_not_go_to_the_devices(budget):
    feed = data.Feed(numbered(), budget, lambda x: x)
    assert bool(feed.held) == bool(budget)
    batch = next(feed.batches(lambda step: np.array([3, 7]), 0, 1))
    assert set(feed.held or batch) - {"index"} == {"x", "label"}
    assert set(feed.source.take(np.arange(2))) == {"x", "label"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*root mean squares")
@pytest.mark.parametrize(("count", "memory_mb"), [(1, 1), (4, 0)])
def test_training_takes_no_notice_of_factors(count, memory_mb, tmp_path):
    config = mlp(steps=2, checkpoint_every=2, data__memory_mb=memory_mb)
    source, params = numbered(), []
    for name in ("with", "without"):
        splits = data.split({"train": source}, config.data)
        run = aejax.train(config, tmp_path / name, data=splits, devices=jax.devices()[:count])
        params.append(run.variables)
        source = data.from_array(whole(source)["x"])
    assert_trees_equal(*params)


@pytest.mark.parametrize(
    "factors", [np.zeros((4, 2), int), np.zeros(5, int), np.zeros((5, 0), int), np.zeros((5, 2)), [["a"]] * 5]
)
def test_unusable_factors_are_named(factors):
    with pytest.raises(aejax.InputError, match=r"factors have dtype .*; give whole numbers \[5, factors\]"):
        data.from_array(np.zeros((5, 2)), factors=factors)


def test_npz_files_hold_factors(tmp_path):
    x, factors = np.random.default_rng(0).normal(size=(40, 3)), np.arange(80).reshape(40, 2)
    np.savez(tmp_path / "a.npz", x=x, factors=factors)
    found = whole(data.find(section(name=str(tmp_path / "a.npz")))["train"])
    np.testing.assert_array_equal(found["factors"], factors)
    assert "label" not in found
    np.savez(tmp_path / "b.npz", train=x, test=x[:9], train_factors=factors, test_factors=factors[9:18])
    train, validation, test = data.load(section(name=str(tmp_path / "b.npz")))
    np.testing.assert_array_equal(whole(test)["factors"], factors[9:18])
    for part in (train, validation):
        taken = whole(part)
        rows = [int(np.flatnonzero((x == example).all(1))[0]) for example in taken["x"]]
        np.testing.assert_array_equal(taken["factors"], factors[rows])


def test_shapes_are_every_combination_of_their_factors():
    source = data.find(section(name="shapes"))["train"]
    arrays = whole(source)
    factors = arrays["factors"]
    assert source.shape == (16, 16, 1)
    assert factors.shape == (len(source), 5) == (3072, 5)
    assert len(set(map(tuple, factors))) == 3072
    assert factors.max(0).tolist() == [n - 1 for n in synthetic.FACTORS.values()]
    assert len({image.tobytes() for image in arrays["x"]}) == 3072  # each factor is seen
    np.testing.assert_array_equal(arrays["label"], factors[:, 0])


@pytest.mark.parametrize("side", [16, 40])
def test_shapes_are_drawn_as_their_factors_say(side):
    """Centre, area and brightness measured in the picture."""
    factors = synthetic.combine_factors()
    assert synthetic.make_shapes(side).shape == (side, side, 1)
    images = synthetic.draw(factors, side)[..., 0].astype(float)
    _, size, x, y, brightness = factors.T
    np.testing.assert_array_equal(images.max((1, 2)), 51 * (2 + brightness))
    assert max(images[:, [0, -1]].max(), images[:, :, [0, -1]].max()) < 128  # a corner at most: nothing is cut off
    mass = images.sum((1, 2)) / (51 * (2 + brightness)) * (16 / side) ** 2
    np.testing.assert_allclose(mass, np.pi * (1.5 + 0.45 * size) ** 2, rtol=0.13)  # of a small one's edges at 16x16
    centres = (np.arange(side) + 0.5) * 16 / side
    for axis, place in ((1, x), (2, y)):
        centre = (images.sum(axis) * centres).sum(1) / images.sum((1, 2))
        np.testing.assert_allclose(centre, 5 + place * 6 / 7, atol=0.2)  # a step is 0.86


def test_a_disc_reaches_less_far_than_a_square_and_that_less_than_a_triangle():
    """Of one area: 1, 1.25 and 1.56 times the disc's radius."""
    factors = synthetic.combine_factors()
    factors = factors[factors[:, 1] == 3]  # pixels are small beside the largest
    images = synthetic.draw(factors, 64)[..., 0]
    shape, size, x, y, _ = factors.T[..., None, None]
    centres = (np.arange(64) + 0.5) / 4
    far = np.hypot(centres[:, None] - 5 - 6 / 7 * y, centres - 5 - 6 / 7 * x) / (1.5 + 0.45 * size)
    reach = (far * (images > images.max((1, 2), keepdims=True) / 2)).max((1, 2))
    for k, expected in enumerate((1, np.sqrt(np.pi / 2), 2 * np.sqrt(np.pi / np.sqrt(27)))):
        np.testing.assert_allclose(reach[shape[:, 0, 0] == k], expected, atol=0.15)
    grey = np.mean((images > 0) & (images < images.max((1, 2), keepdims=True)), (1, 2)) * 64**2
    assert grey.max() < 120  # edges are a pixel wide: the outlines are 72 to 92 pixels long


def test_automatic_splits_part_the_data():
    parts = data.load(section(name="digits"))
    assert [len(part) for part in parts] == [1439, 179, 179]
    pixels = [{image.tobytes() for image in whole(part)["x"]} for part in parts]
    assert len(set.union(*pixels)) == sum(map(len, pixels)) == 1797  # digits holds no image twice


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ({"train": "train[:90%]"}, (180, 10, 10)),
        ({"test": "train[:50%]"}, (80, 20, 100)),
        ({"validation": "train[150:]"}, (130, 50, 20)),
        ({"train": "train[:100]", "test": "train[100:130]"}, (100, 70, 30)),
    ],
)
def test_parts_left_empty_never_share_rows_with_those_given(given, sizes):
    wholes = {"train": data.from_array(np.arange(400.0).reshape(200, 2))}
    parts = data.split(wholes, section(**given))
    assert tuple(map(len, parts)) == sizes
    rows = np.concatenate([whole(part)["x"][:, 0] for part in parts])
    assert len(set(rows)) == len(rows) == 200
    own = {**wholes, "test": data.from_array(np.zeros((7, 2)))}
    assert tuple(map(len, data.split(own, section(train="train[:90%]")))) == (180, 20, 7)
    with pytest.raises(aejax.InputError, match=r"the validation split is empty; set data\.validation"):
        data.split(wholes, section(train="train"))


def test_automatic_splits_of_sorted_data_are_fair():
    label = np.repeat(np.arange(4), 500)
    parts = data.split({"train": data.from_array(np.arange(4000.0).reshape(2000, 2), label)}, section())
    shares = [np.bincount(whole(part)["label"]) / len(part) for part in parts]
    assert np.abs(np.array(shares) - 0.25).max() < 0.12  # four deviations of a share of 200
    assert all(np.all(np.diff(whole(part)["x"][:, 0]) > 0) for part in parts)


def test_splits_in_tfds_syntax_and_in_the_order_of_the_file():
    source = data.from_array(np.arange(200.0).reshape(100, 2))
    wholes = {"train": source, "test": source.subset(np.arange(10), "test")}
    np.testing.assert_array_equal(whole(data.select(wholes, "train[5:8]"))["x"][:, 0], [10, 12, 14])
    assert len(data.select(wholes, "train[:25%]")) == 25
    np.testing.assert_array_equal(whole(data.select(wholes, "train"))["x"], whole(source)["x"])
    parts = [whole(data.select(wholes, f"train[{i}%:{i + 20}%]"))["x"][:, 0] for i in range(0, 100, 20)]
    assert sorted(np.concatenate(parts)) == list(range(0, 200, 2))
    assert all(np.all(np.diff(part) > 0) for part in parts)
    joined = data.select(wholes, "test+train[:5]")
    assert len(joined) == 15
    np.testing.assert_array_equal(joined.take(np.array([12, 3]))["x"][1], [6, 7])
    assert whole(joined)["x"].shape == (15, 2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tset", "split 'tset': .*splits here: train"),
        ("train[:0%]", "split 'train\\[:0%\\]' is empty; the data set has train 1797 examples"),
        ("train[oops", "split 'train\\[oops'"),
    ],
)
def test_wrong_splits_are_named(spec, message):
    with pytest.raises(aejax.InputError, match=message):
        data.load(section(name="digits", test=spec))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((3, 2), np.nan), "example 0 holds NaN or infinity"),
        (np.array([[1.0, 2.0], [3.0, np.inf]]), "example 1 holds NaN or infinity"),
        (np.array([[1.0, 2.0], [3.0, 1e300]]), "example 1 holds NaN or infinity in float32"),
        (np.zeros((3,)), r"shape \(3,\); give"),
        (np.zeros((3, 2, 2, 1, 1, 1)), "shape"),
        (np.zeros((0, 2)), "holds no numbers"),
        (np.array([[1], [1, 2]], dtype=object), "all of one shape"),
        (np.array([["a"]]), "give numbers"),
        (np.full((2, 4, 4), 3.0), r"must lie in \[0, 1\], found 3.0 to 3.0"),
        (np.zeros((2, 4, 4), np.int64), "give uint8"),
    ],
)
def test_unusable_arrays_are_named(array, message):
    with pytest.raises(aejax.InputError, match=message):
        data.from_array(array)


def test_ragged_lists_are_refused_by_fit():
    with pytest.raises(aejax.InputError, match="one shape"):
        aejax.fit(aejax.config.default(), [[1.0, 2.0], [3.0]])


def test_npy_and_npz_files(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (40, 6, 6), np.uint8)
    np.save(tmp_path / "a.npy", x)
    loaded = data.find(section(name=str(tmp_path / "a.npy")))
    np.testing.assert_array_equal(whole(loaded["train"])["x"][..., 0], x)
    np.savez(tmp_path / "b.npz", train=x[:30], test=x[30:], test_label=np.arange(10))
    train, validation, test = data.load(section(name=str(tmp_path / "b.npz")))
    assert (len(train), len(validation), len(test)) == (27, 3, 10)
    np.testing.assert_array_equal(whole(test)["label"], np.arange(10))
    np.savez(tmp_path / "c.npz", x=x, label=np.arange(40))
    np.testing.assert_array_equal(whole(data.find(section(name=str(tmp_path / "c.npz")))["train"])["label"], range(40))
    np.savez(tmp_path / "d.npz", faces=x)
    assert len(data.find(section(name=str(tmp_path / "d.npz")))["train"]) == 40


def test_splits_of_other_shapes_are_named(tmp_path):
    np.savez(tmp_path / "x.npz", train=np.zeros((20, 4)), test=np.zeros((5, 3)))
    with pytest.raises(aejax.InputError, match=r"test split holds examples of \(3,\), train of \(4,\)"):
        data.load(section(name=str(tmp_path / "x.npz")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda f: np.savez(f, a=np.zeros((2, 2)), b=np.zeros((2, 2))), "holds a, b; name the examples 'x'"),
        (lambda f: np.savez(f, x=np.array([1, None])), "not a readable array"),
        (lambda f: f.write(b"nonsense"), "not a readable array"),
        (lambda f: f.write(b"PK" + bytes(40)), "not a readable array"),
        (lambda f: np.savez(f, x=np.zeros((4, 2)), label=np.zeros(3)), "4 examples but 3 labels"),
        (
            lambda f: np.savez(f, x=np.zeros((4, 2)), label=np.full(4, 0.5)),
            r"labels have dtype float64.* give whole numbers",
        ),
        (lambda f: np.savez(f, x=np.zeros((4, 2)), label=np.eye(4, dtype=int)), r"shape \(4, 4\); give whole numbers"),
        (lambda f: np.savez(f, x=np.zeros((4, 2)), label=list("abcd")), "labels have dtype <U1"),
    ],
)
def test_unusable_files_are_named(tmp_path, content, message):
    file = tmp_path / "x.npz"
    with file.open("wb") as opened:
        content(opened)
    with pytest.raises(aejax.InputError, match=message):
        data.find(section(name=str(file)))


def test_missing_files_and_misspelled_names():
    for name, message in (
        ("", "data.name is empty"),
        ("my-images", "no data set, file or folder is called 'my-images'"),
        ("array-01234567", "an array that it does not keep"),
        ("./nope", "no such folder"),
        ("nope.npy", "no such file"),
        ("mnsit", "did you mean 'mnist'"),
        ("mnist:9.9.9", "no data set, file or folder is called 'mnist:9.9.9'"),
        (
            "huggingface:mnist",
            "'huggingface:mnist': data sets of Hugging Face cannot be read; save the images to a folder",
        ),
    ):
        with pytest.raises(aejax.InputError, match=message):
            data.find(section(name=name))


def picture(folder, name, size=(6, 5), mode="RGB", seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(folder / name)
    return pixels


def test_folder_of_images(tmp_path):
    cat = picture(tmp_path / "cats", "1.png", seed=1)
    picture(tmp_path / "dogs", "1.JPG", seed=2)
    picture(tmp_path / "dogs", "2.jpeg", mode="L", seed=3)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._1.png").write_bytes(b"what macOS leaves behind")
    source = data.find(section(name=str(tmp_path)))["train"]
    arrays = whole(source)
    assert source.shape == (6, 5, 3)
    np.testing.assert_array_equal(arrays["x"][0], cat)
    assert arrays["label"].tolist() == [0, 1, 1]
    assert source.take(np.array([2, 0]))["label"].tolist() == [1, 0]
    small = data.find(section(name=str(tmp_path), size=4))["train"].take(np.array([0]))["x"][0]
    center = Image.fromarray(cat).resize((4, 4), Image.Resampling.BICUBIC, box=(0, 0, 5, 5))  # in whole pixels
    np.testing.assert_array_equal(small, np.asarray(center))
    assert data.find(section(name=str(tmp_path), size=4))["train"].shape == (4, 4, 3)
    picture(tmp_path / "dogs", "3.png", size=(9, 9))
    with pytest.raises(aejax.InputError, match=r"3\.png has 9x9 pixels, but 1\.png has 6x5; resize all with data.size"):
        data.find(section(name=str(tmp_path)))
    resized = data.find(section(name=str(tmp_path), size=4))["train"]
    assert whole(resized)["x"].shape == (4, 4, 4, 3)


def test_folders_called_train_and_test_are_the_splits(tmp_path):
    for split, kind, number in (("train", "cat", 1), ("train", "dog", 2), ("test", "dog", 3), ("test", "dog", 4)):
        picture(tmp_path / split / kind, f"{number}.png", seed=number)
    picture(tmp_path / "train" / ".ipynb_checkpoints", "1.png", seed=1)
    found = data.find(section(name=str(tmp_path)))
    labels = {name: whole(source)["label"].tolist() for name, source in found.items()}
    assert labels == {"train": [0, 1], "test": [1, 1]}


def test_a_picture_as_large_as_a_bomb_is_named(tmp_path, monkeypatch):
    picture(tmp_path, "huge.png", size=(60, 50))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(aejax.InputError, match=r"huge\.png: a corrupt image"):
        data.find(section(name=str(tmp_path)))


@pytest.mark.parametrize("cut", [4, 60])
def test_corrupt_image_is_named(tmp_path, cut):
    picture(tmp_path, "good.png")
    picture(tmp_path, "torn.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "torn.png").read_bytes()[:cut])
    with pytest.raises(aejax.InputError, match=r"torn\.png: a corrupt image"):
        data.read(data.find(section(name=str(tmp_path)))["train"])


def test_empty_folder_is_named(tmp_path):
    with pytest.raises(aejax.InputError, match=r"no \.png"):
        data.find(section(name=str(tmp_path)))


# The model's units


def test_images_are_read_in_the_unit_interval():
    spec = data.Spec((1, 1, 3))
    np.testing.assert_allclose(spec.prepare(np.array([[[[0, 51, 255]]]], np.uint8))[0, 0, 0], [0, 0.2, 1], rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_standardised_vectors_come_back_in_their_units(seed):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(5000, 3)) * [1e-3, 1, 1e4] + [5, 0, -3e4]).astype(np.float32)
    x = np.concatenate([x, np.full((5000, 1), 7, np.float32)], 1)
    spec = data.Spec.of(data.from_array(x), standardize=True)
    read = np.asarray(spec.prepare(spec.check(x)))
    np.testing.assert_allclose(read[:, :3].mean(0), 0, atol=2e-3)
    np.testing.assert_allclose(read[:, :3].std(0), 1, rtol=2e-3)
    np.testing.assert_allclose(read[:, 3], 0, atol=1e-5)  # constant: centred, not divided by zero
    assert data.Spec.of(data.from_array(np.full((997, 1), 0.1)), standardize=True).deviation == (1.0,)
    np.testing.assert_allclose(spec.restore(read), x, rtol=1e-5, atol=1e-2)
    assert data.Spec.from_dict(spec.to_dict()) == spec


def test_images_are_not_standardised():
    with pytest.raises(aejax.InputError, match="standardize is for vectors"):
        data.Spec.of(synthetic.make_digits(0), standardize=True)


# TFDS


@needs_mnist
def test_mnist_from_tfds_is_mnist():
    parts = data.load(section(name="mnist", data_dir=str(MNIST)))
    assert [len(part) for part in parts] == [54_000, 6_000, 10_000]
    arrays = parts.test.take(np.arange(2000))
    assert arrays["x"].shape == (2000, 28, 28, 1)
    assert arrays["x"].dtype == np.uint8
    assert abs(arrays["x"].mean() / 255 - 0.1307) < 0.005  # MNIST's mean pixel
    assert set(arrays["label"]) == set(range(10))


@needs_mnist
def test_data_dir_of_the_environment_is_honoured(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(MNIST))
    assert len(data.find(section(name="mnist"))["test"]) == 10_000


def test_sets_that_need_tensorflow_say_which_extra_to_install(tmp_path):
    with pytest.raises(aejax.InputError, match="pip install tensorflow"):
        data.find(section(name="svhn_cropped", data_dir=str(tmp_path)))


def test_no_network_is_said_at_once(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr(tfds_prepare.urllib.request, "urlopen", refuse)
    with pytest.raises(aejax.InputError, match=r"'mnist' could not be downloaded.*TFDS_DATA_DIR"):
        data.find(section(name="mnist", data_dir=str(tmp_path)))


def idx(array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes())


def fake_files(name, images, labels):
    """What the servers would give: by the last part of the URL."""
    if name == "cifar10":
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:

            def add(path, content):
                info = tarfile.TarInfo("cifar-10-batches-bin/" + path)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))

            add("batches.meta.txt", "\n".join(f"class{i}" for i in range(10)).encode())
            records = [bytes([y]) + x.transpose(2, 0, 1).tobytes() for x, y in zip(images, labels, strict=True)]
            for i in range(5):
                add(f"data_batch_{i + 1}.bin", b"".join(records[i::5]))
            add("test_batch.bin", b"".join(records[:3]))
        return {"cifar-10-binary.tar.gz": archive.getvalue()}
    return {
        "train-images-idx3-ubyte.gz": idx(images[..., 0]),
        "train-labels-idx1-ubyte.gz": idx(labels),
        "t10k-images-idx3-ubyte.gz": idx(images[:3, ..., 0]),
        "t10k-labels-idx1-ubyte.gz": idx(labels[:3]),
    }


@pytest.mark.parametrize("name", tfds_prepare.WITHOUT_TENSORFLOW)
def test_downloaded_sets_are_prepared_without_tensorflow(name, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    shape = (32, 32, 3) if name == "cifar10" else (28, 28, 1)
    images, labels = rng.integers(0, 256, (20, *shape), np.uint8), rng.integers(0, 10, 20).astype(np.uint8)
    files = fake_files(name, images, labels)

    def download(self, urls):
        def one(url):
            file = tmp_path / "downloads" / url.rsplit("/", 1)[1]
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(files[file.name])
            return file

        return one(urls) if isinstance(urls, str) else {k: download(self, v) for k, v in urls.items()}

    monkeypatch.setattr(tfds.download.DownloadManager, "download", download)
    monkeypatch.setattr(tfds_prepare, "_check_server", lambda *args: None)
    found = data.find(section(name=name, data_dir=str(tmp_path / "tfds")))
    assert {key: len(value) for key, value in found.items()} == {"train": 20, "test": 3}
    train = whole(found["train"])
    by_pixels = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    assert {image.tobytes(): label for image, label in zip(train["x"], train["label"], strict=True)} == by_pixels
    monkeypatch.setattr(tfds.download.DownloadManager, "download", None)  # prepared: nothing is fetched again
    again = data.find(section(name=name, data_dir=str(tmp_path / "tfds")))
    np.testing.assert_array_equal(whole(again["train"])["x"], train["x"])


def test_reading_from_many_threads_keeps_the_rows():
    source = data.from_array(np.arange(4000.0).reshape(2000, 2))
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda i: source.take(np.array([i]))["x"][0, 0], range(2000)))
    assert parts == [2.0 * i for i in range(2000)]
    np.testing.assert_array_equal(data.read(source, chunk=7)["x"], whole(source)["x"])


@pytest.mark.parametrize(("size", "files", "count"), [(32, 1, 1), (32, 32, 4), (32, 0, 4), (128, 1, 4)])
def test_small_images_of_a_file_are_read_by_one_thread(size, files, count, monkeypatch):
    """Several that decode them wait for each other, but not those that wait for a disk."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    by, images = set(), np.zeros((32, size, size, 3), np.uint8)
    together = threading.Barrier(count)  # broken where fewer come

    def take(rows):
        by.add(threading.get_ident())
        if len(rows) > 1:
            together.wait(timeout=20)
        return {"x": images[rows]}

    source = dataclasses.replace(data.from_array(images), take=take, files=(Path("file"),) * files)
    np.testing.assert_array_equal(data.read(source, chunk=4)["x"], images)
    by.discard(threading.get_ident())
    assert len(by) == count
    by.clear()
    streamed = list(data.stream(source, lambda step: np.arange(8) + 8 * (step % 4), 0, 8))
    assert len(streamed) == 8
    assert len(by) == count


@pytest.mark.parametrize(("channels", "encoding"), [(1, "png"), (3, "png"), (3, "jpeg"), (4, "png")])
def test_images_of_tfds_are_what_tfds_decodes(channels, encoding, tmp_path):
    image = tfds.features.Image(shape=(8, 9, channels), encoding_format=encoding)
    features = {"image": image, "label": tfds.features.ClassLabel(num_classes=11), "id": tfds.features.Text()}
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 9, channels)).astype(np.uint8)

    class Coloured(tfds.testing.DummyDataset, skip_registration=True):
        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, x in enumerate(pixels):
                encoded = io.BytesIO()
                Image.fromarray(x.squeeze()).save(encoded, encoding)
                yield i, {"image": encoded.getvalue(), "label": 5 * i, "id": str(i)}

    builder = Coloured(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    theirs, ours = builder.as_data_source("train"), whole(tfds_sources._tfds_split(builder, "train", 0))
    np.testing.assert_array_equal(ours["x"], np.stack([example["image"] for example in theirs]))
    np.testing.assert_array_equal(ours["label"], [example["label"] for example in theirs])


def test_images_of_several_sizes_must_be_resized(tmp_path):
    class Several(tfds.testing.DummyDataset):
        def _info(self):
            features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(None, None, 3))})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(4):
                yield i, {"image": Image.fromarray(np.full((8 + i % 2, 8, 3), i, np.uint8))}

    builder = Several(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    with pytest.raises(aejax.InputError, match="images of several sizes"):
        whole(tfds_sources._tfds_split(builder, "train", 0))
    assert whole(tfds_sources._tfds_split(builder, "train", 8))["x"].shape == (4, 8, 8, 3)


@pytest.mark.parametrize(("largest", "factor"), [(1, 255), (7, 1)])
def test_images_of_tfds_stored_as_0_and_1_become_0_and_255(largest, factor, tmp_path):
    """And those of a set that has larger values stay, though its first image has none."""

    class Drawn(tfds.testing.DummyDataset, skip_registration=True):
        def _info(self):
            features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(4, 4, 1))})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(6):
                yield i, {"image": Image.fromarray(np.full((4, 4), largest if i == 4 else i % 2, np.uint8))}

    builder = Drawn(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    stored = np.stack([example["image"] for example in builder.as_data_source("train")])
    assert stored[0].max() <= 1
    np.testing.assert_array_equal(whole(tfds_sources._tfds_split(builder, "train", 0))["x"], stored * factor)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dsprites", ["shape", "scale", "orientation", "x_position", "y_position"]),
        ("shapes3d", ["floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation"]),
        ("smallnorb", ["category", "elevation", "azimuth", "lighting"]),
    ],
)
def test_labels_by_factor_of_tfds_are_factors(name, expected, tmp_path):
    """The features are the set's own, the images drawn at random."""
    features = tfds.builder(name, data_dir=tmp_path).info.features
    rng = np.random.default_rng(0)
    values = np.stack([rng.integers(0, features[f"label_{f}"].num_classes, 6) for f in expected], 1)

    class Stand(tfds.testing.DummyDataset, skip_registration=True):
        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(6):
                shapes = {k: f.shape for k, f in features.items() if k.startswith("image")}
                images = {k: Image.fromarray(np.full(s, i, np.uint8).squeeze()) for k, s in shapes.items()}
                others = {k: f.np_dtype(0) for k, f in features.items() if f.shape == ()}
                yield i, {**images, **others, **{f"label_{k}": v for k, v in zip(expected, values[i], strict=True)}}

    builder = Stand(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    arrays = tfds_sources._tfds_split(builder, "train", 0).take(np.array([5, 0, 1, 2, 3, 4]))
    np.testing.assert_array_equal(arrays["factors"], values[arrays["x"][:, 0, 0, 0]])
    assert arrays["factors"].dtype == np.int32
    assert "label" not in arrays
