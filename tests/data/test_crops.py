"""Random crops and mirror images: which square is taken, and that it depends on seed, step and example alone."""

import io

import jax
import numpy as np
import pytest
from conftest import MNIST, conv, needs_mnist, one_device
from PIL import Image

import aejax
from aejax import data
from aejax.data.images import Crop, decode, resize
from aejax.data.sources import from_array
from aejax.distributed.partition import Partition
from aejax.training.multistep import batches
from aejax.training.step import mirror
from aejax.workdir import metrics_log


def picture(h, w, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


@pytest.mark.parametrize(("h", "w"), [(24, 40), (40, 24), (24, 24)])
@pytest.mark.parametrize("zoom", [1, 2])
def test_a_crop_is_the_square_that_it_names(h, w, zoom):
    image, side = picture(h, w), 24 // zoom
    for top in {0, (h - side) // 2, h - side}:
        for left in {0, (w - side) // 2, w - side}:
            crop = Crop(zoom, left / (w - side) if w > side else 0.3, top / (h - side) if h > side else 0.3)
            square = image[top : top + side, left : left + side]
            np.testing.assert_array_equal(resize(image, side, "random", crop), square)
            content = io.BytesIO()
            Image.fromarray(image).save(content, "PNG")
            np.testing.assert_array_equal(decode(content, "it", 3, side, "random", crop), square)
            expected = np.asarray(Image.fromarray(square).resize((8, 8), Image.Resampling.BICUBIC))
            # Pillow smooths beyond a box that it is given, not beyond an image: the outer pixels differ.
            np.testing.assert_allclose(resize(image, 8, "random", crop)[2:-2, 2:-2], expected[2:-2, 2:-2], atol=1)
    np.testing.assert_array_equal(resize(image, 8, "random"), resize(image, 8, "crop"))  # evaluation


def test_a_jpeg_that_is_decoded_at_a_fraction_is_cropped_alike():
    smooth = np.asarray(Image.fromarray(picture(20, 30)).resize((480, 320), Image.Resampling.BICUBIC))
    content = io.BytesIO()
    Image.fromarray(smooth).save(content, "JPEG", quality=95)
    for crop in (Crop(1.25, 0.7, 0.2), Crop(4, 0.7, 0.2)):  # the second from finer pixels: it has a quarter of a side
        np.testing.assert_allclose(
            decode(content, "it", 3, 16, "random", crop), resize(smooth, 16, "random", crop).astype(int), atol=12
        )


def test_crops_are_a_function_of_seed_step_and_row():
    rows = np.arange(2_000)
    crops = data.draw_crops(3, 7, rows, 1.5)
    np.testing.assert_array_equal(data.draw_crops(3, 7, rows[::-1][:50], 1.5), crops[::-1][:50])
    for other in (data.draw_crops(4, 7, rows, 1.5), data.draw_crops(3, 8, rows, 1.5)):
        assert not np.isclose(other, crops).any(1).all()
    assert np.unique(crops).size == crops.size
    low, high = np.array([1, 0, 0]), np.array([1.5, 1, 1])
    assert ((crops >= low) & (crops <= high)).all()
    # A mean of 2,000 uniform values is within five of its standard deviations, 1 / sqrt(12 * 2000), of the middle.
    np.testing.assert_allclose(crops.mean(0), (low + high) / 2, atol=5 / np.sqrt(12 * 2_000))
    np.testing.assert_array_equal(data.draw_crops(0, 0, rows[:5], 1.0)[:, 0], 1)


@pytest.mark.parametrize("at_once", [1, 2])
def test_batches_hold_the_crops_of_their_steps(at_once):
    images = np.stack([picture(12, 20, seed) for seed in range(10)])
    source = from_array(images, np.arange(10), size=8, fit="random").subset(np.arange(9, 1, -1), "reversed")
    feed = data.Feed(source, 2**30, lambda x: x, zoom=1.5)
    assert not feed.held
    partition = Partition(one_device())
    rows = data.shuffle_rows(8, 4, 5)
    for dispatch, batch in enumerate(batches(feed, 4, 5, partition, at_once, range(4))):
        for i in range(at_once):
            step = dispatch * at_once + i
            crops = data.draw_crops(5, step, rows(step), 1.5)
            expected = [
                resize(images[9 - row], 8, "random", Crop(*c)) for row, c in zip(rows(step), crops, strict=True)
            ]
            np.testing.assert_array_equal(batch["x"][i], expected)
            np.testing.assert_array_equal(batch["label"][i], 9 - rows(step))


def folder_of(path, count=24):
    for i in range(count):
        file = path / "ab"[i % 2] / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(12, 18, i)[..., 0]).save(file)
    return path


def test_only_training_is_random_and_splits_may_be_joined(tmp_path):
    section = aejax.config.default().data
    section.update({"name": str(folder_of(tmp_path)), "size": 8, "fit": "random", "validation": "train[:4]"})
    section.update({"train": "train[20:]+train[4:12]", "test": "train[12:20]"})
    splits = data.load(section)
    assert splits.validation.draw is None
    assert splits.test.draw is None
    rows = np.array([11, 0, 5])
    crops = data.draw_crops(0, 0, rows, 1.0)
    found = splits.train.draw(rows, crops)
    whole = data.find(section)["train"]
    expected = whole.draw(np.array([11, 20, 5]), crops)
    for key in ("x", "label"):
        np.testing.assert_array_equal(found[key], expected[key])
    assert (found["x"] != splits.train.take(rows)["x"]).any((1, 2, 3)).all()
    with pytest.raises(aejax.InputError, match=r"data.fit=random crops images to data.size, which is 0; set it"):
        aejax.fit(conv(data__fit="random"), np.zeros((20, 8, 8, 1), np.uint8))
    with pytest.raises(aejax.InputError, match=r"data.zoom must be at least 1 and below 1000, got 0.5"):
        aejax.fit(conv(data__zoom=0.5), np.zeros((20, 8, 8, 1), np.uint8))
    with pytest.raises(aejax.InputError, match=r"data.zoom=1.5 is that of random crops; set data.fit=random, too"):
        aejax.fit(conv(data__zoom=1.5), np.zeros((20, 8, 8, 1), np.uint8))


@needs_mnist
def test_images_of_tfds_are_cropped_as_arrays_are():
    section = aejax.config.default().data
    section.update({"name": "mnist", "data_dir": str(MNIST), "size": 16, "fit": "random"})
    source, rows = data.find(section)["train"], np.array([7, 59_999, 0])
    crops = data.draw_crops(0, 0, rows, 1.6)
    section.update({"size": 0, "fit": "crop"})
    whole = data.find(section)["train"].take(rows)
    found = source.draw(rows, crops)
    expected = [resize(x, 16, "random", Crop(*crop)) for x, crop in zip(whole["x"], crops, strict=True)]
    np.testing.assert_array_equal(found["x"], expected)
    np.testing.assert_array_equal(found["label"], whole["label"])


def test_half_of_the_images_are_mirrored_by_their_keys():
    x = np.random.default_rng(0).random((1_000, 3, 4, 1), np.float32)
    keys = jax.random.split(jax.random.key(0), len(x))
    found = np.asarray(mirror(keys, x))
    chosen = (found != x).any((1, 2, 3))
    np.testing.assert_array_equal(found, np.where(chosen[:, None, None, None], x[:, :, ::-1], x))
    assert abs(chosen.mean() - 0.5) < 5 * 0.5 / np.sqrt(1_000)
    np.testing.assert_array_equal(mirror(keys[5:9], x[5:9]), found[5:9])
    with pytest.raises(aejax.InputError, match=r"data.flip mirrors images, and the data holds examples of \(5,\)"):
        aejax.fit(conv(data__flip=True), np.zeros((20, 5), np.float32))


def train(tmp_path, name, devices, **changes):
    """A run on a folder of images, and its losses."""
    section = {"name": str(tmp_path / "images"), "size": 8, "fit": "random", "zoom": 1.5, "flip": True}
    config = conv(**{f"data__{key}": value for key, value in (section | changes).items()})
    run = aejax.train(config, tmp_path / name, devices=devices, quiet=True)
    records = [record for record in metrics_log.read(tmp_path / name) if "train/loss" in record]
    return run, [record["train/loss"] for record in records]


def test_one_and_four_devices_train_on_the_same_crops_and_mirror_images(tmp_path):
    folder_of(tmp_path / "images", 40)
    run, losses = train(tmp_path, "one", one_device())
    four, losses_of_four = train(tmp_path, "four", jax.devices()[:4])
    np.testing.assert_allclose(losses, losses_of_four, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), run.variables, four.variables)
    assert not np.isclose(losses, train(tmp_path, "plain", one_device(), flip=False)[1]).all()


@pytest.mark.slow
def test_a_resumed_run_ends_as_one_that_was_not_stopped(tmp_path):
    folder_of(tmp_path / "images", 40)
    run, losses = train(tmp_path, "one", one_device())
    assert not np.isclose(losses, train(tmp_path, "still", one_device(), fit="crop", zoom=1.0)[1]).all()
    calls = iter([False, False, False])
    aejax.train(run.config, tmp_path / "stopped", devices=one_device(), quiet=True, stop=lambda: next(calls, True))
    assert 0 < aejax.load_run(tmp_path / "stopped").step < run.step
    again = aejax.train(run.config, tmp_path / "stopped", devices=one_device(), quiet=True)
    jax.tree.map(np.testing.assert_array_equal, again.variables, run.variables)
