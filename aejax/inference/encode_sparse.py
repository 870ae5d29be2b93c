"""Encoding of a whole split to sparse codes on disk: streamed, in flat memory, and resumed after an interruption."""

import functools
import itertools
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from tqdm import tqdm

from aejax import data
from aejax.config import differences
from aejax.data import Source
from aejax.data.arrays import read_npy
from aejax.errors import InputError, StorageError, shown
from aejax.files import inside, local, make_write_error, read_json, writable, write_whole
from aejax.inference.run import Run

SUFFIX = ".csr"
_PROGRESS = "progress.json"
_COLUMNS: dict[str, np.dtype[Any]] = {"offsets": np.dtype("<i8"), "indices": np.dtype("<i4"), "values": np.dtype("<f4")}
_HEADER = 128  # bytes of the headers of the .npy files, which are written last, as they say the length
_NUMBERS = 2**26  # values of the dense codes of a batch, 256 MiB
_BLOCK = 1_024  # examples of a batch that are computed at once: the dense codes of more are slower to pass over


def encode_sparse(run: Run, source: Source, out: str | Path, chunk: int = 0) -> None:
    """Writes the units that are not 0 of the deterministic code of every example of `source`, in order.

    `out` is a folder whose name ends with .csr. Its files are those of a compressed sparse row matrix: `values.npy`
    float32 and `indices.npy` int32, of all units that are not 0, by example and then by unit; `offsets.npy` int64 [n +
    1], where each example's begin; and `about.json`, which says what was encoded. `read_sparse` reads them, and
    `numpy.load(..., mmap_mode="r")` reads each.

    Holds a few chunks of examples in memory. After an interruption the same call resumes after the last complete chunk
    and writes exactly what an uninterrupted call writes. Does nothing if `out` is complete.

    Args:
      run: the trained run, e.g. of a bottleneck topk, batch_topk or jumprelu. Codes of several axes are flattened.
      source: examples of the shape that the run reads, see `find_split`.
      out: the folder to write.
      chunk: number of examples that are encoded together; 0: as many as have 2**26 units, at most 4,096.

    Raises:
      InputError: `out` has another suffix, or is of another run, step or split, or a code is not finite.
      StorageError: `out` cannot be written.
    """
    out = check_out(out)
    if source.shape != run.spec.shape:
        raise InputError(
            f"the run reads examples of {run.spec.shape}, {source.name} holds examples of {source.shape}; give others"
        )
    if run.config.classes:
        raise InputError("sparse codes are of runs without classes; write an .npz or .array_record file instead")
    if chunk < 0:
        raise InputError(f"chunk must be at least 1 example, or 0, got {chunk}")
    width = math.prod(run.latents.shape[1:])
    chunk = chunk or int(np.clip(_NUMBERS // width // 256, 1, 16)) * 256
    about = {
        "data": run.config.data.name,
        "split": source.name,
        "examples": len(source),
        "width": width,
        "step": run.step,
        "parameters": run.fingerprint,
        "chunk": chunk,
    }
    partial = inside(out.parent, out.name + ".partial")
    if out.exists():
        _check_same(out, about)
        (out / _PROGRESS).unlink(missing_ok=True)
        return
    if not partial.exists():
        write_whole(writable(partial) / "about.json", json.dumps(about, indent=2))
        _note(partial, 0, 0)
    _check_same(partial, about)
    try:
        _write(run, source, chunk, partial, width)
        partial.rename(out)
        (out / _PROGRESS).unlink()  # last, as an interrupted call needs it
    except OSError as error:
        raise error if isinstance(error, StorageError) else make_write_error(out, error) from error


def _write(run: Run, source: Source, chunk: int, partial: Path, width: int) -> None:
    """Appends the chunks that are missing to the files of `partial`, and writes their headers."""
    progress = read_json(partial / _PROGRESS)
    done, count = int(progress["examples"]), int(progress["units"])
    files = {name: (partial / f"{name}.npy").open("r+b" if done else "wb") for name in _COLUMNS}
    try:
        lengths = {"offsets": done, "indices": count, "values": count}
        for name, file in files.items():  # what follows is of a chunk that was not completed
            file.seek(_HEADER + lengths[name] * _COLUMNS[name].itemsize)
            file.truncate()
        first, total = done // chunk, -(-len(source) // chunk)
        rows_of = lambda i: np.arange(i * chunk, min((i + 1) * chunk, len(source)))  # noqa: E731
        parts = data.stream(source, rows_of, first, total)
        with tqdm(total=len(source), initial=done, unit=" examples", unit_scale=True, disable=None) as bar:
            for codes in encode_parts(run, (part["x"] for part in parts), chunk, width, done):
                columns = {"offsets": count + codes.indptr[:-1], "indices": codes.indices, "values": codes.data}
                for name, file in files.items():
                    file.write(columns[name].astype(_COLUMNS[name]).data)
                    file.flush()
                done, count = done + codes.shape[0], count + codes.nnz
                _note(partial, done, count)
                bar.update(codes.shape[0])
        files["offsets"].write(np.array([count], _COLUMNS["offsets"]).data)
        for name, file in files.items():
            file.seek(0)
            file.write(_make_header(name, len(source) + 1 if name == "offsets" else count))
            file.flush()
            os.fsync(file.fileno())
    finally:
        for file in files.values():
            file.close()


def encode_parts(
    run: Run, parts: Iterator[np.ndarray], size: int, width: int, first: int = 0
) -> Iterator[sparse.csr_array]:
    """Yields the sparse codes of arrays of at most `size` examples; each is gathered while the next is computed.

    `first` is the number of the first example, by which errors name others.
    """
    model, spec = run.model, run.spec

    def encode_block(variables: Any, x: Any) -> Any:
        code: Any = model.apply(variables, spec.prepare(x), method="encode")
        kept = getattr(code, "kept", None)  # of bottlenecks that know their few units, which are sooner on the host
        return code.z.reshape(len(x), -1) if kept is None else (kept.values, kept.indices)

    @jax.jit
    def encode(variables: Any, x: Any) -> Any:
        if size % _BLOCK:
            return encode_block(variables, x)
        blocks = x.reshape(-1, _BLOCK, *x.shape[1:])
        parts = jax.lax.map(functools.partial(encode_block, variables), blocks)
        return jax.tree.map(lambda part: part.reshape(size, *part.shape[2:]), parts)

    variables: Any = jax.device_put(run.variables)
    waiting: tuple[int, Any] | None = None
    for part in itertools.chain(parts, [None]):
        begun = None
        if part is not None:
            x = spec.check(part)
            padded = np.concatenate([x, np.repeat(x[:1], size - len(x), 0)]) if len(x) < size else x
            begun = len(x), encode(variables, padded)
        if waiting is not None:
            yield to_csr(jax.device_get(waiting[1]), waiting[0], width, first)
            first += waiting[0]
        waiting = begun


def to_csr(code: Any, length: int, width: int, first: int = 0) -> sparse.csr_array:
    """Returns the first `length` rows of a code as a sparse matrix, with ascending indices and without zeros.

    The code is dense, [n, width], or a pair of values and indices [n, k], in which a unit may occur twice: it then has
    the sum of both values. Raises InputError if a value is not finite; the first row is that of example `first`.
    """
    if isinstance(code, tuple):
        values, indices = (part[:length] for part in code)
        offsets = np.arange(length + 1) * values.shape[1]
        # Copied, as SciPy works in place, and the arrays are JAX's.
        codes = sparse.csr_array((values.flatten(), indices.flatten(), offsets), (length, width))
        codes.sum_duplicates()
        codes.eliminate_zeros()
    else:
        codes = _compress(code[:length])
    if not np.isfinite(codes.data).all():
        row = first + int(np.searchsorted(codes.indptr, np.argmin(np.isfinite(codes.data)), side="right")) - 1
        raise InputError(f"the code of example {row:,} is NaN or infinite: scale the data as in training")
    return codes


def _compress(z: np.ndarray) -> sparse.csr_array:
    """Returns the dense codes [n, width] as a sparse matrix, by one pass over words of the mask."""
    flat = np.flatnonzero(z)  # three times as fast as np.nonzero of two axes
    rows, indices = np.divmod(flat, z.shape[1])
    offsets = np.searchsorted(rows, np.arange(len(z) + 1))
    return sparse.csr_array((z.ravel()[flat], indices.astype(np.int32), offsets.astype(np.int32)), z.shape)


def read_sparse(path: str | Path, rows: slice | ArrayLike = slice(None)) -> sparse.csr_array:
    """Returns the codes that `encode_sparse` wrote, [n, units], or only their `rows`: a slice or indices from 0.

    Reads no other rows. Raises InputError if there is no such folder or row.
    """
    path = local(path)
    if not (path / "about.json").is_file():
        raise InputError(f"{path}: no folder of sparse codes; encode a split first: aejax encode --out={path}")
    offsets, indices, values = (read_npy(path / f"{name}.npy") for name in _COLUMNS)
    width = int(read_json(path / "about.json")["width"])
    if isinstance(rows, slice) and rows.step in (None, 1):
        start, stop, _ = rows.indices(len(offsets) - 1)
        chosen = np.array(offsets[start : max(stop, start) + 1])
        span = slice(int(chosen[0]), int(chosen[-1]))
        columns = np.array(values[span]), np.array(indices[span]), chosen - chosen[0]
        return sparse.csr_array(columns, (len(chosen) - 1, width))
    try:
        wanted = np.arange(len(offsets) - 1)[rows]  # type: ignore[index]
    except IndexError as error:
        raise InputError(f"rows={shown(rows)} do not fit {len(offsets) - 1:,} examples ({error})") from error
    lengths = offsets[wanted + 1] - offsets[wanted]
    ends = np.concatenate([[0], np.cumsum(lengths)])
    places = np.repeat(offsets[wanted] - ends[:-1], lengths) + np.arange(ends[-1])
    return sparse.csr_array((values[places], indices[places], ends), (len(wanted), width))


def check_out(out: str | Path) -> Path:
    """Returns `out` as a path. Raises the errors that can be found before anything is computed."""
    out = local(out)
    if out.suffix != SUFFIX:
        raise InputError(f"{out}: sparse codes are a folder whose name ends with {SUFFIX}; call it so")
    if out.exists() and not (out / "about.json").is_file():
        raise InputError(f"{out} is there already and not by this command; remove it or choose another folder")
    writable(out.parent)
    return out


def _check_same(folder: Path, about: dict[str, Any]) -> None:
    """Raises InputError if the codes in `folder` belong to another command than `about`."""
    if differ := differences(read_json(folder / "about.json"), about):
        raise InputError(f"{folder} is of another command ({'; '.join(differ)}); remove it or choose another folder")


def _note(partial: Path, examples: int, units: int) -> None:
    write_whole(partial / _PROGRESS, json.dumps({"examples": examples, "units": units}))


def _make_header(name: str, length: int) -> bytes:
    """Returns the header of an .npy file of `length` values, padded to _HEADER bytes (NumPy's format 1.0)."""
    text = f"{{'descr': '{_COLUMNS[name].str}', 'fortran_order': False, 'shape': ({length},), }}"
    begin = b"\x93NUMPY\x01\x00" + (_HEADER - 10).to_bytes(2, "little")
    return begin + text.ljust(_HEADER - 11).encode() + b"\n"
