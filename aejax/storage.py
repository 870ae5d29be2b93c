"""Places to write to: tried before anything is computed; the user's cache folder."""

import os
import tempfile
from pathlib import Path

from aejax.errors import StorageError


def writable(folder: Path) -> Path:
    """The folder, made if need be; StorageError where nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (FileExistsError, NotADirectoryError) as error:
        raise StorageError(f"{folder} cannot be written: a file is in its place; choose another folder") from error
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"{folder} cannot be written ({reason}); free some space or rights") from error
    return folder


def write_whole(file: Path, text: str) -> None:
    """Writes it whole, or leaves what was there: by way of a file beside it, with the suffix .tmp."""
    written = file.with_suffix(".tmp")
    written.write_text(text)
    written.replace(file)


def cache_of_user() -> Path:
    """aejax's folder for what can be made again; it may be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aejax"
