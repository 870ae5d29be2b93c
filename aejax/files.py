"""The door to this machine's files: paths, files written as a whole, JSON whose form is checked, the cache folder."""

import contextlib
import errno
import json
import os
import re
import secrets
import stat
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from aejax.errors import InputError, StorageError, shown

_DEEPEST, _LARGEST = 64, 2**28  # levels of nesting and bytes of a JSON file
_ABANDONED = 3600  # seconds without a write after which an unfinished file belongs to a process that was killed
TEMPORARY = ".tmp"  # the suffix of an unfinished file


def local(path: str | os.PathLike[str]) -> Path:
    """Returns the path with ~ expanded. Raises InputError for an address such as gs://bucket/runs, or for no path.

    Every path that a user gives, in a flag or an argument, passes through this function.
    """
    try:
        text = os.fspath(path)
    except TypeError as error:
        raise InputError(f"a path must be text, got {shown(path)}") from error
    if not isinstance(text, str) or not text or "\0" in text:
        raise InputError(f"a path must be text that names a file or folder, got {shown(text)}")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):  # pathlib makes gs:/ of gs://
        raise InputError(f"{text} is remote; name a folder of this machine, e.g. one where that storage is mounted")
    try:
        found = Path(text).expanduser()
        os.stat(found)
    except RuntimeError as error:
        raise InputError(f"{text}: no such user; write the path in full") from error
    except UnicodeEncodeError as error:
        raise InputError(f"{text!r} is no name of a file or folder ({error.reason}); check the path") from error
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise InputError(f"{shown(text)} is no name of a file or folder ({error.strerror}); check it") from error
    return found


def inside(folder: Path, *parts: str) -> Path:
    """Returns `folder/parts`. Raises InputError if a part or a link leads out of the folder."""
    path = folder.joinpath(*parts)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path} leads out of {folder}, to {path.resolve()}; remove it, or put a folder in its place")
    return path


def file_name(text: str) -> str:
    """Returns a file name of letters, digits and . _ + = - only, with a checksum if it differs from `text`."""
    safe = re.sub(r"[^\w.+=-]|^\.+", "_", text) or "_"
    if safe == text and len(text.encode()) <= 100:
        return text
    return f"{safe.encode()[:90].decode(errors='ignore')}-{zlib.crc32(text.encode(errors='backslashreplace')):08x}"


def check_writable(folder: Path) -> None:
    """Raises StorageError if nothing can be written in the folder, or where it would be made. Creates nothing."""
    try:
        place = folder.absolute()
        while not place.exists():
            place = place.parent
        tempfile.TemporaryFile(dir=place).close()
    except (FileExistsError, NotADirectoryError) as error:
        raise StorageError(f"{folder} cannot be written: a file is in its place; choose another folder") from error
    except OSError as error:
        raise make_write_error(folder, error) from error


def writable(folder: Path) -> Path:
    """Creates the folder if it is missing and returns it. Raises StorageError if nothing can be written there."""
    check_writable(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise make_write_error(folder, error) from error
    return folder


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """Opens a new file that replaces `file` when the context ends; after an error `file` stays as it was.

    A link in its place is replaced, not followed. Raises StorageError if the file cannot be written.
    """
    prefix = f".{file.name[:200]}."
    written = file.with_name(f"{prefix}{secrets.token_hex(4)}{TEMPORARY}")
    try:
        for other in file.parent.iterdir():
            if other.name.startswith(prefix) and other.suffix == TEMPORARY:
                _remove_abandoned(other)
        with written.open("xb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        written.replace(file)
    except BaseException as error:
        with contextlib.suppress(OSError):
            written.unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            raise make_write_error(file, error) from error
        raise


def write_whole(file: Path, content: str | bytes) -> None:
    """Replaces the file's content, or leaves it after an error. Escapes what UTF-8 cannot encode, as in odd paths."""
    with replacing(file) as opened:
        opened.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def append(file: Path) -> TextIO:
    """Opens the file to append lines without delay. Raises StorageError for a link or a file that cannot be opened."""
    try:
        # A pipe that nobody reads would hang here.
        opener = lambda path, flags: os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)  # noqa: E731
        opened: TextIO = open(file, "a", buffering=1, encoding="utf-8", opener=opener)  # noqa: SIM115
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StorageError(f"{file} is a link, which is not written through; remove it") from error
        raise make_write_error(file, error) from error
    os.set_blocking(opened.fileno(), True)
    return opened


def _remove_abandoned(file: Path) -> None:
    """Removes an unfinished file that nobody writes to any more; other processes may still write to theirs."""
    with contextlib.suppress(OSError):
        if file.lstat().st_mtime < time.time() - _ABANDONED:
            file.unlink()


def make_write_error(path: str | Path, reason: OSError | str, otherwise: str = "") -> StorageError:
    """Returns the error for a path that cannot be written, with the cure; `otherwise` is another cure."""
    if isinstance(reason, OSError):
        reason = reason.strerror or str(reason)
    cure = "free some space or rights" + (f", or {otherwise}," if otherwise else "")
    return StorageError(f"{path} cannot be written ({reason}); {cure} and run the same command again")


def read_bytes(file: Path, largest: int = _LARGEST) -> bytes:
    """Returns the content of a regular file. Raises StorageError for anything else, as reading it might not end."""
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > largest:
            raise StorageError(f"{file} is no regular file, or larger than {largest:,} bytes; restore or remove it")
        return file.read_bytes()
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{file} cannot be read ({error.strerror}); restore or remove it") from error


def read_json(file: Path) -> dict[str, Any]:
    """Returns the JSON object in the file. Raises StorageError if the file holds anything else."""
    content = read_bytes(file)
    try:
        return parse_object(content)
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise StorageError(f"{file} is not a readable JSON object ({reason}); restore or remove it") from error


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Returns the object in a JSON text. Raises ValueError for any other text and for deep nesting."""
    try:
        parsed = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"it holds a {type(parsed).__name__}")
    level: list[Any] = [parsed]
    for _ in range(_DEEPEST):
        level = [v for x in level for v in (x.values() if isinstance(x, dict) else x) if isinstance(v, dict | list)]
        if not level:
            return parsed
    raise ValueError("nested too deeply")


def cache_of_user() -> Path:
    """Returns aejax's cache folder, which may be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aejax"
