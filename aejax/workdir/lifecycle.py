"""The folder of an experiment: whose it is, whether it is finished, who may write to it."""

import contextlib
import fcntl
import os
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax.errors import AejaxError, InputError, StoppedError, StorageError, in_one_line, printable
from aejax.files import TEMPORARY, inside, local, read_json, write_whole
from aejax.workdir import checkpoint
from aejax.workdir.metrics_log import read

ENDED = "ended.txt"
LOCK = ".lock"  # is there while a process writes, and after kill -9
_FOLDERS = (
    checkpoint.FOLDER,
    f"{checkpoint.FOLDER}.broken",
    "plugins/profile",
    "wandb",
)  # that a run writes in


def open_run(workdir: Path, config: ConfigDict) -> checkpoint.Checkpoint | None:
    """The checkpoint to go on from. Raises where the workdir is another run's or cannot be written."""
    workdir.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=workdir).close()
    for name in (*_FOLDERS, *(f"{checkpoint.FOLDER}/{step}" for step in checkpoint.steps(workdir))):
        inside(workdir, name)
    if (workdir / "config.json").exists():
        _same_as_written(config, workdir)
    elif {p.name for p in workdir.iterdir() if p.suffix != TEMPORARY} - {ENDED, LOCK} and not (
        workdir / checkpoint.FOLDER
    ).is_dir():
        raise InputError(f"{workdir} holds files but no run; choose a new or an empty workdir")
    saved = checkpoint.newest(workdir)
    if saved:
        _same_config(saved.metadata["config"], config, workdir)
    return saved


def _same_as_written(config: ConfigDict, workdir: Path) -> None:
    """InputError where config.json is another's, unless that run never came to a checkpoint."""
    file = workdir / "config.json"
    try:
        old = read_json(file)
    except StorageError as error:
        raise InputError(f"{file} is no config ({error}); restore it, or remove it if the run is yours") from error
    if not isinstance(old.get("data"), dict):
        raise InputError(f"{file} is no config; restore it, or remove it if the run is yours")
    if any("validation/loss" in record for record in read(workdir)):
        _same_config(old, config, workdir)


def claim(workdir: Path, config: ConfigDict, saved: checkpoint.Checkpoint | None) -> None:
    """Writes config.json, whole or not at all; `saved` is the checkpoint that the run resumes from."""
    plain = config_lib.to_save(config, saved.metadata["config"] if saved else None)
    write_whole(workdir / "config.json", config_lib.to_json(plain))


def _same_config(old: Mapping[str, Any], new: ConfigDict, workdir: Path) -> None:
    differ = config_lib.changes(old, new)
    if differ:
        more = f" and {len(differ) - 4} more" if len(differ) > 4 else ""
        raise InputError(
            f"{workdir} holds a run of another config ({'; '.join(differ[:4])}{more}); "
            "choose another workdir, or the config it was begun with"
        )


def is_finished(config: ConfigDict, workdir: str | Path) -> bool:
    """Whether `train` has nothing left to do there. Raises InputError where the workdir is another config's."""
    workdir = local(workdir)
    if (workdir / "config.json").exists():
        _same_as_written(config, workdir)
    done = max(checkpoint.steps(workdir), default=0)
    history = [record for record in read(workdir) if record["step"] <= done]  # later ones will be written anew
    return done >= config.steps or (done > 0 and is_stale(history, config.patience))


def end(workdir: Path, why: str, more: str = "") -> None:
    """Leaves word of why the run ended before its last step, which is gone when it goes on; the first line is `why`."""
    with contextlib.suppress(OSError):  # what ended it may be that nothing can be written here
        write_whole(workdir / ENDED, f"{why}\n{more}")


def why_ended(workdir: Path) -> str:
    """E.g. "failed: train/loss not finite at step 5"; "" where no word was left."""
    file = Path(workdir) / ENDED
    return printable(file.read_bytes()[:4096].decode(errors="replace").partition("\n")[0]) if file.is_file() else ""


@contextlib.contextmanager
def ends_known(workdir: Path) -> Iterator[None]:
    """Leaves word of the error that ends the run. One that stopped, or that nobody reads any more, has not failed."""
    (workdir / ENDED).unlink(missing_ok=True)
    try:
        yield
    except (StoppedError, BrokenPipeError):
        raise
    except Exception as error:
        more = "" if isinstance(error, AejaxError) else traceback.format_exc()
        end(workdir, f"failed: {in_one_line(error)}", more)
        raise


def is_stale(history: Sequence[Mapping[str, Any]], patience: int) -> bool:
    """Whether the last `patience` validations were all worse than the best before them."""
    losses = [record["validation/loss"] for record in history if "validation/loss" in record]
    return bool(patience) and len(losses) - 1 - int(np.argmin(losses or [0])) >= patience


@contextlib.contextmanager
def storage_errors(workdir: Path) -> Iterator[None]:
    try:
        yield
    except (StorageError, BrokenPipeError):  # a pipe is none of the workdir
        raise
    except OSError as error:
        raise StorageError(f"{workdir} cannot be used ({error}); choose a workdir that can be written") from error


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Keeps other processes out, until this one leaves or dies. Raises InputError where one is in already.

    By a file and not the folder, which NFS would lock on one host alone.
    """
    lock = _locked(workdir)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (workdir / LOCK).unlink()  # while nobody else has it
        os.close(lock)


def _locked(workdir: Path) -> int:
    while True:
        lock = os.open(workdir / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise InputError(
                f"{workdir} is being trained in by another process; wait for it, or choose another workdir"
            ) from error
        except OSError:  # a file system without locks
            return lock
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), os.stat(workdir / LOCK)):
                return lock
        os.close(lock)  # its holder removed it just then
