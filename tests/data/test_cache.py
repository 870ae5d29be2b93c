"""Decoded splits in the user's cache folder: the same rows, decoded once, and anew where their files are others."""

import io
import os
import threading
import time

import numpy as np
import pytest
from conftest import MNIST, needs_mnist
from PIL import Image

import aejax
from aejax import data
from aejax.data import cache, folders, headers, images
from aejax.files import cache_of_user


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Eight pictures in two classes, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pixels = np.random.default_rng().integers(0, 256, (8, 4, 5, 3), np.uint8)
    for i, picture in enumerate(pixels):
        file = tmp_path / "pictures" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)
    return tmp_path / "pictures"


@pytest.fixture
def decoded(monkeypatch):
    """How many pictures were decoded."""
    count = []
    decode = folders.decode
    monkeypatch.setattr(folders, "decode", lambda *arguments: (count.append(1), decode(*arguments))[1])
    return count


def read(folder, **changes):
    section = aejax.config.default().data
    section.update({"name": str(folder), **changes})
    return data.read(data.find(section)["train"])


def assert_same(a, b):
    assert a.keys() == b.keys() == {"x", "label"}
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], strict=True)


def test_a_second_run_decodes_nothing_and_reads_the_same(folder, decoded):
    plain = read(folder, cache=False)
    assert not cache_of_user().exists()
    del decoded[:]
    assert_same(read(folder), plain)
    assert len(decoded) == 8 + 1  # one more to know what examples hold
    del decoded[:]
    assert_same(read(folder), plain)
    assert not decoded


def test_other_files_times_or_sizes_are_decoded_anew(folder, decoded):
    read(folder)
    picture = folder / "a" / "0.png"
    Image.fromarray(np.full((4, 5, 3), 7, np.uint8)).save(picture)
    assert (read(folder)["x"][0] == 7).all()
    os.utime(picture, ns=(1, 1))
    del decoded[:]
    read(folder)
    assert decoded
    Image.fromarray(np.random.default_rng().integers(0, 256, (4, 5, 3), np.uint8)).save(picture)  # a larger file
    os.utime(picture, ns=(1, 1))
    assert_same(read(folder), read(folder, cache=False))
    assert read(folder, size=3)["x"].shape == (8, 3, 3, 3)
    (folder / "b" / "7.png").unlink()
    assert len(read(folder)["x"]) == 7


def test_a_class_that_another_split_brings_renumbers_the_labels_of_all(folder):
    folder.rename(folder.parent / "train")
    folder.mkdir()
    train, test = folder / "train", folder / "test"
    (folder.parent / "train").rename(train)
    assert read(folder)["label"].tolist() == [0] * 4 + [1] * 4
    (test / "aa").mkdir(parents=True)
    (train / "b" / "1.png").rename(test / "aa" / "1.png")
    assert read(folder)["label"].tolist() == [0] * 4 + [2] * 3
    (test / "aa" / "1.png").rename(folder.parent / "1.png")
    (test / "b").mkdir()
    (folder.parent / "1.png").rename(test / "b" / "1.png")
    (test / "aa").rmdir()
    assert read(folder)["label"].tolist() == [0] * 4 + [1] * 3  # of the same files as just now


def test_other_names_are_other_pictures(folder):
    """Moved files of one size and time are read in another order."""
    files = sorted(folder.rglob("*.png"))
    size = max(file.stat().st_size for file in files)
    for file in files:
        file.write_bytes(file.read_bytes().ljust(size, b"\0"))  # what follows the end of a PNG is not read
        os.utime(file, ns=(1, 1))
    read(folder)
    (folder / "a" / "0.png").rename(folder / "b" / "9.png")
    assert_same(read(folder), read(folder, cache=False))


@pytest.mark.parametrize("size", [0, 10, 150])
def test_what_was_cut_is_decoded_anew(size, folder):
    plain = read(folder)
    (file,) = cache_of_user().rglob("x.npy")
    os.truncate(file, size)
    assert_same(read(folder), plain)
    assert file.stat().st_size > 480  # and kept again


def test_without_a_place_to_write_it_warns_and_decodes(folder, decoded):
    plain = read(folder, cache=False)
    cache_of_user().parent.mkdir()
    cache_of_user().write_text("a file in its place")
    with pytest.warns(UserWarning, match="is decoded again by each run: .* cannot be written .*XDG_CACHE_HOME"):
        assert_same(read(folder), plain)


def test_what_a_killed_process_left_is_removed_after_a_day(folder):
    kept, left = (cache_of_user() / "data" / f"{name}{cache.TEMPORARY}" for name in ("kept", "left"))
    for unfinished, hours in ((kept, 23), (left, 25)):
        unfinished.mkdir(parents=True)
        os.utime(unfinished, (time.time() - 3600 * hours,) * 2)
    read(folder)
    assert kept.exists()
    assert not left.exists()


@pytest.fixture
def inspected(monkeypatch):
    """The names of the pictures whose headers were read; the sizes of any number of pictures are remembered."""
    names, inspect = [], headers._inspect
    monkeypatch.setattr(headers, "_inspect", lambda file: (names.append(os.path.basename(file)), inspect(file))[1])
    monkeypatch.setattr(headers, "MANY", 1)
    return names


def open_folder(folder, inspected, **changes):
    """Opens the folder to be streamed; returns its source, and the pictures whose headers were read."""
    del inspected[:]
    section = aejax.config.default().data
    section.update({"name": str(folder), "memory_mb": 0, **changes})
    return data.find(section)["train"], sorted(inspected)


def test_sizes_are_read_once_and_again_where_a_file_changes(folder, inspected):
    names = [f"{i}.png" for i in range(8)]
    assert open_folder(folder, inspected)[1] == names
    assert open_folder(folder, inspected)[1] == []
    os.utime(folder / "a" / "2.png", ns=(1, 1))
    assert open_folder(folder, inspected)[1] == ["2.png"]
    Image.new("RGB", (50, 40)).save(folder / "a" / "2.png")  # a file of another size with the same time
    os.utime(folder / "a" / "2.png", ns=(1, 1))
    Image.new("RGB", (5, 4)).save(folder / "b" / "9.png")
    (folder / "a" / "0.png").unlink()
    source, again = open_folder(folder, inspected, size=4)
    assert again == ["2.png", "9.png"]
    assert len(source) == 8
    with pytest.raises(aejax.InputError, match=r"4\.png has 4x5 pixels, but 2\.png has 40x50"):
        open_folder(folder, inspected)
    assert not inspected  # although the sizes differ, they are remembered
    assert open_folder(folder, inspected, cache=False, size=4)[1] == ["1.png", *names[2:], "9.png"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda table: table.write_text("no array"),
        lambda table: table.write_bytes(table.read_bytes()[:-9]),
        lambda table: np.save(table, np.zeros((0, 6), np.int64)),
        lambda table: np.save(table, np.load(table)[:, :5]),
        lambda table: np.save(table, np.load(table).astype(np.float64)),
        lambda table: np.save(table, np.load(table) * [1, 1, 1, 1, -1, 1]),
        lambda table: np.save(table, np.load(table) * [-1, 1, 1, 1, 1, 1]),
        lambda table: np.save(table, np.load(table).ravel()),
    ],
)
def test_a_damaged_table_of_sizes_is_made_again(damage, folder, inspected):
    open_folder(folder, inspected)
    (table,) = (cache_of_user() / "headers").iterdir()
    content = table.read_bytes()
    damage(table)
    source, again = open_folder(folder, inspected)
    assert len(again) == 8
    assert source.shape == (4, 5, 3)
    assert table.read_bytes() == content


def test_sizes_that_cannot_be_remembered_are_read_with_a_warning(folder, inspected):
    cache_of_user().parent.mkdir()
    cache_of_user().write_text("a file in its place")
    with pytest.warns(UserWarning, match="each run reads the sizes of all images again .*cannot be written"):
        assert len(open_folder(folder, inspected)[1]) == 8


def test_few_sizes_are_not_remembered(folder):
    read(folder, memory_mb=0)
    assert not (cache_of_user() / "headers").exists()


def encoded(kind, mode, **options):
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (17, 30), np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


TURNED = Image.Exif()
TURNED[274] = 6
PLAIN = [
    *(
        encoded("JPEG", mode, **more)
        for mode in ("L", "RGB")
        for more in ({}, {"progressive": True}, {"comment": b"x"})
    ),
    *(encoded("PNG", mode) for mode in ("L", "LA", "RGB", "RGBA", "P")),
    encoded("PNG", "RGB", dpi=(72, 72), icc_profile=b"profile"),
    encoded("JPEG", "RGB", icc_profile=b"profile"),
]
OTHER = [
    encoded("JPEG", "CMYK"),
    *(encoded(kind, "RGB", exif=TURNED.tobytes()) for kind in ("PNG", "JPEG")),
    *(encoded("PNG", mode) for mode in ("1", "I;16")),
    encoded("BMP", "RGB"),
    b"",
]


@pytest.mark.parametrize("content", PLAIN)
def test_headers_of_plain_images_are_read_as_pillow_reads_them(content, tmp_path):
    found = headers.inspect_plain(content)
    (tmp_path / "x").write_bytes(content)
    assert found == images.inspect(tmp_path / "x")
    cuts = [headers.inspect_plain(content[:length]) for length in range(len(content))]
    assert set(cuts[:40]) == {None}
    assert set(cuts) == {None, found}  # nothing else in between


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_headers_say_sides_of_more_than_a_byte(kind):
    file = io.BytesIO()
    Image.new("RGB", (1_029, 771)).save(file, kind)
    assert headers.inspect_plain(file.getvalue()) == (771, 1_029, 3)


@pytest.mark.parametrize("content", OTHER)
def test_headers_of_other_images_are_left_to_pillow(content):
    assert headers.inspect_plain(content) is None


def test_a_header_with_a_changed_byte_is_damaged_or_says_what_pillow_reads(tmp_path):
    rng = np.random.default_rng(0)
    for content in PLAIN * 20:
        changed = bytearray(content)
        changed[rng.integers(0, min(len(changed), 60))] = rng.integers(256)
        if (found := headers.inspect_plain(bytes(changed))) is not None:
            (tmp_path / "x").write_bytes(changed)
            try:
                expected = images.inspect(tmp_path / "x")
            except aejax.InputError:
                continue  # decoding names the file
            assert found == expected


def test_what_is_streamed_is_not_kept(folder):
    read(folder, memory_mb=0)
    assert not cache_of_user().exists()


def test_of_two_that_write_at_once_both_read_it(folder):
    plain, found = read(folder, cache=False), []
    threads = [threading.Thread(target=lambda: found.append(read(folder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for one in found:
        assert_same(one, plain)
    assert len(list((cache_of_user() / "data").iterdir())) == 1  # nothing is left behind


@needs_mnist
def test_splits_of_tfds_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    section = aejax.config.default().data
    section.update({"name": "mnist", "data_dir": str(MNIST)})
    rows = np.random.default_rng().integers(0, 10_000, 100)
    first = data.find(section)["test"].take(rows)
    assert [file.parent.parent.name for file in tmp_path.rglob("x.npy")] == ["data"]
    monkeypatch.setattr(cache, "read", None)
    assert_same(data.find(section)["test"].take(rows), first)
