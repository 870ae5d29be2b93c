"""Files in which data sets are published, written here byte by byte."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

import aejax
from aejax import config as config_lib
from aejax.data import load, read
from aejax.data.published import read_idx

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 5, 4), np.uint8)
LABELS = np.arange(30, dtype=np.uint8) % 10


def idx(a, kind=8):
    return (
        bytes([0, 0, kind, a.ndim])
        + struct.pack(f">{a.ndim}i", *a.shape)
        + a.astype(a.dtype.newbyteorder(">")).tobytes()
    )


def splits_of(path):
    config = config_lib.default().data
    config.name = str(path)
    return load(config)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_folder_of_idx_files_is_train_and_test(suffix, tmp_path):
    pack = gzip.compress if suffix else bytes
    for part, rows in (("train", slice(0, 20)), ("t10k", slice(20, 30))):
        (tmp_path / f"{part}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(IMAGES[rows])))
        (tmp_path / f"{part}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(LABELS[rows])))
    found = splits_of(tmp_path)
    np.testing.assert_array_equal(read(found.test)["x"][..., 0], IMAGES[20:])
    np.testing.assert_array_equal(read(found.test)["label"], LABELS[20:])
    assert len(found.train) + len(found.validation) == 20
    (tmp_path / f"letters-train-images-idx3-ubyte{suffix}").write_bytes(b"")
    with pytest.raises(aejax.InputError, match="holds several data sets, , letters; give each"):
        splits_of(tmp_path)


@pytest.mark.parametrize(("kind", "dtype"), {8: "u1", 9: "i1", 11: "i2", 12: "i4", 13: "f4", 14: "f8"}.items())
def test_an_idx_file_holds_an_array_of_any_kind(kind, dtype, tmp_path):
    a = (np.arange(24).reshape(2, 3, 4) - 7).astype(dtype)
    (tmp_path / "a.idx").write_bytes(idx(a, kind))
    found = read_idx(tmp_path / "a.idx")
    np.testing.assert_array_equal(found, a)
    assert found.dtype == dtype


def test_the_real_mnist_is_the_same_from_idx_and_from_tfds():
    shared = Path(os.environ.get("TFDS_DATA_DIR", "../shared/data/tfds")).parent / "mnist_idx"
    if not shared.is_dir():
        pytest.skip("no IDX files of MNIST here")
    images = read_idx(shared / "t10k-images-idx3-ubyte.gz")
    assert images.shape == (10_000, 28, 28)
    assert round(float(images.mean()), 4) == 33.7912  # of the test images, 0.1325 of 255


@pytest.mark.parametrize(
    "content",
    [b"", idx(IMAGES)[:-1], idx(IMAGES) + b"\0", b"\1" + idx(IMAGES)[1:], idx(IMAGES, 10), b"\0\0\x08\x03\xff\xff"],
    ids=["empty", "cut off", "longer", "no magic", "unknown kind", "cut off in its head"],
)
def test_a_damaged_idx_file_is_one_line(content, tmp_path):
    for name, bytes_ in (("x.idx", content), ("train-images-idx3-ubyte.gz", content)):
        (tmp_path / name).write_bytes(bytes_)
        with pytest.raises(aejax.InputError, match=f"{name} is damaged or no IDX file"):
            splits_of(tmp_path / name)


def test_larochelles_split_is_read_as_it_is(tmp_path):
    images = np.random.default_rng(1).integers(0, 2, (9, 16))
    for part, rows in (("train", slice(0, 5)), ("valid", slice(5, 7)), ("test", slice(7, 9))):
        np.savetxt(tmp_path / f"binarized_mnist_{part}.amat", images[rows], "%d")
    found = splits_of(tmp_path)
    assert [len(part) for part in found] == [5, 2, 2]
    np.testing.assert_array_equal(read(found.validation)["x"].reshape(2, 16), 255 * images[5:7])
    (tmp_path / "binarized_mnist_test.amat").write_text("0 1 0.5 1\n")
    with pytest.raises(aejax.InputError, match="zeros and ones"):
        splits_of(tmp_path)


def test_omniglots_letters_are_upright(tmp_path):
    images = np.zeros((24, 28, 28))
    images[:, 2, :] = 0.5  # a bar at the top; MATLAB counts down the columns first
    columns = images.transpose(0, 2, 1).reshape(24, -1).T
    alphabets = np.eye(50)[:, [3, 1, 4, 1, 5, 9] * 4]
    file = tmp_path / "chardata.mat"
    savemat(file, {"data": columns, "testdata": columns, "target": alphabets, "testtarget": alphabets})
    found = splits_of(file)
    np.testing.assert_array_equal(read(found.test)["x"][..., 0], images.astype(np.float32))
    assert read(found.test)["label"].tolist() == [3, 1, 4, 1, 5, 9] * 4
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(aejax.InputError, match="damaged or no MATLAB file"):
        splits_of(file)
