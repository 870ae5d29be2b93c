"""Sources of folders of .wav files, which are cut into segments of one length."""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from aejax.data.folders import IMAGE_SUFFIXES
from aejax.data.sources import SPLIT_NAMES, Arrays, Rows, Source
from aejax.errors import InputError, kind_and_words, printable

RATE = 16_000
SUFFIX = ".wav"


def has_sounds(path: Path) -> bool:
    """Returns whether the first folder below `path` that holds sounds or images holds .wav files."""
    for _, folders, files in os.walk(path):
        folders.sort()
        suffixes = {os.path.splitext(file)[1].lower() for file in files}
        if suffixes.intersection((SUFFIX, *IMAGE_SUFFIXES)):
            return SUFFIX in suffixes
    return False


def from_sounds(path: Path, size: int, rate: int = RATE) -> dict[str, Source]:
    """Returns the splits of a folder: its folders `train`, `validation` (`val`, ...) and `test`, or all as `train`.

    An example is a segment [size, 1] of a .wav file, from -1 to 1. The segments of a file follow each other, and what
    is left at its end, less than a segment, is left out. Folders within a split are the labels.

    Raises InputError where the soundfile package is missing, `size` is 0, a file is not mono, has another rate, is
    damaged, or where no file is as long as a segment.
    """
    if not size:
        raise InputError(f"{path}: data.size is 0; set it to the samples of a segment of sound, e.g. data.size=8192")
    folders = sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
    splits = {SPLIT_NAMES[each.name.lower()]: each for each in folders if each.name.lower() in SPLIT_NAMES}
    if "train" not in splits:
        splits = {"train": path}
    found = {name: _list_files(folder) for name, folder in splits.items()}
    kinds = sorted({kind for files in found.values() for _, kind in files})
    return {name: _from_files(splits[name], files, size, rate, kinds) for name, files in found.items()}


def _list_files(folder: Path) -> list[tuple[Path, str]]:
    """Returns the .wav files below a folder, sorted, each with the path of its own folder in it."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() == SUFFIX and file.is_file())
    if not files:
        raise InputError(f"{folder}: no {SUFFIX} files in this folder; check data.name")
    return [(file, str(file.parent.relative_to(folder))) for file in files]


def _from_files(folder: Path, files: list[tuple[Path, str]], size: int, rate: int, kinds: list[str]) -> Source:
    lengths = [_measure(file, rate) for file, _ in files]
    counts = np.array([length // size for length in lengths])
    if not counts.any():
        raise InputError(
            f"{folder}: the longest of {len(files)} files has {max(lengths):,} samples; lower data.size={size}"
        )
    if short := int((counts == 0).sum()):
        warnings.warn(
            printable(f"{folder}: {short} of {len(files)} files are shorter than data.size={size} and left out"),
            stacklevel=4,
        )
    ends = np.cumsum(counts)
    label = np.repeat([kinds.index(kind) for _, kind in files], counts).astype(np.int32)

    def take(rows: Rows) -> Arrays:
        rows = np.asarray(rows)
        which = np.searchsorted(ends, rows, side="right")
        starts = (rows - ends[which] + counts[which]) * size
        x = [_read(files[i][0], start, size) for i, start in zip(which.tolist(), starts.tolist(), strict=True)]
        return {"x": np.stack(x)[..., None] if x else np.zeros((0, size, 1), np.float32), "label": label[rows]}

    names = tuple(kinds) if len(kinds) > 1 else ()
    return Source(str(folder), int(ends[-1]), (size, 1), np.dtype(np.float32), take, kinds=names, kind="sequence")


def _measure(file: Path, rate: int) -> int:
    """Returns the number of samples of a file."""
    try:
        info = _soundfile().info(str(file))
    except Exception as error:
        raise _name_error(file, error) from error
    if info.samplerate != rate:
        raise InputError(
            f"{file} has {info.samplerate} samples per second, and data.rate={rate}; resample it, or set it"
        )
    if info.channels != 1:
        raise InputError(f"{file} has {info.channels} channels; mix them to one, or write a file for each")
    return int(info.frames)


def _read(file: Path, start: int, size: int) -> np.ndarray:
    try:
        samples = _soundfile().read(str(file), size, start, dtype="float32")[0]
    except Exception as error:
        raise _name_error(file, error) from error
    if samples.shape != (size,) or not np.isfinite(samples).all():
        raise InputError(f"{file} holds no {size} finite samples from {start} on; write it again")
    return np.asarray(samples)


def _name_error(file: Path, error: Exception) -> InputError:
    if isinstance(error, InputError):
        return error
    return InputError(f"{file}: not a readable .wav file ({kind_and_words(error)}); write it again")


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # the latter where libsndfile is missing
        raise InputError(
            f".wav files are read by soundfile ({kind_and_words(error)}); pip install 'aejax[audio]'"
        ) from error
    return soundfile
