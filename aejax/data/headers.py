"""Sizes of many images, read from their headers once and remembered in the user's cache folder."""

import hashlib
import json
import os
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from aejax.data.images import inspect
from aejax.errors import StorageError, printable
from aejax.files import cache_of_user, make_write_error, read_json, write_whole

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
    name = hashlib.sha256(repr((os.path.abspath(path), str(path))).encode()).hexdigest()[:20]
    table = cache_of_user() / "headers" / f"{name}.json"
    known = _read(table)
    found = {file: _look_up(file, known.get(file)) for file in files}
    if found != known:
        _write(table, found, path)
    return [(height, width, channels) for _, _, height, width, channels in found.values()]


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


def _look_up(file: str, entry: Any) -> list[int]:
    """Returns [bytes, time, height, width, channels] of the file: its remembered entry, or a new one."""
    try:
        status = os.stat(file)
    except OSError:
        inspect(Path(file))  # raises what names the file
        raise
    now = [status.st_size, status.st_mtime_ns]
    known = isinstance(entry, list) and len(entry) == 5 and entry[:2] == now
    if known and all(type(value) is int and value > 0 for value in entry[2:]):
        return entry
    return [*now, *_inspect(file)]


def _read(table: Path) -> dict[str, Any]:
    """Returns the remembered entries by file; none if there is no table, or a damaged one."""
    try:
        content = read_json(table)
    except StorageError:
        return {}
    files = content.get("files")
    return files if content.get("format") == _FORMAT and isinstance(files, dict) else {}


def _write(table: Path, files: dict[str, list[int]], path: Path) -> None:
    try:
        table.parent.mkdir(parents=True, exist_ok=True)
        write_whole(table, json.dumps({"format": _FORMAT, "files": files}))
    except OSError as error:
        reason = error if isinstance(error, StorageError) else make_write_error(table.parent, error)
        warnings.warn(printable(f"{path}: each run reads the sizes of all images again ({reason})"), stacklevel=2)
