"""Encoding of a whole split to a file: streamed, and resumed after an interruption."""

import dataclasses
import json
import math
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from array_record.python import array_record_module
from numpy.lib import format as npy
from numpy.typing import ArrayLike
from tqdm import tqdm

from aejax import data
from aejax.config import differences
from aejax.data import Source
from aejax.data.arrays import list_npz, read_npy, read_npz, write_npy
from aejax.errors import InputError, StorageError, kind_and_words, shown
from aejax.files import inside, local, read_json, replacing, writable, write_whole
from aejax.inference.latent_statistics import Latents, LatentStatistics
from aejax.inference.run import Run
from aejax.models.bottlenecks import SPARSE

SUFFIXES = (".npz", ".array_record")


def encode_split(run: Run, source: Source, out: str | Path, chunk: int = 0, normalize: bool = True) -> None:
    """Writes the deterministic code of every example of `source`, in order.

    Each example has `latents` float32 [*latent]; `indices` int32 if the code is discrete; `label` int32 if there are
    labels; and `row` int64, see `find_split`. An .npz file holds an array of each, [n, ...]; an .array_record file
    holds one record per example, packed and little-endian. `<out>.json` describes what was encoded, its statistics and
    the layout of a record. `read_latents` reads both formats.

    Latents are normalized by `run.latent_statistics`: over the train split, each channel has mean 0 and standard
    deviation 1, or what the factors of a published model make of it. `run.decode` restores what `read_latents` returns,
    and other normalized latents with `statistics=`. Discrete and sparse codes are left as the decoder reads them.

    Holds one chunk of examples in memory, and a few that are read ahead. Chunks stay in `<out>.partial` until all are
    complete: the same call resumes after the last complete chunk and writes exactly what an uninterrupted call writes.
    Does nothing if `out` is complete. Needs twice the disk space of the result.

    Args:
      run: the trained run.
      source: examples of the shape that the run reads, see `find_split`.
      out: the file to write; its suffix, .npz or .array_record, chooses the format.
      chunk: number of examples that an interruption loses at most; 0 stands for about 32 MiB of them.
      normalize: False leaves all latents as the decoder reads them.

    Raises:
      InputError: the latents cannot be measured, or `out` has another suffix, or was written or begun for another run,
        step, split, chunk or other statistics.
      StorageError: `out` cannot be written.
    """
    out = check_out(out)
    if not isinstance(source, Source):
        raise InputError(f"source must be a Source, got {type(source).__name__}; make one by aejax.data.from_array")
    if source.shape != run.spec.shape:
        wrong = f"the run reads examples of {run.spec.shape}, {source.name} holds examples of {source.shape}"
        published = run.published is not None and run.fits(source.shape)
        raise InputError(wrong + f"; give load_pretrained size={source.shape[:2]}, or set --data.size" * published)
    if chunk < 0:
        raise InputError(f"chunk must be at least 1 example, or 0, got {chunk}")
    first = source.take(np.arange(1))
    if "row" not in first:
        source, first = _add_rows(source), {**first, "row": np.zeros(1, np.int64)}
    if run.config.classes and "label" not in first:
        raise InputError(f"the run is conditional (classes={run.config.classes}), and {source.name} has no labels")
    chunk = chunk or _choose_chunk(run, source)
    normalize = normalize and run.codebook_size is None and not isinstance(run.model.bottleneck, SPARSE)
    statistics = run.latent_statistics if normalize else None
    dtype = _pack(first, {name: np.zeros(a.shape, a.dtype) for name, a in run.abstract_code.items()}).dtype
    about = {
        "data": run.config.data.name,
        "split": source.name,
        "examples": len(source),
        "step": run.step,
        "parameters": run.fingerprint,
        "chunk": chunk,
        "statistics": statistics.to_dict() if statistics else None,
        "layout": npy.dtype_to_descr(dtype),
    }
    partial = inside(out.parent, out.name + ".partial")
    if out.exists():
        _check_same(_name_sidecar(out), about, out)
        shutil.rmtree(partial, ignore_errors=True)  # left by a call that was killed before it did so
        return
    _begin(partial, about)
    total = -(-len(source) // chunk)
    done = next((i for i in range(total) if not _is_whole(_name_chunk(partial, i), dtype)), total)
    rows_of = lambda i: np.arange(i * chunk, min((i + 1) * chunk, len(source)))  # noqa: E731
    with tqdm(total=len(source), unit=" examples", unit_scale=True, dynamic_ncols=True, disable=None) as bar:
        bar.update(min(done * chunk, len(source)))
        for i, arrays in zip(range(done, total), data.stream(source, rows_of, done, total), strict=True):
            code = run.code(arrays["x"], arrays["label"] if run.config.classes else None)
            if statistics:
                code["z"] = statistics.normalize(code["z"])
            records = _pack(arrays, code)
            with replacing(_name_chunk(partial, i)) as file:
                write_npy(file, records)
            bar.update(len(records))
    chunks = lambda: (read_npy(_name_chunk(partial, i)) for i in range(total))  # noqa: E731
    write_whole(_name_sidecar(out), json.dumps(about, indent=2))
    with replacing(out) as file:
        if out.suffix == ".npz":
            _write_npz(file, chunks, len(source), dtype)
        else:
            _write_array_record(file, chunks)
    shutil.rmtree(partial)


def find_split(run: Run, spec: str) -> Source:
    """Returns the split of the run's data set that `spec` names, with a `row` for each example.

    "train", "validation" and "test" are the run's own splits; anything else is TFDS syntax over the data set's splits,
    e.g. "test[:10%]". A row is the example's position in the data set's split.
    """
    wholes = {name: _add_rows(source) for name, source in data.find(run.config.data).items()}
    if spec in data.Splits._fields:
        splits = data.split(wholes, run.config.data)
        data.check_same(run.trained_on, splits, run.config.data.name)
        return getattr(splits, spec)
    try:
        return data.select(wholes, spec)
    except InputError as error:
        raise InputError(f"{error}; the run's own splits are {', '.join(data.Splits._fields)}") from error


def read_latents(path: str | Path, rows: slice | ArrayLike = slice(None)) -> dict[str, np.ndarray]:
    """Returns the arrays that `encode_split` wrote, by name, or only their `rows`: a slice or indices from 0.

    Reads no other rows of an .array_record file. Normalized latents are `Latents`, which `run.decode` restores. Raises
    InputError if there is no such file or row, and StorageError if the file cannot be read.
    """
    path = local(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; encode a split first")
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: files of latents end with {' or '.join(SUFFIXES)}; give one of these")
    if path.suffix == ".npz":
        arrays = {name: _take(array, rows) for name, array in read_npz(path, list_npz(path)).items()}
    else:
        arrays = _read_records(path, rows)
    statistics = read_statistics(path)
    if statistics and "latents" in arrays:
        arrays["latents"] = Latents.of(arrays["latents"], statistics)
    return arrays


def read_statistics(path: str | Path) -> LatentStatistics | None:
    """Returns the statistics that the latents in a file of `encode_split` are normalized by, None if they are not.

    Raises StorageError if the description beside the file cannot be read. Warns if there is none.
    """
    sidecar = _name_sidecar(local(path))
    if not sidecar.exists():
        warnings.warn(f"{sidecar} is missing: the latents are taken for ones that are not normalized", stacklevel=2)
        return None
    found = read_json(sidecar).get("statistics")
    return None if found is None else LatentStatistics.from_dict(found, sidecar)


def _read_records(path: Path, rows: Any) -> dict[str, np.ndarray]:
    """Returns the arrays of an .array_record file, or only their rows."""
    layout: Any = read_json(_name_sidecar(path)).get("layout")
    try:
        dtype = npy.descr_to_dtype([(name, kind, *(tuple(shape) for shape in rest)) for name, kind, *rest in layout])
        reader = array_record_module.ArrayRecordReader(str(path), "readahead_buffer_size:0,max_parallelism:0")
        if not reader.ok():
            raise ValueError("it is damaged")
        wanted = _take(np.arange(reader.num_records()), rows).tolist()
        records = np.frombuffer(b"".join(reader.read(wanted)), dtype)
        reader.close()
    except (TypeError, ValueError, RuntimeError) as error:  # from the file, or from the layout in its sidecar
        if isinstance(error, InputError):
            raise
        raise StorageError(f"{path} is no array_record file ({kind_and_words(error)}); encode again") from error
    return {name: records[name] for name in dtype.names or ()}


def _take(array: np.ndarray, rows: Any) -> np.ndarray:
    """Returns `array[rows]`. Raises InputError if there are no such rows."""
    try:
        return array[rows]
    except IndexError as error:
        raise InputError(f"rows={shown(rows)} do not fit {len(array):,} examples ({error})") from error


def check_out(out: str | Path) -> Path:
    """Returns `out` as a path. Raises the errors that can be found before anything is computed."""
    out = local(out)
    if out.suffix not in SUFFIXES:
        raise InputError(f"{out}: the suffix says the format; end it with {', '.join(SUFFIXES)} or .csr")
    if out.exists() and not _name_sidecar(out).exists():
        raise InputError(f"{out} is there already and not by this command; remove it or choose another file")
    writable(out.parent)
    return out


def _add_rows(source: Source) -> Source:
    """Returns the source with a `row` for each example: its position in the source."""
    take = lambda rows: {**source.take(rows), "row": np.asarray(rows, np.int64)}  # noqa: E731
    return dataclasses.replace(source, take=take, files=(), kinds=(), binary=False, draw=None)


def _choose_chunk(run: Run, source: Source) -> int:
    """Returns the chunk that takes about 32 MiB: a multiple of 256, the batch of `run.encode`, up to 4,096."""
    bytes_per_example = max(source.nbytes // len(source), 4 * math.prod(run.latents.shape[1:]))
    return int(np.clip(2**25 // bytes_per_example // 256, 1, 16)) * 256


def _pack(arrays: Mapping[str, np.ndarray], code: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the examples of a chunk and their code as one structured array [n]."""
    found = {"row": arrays["row"], "label": arrays.get("label"), "indices": code.get("indices"), "latents": code["z"]}
    fields = {name: array for name, array in found.items() if array is not None}
    layout = [(name, array.dtype.newbyteorder("<"), array.shape[1:]) for name, array in fields.items()]
    records = np.empty(len(arrays["x"]), np.dtype(layout))
    for name, array in fields.items():
        records[name] = array
    return records


def _begin(partial: Path, about: Mapping[str, Any]) -> None:
    """Creates the folder of the chunks. Raises InputError if another call has begun it."""
    file = writable(partial) / "about.json"
    if file.exists():
        _check_same(file, about, partial)
    else:
        write_whole(file, json.dumps(about, indent=2))


def _check_same(file: Path, about: Mapping[str, Any], what: Path) -> None:
    """Raises InputError if `what`, which the JSON file describes, belongs to another command than `about`."""
    old = read_json(file)
    fixed, now = ({key: value for key, value in each.items() if key != "statistics"} for each in (old, about))
    differ = differences(fixed, now)
    if not differ and old.get("statistics") != about["statistics"]:
        differ = ["its latents are normalized otherwise, or not"]
    if differ:
        raise InputError(f"{what} is of another command ({'; '.join(differ)}); remove it or choose another file")


def _name_chunk(partial: Path, number: int) -> Path:
    return partial / f"{number:06}.npy"


def _is_whole(chunk: Path, dtype: np.dtype) -> bool:
    """Returns whether the chunk was written completely, with records of `dtype`."""
    try:
        return chunk.is_file() and read_npy(chunk).dtype == dtype
    except InputError:
        return False


def _write_npz(file: BinaryIO, chunks: Callable[[], Iterator[np.ndarray]], length: int, dtype: np.dtype) -> None:
    """Writes what np.savez would write, with one chunk in memory at a time."""
    with zipfile.ZipFile(file, "w") as archive:
        for name in dtype.names or ():
            kind, shape = dtype[name].base, (length, *dtype[name].shape)
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                header = {"descr": npy.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
                npy.write_array_header_1_0(entry, header)
                for chunk in chunks():
                    entry.write(chunk[name].tobytes())


def _write_array_record(file: BinaryIO, chunks: Callable[[], Iterator[np.ndarray]]) -> None:
    try:
        # The writer opens the file itself. Floats hardly compress, and groups of one let a record be read alone.
        writer = array_record_module.ArrayRecordWriter(file.name, "group_size:1,uncompressed")
        for chunk in chunks():
            for record in chunk:
                writer.write(record.tobytes())
        writer.close()
    except RuntimeError as error:
        raise OSError(kind_and_words(error)) from error


def _name_sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".json")
