"""Omniglot as it is published, written here file by file, and the real one where it is."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import aejax
from aejax import config as config_lib
from aejax.data import find, load, read

REAL = Path(os.environ.get("TFDS_DATA_DIR", "../shared/data/tfds")).parent / "omniglot"
STROKES = np.random.default_rng(0).random((9, 105, 105)) > 0.5  # white where True, as the files have paper


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def write(folder, name, images, zipped=True):
    """Writes images, by alphabet/character/number.png, as a zip file or as the folder in it."""
    if zipped:
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for path, image in images.items():
                archive.writestr(f"{name}/{path}", png(image))
        return folder / f"{name}.zip"
    for path, image in images.items():
        file = folder / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(image))
    return folder / name


def section(path, **changes):
    config = config_lib.default().data
    config.update({"name": str(path), "cache": False, **changes})
    return config


GREEK = {f"Greek/character01/01_{i}.png": STROKES[i] for i in range(6)}
LATIN = {f"Latin/character02/02_{i}.png": STROKES[i] for i in range(6, 9)}


@pytest.mark.parametrize("zipped", [True, False])
def test_the_parts_are_splits_white_on_black_and_alphabets_are_labels(zipped, tmp_path):
    write(tmp_path, "images_background_small1", GREEK, zipped)
    write(tmp_path, "images_background_small2", GREEK | {"Latin/character02/02_6.png": STROKES[6]}, zipped)
    write(tmp_path, "images_evaluation", {"Latin/character03/03_8.png": STROKES[8]}, zipped)
    found = find(section(tmp_path, size=105))
    train, test = read(found["train"]), read(found["test"])
    np.testing.assert_array_equal(train["x"][..., 0], 255 * ~STROKES[:7])  # each image once
    np.testing.assert_array_equal(train["label"], [0] * 6 + [1])
    np.testing.assert_array_equal(test["x"][..., 0], 255 * ~STROKES[8:])
    assert found["train"].kinds == ("Greek", "Latin")
    assert test["label"] == [1]


def test_images_have_28_pixels_a_side_unless_others_are_asked_for(tmp_path):
    path = write(tmp_path, "images_background", GREEK)
    expected = Image.fromarray(np.uint8(255 * STROKES[2])).resize((28, 28), Image.Resampling.BICUBIC)
    found = find(section(path))["train"]
    np.testing.assert_array_equal(read(found)["x"][2, ..., 0], 255 - np.asarray(expected))
    assert find(section(path, size=14))["train"].shape == (14, 14, 1)
    cropped = find(section(path, fit="random", size=20))["train"]
    assert cropped.draw(np.arange(2), np.array([[2.0, 0.0, 0.0], [1.0, 0.5, 0.5]]))["x"].shape == (2, 20, 20, 1)


def test_a_damaged_file_is_one_line(tmp_path):
    path = write(tmp_path, "images_background", GREEK)
    content = path.read_bytes()
    at = content.index(b"IDAT") + 6
    for damaged, message in (
        (b"", "no zip file"),
        (content[:-30], "is damaged or no zip file"),
        (content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :], "is damaged or no zip file .*CRC"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(aejax.InputError, match=message):
            read(find(section(path))["train"])
    write(tmp_path, "images_evaluation", {})
    path.unlink()
    with pytest.raises(aejax.InputError, match=r"images_evaluation.zip holds no images as alphabet/character/number"):
        find(section(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="no zip files of Omniglot here")
def test_the_real_images_are_each_read_once():
    """The small parts have 2,720 and 3,120 images, and share 1,000, those of Greek and Latin."""
    found = load(section(REAL))
    assert sum(map(len, found)) == 4_840
    assert len(found.train.kinds) == 8
    x = read(found.test)["x"]
    assert x.shape[1:] == (28, 28, 1)
    assert 15 < x.mean() < 30  # ink is rare
