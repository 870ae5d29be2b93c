"""Shards of encoded images: written from a folder, read as the folder is, and what is said of damaged ones."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from array_record.python import array_record_module
from conftest import conv, one_device
from PIL import Image

import aejax
from aejax import data
from aejax.data.shards import from_shards, write_shards


def section(name, **changes):
    found = aejax.config.default().data
    found.update({"name": str(name), **changes})
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes, colored JPEGs and gray PNGs of several sizes, in the splits train and test."""
    path, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(20):
        file = path / ("test" if i % 5 == 0 else "train") / "ab"[i % 2] / f"{i:02}.{'png' if i % 3 else 'jpg'}"
        file.parent.mkdir(parents=True, exist_ok=True)
        shape = (12 + i, 20, 3)[: 2 if i % 3 else 3]
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(file)
    return path


@pytest.fixture(scope="module")
def shards(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards")
    written = write_shards(folder, out, shard_bytes=2_000)
    assert len(written) > 4
    return out


def write(file, records):
    writer = array_record_module.ArrayRecordWriter(str(file), "group_size:1,uncompressed")
    for record in records:
        writer.write(record)
    writer.close()


def test_shards_hold_what_the_folder_holds(folder, shards):
    ours, theirs = (data.find(section(path, size=8, cache=False)) for path in (shards, folder))
    assert list(ours) == list(theirs)
    for split, source in ours.items():
        assert len(source) == len(theirs[split])
        assert source.shape == (8, 8, 3)
        assert source.kinds == theirs[split].kinds == ("a", "b")
        rows = np.random.default_rng(1).permutation(len(source))
        for key, value in theirs[split].take(rows).items():
            np.testing.assert_array_equal(source.take(rows)[key], value)
    random = [data.find(section(path, size=8, fit="random"))["train"] for path in (shards, folder)]
    rows = np.array([3, 0, 15])
    crops = data.draw_crops(0, 1, rows, 1.2)
    np.testing.assert_array_equal(*(source.draw(rows, crops)["x"] for source in random))


def test_threads_read_the_same_readers(shards):
    source = from_shards(shards, 8)["train"]
    whole = source.take(np.arange(len(source)))["x"]
    rows = np.random.default_rng(0).integers(len(source), size=(200, 4))
    with ThreadPoolExecutor(8) as pool:
        for chosen, found in zip(rows, pool.map(lambda r: source.take(r)["x"], rows), strict=True):
            np.testing.assert_array_equal(found, whole[chosen])


def test_a_record_is_a_label_and_a_file(folder, shards):
    reader = array_record_module.ArrayRecordReader(str(shards / "train-00000.array_record"))
    record = reader.read([0])[0]
    first = sorted((folder / "train/a").iterdir())[0]
    assert record == (0).to_bytes(4, "little") + first.read_bytes()
    assert json.loads((shards / "labels.json").read_text()) == {"labels": ["a", "b"]}


def test_records_without_labels_and_of_one_size(tmp_path, folder):
    image = next((folder / "train/a").glob("*.jpg")).read_bytes()
    write(tmp_path / "mine.array_record", [b"\xff" * 4 + image] * 3)
    source = from_shards(tmp_path, 0)["train"]
    assert set(source.take(np.arange(2))) == {"x"}
    assert (len(source), source.kinds) == (3, ())


@pytest.mark.slow
def test_a_run_on_shards_is_that_on_the_folder(folder, shards, tmp_path):
    section = {"data__size": 8, "data__fit": "random", "data__train": "train", "batch_size": 8}
    section["data__validation"] = section["data__test"] = "test"
    ours, theirs = (
        aejax.train(conv(data__name=str(path), **section), tmp_path / name, devices=one_device(), quiet=True)
        for name, path in (("shards", shards), ("folder", folder))
    )
    jax.tree.map(np.testing.assert_array_equal, ours.variables, theirs.variables)
    with pytest.raises(aejax.InputError, match=r"was trained on other data \(train had 16 examples, now"):
        data.load({**ours.config.data, "train": "train[:9]"}, ours.trained_on)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], r"train-0.array_record holds no records: it is empty, or its writer was not closed; write it again"),
        ([b"\0\0"], r"train-0.array_record, record 0 holds 2 bytes and no label and image; write the shard again"),
        ([b"\0\0\0\0text"], r"train-0.array_record, record 0: a corrupt image, or no PNG or JPEG"),
    ],
)
def test_bad_records_are_one_line(records, message, tmp_path):
    write(tmp_path / "train-0.array_record", records)
    with pytest.raises(aejax.InputError, match=message) as error:
        from_shards(tmp_path, 8)
    assert "\n" not in str(error.value)


def test_later_records_are_named_when_they_are_read(tmp_path, folder):
    files = sorted((folder / "train/a").glob("*.jpg"))
    image, other = (file.read_bytes() for file in files[:2])
    good = b"\0\0\0\0" + image
    write(tmp_path / "train-0.array_record", [good, good])
    bad = [good, good[:-300], b"\xff\xff\xff\xff" + image, b"\0\0\0\0" + other]
    write(tmp_path / "train-1.array_record", bad)
    source = from_shards(tmp_path, 0)["train"]
    assert source.take(np.arange(3))["x"].shape[0] == 3
    for row, words in {
        3: "train-1.array_record, record 1: a corrupt image",
        4: "train-1.array_record, record 2 has the label -1, unlike the first record",
        5: "train-1.array_record, record 3 has .* pixels, but the first has .*; resize all with data.size",
    }.items():
        with pytest.raises(aejax.InputError, match=words):
            source.take(np.array([0, row]))


@pytest.mark.parametrize("damage", ["text", "cut", "middle"])
def test_a_damaged_shard_is_one_line(damage, shards, tmp_path):
    file = tmp_path / "train-0.array_record"
    content = bytearray((shards / "train-00000.array_record").read_bytes())
    if damage == "text":
        content = b"text"
    elif damage == "cut":
        content = content[: len(content) // 2]
    else:
        content[200:1_200] = bytes(1_000)
    file.write_bytes(content)
    with pytest.raises(aejax.InputError, match=r"train-0\.array_record") as error:
        from_shards(tmp_path, 8)["train"].take(np.arange(1))
    assert "\n" not in str(error.value)


def test_an_interrupted_call_is_not_taken_for_the_whole_and_begins_anew(folder, shards, tmp_path):
    images, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(folder, images)
    last = max((images / "train").rglob("*.png"))
    content = last.read_bytes()
    last.write_bytes(b"text")
    with pytest.raises(aejax.InputError, match=f"{last.name}: a corrupt image"):
        write_shards(images, out, shard_bytes=1_000)
    assert list(out.glob("*.array_record"))
    with pytest.raises(aejax.InputError, match="out holds only a part of the shards, as write_shards was interrupted"):
        data.find(section(out, size=8))
    last.write_bytes(content)
    write_shards(images, out, shard_bytes=2_000)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {
        file.name: file.read_bytes() for file in shards.iterdir()
    }


def test_what_cannot_be_written_is_one_line(folder, shards, tmp_path):
    with pytest.raises(aejax.InputError, match="holds shards already; choose another folder"):
        write_shards(folder, shards)
    (tmp_path / "images").mkdir()
    with pytest.raises(aejax.InputError, match=r"no .png, .jpg, .jpeg images"):
        write_shards(tmp_path / "images", tmp_path / "out")
    (tmp_path / "images/a.png").write_bytes(b"text")
    with pytest.raises(aejax.InputError, match=r"a.png: a corrupt image, or no PNG or JPEG"):
        write_shards(tmp_path / "images", tmp_path / "out")
    with pytest.raises(aejax.InputError, match="nowhere: no such folder; give the folder of the images"):
        write_shards(tmp_path / "nowhere", tmp_path / "out")
    write(tmp_path / "test-0.array_record", [b"\0\0\0\0x"])
    with pytest.raises(aejax.InputError, match=r"no shard is called train-....array_record, only test; rename"):
        data.find(section(tmp_path, size=8))
