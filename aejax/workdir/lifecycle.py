"""The lifecycle of a workdir: opening and locking it, recording why a run ended, checking whether it is finished."""

import contextlib
import fcntl
import os
import tempfile
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax.errors import AejaxError, InputError, StoppedError, StorageError, in_one_line, printable
from aejax.files import TEMPORARY, inside, local, read_bytes, read_json, write_whole
from aejax.workdir import changes, checkpoint, saved_config
from aejax.workdir.metrics_log import read

ENDED = "ended.txt"
LOCK = ".lock"  # exists while a process writes, and after kill -9
_FOLDERS = (checkpoint.FOLDER, f"{checkpoint.FOLDER}.broken", "plugins/profile", "wandb")  # in which a run writes


class OpenWorkdir:
    """A workdir in which this process trains; see `open_workdir`.

    Attributes:
      folder: path of the workdir.
      config: the run's config, with the defaults that the run began with.
      plain: the config as the dict that is saved.
      saved: the checkpoint to resume from; None for a new run.
      begin: the step of that checkpoint, or 0.
      changes: changes of the config when the run resumed, now or earlier, see `workdir.changes`.
      primary: whether this process writes the files that only one process writes.
      claimed: whether an error from now on ends the run. A new run is claimed when its workdir is opened.
    """

    def __init__(
        self,
        folder: Path,
        config: ConfigDict,
        saved: checkpoint.Checkpoint | None,
        primary: bool,
        change: Collection[str] = (),
    ):
        self.folder, self.saved, self.primary = folder, saved, primary
        self.begin = saved.step if saved else 0
        self.changes: tuple[changes.Change, ...] = ()
        begun = None
        if saved:
            begun = saved.metadata["config"]
            recorded = changes.parse(saved.metadata)
            config = changes.follow(saved_config.as_begun(config, begun), begun, recorded, but=change)
            self.changes = recorded + changes.find_new(config, begun, change, saved.step)
        self.config = config
        self.plain = saved_config.to_save(config, begun)
        self.claimed = False
        if not saved:
            self.resume()

    def resume(self) -> None:
        """Removes the record of an earlier end, and records an error from now on."""
        self.claimed = True
        if self.primary:
            with guard_storage(self.folder):
                (self.folder / ENDED).unlink(missing_ok=True)

    def claim(self) -> None:
        """Writes config.json, and records an error from now on as the end of the run."""
        if self.primary:
            with guard_storage(self.folder):
                write_whole(self.folder / "config.json", config_lib.to_json(self.plain))
        self.resume()


@contextlib.contextmanager
def open_workdir(
    folder: Path, config: ConfigDict, primary: bool = True, change: Collection[str] = ()
) -> Iterator[OpenWorkdir]:
    """Opens the workdir of `config`, creates it if it is missing, and locks it until the context ends.

    `change` lists keys of the config that may differ from those of the run, see `workdir.changes`.

    Once the workdir is claimed, an error that leaves the context is recorded as the end of the run; an error that
    prevents a run from resuming is not. Raises InputError for the workdir of another config, or one in which another
    process trains, and StorageError for one that cannot be written.
    """
    changes.check_keys(change, config)
    with contextlib.ExitStack() as stack:
        with guard_storage(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if primary:
                stack.enter_context(lock_workdir(folder))
            saved = find_run(folder, config, change)
        opened = OpenWorkdir(folder, config, saved, primary, change)
        try:
            yield opened
        except (StoppedError, BrokenPipeError):  # stopped, or nobody reads the output any more: no failure
            raise
        except Exception as error:
            if opened.claimed and primary:
                record_failure(folder, error)
            raise


def find_run(workdir: Path, config: ConfigDict, change: Collection[str] = ()) -> checkpoint.Checkpoint | None:
    """Returns the checkpoint to resume from, or None for a new run.

    Raises InputError if the workdir holds a run of another config or other files, OSError if it cannot be written.
    """
    tempfile.TemporaryFile(dir=workdir).close()
    for name in (*_FOLDERS, *(f"{checkpoint.FOLDER}/{step}" for step in checkpoint.list_steps(workdir))):
        inside(workdir, name)
    if (workdir / "config.json").exists():
        _check_written_config(config, workdir, change)
    elif {p.name for p in workdir.iterdir() if p.suffix != TEMPORARY} - {ENDED, LOCK} and not (
        workdir / checkpoint.FOLDER
    ).is_dir():
        raise InputError(f"{workdir} holds files but no run; choose a new or an empty workdir")
    saved = checkpoint.load_newest(workdir)
    if saved:
        _check_same_config(saved.metadata["config"], config, workdir, change)
    return saved


def _check_written_config(config: ConfigDict, workdir: Path, change: Collection[str] = ()) -> dict[str, Any]:
    """Returns config.json. Raises InputError if it differs from `config`, unless no validation has been logged yet."""
    file = workdir / "config.json"
    try:
        old = read_json(file)
    except StorageError as error:
        raise InputError(f"{file} is no config ({error}); restore it, or remove it if the run is yours") from error
    if not isinstance(old.get("data"), dict):
        raise InputError(f"{file} is no config; restore it, or remove it if the run is yours")
    if any("validation/loss" in record for record in read(workdir)):
        _check_same_config(old, config, workdir, change)
    return old


def _check_same_config(old: Mapping[str, Any], new: ConfigDict, workdir: Path, change: Collection[str]) -> None:
    """Raises InputError with the first differences of the two configs, if they would train differently.

    Differences in the keys `change` are allowed, and so are values that a recorded change has replaced.
    """
    differ = {d.partition(":")[0]: d for d in saved_config.find_conflicts(old, new)}
    recorded = changes.parse(checkpoint.read_metadata(workdir)) if differ else ()
    keys = [key for key in differ if key not in change and not changes.is_superseded(new, key, recorded)]
    if keys:
        more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
        meant = f", or --change={','.join(keys)} (in Python change={keys}) to go on with other values from here"
        raise InputError(
            f"{workdir} holds a run of another config ({'; '.join(differ[key] for key in keys[:4])}{more}); "
            "choose another workdir, or the config it was begun with"
            + (meant if set(keys) <= set(changes.CHANGEABLE) else "")
        )


def is_finished(config: ConfigDict, workdir: str | Path) -> bool:
    """Returns whether `train` has nothing left to do. Raises InputError if the workdir holds another config."""
    workdir = local(workdir)
    if (workdir / "config.json").exists():
        latest, recorded = _check_written_config(config, workdir), changes.parse(checkpoint.read_metadata(workdir))
        config = changes.follow(config, latest, recorded, but=())
    done = max(checkpoint.list_steps(workdir), default=0)
    history = [record for record in read(workdir) if record["step"] <= done]  # training overwrites later ones
    return done >= config.steps or (done > 0 and is_stale(history, config.patience))


def record_end(workdir: Path, why: str, more: str = "") -> None:
    """Writes why the run ended before its last step, in one line, and `more` below. Resuming removes the record."""
    with contextlib.suppress(OSError):  # the run may have ended because nothing can be written here
        write_whole(workdir / ENDED, f"{why}\n{more}")


def record_failure(workdir: Path, error: Exception) -> None:
    """Records `error` as the end of the run, with a traceback if it is not an error of aejax's own."""
    more = "" if isinstance(error, AejaxError) else "".join(traceback.format_exception(error))
    record_end(workdir, f"failed: {in_one_line(error)}", more)


def read_end(workdir: Path) -> str:
    """Returns why the run ended, e.g. "failed: train/loss not finite at step 5", or "" if nothing is recorded."""
    file = Path(workdir) / ENDED
    return printable(read_bytes(file).decode(errors="replace").partition("\n")[0]) if file.is_file() else ""


def is_stale(history: Sequence[Mapping[str, Any]], patience: int) -> bool:
    """Returns whether the last `patience` validations were all worse than the best before them."""
    losses = [record["validation/loss"] for record in history if "validation/loss" in record]
    return bool(patience) and len(losses) - 1 - int(np.argmin(losses or [0])) >= patience


@contextlib.contextmanager
def guard_storage(workdir: Path) -> Iterator[None]:
    """Turns an OSError into a StorageError with the cure."""
    try:
        yield
    except (StorageError, BrokenPipeError):  # a broken pipe does not concern the workdir
        raise
    except OSError as error:
        raise StorageError(f"{workdir} cannot be used ({error}); choose a workdir that can be written") from error


@contextlib.contextmanager
def lock_workdir(workdir: Path) -> Iterator[None]:
    """Locks the workdir against other processes until the context ends or this process dies.

    Locks a file rather than the folder, because NFS locks folders only within one host. Raises InputError if another
    process has the lock.
    """
    lock = _lock(workdir)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (workdir / LOCK).unlink()  # before the lock is released, so that no other process has it yet
        os.close(lock)


def _lock(workdir: Path) -> int:
    """Locks the file and returns its descriptor. Raises InputError if another process has the lock."""
    while True:
        lock = os.open(workdir / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise InputError(f"{workdir} is trained in by another process; wait, or choose another") from error
        except OSError:  # a file system without locks
            return lock
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), os.stat(workdir / LOCK)):
                return lock
        os.close(lock)  # the previous holder has just removed the file; try again
