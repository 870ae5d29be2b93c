"""Sources of ArrayRecord shards of encoded images, and their writer.

A folder of shards holds `<split>-<number>.array_record`, e.g. train-00000.array_record, and `labels.json`, the names of
the labels. Each record is one example: its label, an int32 in little-endian order, -1 without one; then the bytes of
its PNG or JPEG file.
"""

import functools
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

from aejax.data.folders import list_folder
from aejax.data.images import Size, decode, find_sides
from aejax.data.sources import SPLIT_NAMES, Arrays, Rows, Source, as_crops
from aejax.errors import InputError, kind_and_words
from aejax.files import local, read_bytes, read_json, replacing, writable, write_whole

SUFFIX = ".array_record"
_NAMES = "labels.json"
_PARTIAL = "write_shards.partial"  # is there until all shards are written
_HEADER = 4  # bytes of the label
# Records that are read alone, and files without threads of their own, since batches are read by threads.
_READING, _WRITING = "readahead_buffer_size:0,max_parallelism:0", "group_size:1,uncompressed"
_SIZE = 2**28  # bytes of a shard


def has_shards(path: Path) -> bool:
    """Returns whether the folder holds shards."""
    return any(path.glob(f"*{SUFFIX}"))


def from_shards(path: Path, size: Size, fit: str = "crop") -> dict[str, Source]:
    """Returns the splits of a folder of shards, by the names of its files; files of other names are `train`.

    Images are gray if the first of every shard is, and RGB otherwise. `size` and `fit` are those of `images.resize`.
    Raises InputError for shards that `write_shards` has not completed, for a shard that is damaged or empty, and for a
    record that is no image as soon as it is read.
    """
    if (path / _PARTIAL).exists():
        raise InputError(f"{path} holds only a part of the shards, as write_shards was interrupted; call it again")
    splits: dict[str, list[Path]] = {}
    for file in sorted(path.glob(f"*{SUFFIX}")):
        splits.setdefault(SPLIT_NAMES.get(file.name.partition("-")[0].lower(), "train"), []).append(file)
    if "train" not in splits:
        raise InputError(f"{path}: no shard is called train-...{SUFFIX}, only {', '.join(splits)}; rename one split")
    kinds: tuple[str, ...] = ()
    if (path / _NAMES).exists():
        kinds = tuple(map(str, read_json(path / _NAMES).get("labels", ())))
    return {name: _open_split(f"{path}[{name}]", files, size, fit, kinds) for name, files in splits.items()}


def write_shards(folder: str | Path, out: str | Path, shard_bytes: int = _SIZE) -> list[Path]:
    """Writes a folder of PNG and JPEG images as shards, with their bytes as they are, and returns the shards.

    Splits and labels are those that `data.name` finds in such a folder. The order of a split's images is kept. After an
    interruption the same call begins anew.

    Args:
      folder: of images.
      out: folder to write to, which must hold no shards.
      shard_bytes: size after which a shard is full.

    Raises InputError for a folder without images or with a damaged one, and StorageError if the shards cannot be
    written.
    """
    folder, out = local(folder), local(out)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of the images")
    partial = out / _PARTIAL
    if out.is_dir() and has_shards(out) and not partial.exists():
        raise InputError(f"{out} holds shards already; choose another folder, or remove them")
    splits, kinds = list_folder(folder)
    writable(out)
    write_whole(partial, "")
    for left in out.glob(f"*{SUFFIX}"):  # by an interrupted call, perhaps of another folder
        left.unlink()
    written: list[Path] = []
    for split, (_, files, label) in splits.items():
        first, number = 0, 0
        while first < len(files):
            shard = out / f"{split}-{number:05d}{SUFFIX}"
            first = _write_shard(shard, files, label, first, shard_bytes)
            written.append(shard)
            number += 1
    write_whole(out / _NAMES, json.dumps({"labels": kinds}) + "\n")
    partial.unlink()
    return written


def _write_shard(shard: Path, files: Sequence[str], label: np.ndarray, first: int, most: int) -> int:
    """Writes the files from number `first` on until `most` bytes are written; returns the number of the next file."""
    size, number = 0, first
    with replacing(shard) as opened:
        try:
            writer = array_record_module.ArrayRecordWriter(opened.name, _WRITING)  # opens the file itself
            while number < len(files) and (number == first or size < most):
                content = read_bytes(Path(files[number]))
                decode(io.BytesIO(content), files[number], size=1)  # raises for a damaged image
                writer.write(label[number].astype("<i4").tobytes() + content)
                size, number = size + len(content), number + 1
            writer.close()
        except RuntimeError as error:
            raise OSError(kind_and_words(error)) from error
    return number


def _open_split(name: str, files: Sequence[Path], size: Size, fit: str, kinds: tuple[str, ...]) -> Source:
    """Returns the source of one split, whose shards stay open."""
    readers = [_open(file) for file in files]
    ends = np.cumsum([reader.num_records() for reader in readers])

    def find(row: int) -> tuple[int, int]:
        """Returns the numbers of a row's shard and of its record in there."""
        shard = int(np.searchsorted(ends, row, side="right"))
        return shard, int(row - (ends[shard - 1] if shard else 0))

    def read(row: int) -> tuple[int, bytes, str]:
        """Returns the label, the image and the name of a row."""
        shard, record = find(row)
        where = f"{files[shard]}, record {record}"
        try:
            content = readers[shard].read([record])[0]
        except Exception as error:  # the library raises RuntimeError, ValueError and IndexError for damaged files
            raise InputError(f"{where}: the shard is damaged ({kind_and_words(error)}); write it again") from error
        if len(content) <= _HEADER:
            raise InputError(f"{where} holds {len(content)} bytes and no label and image; write the shard again")
        return int.from_bytes(content[:_HEADER], "little", signed=True), content[_HEADER:], where

    starts = [0, *ends[:-1].tolist()]
    heads = [decode(io.BytesIO(image), where) for _, image, where in map(read, starts)]
    channels = max(1 if head.shape[2] < 3 else 3 for head in heads)
    shape = (*find_sides(size), channels) if size else (*heads[0].shape[:2], channels)
    labeled = read(0)[0] >= 0

    def draw(rows: Rows, crops: np.ndarray | None) -> Arrays:
        labels, images = [], []
        for row, crop in zip(rows.tolist(), as_crops(crops), strict=False):
            label, image, where = read(row)
            pixels = decode(io.BytesIO(image), where, channels, size, fit, crop)
            if pixels.shape != shape:
                raise InputError(
                    f"{where} has {pixels.shape[0]}x{pixels.shape[1]} pixels, but the first has {shape[0]}x{shape[1]}; "
                    "resize all with data.size=..."
                )
            if (label >= 0) != labeled:
                raise InputError(
                    f"{where} has the label {label}, unlike the first record; write all with labels or none"
                )
            labels.append(label)
            images.append(pixels)
        return {"x": np.stack(images)} | ({"label": np.array(labels, np.int32)} if labeled else {})

    take, drawn = functools.partial(draw, crops=None), draw if fit == "random" else None
    return Source(name, int(ends[-1]), shape, np.dtype(np.uint8), take, tuple(files), kinds, draw=drawn)


def _open(file: Path) -> Any:
    """Returns a reader of the shard. Raises InputError if it is damaged or holds no records."""
    try:
        reader = array_record_module.ArrayRecordReader(str(file), _READING)
        if not reader.ok():
            raise ValueError("it cannot be opened")
        count = reader.num_records()
    except Exception as error:  # the library raises RuntimeError, ValueError and others
        raise InputError(f"{file} is no ArrayRecord shard ({kind_and_words(error)}); write it again") from error
    if not count:
        raise InputError(f"{file} holds no records: it is empty, or its writer was not closed; write it again")
    return reader
