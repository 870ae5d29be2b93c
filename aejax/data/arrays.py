"""Reading of arrays from memory and from .npy and .npz files; what cannot be used raises InputError."""

import contextlib
import math
import types
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import ml_dtypes
import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike

from aejax import arguments
from aejax.errors import InputError, kind_and_words


def to_numpy(values: ArrayLike | None, name: str) -> np.ndarray:
    """Returns `values` as a NumPy array of any dtype. Raises InputError for masked values and for ragged lists."""
    if hasattr(values, "tocsr"):
        raise InputError(f"{name}: this takes no sparse arrays; give it dense, x.toarray()")
    parts = values if isinstance(values, list | tuple) else [values]
    masked = sum(int(np.ma.count_masked(part)) for part in parts if isinstance(part, np.ma.MaskedArray))
    if masked:
        raise InputError(f"{name}: {masked:,} values are masked; fill them (x.filled(...)) or leave those examples out")
    try:
        return np.asarray(values)
    except Exception as error:  # from ragged lists, or whatever other libraries' arrays raise
        raise InputError(
            f"{name}: give numbers, all of one shape, in a NumPy array ({kind_and_words(error)})"
        ) from error


def as_array(values: ArrayLike | None, name: str) -> np.ndarray:
    """Returns `values` as a NumPy array of real numbers, bfloat16 as float32. Raises InputError for anything else."""
    array = to_numpy(values, name)
    if array.dtype == ml_dtypes.bfloat16:
        return array.astype(np.float32)
    if array.dtype.kind == "c":
        raise InputError(f"{name} has complex numbers ({array.dtype}); give real and imaginary parts as features")
    if array.dtype.kind not in "buif":
        raise InputError(f"{name}: give numbers, all of one shape, not an array of {array.dtype}")
    return array


def as_integers(values: ArrayLike, name: str) -> np.ndarray:
    """Returns labels or factors as int32. Raises InputError if they are not whole numbers or do not fit in int32."""
    array = to_numpy(values, name)
    if array.dtype.kind not in "biu":
        raise InputError(
            f"{name} have dtype {array.dtype}, shape {array.shape}; give whole numbers, one for each example"
        )
    limits = np.iinfo(np.int32)
    if array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
        raise InputError(
            f"{name} from {array.min()} to {array.max()} do not fit in int32; number the classes from 0, e.g. with "
            "np.unique(labels, return_inverse=True)[1]"
        )
    return array.astype(np.int32)


def read_npy(path: Path) -> np.ndarray:
    """Returns the array of a .npy file, which may be structured, mapped into memory."""
    with _read_errors(path), path.open("rb") as file:
        shape, fortran, dtype = read_header(file, path.stat().st_size)
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C").view(np.ndarray)


def write_npy(file: IO[bytes], array: np.ndarray) -> None:
    """Writes an array in the .npy format. Unlike np.save, which uses C's stdio, it notices a full disk."""
    npy.write_array(types.SimpleNamespace(write=file.write), array, allow_pickle=False)  # type: ignore[arg-type]


def require_file(path: Path) -> None:
    """Raises InputError unless there is a regular file at `path`."""
    if not path.is_file():
        raise InputError(f"{path}: {'no regular file' if path.exists() else 'no such file'}; check data.name")


def list_npz(path: Path) -> list[str]:
    """Returns the names of an .npz file's arrays, in the file's order. Raises InputError if a name occurs twice."""
    with _read_errors(path), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path} holds several arrays called {repeated[0]}; keep one")
    return names


def read_npz(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads the arrays called `names` from an .npz file, and no others."""
    arrays = {}
    with _read_errors(path), zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        check_memory(sum(members[name].file_size for name in names), str(path))
        for name in names:
            # NumPy allocates whatever the header claims, so the header is first compared with the member's size.
            with archive.open(members[name]) as file:
                read_header(file, members[name].file_size)
            with archive.open(members[name]) as file:
                arrays[name] = npy.read_array(file, allow_pickle=False)
    return arrays


def check_memory(nbytes: int, what: str) -> None:
    """Raises InputError if `nbytes` exceed this machine's memory."""
    memory = arguments.memory()
    if nbytes > memory:
        raise InputError(
            f"{what} holds {nbytes:,} bytes of arrays, and this machine has {memory:,} bytes of memory; give fewer "
            "examples, or one array in an .npy file, which is not read whole"
        )


def read_header(file: IO[bytes], size: int, allow_void: bool = False) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Reads shape, Fortran order and dtype of a .npy file. Raises ValueError unless its values end at byte `size`.

    `allow_void` accepts V2, as which NumPy writes bfloat16.
    """
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in readers:
        raise ValueError(f"the format's version is {version}")
    shape, fortran, dtype = readers[version](file)
    fields = [dtype[name].base for name in dtype.names] if dtype.names else [dtype]
    if any(field.kind not in "buifcSU" for field in fields) and not (allow_void and dtype == np.dtype("V2")):
        raise ValueError(f"the dtype is {dtype}")
    if any(length < 0 for length in shape):
        raise ValueError(f"the shape is {shape}")
    expected, found = math.prod(shape) * dtype.itemsize, size - file.tell()
    if expected != found:
        raise ValueError(f"the header says {dtype} of shape {shape}, {expected:,} bytes, and {found:,} follow")
    return shape, fortran, dtype


@contextlib.contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    """Turns whatever NumPy, zipfile and Python's tokenizer raise for a damaged file into an InputError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from the parser, about a damaged header
            yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: not a readable array of numbers, all of one shape ({kind_and_words(error)}); write it again"
        ) from error
