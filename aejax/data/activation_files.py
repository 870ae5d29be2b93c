"""Files of activations: .npy, safetensors and ArrayRecord shards of rows, of which any range can be read alone.

Rows are read by `pread` instead of being mapped into memory: pages of a mapped file count as memory of the process, and
a file that another process cuts short would kill this one.
"""

import json
import math
import os
import struct
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from array_record.python import array_record_module

from aejax.data.arrays import read_header, write_npy
from aejax.errors import InputError, kind_and_words, one_of
from aejax.files import local, parse_object, read_json, replacing, writable, write_whole

SUFFIXES = (".npy", ".safetensors", ".array_record")
LAYOUT = "activations.json"  # dtype and shape of a record, beside ArrayRecord shards
# Kinds of numbers by their names in safetensors; `activations.json` has NumPy's names.
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I8": np.int8,
    "U8": np.uint8,
    "I16": np.int16,
    "I32": np.int32,
}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_TENSORS: tuple[str, ...] = ("activations", "x")  # of which the first is read
_LARGEST_HEADER = 10**8  # bytes, as the safetensors library says
_READING = "readahead_buffer_size:0,max_parallelism:0"
Rows = np.ndarray


class Shard(NamedTuple):
    """An open file of rows.

    Attributes:
      path: of the file.
      length: number of rows.
      shape, dtype: of one row, as stored.
      read: function from ascending row numbers [n] to the rows [n, *shape].
    """

    path: Path
    length: int
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Rows], np.ndarray]


def open_shard(path: Path) -> Shard:
    """Opens a file of rows [n, ...]. Raises InputError, which names the file, if it is damaged or holds no rows."""
    try:
        if path.suffix == ".array_record":
            shard = _open_records(path)
        else:
            offset, shape, dtype = (_find_npy if path.suffix == ".npy" else _find_tensor)(path)
            if len(shape) < 2:
                raise ValueError(f"its shape is {shape}, and activations are [n, features] or [n, layers, features]")
            shard = Shard(path, shape[0], shape[1:], dtype, _make_reader(path, offset, shape[1:], dtype))
    except InputError:
        raise
    except Exception as error:  # whatever the parsers and the library raise for a damaged file
        raise InputError(f"{path} holds no readable activations ({kind_and_words(error)}); write it again") from error
    if not shard.length or not math.prod(shard.shape):
        raise InputError(f"{path} is empty: its shape is {(shard.length, *shard.shape)}; write it again or remove it")
    return shard


def is_bfloat16(path: Path) -> bool:
    """Returns whether the file is an .npy file of bfloat16, which NumPy alone does not read."""
    try:
        with warnings.catch_warnings(action="ignore"):  # from the parser, about a damaged header
            return path.suffix == ".npy" and _find_npy(path)[2] == ml_dtypes.bfloat16
    except Exception:  # of a damaged file, of which whoever reads it says more
        return False


def _find_npy(path: Path) -> tuple[int, tuple[int, ...], np.dtype]:
    """Returns the offset, the shape and the dtype of the values. NumPy writes bfloat16 as V2."""
    with path.open("rb") as file:
        shape, fortran, dtype = read_header(file, path.stat().st_size, allow_void=True)
        if fortran and len(shape) > 1:
            raise ValueError("its rows are not contiguous: write np.ascontiguousarray(x)")
        if dtype.kind == "V":
            dtype = np.dtype(ml_dtypes.bfloat16)
        if dtype.kind not in "buif" and dtype != ml_dtypes.bfloat16:
            raise ValueError(f"its dtype is {dtype}")
        return file.tell(), shape, dtype


def _find_tensor(path: Path) -> tuple[int, tuple[int, ...], np.dtype]:
    """Returns the same of a safetensors file's only tensor, or of the one called activations or x."""
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(size - 8, _LARGEST_HEADER):
            raise ValueError(f"the header says {length:,} bytes, the file has {size:,}")
        header = parse_object(file.read(length))
    header.pop("__metadata__", None)
    names = [name for name in _TENSORS if name in header] or list(header)
    if len(names) != 1 and names[:1] != ["activations"]:
        raise ValueError(f"it holds {', '.join(names) or 'no tensor'}; call the activations 'activations'")
    tensor = header[names[0]]
    if tensor["dtype"] not in _DTYPES:
        raise ValueError(f"its dtype is {tensor['dtype']}")
    shape, dtype = tuple(map(int, tensor["shape"])), np.dtype(_DTYPES[tensor["dtype"]])
    start, stop = tensor["data_offsets"]
    if stop - start != math.prod(shape) * dtype.itemsize or start < 0 or 8 + length + stop > size:
        raise ValueError(
            f"{tensor['dtype']} of shape {shape} should end at byte {8 + length + stop:,} and the file has {size:,}"
        )
    return 8 + length + start, shape, dtype


def _make_reader(path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> Callable[[Rows], np.ndarray]:
    """Returns `Shard.read` for rows that lie one after the other from byte `offset` on."""
    size = math.prod(shape) * dtype.itemsize

    def read(rows: Rows) -> np.ndarray:
        values = np.empty((len(rows), *shape), dtype)
        left = memoryview(values.view(np.uint8).reshape(-1))
        with path.open("rb", buffering=0) as file:  # anew, as a store may have more files than a process may open
            for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
                at, end = offset + int(run[0]) * size, offset + (int(run[-1]) + 1) * size
                while at < end:
                    found = os.preadv(file.fileno(), [left[: end - at]], at)
                    if not found:
                        row = (at - offset) // size
                        raise InputError(f"{path} ends in row {row:,}: it is shorter than before; write it again")
                    left, at = left[found:], at + found
        return values

    return read


def _open_records(path: Path) -> Shard:
    """Opens an ArrayRecord shard, each of whose records is one row, as `activations.json` beside it says."""
    if not (path.parent / LAYOUT).is_file():
        raise ValueError(f'{LAYOUT} beside it is missing, e.g. {{"dtype": "bfloat16", "shape": [768]}}')
    layout = read_json(path.parent / LAYOUT)
    shape = tuple(map(int, layout["shape"]))
    dtype = next(each for each in _NAMES if each.name == layout["dtype"])
    reader: Any = array_record_module.ArrayRecordReader(str(path), _READING)
    if not reader.ok():
        raise ValueError("it cannot be opened")
    size = math.prod(shape) * dtype.itemsize

    def read(rows: Rows) -> np.ndarray:
        try:
            records = reader.read(rows.tolist())
        except Exception as error:  # the library raises RuntimeError, ValueError and IndexError for damaged files
            raise InputError(
                f"{path}, rows {rows[0]:,} to {rows[-1]:,}: it is damaged ({kind_and_words(error)}); write it again"
            ) from error
        for row, record in zip(rows.tolist(), records, strict=True):
            if len(record) != size:
                raise InputError(
                    f"{path}, row {row:,} has {len(record):,} bytes, and {LAYOUT} says {dtype} of {shape}, {size:,} "
                    "bytes; write it again"
                )
        return np.frombuffer(b"".join(records), dtype).reshape(-1, *shape)

    return Shard(path, reader.num_records(), shape, dtype, read)


def write_activations(
    folder: str | Path,
    activations: Iterable[np.ndarray],
    *,
    format: str = "npy",
    dtype: str | None = None,
    shard_rows: int = 2**18,
    split: str = "train",
) -> list[Path]:
    """Writes activations as shards, which `data.name` reads, and returns the shards.

    Holds one shard in memory.

    Args:
      folder: to write to; shards of this split that are there are replaced.
      activations: arrays [n_i, ...] of any lengths, e.g. a generator's; the rows are written in their order.
      format: npy, safetensors or array_record.
      dtype: float32, float16, bfloat16, ...; defaults to that of the first array.
      shard_rows: number of rows of a shard, except for the last.
      split: train, validation or test. A store without validation and test has its last rows held out for them.

    Raises InputError for arrays of different shapes, and StorageError if the shards cannot be written.
    """
    formats = [suffix[1:] for suffix in SUFFIXES]
    if format not in formats:
        raise one_of("format", format, formats)
    if shard_rows < 1:
        raise InputError(f"shard_rows must be at least 1, got {shard_rows}")
    folder, written = writable(local(folder)), list[Path]()
    left = set(folder.glob(f"{split}-*"))
    waiting: list[np.ndarray] = []
    shape: tuple[int, ...] | None = None
    kind: Any = None

    def write() -> None:
        rows = np.concatenate(waiting)
        waiting[:] = [rows[shard_rows:]]
        file = folder / f"{split}-{len(written):05d}.{format}"
        _write_shard(file, np.ascontiguousarray(rows[:shard_rows]))
        written.append(file)

    for part in activations:
        part = np.asarray(part)
        if shape is None:
            kind = next((each for each in _NAMES if each.name == (dtype or part.dtype.name)), None)
            if kind is None:
                raise one_of("dtype", dtype or part.dtype.name, [each.name for each in _NAMES])
        if part.ndim < 2 or (shape is not None and part.shape[1:] != shape):
            raise InputError(f"activations must be [n, ...] of one shape, got {part.shape} after (n, *{shape})")
        shape = part.shape[1:]
        waiting.append(part.astype(kind))
        while sum(map(len, waiting)) >= shard_rows:
            write()
    if sum(map(len, waiting)):
        write()
    if not written:
        raise InputError(f"{folder}: there are no activations to write; give arrays [n, features]")
    if format == "array_record":
        write_whole(folder / LAYOUT, json.dumps({"dtype": kind.name, "shape": list(shape or ())}) + "\n")
    for file in left.difference(written):
        file.unlink()
    return written


def _write_shard(file: Path, rows: np.ndarray) -> None:
    with replacing(file) as opened:
        if file.suffix == ".npy":
            write_npy(opened, rows)
        elif file.suffix == ".safetensors":
            data = {"dtype": _NAMES[rows.dtype], "shape": rows.shape, "data_offsets": [0, rows.nbytes]}
            header = json.dumps({"activations": data}).encode()
            header += b" " * (-len(header) % 8)
            opened.write(struct.pack("<Q", len(header)) + header)
            opened.write(rows.view(np.uint8).data)
        else:
            try:
                writer = array_record_module.ArrayRecordWriter(opened.name, "group_size:1,uncompressed")
                for row in rows:
                    writer.write(row.tobytes())
                writer.close()
            except RuntimeError as error:
                raise OSError(kind_and_words(error)) from error
