"""Decoded splits, kept in the user's cache folder: the next run maps them in place of decoding them again."""

import dataclasses
import functools
import hashlib
import os
import shutil
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from aejax.data.arrays import read_npy, write_npy
from aejax.data.loader import read
from aejax.data.sources import Arrays, Source
from aejax.errors import InputError
from aejax.storage import TEMPORARY, cache_of_user

_LEFT = 86_400  # seconds after which a folder that is not finished is one that a kill left
FORMAT = 2  # to be raised when other values are decoded from the same files


def kept(source: Source, fit: str) -> Source:
    """The source, decoded whole when its first rows are taken, unless that was done before.

    Other files, times or sizes of them, other labels, or another shape or `fit` of the examples, and it is decoded
    anew. Where the folder cannot be written a warning says so, and rows are decoded as they are taken.
    """
    identity = [FORMAT, len(source), source.shape, str(source.dtype), source.kinds, fit]
    for file in source.files:
        status = os.stat(file)
        identity.append((str(file), status.st_size, status.st_mtime_ns))
    folder = cache_of_user() / "data" / hashlib.sha256(repr(identity).encode()).hexdigest()[:20]

    @functools.cache
    def arrays() -> Arrays:
        try:
            if not (found := _mapped(folder)):
                _write(source, folder)
                found = _mapped(folder)  # and not what was written: the memory would hold it beside the run's own
            return found
        except OSError as error:
            warnings.warn(
                f"{source.name} is decoded again by each run: {folder} cannot be written ({error.strerror}); "
                "free some space, or set XDG_CACHE_HOME",
                stacklevel=2,
            )
            return {}

    def take(rows: np.ndarray) -> Arrays:
        return {key: array[rows] for key, array in arrays().items()} or source.take(rows)

    return dataclasses.replace(source, files=(), take=take)


def _mapped(folder: Path) -> Arrays:
    """What was written; nothing where it was not, or was cut."""
    try:
        return {file.stem: read_npy(file) for file in folder.glob("*.npy")}
    except InputError:
        shutil.rmtree(folder)
        return {}


def _write(source: Source, folder: Path) -> None:
    """All files or none: another process may do the same."""
    arrays = read(source)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f"*{TEMPORARY}"):
        if left.stat().st_mtime < time.time() - _LEFT:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(TEMPORARY, dir=folder.parent) as scratch:
        for key, array in arrays.items():
            with (Path(scratch) / f"{key}.npy").open("wb") as file:
                write_npy(file, array)
        try:
            Path(scratch).rename(folder)
        except OSError:
            if not folder.exists():
                raise
        else:
            Path(scratch).mkdir()  # for the end of `with`
