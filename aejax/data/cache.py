"""Cache of decoded splits in the user's cache folder: the next run maps them into memory instead of decoding."""

import contextlib
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
from aejax.files import TEMPORARY, cache_of_user, make_write_error

_ABANDONED = 86_400  # seconds after which an unfinished folder belongs to a process that was killed
FORMAT = 3  # to be raised when the same files are decoded to other values


def cache_decoded(source: Source, fit: str) -> Source:
    """Returns `source` reading from the cache, which is written when its first rows are taken.

    A cached copy is used again only for the same files (path, size and time), labels, shape and `fit`. If the folder
    cannot be written, a warning says so and rows are decoded as they are taken.
    """
    identity = [FORMAT, len(source), source.shape, str(source.dtype), source.kinds, fit]
    for file in source.files:
        status = os.stat(file)
        identity.append((str(file), status.st_size, status.st_mtime_ns))
    folder = cache_of_user() / "data" / hashlib.sha256(repr(identity).encode()).hexdigest()[:20]

    @functools.cache
    def arrays() -> Arrays:
        try:
            if not (found := _map(folder)):
                _write(source, folder)
                found = _map(folder)  # returning what was written would keep a second copy in memory
            return found
        except OSError as error:
            warnings.warn(
                f"{source.name} is decoded again by each run: {make_write_error(folder, error, 'set XDG_CACHE_HOME')}",
                stacklevel=2,
            )
            return {}

    def take(rows: np.ndarray) -> Arrays:
        return {key: array[rows] for key, array in arrays().items()} or source.take(rows)

    return dataclasses.replace(source, files=(), take=take)


def _map(folder: Path) -> Arrays:
    """Maps the cached arrays into memory. Returns {} if there are none; a damaged folder is removed."""
    try:
        return {file.stem: read_npy(file) for file in folder.glob("*.npy")}
    except InputError:
        shutil.rmtree(folder)
        return {}


def _write(source: Source, folder: Path) -> None:
    """Writes all files of `folder` or none, since another process may write the same folder."""
    arrays = read(source)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for unfinished in folder.parent.glob(f"*{TEMPORARY}"):
        with contextlib.suppress(FileNotFoundError):  # another process has finished it
            if unfinished.stat().st_mtime < time.time() - _ABANDONED:
                shutil.rmtree(unfinished, ignore_errors=True)
    with tempfile.TemporaryDirectory(TEMPORARY, dir=folder.parent) as scratch:
        for key, array in arrays.items():
            with (Path(scratch) / f"{key}.npy").open("wb") as file:
                write_npy(file, array)
        try:
            Path(scratch).rename(folder)
        except OSError:
            if not folder.exists():  # otherwise another process was faster
                raise
        else:
            Path(scratch).mkdir()  # the end of `with` removes it
