"""Images: opened as PNG or JPEG alone, upright, resized without distortion, in bounded memory; folders of them."""

import dataclasses
import io
import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from tensorflow_datasets.proto import tf_example_pb2

import aejax
from aejax import config as config_lib
from aejax import data
from aejax.data import images, loader
from aejax.data import tfds as tfds_module
from aejax.errors import printable
from aejax.workdir import saved_config


def section(**changes):
    config = aejax.config.default().data
    config.update({"cache": False, **changes})
    return config


def found(folder, **changes):
    """The splits of a folder, by name the examples and labels; with what was warned of, in one text."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        splits = data.find(section(name=str(folder), **changes))
    said = [str(warning.message) for warning in caught]
    assert not any("\n" in line for line in said)
    return {name: source.take(np.arange(len(source))) for name, source in splits.items()}, " | ".join(said)


def one(folder, **changes):
    return found(folder, **changes)[0]["train"]["x"][0]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(file, pixels, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, **options)


def encoded(pixels, kind, **options):
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, kind, **options)
    return file.getvalue()


# Orientation and aspect


def disc(h, w):
    """A white disc of half the shorter side, in the center."""
    y, x = np.mgrid[:h, :w]
    inside = np.hypot(y - (h - 1) / 2, x - (w - 1) / 2) < min(h, w) / 4
    return np.repeat(np.uint8(255) * inside[..., None], 3, 2)


@pytest.mark.parametrize("shape", [(60, 240), (240, 60)])
@pytest.mark.parametrize(("fit", "sides"), [("crop", (16, 16)), ("pad", (4, 4)), ("stretch", None)])
def test_a_disc_stays_a_disc_unless_it_is_stretched(shape, fit, sides, tmp_path):
    save(tmp_path / "disc.png", disc(*shape))
    np.save(tmp_path / "x.npy", disc(*shape)[None])
    for name in (tmp_path, tmp_path / "x.npy"):
        bright = one(name, size=32, fit=fit)[..., 0] > 127
        h, w = bright.any(1).sum(), bright.any(0).sum()
        assert (h, w) == (sides or ((16, 4) if shape[0] < shape[1] else (4, 16)))
        np.testing.assert_array_equal(bright, bright[::-1, ::-1])  # in the center
    assert section().fit == "crop"


def test_crop_is_the_center_of_the_resized_image_and_pad_is_0_around_it(tmp_path):
    pixels = noise(8, 20, 3)
    np.testing.assert_array_equal(images.resize(pixels, 8), pixels[:, 6:14])  # no pixel is interpolated
    padded = images.resize(pixels, 20, "pad")
    np.testing.assert_array_equal(padded[6:14], pixels)
    assert not padded[:6].any()
    assert not padded[14:].any()
    half = np.asarray(Image.fromarray(pixels).resize((10, 4), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(images.resize(pixels, 4), half[:, 3:7])
    np.testing.assert_array_equal(images.resize(pixels, 10, "pad")[3:7], half)
    assert images.resize(noise(1, 500, 3), 4, "pad").shape == (4, 4, 3)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [5, 16, 33])
def test_square_images_are_resized_the_same_by_all(fit, size):
    pixels = noise(16, 16, 3)
    expected = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(images.resize(pixels, size, fit), expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 7])
def test_each_channel_is_resized_alone(channels, tmp_path):
    pixels = noise(2, 9, 12, channels)
    pixels[:, :5, :, -1] = 0  # which as transparency would blacken the others
    np.savez(tmp_path / "x.npz", x=pixels)
    (arrays, _) = found(tmp_path / "x.npz", size=6)
    alone = [[images.resize(image[..., k : k + 1], 6)[..., 0] for k in range(channels)] for image in pixels]
    np.testing.assert_array_equal(arrays["train"]["x"], np.moveaxis(alone, 1, -1))


def test_an_unknown_fit_is_named_and_an_old_run_keeps_the_fit_it_had(tmp_path):
    config = aejax.config.default()
    config.data.fit = "croop"
    with pytest.raises(aejax.InputError, match=r"data\.fit 'croop' is unknown; did you mean 'crop'"):
        config_lib.check(config)
    old = config_lib.to_dict(aejax.config.default())
    del old["data"]["fit"]
    assert saved_config.find_conflicts(old, aejax.config.default()) == []
    assert saved_config.as_begun(aejax.config.default(), old).data.fit == "stretch"
    config.data.fit = "pad"
    assert saved_config.find_conflicts(old, config) == ["data.fit: stretch -> pad"]
    np.save(tmp_path / "x.npy", noise(1, 8, 12))
    old["data"].update(name=str(tmp_path / "x.npy"), size=4)
    (before,) = data.find(config_lib.from_dict(old).data)["train"].take(np.arange(1))["x"]
    np.testing.assert_array_equal(before, one(tmp_path / "x.npy", size=4, fit="stretch"))


STORED = {  # by EXIF orientation: how an upright image is stored
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[::-1],
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: x.swapaxes(0, 1)[:, ::-1],
}


def exif(orientation):
    tags = Image.Exif()
    tags[274] = orientation
    return tags.tobytes()


@pytest.mark.parametrize("kind", ["png", "jpeg"])
@pytest.mark.parametrize("orientation", STORED)
def test_images_are_read_upright(orientation, kind, tmp_path):
    upright = np.repeat(np.repeat(noise(2, 3, 3), 16, 0), 16, 1)  # blocks, which JPEG keeps
    stored = np.ascontiguousarray(STORED[orientation](upright))
    save(tmp_path / f"x.{kind}", stored, exif=exif(orientation))
    save(tmp_path / "y.png", upright)  # of the same size, upright
    read = found(tmp_path)[0]["train"]["x"]
    assert read.shape == (2, 32, 48, 3)
    assert np.abs(read[0].astype(int) - upright).mean() < 12  # blocks in other places: about 85
    record = images.decode(io.BytesIO((tmp_path / f"x.{kind}").read_bytes()), "record", 3)
    np.testing.assert_array_equal(record, read[0])


@pytest.mark.parametrize("tags", [b"Exif\0\0MM\0*nonsense", exif(0), exif(9)])
def test_damaged_exif_data_leave_the_image_as_it_is(tags, tmp_path):
    pixels = noise(4, 6, 3)
    save(tmp_path / "x.png", pixels, exif=tags)
    np.testing.assert_array_equal(one(tmp_path), pixels)


def test_large_jpegs_are_decoded_at_a_fraction(tmp_path, monkeypatch):
    y, x = np.mgrid[:640, :960] / 100
    pixels = np.stack([127 + 120 * np.sin(a * x + b * y) for a, b in ((1, 2), (3, 1), (2, 2))], -1).astype(np.uint8)
    save(tmp_path / "x.jpg", pixels, quality=95)
    sizes, load = [], Image.Image.load
    monkeypatch.setattr(Image.Image, "load", lambda self: (sizes.append(self.size), load(self))[1])
    small = images.decode(tmp_path / "x.jpg", "x", 3, 40)
    assert (120, 80) in sizes  # twice as fine as asked for
    assert (960, 640) not in sizes
    assert np.abs(small.astype(int) - images.resize(pixels, 40)).max() <= 4
    del sizes[:]
    images.decode(tmp_path / "x.jpg", "x", 3)
    assert (960, 640) in sizes


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("shape", [(375, 500), (391, 129), (512, 512)])
def test_a_fraction_is_decoded_only_where_it_keeps_twice_the_size_and_the_geometry(shape, fit, tmp_path, monkeypatch):
    """A disc keeps its place; a whole decoding and that of a fraction differ by a few levels, at edges by more."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    waves = np.stack([90 + 60 * np.sin(x / a) * np.cos(y / a) for a in (25, 40, 60)], -1)
    save(tmp_path / "x.jpg", np.where(disc(*shape) > 0, 230, waves).astype(np.uint8), quality=95, subsampling=0)
    sizes, load = [], Image.Image.load
    monkeypatch.setattr(Image.Image, "load", lambda self: (sizes.append(self.size), load(self))[1])
    whole = images.decode(tmp_path / "x.jpg", "x", 3)
    for size in (30, 60, 100, 200, 300):
        del sizes[:]
        small = images.decode(tmp_path / "x.jpg", "x", 3, size, fit)
        w, h = sizes[0]
        if min(w, h) < 2 * size:
            assert (h, w) == shape
            np.testing.assert_array_equal(small, images.resize(whole, size, fit))
        difference = np.abs(small.astype(int) - images.resize(whole, size, fit))
        assert difference.mean() < 0.7
        assert difference.max() < 30
    assert shape[::-1] in sizes


@pytest.mark.parametrize("shape", [(369, 497), (376, 496)])
@pytest.mark.parametrize("orientation", STORED)
def test_a_fraction_of_a_turned_image_is_where_the_whole_image_is(orientation, shape, tmp_path):
    """One that would begin with a part of a pixel is decoded whole."""
    y, x = np.mgrid[: shape[0], : shape[1]] / 40
    pixels = np.stack([127 + 60 * np.sin(a * x) * np.cos(y) for a in (1, 2, 3)], -1).astype(np.uint8)
    save(tmp_path / "x.jpg", np.ascontiguousarray(STORED[orientation](pixels)), quality=95, exif=exif(orientation))
    whole = images.decode(tmp_path / "x.jpg", "x", 3)
    for fit in ("crop", "pad", "stretch"):
        small = images.decode(tmp_path / "x.jpg", "x", 3, 45, fit)
        assert np.abs(small.astype(int) - images.resize(whole, 45, fit)).max() < 5


@pytest.mark.parametrize("threads", [1, 3, 7])
def test_the_number_of_threads_changes_no_bits(threads, tmp_path, monkeypatch):
    for i in range(11):
        save(tmp_path / f"{i:02d}.jpg", noise(90 + i, 120, 3, seed=i), quality=90)
    source = data.find(section(name=str(tmp_path), size=20, memory_mb=0))["train"]
    rows_of = data.shuffle_rows(11, 5, 0)
    plain = [source.take(rows_of(step)) for step in range(3, 9)]
    monkeypatch.setattr(loader, "count_threads", lambda source: threads)
    streamed = list(data.stream(source, rows_of, 3, 9))
    assert len(streamed) == len(plain)
    for one, other in zip(streamed, plain, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], strict=True)


def test_streaming_keeps_ahead_of_a_slow_step_and_threads_share_a_batch(tmp_path, monkeypatch):
    """While the step holds the first batch, 8 more are decoded; the first came when a quarter of it was."""
    for i in range(8):
        save(tmp_path / f"{i}.png", noise(4, 4, 3, seed=i))
    source, most, together = data.find(section(name=str(tmp_path)))["train"], [], threading.Barrier(4, timeout=20)
    assert source.files

    def take(rows):
        most.append(len(rows))
        together.wait()  # broken unless four threads decode at once
        return source.take(rows)

    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    batches = data.stream(dataclasses.replace(source, take=take), lambda step: np.arange(8), 0, 100)
    next(batches)
    deadline = time.monotonic() + 20
    while len(most) < 4 * 9 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(most) >= 4 * 9
    assert set(most) == {2}
    together.abort()
    batches.close()


def test_a_stream_that_is_left_ends_its_threads_and_reads_no_more(monkeypatch):
    monkeypatch.setattr(loader, "count_threads", lambda source: 1)
    taken, go, before = [], threading.Event(), set(threading.enumerate())

    def take(rows):
        taken.append(rows)
        assert len(taken) == 1 or go.wait(20)
        return {"x": rows}

    source = dataclasses.replace(data.from_array(np.zeros((8, 3), np.float32)), take=take)
    batches = data.stream(source, lambda step: np.arange(8), 0, 100)
    next(batches)
    threading.Timer(0.05, go.set).start()
    batches.close()
    assert len(taken) <= 2
    assert {thread for thread in threading.enumerate() if not isinstance(thread, threading.Timer)} <= before


# Formats and modes


@pytest.mark.parametrize("kind", ["bmp", "gif", "tiff"])
def test_an_image_of_another_format_is_refused_whatever_its_name(kind, tmp_path):
    content = encoded(noise(4, 4, 3), kind)
    (tmp_path / "x.png").write_bytes(content)
    for read in (
        lambda: data.find(section(name=str(tmp_path))),
        lambda: images.decode(tmp_path / "x.png", "x.png", 3),
        lambda: images.decode(io.BytesIO(content), "x.png", 3),
    ):
        with pytest.raises(aejax.InputError, match=r"x\.png: a corrupt image, or no PNG or JPEG; .*convert") as error:
            read()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp"])
def test_records_of_tfds_are_opened_as_png_or_jpeg(kind, tmp_path):
    """And of the other features none is opened."""
    pixels = noise(3, 6, 5, 3)
    image, other = tfds.features.Image(shape=(6, 5, 3)), tfds.features.Image(shape=(2, 2, 3))
    vector = tfds.features.Tensor(shape=(2,), dtype=np.float32)

    class Stored(tfds.testing.DummyDataset, skip_registration=True):
        def _info(self):
            features = {"image": image, "other": other} if self.images else {"vector": vector, "other": other}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, x in enumerate(pixels):
                x = {"image": encoded(x, kind)} if self.images else {"vector": np.full(2, i, np.float32)}
                yield i, {**x, "other": b"no image"}

    def stored(with_images):
        Stored.images = with_images
        builder = Stored(data_dir=tmp_path / str(with_images), file_format="array_record")
        builder.download_and_prepare()
        return builder

    vectors = tfds_module._tfds_split(stored(False), "train", 0).take(np.arange(3))["x"]
    assert sorted(vectors.tolist()) == [[0, 0], [1, 1], [2, 2]]
    builder = stored(True)
    if kind == "bmp":
        with pytest.raises(aejax.InputError, match=r"a corrupt image, or no PNG or JPEG"):
            tfds_module._tfds_split(builder, "train", 0)
        return
    read = tfds_module._tfds_split(builder, "train", 0).take(np.arange(3))["x"]
    if kind == "png":
        assert sorted(x.tobytes() for x in read) == sorted(x.tobytes() for x in pixels)
    resized = tfds_module._tfds_split(builder, "train", 4, "pad").take(np.arange(3))["x"]
    np.testing.assert_array_equal(resized, [images.resize(x, 4, "pad") for x in read])


def test_float_images_of_tfds_are_stored_as_their_bytes():
    x = np.random.default_rng(0).random((3, 2, 1), np.float32)
    example = tf_example_pb2.Example()
    example.features.feature["depth"].bytes_list.value.append(encoded(x.view(np.uint8), "png"))
    feature = tfds.features.Image(shape=x.shape, dtype=np.float32)
    read = tfds_module._decode_example(example.features.feature, "depth", feature, (), "x", 0, "crop")
    np.testing.assert_array_equal(read["depth"], x)


def test_records_of_tfds_have_the_channels_of_the_feature():
    """As TensorFlow decodes them: gray ones among color."""
    gray = noise(4, 4)
    features = {"image": encoded(gray, "png")}
    for channels in (1, 2, 3, 4):
        read = images.decode(io.BytesIO(features["image"]), "x", channels)
        assert read.shape == (4, 4, channels)
        np.testing.assert_array_equal(read[..., 0], gray)


def test_16_bit_gray_is_scaled_to_8(tmp_path):
    values = np.array([[0, 128, 129, 257], [1000, 32768, 65407, 65535]], np.uint16)
    save(tmp_path / "x.png", values)
    save(tmp_path / "y.png", np.zeros((2, 4), np.uint8))
    read = found(tmp_path)[0]["train"]["x"]
    assert read.shape == (2, 2, 4, 1)
    np.testing.assert_array_equal(read[0, ..., 0], np.round(values / 257))
    save(tmp_path / "z.png", noise(2, 4, 3))
    assert found(tmp_path)[0]["train"]["x"].shape == (3, 2, 4, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_of_png_is_read_as_its_colors(mode, tmp_path):
    picture = Image.fromarray(noise(5, 5, 3)).convert(mode)
    picture.save(tmp_path / "x.png", **({"transparency": bytes(range(200))} if mode == "P" else {}))
    read, said = found(tmp_path)
    gray = mode in ("1", "L", "LA")
    expected = np.asarray(picture.convert("L" if gray else "RGB")).reshape(5, 5, 1 if gray else 3)
    np.testing.assert_array_equal(read["train"]["x"][0], expected)
    assert not said


@pytest.mark.parametrize(("shape", "mode"), [((28, 28, 1), "L"), ((7, 12, 3), "RGB"), ((2, 2, 1), "L")])
def test_a_plain_png_is_decoded_as_pillow_opens_it(shape, mode):
    values = noise(*shape)
    values[: shape[0] // 2] = np.arange(shape[1])[:, None]  # rows that PNG stores as differences
    content = encoded(values, "png")
    decoded = images._decode_plain_png(content, shape[2])
    assert decoded.mode == mode
    np.testing.assert_array_equal(np.asarray(decoded).reshape(shape), values)
    np.testing.assert_array_equal(images.decode(io.BytesIO(content), "x"), values)


def test_a_png_with_more_than_plain_pixels_is_opened():
    values = noise(8, 8, 1)
    with_text = PngImagePlugin.PngInfo()
    with_text.add_text("Title", "a title")
    others = [
        (encoded(values, "png", pnginfo=with_text), 1),
        (encoded(values, "png", transparency=3), 1),
        (encoded(values.astype(np.uint16), "png"), 1),
        (encoded(values, "png"), 3),
        (encoded(noise(300, 300, 1), "png"), 1),
        (encoded(values, "jpeg"), 1),
    ]
    for content, channels in others:
        assert images._decode_plain_png(content, channels) is None
        assert images.decode(io.BytesIO(content), "x", channels).shape[2] == channels


@pytest.mark.parametrize("place", [20, 30, 45, 60])
def test_a_damaged_plain_png_is_left_to_pillow_which_names_it(place):
    content = bytearray(encoded(noise(8, 8, 1), "png"))
    content[place] ^= 1
    assert images._decode_plain_png(bytes(content), 1) is None
    with pytest.raises(aejax.InputError, match="x: a corrupt image"):
        images.decode(io.BytesIO(content), "x", 1)


def file_of(kind):
    return encoded(noise(12, 9, 3), kind, **({"exif": exif(6)} if kind == "jpeg" else {}))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["png", "jpeg"])
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.data())
def test_a_damaged_image_is_read_or_named_in_one_line(kind, draw):
    content = bytearray(file_of(kind))
    for place in draw.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = draw.draw(st.integers(0, 255))
    content = content[: draw.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    try:
        read = images.decode(io.BytesIO(content), "x", 3, 4)
    except aejax.InputError:  # whose message is one line, as that of every error of aejax
        return
    assert read.shape == (4, 4, 3)


# Memory


def test_threads_decode_few_pixels_at_once(monkeypatch):
    monkeypatch.setattr(images, "_PIXELS", 200)
    at_once, most, lock = 0, [], threading.Lock()

    def decode(pixels):
        nonlocal at_once
        with images._wait_for_memory(pixels):
            with lock:
                at_once += pixels
                most.append(at_once)
            time.sleep(0.002)
            with lock:
                at_once -= pixels

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decode, [90, 100, 50, 500] * 8))  # list: raises theirs
    assert max(most) == 500  # the largest alone
    assert len({n for n in most if 100 < n <= 200}) > 0  # others together
    assert not any(200 < n < 500 for n in most)


def test_an_image_that_fails_leaves_its_room(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_PIXELS", 100)
    (tmp_path / "x.png").write_bytes(file_of("png")[:-30])
    for _ in range(3):
        with pytest.raises(aejax.InputError, match=r"a corrupt image"):
            images.decode(tmp_path / "x.png", "x", 3)
    assert images._in_use == [0]


# Folders


def fill(folder, count=1, seed=0, kinds=("cat", "dog")):
    for kind in kinds:
        for i in range(count):
            save(folder / kind / f"{i}.png", noise(4, 4, 3, seed=hash((seed, i)) % 2**32))


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"),
        ("training", "valid", "testing"),
        ("Train", "dev", "Test"),
        ("train", "validation", "test"),
    ],
)
@pytest.mark.parametrize("beside", [(), ("annotations",), ("annotations", "extra images")])
def test_splits_have_the_names_that_people_use(names, beside, tmp_path):
    for i, name in enumerate(names):
        fill(tmp_path / name, count=i + 1)
    for name in beside:
        (tmp_path / name).mkdir()
    if "extra images" in beside:
        fill(tmp_path / "extra images")
        save(tmp_path / "loose.png", noise(4, 4, 3))
    read, said = found(tmp_path)
    assert {name: len(arrays["x"]) for name, arrays in read.items()} == {"train": 2, "validation": 4, "test": 6}
    assert all(set(arrays["label"]) == {0, 1} for arrays in read.values())
    assert ("left out: " + ", ".join(beside) in said) if beside else not said
    assert ("1 images beside them" in said) == ("extra images" in beside)


def test_two_folders_of_one_split_are_named(tmp_path):
    for name in ("train", "val", "dev"):
        fill(tmp_path / name)
    with pytest.raises(aejax.InputError, match=r"dev and val both name the validation split; merge or rename"):
        data.find(section(name=str(tmp_path)))


@pytest.mark.parametrize(
    "folders", [("cats", "test"), ("images/train", "images/test"), ("a/train", "a/val"), ("bus", "train", "val/Test")]
)
def test_images_of_splits_are_never_merged(folders, tmp_path):
    for folder in folders:
        fill(tmp_path / folder, kinds=(".",))
    if "train" in folders:
        (tmp_path / "val").rename(tmp_path / "plane")
    with pytest.raises(aejax.InputError, match=r"look like splits, but .* has not both a folder train and others"):
        data.find(section(name=str(tmp_path)))


@pytest.mark.parametrize("name", ["train", "valid"])
def test_a_class_may_be_called_like_a_split_and_it_is_said(name, tmp_path):
    """Of vehicles, or of parts that are valid and invalid."""
    for folder in (name, "bus"):
        fill(tmp_path / folder, kinds=(".",))
    read, said = found(tmp_path)
    assert read["train"]["label"].tolist() == [0, 1]
    assert f"{name} is taken for a class like the folders beside it" in said


def test_a_train_folder_beside_folders_without_images_is_all(tmp_path):
    fill(tmp_path / "train")
    assert not found(tmp_path)[1]
    (tmp_path / "annotations").mkdir()
    read, said = found(tmp_path)
    assert read["train"]["label"].tolist() == [0, 1]
    assert "left out: annotations" in said


def test_class_folders_that_are_links_are_followed_without_cycles(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    fill(root, kinds=("cat",))
    fill(elsewhere, count=2, kinds=("dogs",))
    (root / "dog").symlink_to(elsewhere / "dogs")
    (elsewhere / "dogs" / "back").symlink_to(root)
    (root / "cat" / "up").symlink_to("..")
    (root / "all").symlink_to(tmp_path)
    (root / "dog again").symlink_to(elsewhere / "dogs")
    read, said = found(root)
    assert read["train"]["label"].tolist() == [0, 1, 1]
    assert "left out: 4 links to folders that are read already" in said
    for link in (elsewhere / "dogs" / "back", root / "cat" / "up", root / "all", root / "dog again"):
        link.unlink()
    assert not found(root)[1]
    (root / "train").symlink_to(elsewhere)
    (root / "val").symlink_to(elsewhere)  # by the user's own wish the same
    read, said = found(root)
    assert {name: len(arrays["x"]) for name, arrays in read.items()} == {"train": 2, "validation": 2}
    assert "left out: cat, dog" in said


def test_what_is_left_out_is_said(tmp_path):
    fill(tmp_path, kinds=("cat",))
    for name in ("a.gif", "b.gif", "c.webp", "notes.txt", ".hidden.gif"):
        (tmp_path / "cat" / name).write_bytes(b"")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    read, said = found(tmp_path)
    assert len(read["train"]["x"]) == 1
    assert said.endswith(
        "the 1 PNG and JPEG images are taken; left out: "
        "2 .gif (a.gif); 1 .webp (c.webp); 1 that are no regular files (gone.png)"
    )
    (tmp_path / "cat" / "0.png").unlink()
    with pytest.raises(aejax.InputError, match=r"no \.png, .* in this folder, but 2 \.gif \(a\.gif\); 1 \.webp"):
        data.find(section(name=str(tmp_path)))


def test_a_pipe_is_left_out_rather_than_waited_for(tmp_path):
    fill(tmp_path, kinds=("cat",))
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    read, said = found(tmp_path)
    assert len(read["train"]["x"]) == 1
    assert "left out: 1 that are no regular files (pipe.png)" in said


def test_names_with_line_breaks_make_messages_of_one_line(tmp_path):
    folder = tmp_path / "a\nb\x1b[31m"
    fill(folder, kinds=("cat",))
    (folder / "x\ny.gif").write_bytes(b"")
    _, said = found(folder)
    assert r"a\nb\x1b[31m: the 1 PNG" in said
    (folder / "x\ny.png").write_bytes(b"")
    with pytest.raises(aejax.InputError) as error:
        found(folder)
    assert r"a\nb\x1b[31m/x\ny.png: a corrupt image" in str(error.value)
    assert printable("ä \udcff\u2028") == r"ä \udcff\u2028"


def test_an_image_replaced_by_one_of_another_size_is_named(tmp_path):
    fill(tmp_path, count=2, kinds=("cat",))
    source = data.find(section(name=str(tmp_path)))["train"]
    save(tmp_path / "cat" / "1.png", noise(5, 7, 3))
    with pytest.raises(
        aejax.InputError, match=r"1\.png has 5x7 pixels, but 0\.png has 4x4; resize all with data\.size"
    ):
        source.take(np.arange(2))


def test_the_cache_knows_how_images_were_resized(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save(tmp_path / "images" / "x.png", noise(4, 9, 3))
    for fit in ("crop", "pad", "stretch", "crop"):
        read = one(tmp_path / "images", size=4, fit=fit, cache=True)
        np.testing.assert_array_equal(read, images.resize(noise(4, 9, 3), 4, fit))
