"""Files in which data sets of digits and letters are published: IDX, Larochelle's .amat, and the .mat of IWAE.

- MNIST, Fashion-MNIST, KMNIST and others are IDX files, gzipped or not: `train-images-idx3-ubyte.gz`, `t10k-...`.
- H. Larochelle's static binarization of MNIST is a folder with `binarized_mnist_train.amat`, `..._valid`, `..._test`.
- Omniglot at 28x28, as the code of Burda et al. 2016 reads it, is one file, `chardata.mat`.
"""

import gzip
import math
import os
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from aejax.data.images import Size
from aejax.data.sources import SPLIT_NAMES, Source, from_array
from aejax.errors import InputError, kind_and_words
from aejax.files import read_bytes

_ENDS = ("-ubyte", "-ubyte.gz", ".idx", ".amat")
_IDX = re.compile(r"(?:(.*)-)?(\w+)-(images|labels)-idx\d-ubyte(?:\.gz)?")
_AMAT = re.compile(r"binarized_mnist_(train|valid|test)\.amat")
_UNNAMED = ("", "train", "images")  # what a file of another name holds
_DTYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}  # by the third byte of an IDX file
_LARGEST = 2**36  # bytes of an array, more than any such data set has


def find_published(path: Path) -> Callable[[Size, str], dict[str, Source]] | None:
    """Returns a function of `size` and `fit` that opens the splits of a file or folder, or None for other ones."""
    if path.suffix == ".mat" and path.is_file():
        return lambda size, fit: _open_mat(path, size, fit)
    names = os.listdir(path) if path.is_dir() else [path.name] if path.is_file() else []
    files = [path / name if path.is_dir() else path for name in sorted(names) if name.endswith(_ENDS)]
    if idx := [file for file in files if not file.name.endswith(".amat")]:
        return lambda size, fit: _open_idx(path, idx, size, fit)
    if amat := [file for file in files if _AMAT.fullmatch(file.name)]:
        return lambda size, fit: _open_amat(amat, size, fit)
    return None


def read_idx(file: Path) -> np.ndarray:
    """Returns the array in an IDX file, gzipped or not.

    Raises InputError if it is damaged or of another kind, and StorageError if it cannot be read.
    """
    content = read_bytes(file)
    try:
        content = gzip.decompress(content) if file.suffix == ".gz" else content
        kind, axes = content[2], content[3]
        shape = tuple(int(side) for side in np.frombuffer(content, ">u4", axes, 4))
        dtype = np.dtype(_DTYPES[kind])
        if content[:2] != b"\0\0" or len(content) != 4 + 4 * axes + math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{len(content):,} bytes are not an array of {shape}")
        return np.frombuffer(content, dtype, offset=4 + 4 * axes).reshape(shape).astype(dtype.newbyteorder("="))
    except (EOFError, OSError, ValueError, LookupError, zlib.error) as error:
        raise InputError(
            f"{file} is damaged or no IDX file ({kind_and_words(error)}); copy it again from where it came"
        ) from error


def _open_idx(path: Path, files: Sequence[Path], size: Size, fit: str) -> dict[str, Source]:
    """Returns the splits of the IDX files of one data set; of a single file of another name `train`."""
    found: dict[str, dict[str, Path]] = {}
    named = [(file, match.groups() if (match := _IDX.fullmatch(file.name)) else _UNNAMED) for file in files]
    if len(sets := {prefix or "" for _, (prefix, *_) in named}) > 1:
        raise InputError(f"{path} holds several data sets, {', '.join(sorted(sets))}; give each a folder of its own")
    for file, (_, part, role) in named:
        split = SPLIT_NAMES.get("test" if part == "t10k" else part.lower(), "train")
        if role in found.setdefault(split, {}):
            raise InputError(f"{path} holds {found[split][role].name} and {file.name}; keep one of them")
        found[split][role] = file
    splits = {}
    for split, of in found.items():
        if "images" not in of:
            raise InputError(f"{path} holds {of['labels'].name}, but not its images; add them")
        label = read_idx(of["labels"]) if "labels" in of else None
        splits[split] = from_array(read_idx(of["images"]), label, f"{path}[{split}]", size, fit=fit)
    return splits


def _open_amat(files: Iterable[Path], size: Size, fit: str) -> dict[str, Source]:
    """Returns the splits of texts with an image of zeros and ones in each row."""
    splits = {}
    for file in files:
        content = read_bytes(file)
        text = np.frombuffer(content, np.uint8)
        digits = text[(text == ord("0")) | (text == ord("1"))] - np.uint8(ord("0"))
        side = math.isqrt(len(content.partition(b"\n")[0].split()))
        spaces = sum(content.count(c) for c in (b" ", b"\r", b"\n"))
        if not side or len(digits) % side**2 or len(digits) + spaces != len(text):
            raise InputError(f"{file} does not hold zeros and ones, a square image in each line; copy it again")
        name = SPLIT_NAMES[file.stem.removeprefix("binarized_mnist_")]
        splits[name] = from_array(digits.reshape(-1, side, side), None, str(file), size, fit=fit, binary=True)
    return splits


def _open_mat(path: Path, size: Size, fit: str) -> dict[str, Source]:
    """Returns train and test of Omniglot's letters, with the number of their alphabet as label."""
    from scipy.io import loadmat  # here, because it takes 0.1 s

    read_bytes(path, _LARGEST)  # a regular file
    try:
        held = loadmat(path, variable_names=["data", "testdata", "target", "testtarget"])
    except Exception as error:  # of many types, for damaged files
        raise InputError(f"{path} is damaged or no MATLAB file ({kind_and_words(error)}); copy it again") from error
    splits = {}
    for split, x, y in (("train", "data", "target"), ("test", "testdata", "testtarget")):
        if x not in held or held[x].shape[0] != 28**2:
            raise InputError(f"{path} does not hold {x} of [784, n], as chardata.mat of Omniglot does")
        images = np.ascontiguousarray(held[x].T.reshape(-1, 28, 28).swapaxes(1, 2), np.float32)
        label = held[y].argmax(0) if y in held else None
        splits[split] = from_array(images, label, f"{path}[{split}]", size, fit=fit)
    return splits
