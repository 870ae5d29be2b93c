"""Sizes of many images, read from their headers once and remembered in the user's cache folder."""

import contextlib
import hashlib
import io
import os
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from aejax.data.arrays import read_npy, write_npy
from aejax.data.images import inspect
from aejax.errors import InputError, StorageError, printable
from aejax.files import cache_of_user, make_write_error, write_whole

MANY = 1_000  # images of a folder whose sizes are remembered; fewer are read in a tenth of a second
_FORMAT = 1  # to be raised when `inspect` returns other values for the same files
_HEAD = 2**14  # bytes of a file that `inspect_plain` reads
# What a plain JPEG may hold before its pixels: JFIF, ICC, Photoshop and Adobe data, tables, comments.
_JPEG_PARTS = frozenset(b"\xe0\xe2\xed\xee\xdb\xc4\xdd\xfe")
_JPEG_FRAMES = frozenset(b"\xc0\xc1\xc2")  # baseline, extended and progressive
_JPEG_SCAN = 0xDA
_PNG_PARTS = frozenset((b"sRGB", b"gAMA", b"cHRM", b"iCCP", b"sBIT", b"pHYs", b"tIME", b"PLTE", b"tRNS", b"bKGD"))
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}  # without transparency, by type of color

Shape = tuple[int, int, int]


def inspect_all(path: Path, files: Sequence[str], cache: bool) -> list[Shape]:
    """Returns what `images.inspect` reads of each of the files below `path`.

    With `cache`, the shapes of MANY files are remembered, each with its file's size and time. A file with another size
    or time is read again. If nothing can be written, a warning says so.
    """
    if not cache or len(files) < MANY:
        return [_inspect(file) for file in files]
    name = hashlib.sha256(repr((_FORMAT, os.path.abspath(path), str(path))).encode()).hexdigest()[:20]
    table = cache_of_user() / "headers" / f"{name}.npy"
    known, now = _read(table), np.array([_identify(file) for file in files])
    found = known[np.searchsorted(known[:, 0], now[:, 0]).clip(max=len(known) - 1)]
    again = (found[:, :3] != now).any(1) | (found[:, 3:] < 1).any(1)
    for i in np.flatnonzero(again).tolist():
        found[i] = [*now[i], *_inspect(files[i])]
    if again.any():
        _write(table, found[np.argsort(found[:, 0])], path)
    return list(map(tuple, found[:, 3:].tolist()))


def inspect_plain(head: bytes) -> Shape | None:
    """Returns (height, width, channels) from the first bytes of a plain 8-bit JPEG or PNG.

    Returns None for all others, such as those with EXIF data, which may turn them, and those that look damaged:
    `images.inspect` reads them, in ten times the time.
    """
    try:
        if head.startswith(b"\xff\xd8"):
            shape = _inspect_jpeg(head)
        elif head.startswith(b"\x89PNG\r\n\x1a\n"):
            shape = _inspect_png(head)
        else:
            return None
    except IndexError:  # the head ends before the pixels begin
        return None
    most = Image.MAX_IMAGE_PIXELS or 0  # Pillow warns of more
    return shape if shape and 0 < shape[0] * shape[1] <= most else None


def _inspect_jpeg(head: bytes) -> Shape | None:
    at, shape = 2, None
    while head[at] == 0xFF:
        kind = head[at + 1]
        if kind == _JPEG_SCAN:
            return shape
        length = head[at + 2] << 8 | head[at + 3]
        if kind in _JPEG_FRAMES and shape is None and head[at + 4] == 8 and head[at + 9] in (1, 3):
            shape = (head[at + 5] << 8 | head[at + 6], head[at + 7] << 8 | head[at + 8], head[at + 9])
        elif kind not in _JPEG_PARTS or length < 2:
            return None
        at += 2 + length
    return None


def _inspect_png(head: bytes) -> Shape | None:
    width, height = int.from_bytes(head[16:20]), int.from_bytes(head[20:24])
    depth, color = head[24], head[25]
    whole = head[8:16] == b"\0\0\0\rIHDR" and zlib.crc32(head[12:29]) == int.from_bytes(head[29:33])
    if not whole or depth != 8 or color not in _PNG_CHANNELS:
        return None
    at = 33
    while (kind := head[at + 4 : at + 8]) in _PNG_PARTS:
        at += 12 + int.from_bytes(head[at : at + 4])
    return (height, width, _PNG_CHANNELS[color]) if kind == b"IDAT" else None


def _inspect(file: str) -> Shape:
    try:
        with open(file, "rb", buffering=0) as opened:
            found = inspect_plain(opened.read(_HEAD))
    except OSError:
        found = None
    return found or inspect(Path(file))  # which names the file that it cannot read


def _identify(file: str) -> tuple[int, int, int]:
    """Returns a hash of the file's path, its size in bytes and its time."""
    try:
        status = os.stat(file)
    except OSError:
        inspect(Path(file))  # raises what names the file
        raise
    path = hashlib.blake2b(os.fsencode(file), digest_size=8).digest()
    return int.from_bytes(path, signed=True), status.st_size, status.st_mtime_ns


def _read(table: Path) -> np.ndarray:
    """Returns the remembered rows of `_identify` and shapes, in the order of their hashes.

    Returns a row of zeros, which belongs to no file, if there is no table, or a damaged one.
    """
    with contextlib.suppress(OSError, InputError):
        known = read_npy(table)
        if known.dtype == np.int64 and known.ndim == 2 and known.shape[1] == 6 and len(known):
            return known
    return np.zeros((1, 6), np.int64)


def _write(table: Path, rows: np.ndarray, path: Path) -> None:
    try:
        table.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        write_npy(content, rows)
        write_whole(table, content.getvalue())
    except OSError as error:
        reason = error if isinstance(error, StorageError) else make_write_error(table.parent, error)
        warnings.warn(printable(f"{path}: each run reads the sizes of all images again ({reason})"), stacklevel=2)
