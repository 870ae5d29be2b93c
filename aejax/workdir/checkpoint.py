"""Checkpoints of a run, saved and read with Orbax, which is imported at the first save or read."""

import contextlib
import errno
import gc
import json
import math
import os
import shutil
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from jaxtyping import PyTree

from aejax import arguments
from aejax.errors import InputError, StorageError, kind_and_words, shown
from aejax.files import make_write_error, read_json
from aejax.workdir import checksums, metrics_log

FOLDER = "checkpoints"


class Checkpoint(NamedTuple):
    """The saved content of one training step.

    Attributes:
      step: number of training steps done.
      state: nested dict of NumPy arrays, see `fill`.
      samples: latents, reconstructions and inputs of the fixed evaluation batch.
      metadata: the config, the spec of the data and, except in old checkpoints, the identity of the data as `data`;
        `changes`, if the config has changed, see `workdir.changes`.
      broken: newer steps whose checkpoints could not be read.
    """

    step: int
    state: dict[str, Any]
    samples: dict[str, np.ndarray]
    metadata: dict[str, Any]
    broken: tuple[int, ...] = ()


class Checkpoints(contextlib.AbstractContextManager["Checkpoints"]):
    """Writer of checkpoints, asynchronous; keeps the newest `keep` and the one with the lowest validation loss.

    As a context manager it waits at its end: a process that exits before that loses the save in progress.
    """

    def __init__(self, workdir: Path, keep: int, metadata: Mapping[str, Any], broken: tuple[int, ...] = ()):
        folder = Path(workdir).absolute() / FOLDER
        for step in broken:  # moved, not deleted, so that the step can be saved again
            aside = folder.with_name(f"{FOLDER}.broken")
            aside.mkdir(exist_ok=True)
            number = len(list(aside.iterdir()))
            (folder / str(step)).rename(aside / f"{step}.{number}")
        self._folder, self._keep, self._metadata = folder, keep, dict(metadata)
        folder.mkdir(parents=True, exist_ok=True)
        several = jax.process_count() > 1  # which processes write is known when there is something to save
        self._manager = None if several else _orbax().open_manager(folder, keep)

    def save(self, step: int, state: PyTree, samples: Mapping[str, np.ndarray], loss: float | None = None) -> None:
        """Starts a save of a copy of the state, so that training can donate the state meanwhile.

        Each process saves its own parts of arrays that processes divide among them; the first process saves arrays
        that all of them have. All processes must call this method. Raises StorageError if the checkpoint cannot be
        written.
        """
        divided = not all(map(_is_replicated, jax.tree.leaves(state)))
        if jax.process_index() and not divided:
            return
        copied = jax.tree.map(_copy, serialization.to_state_dict(state))
        arrays = dict(_flatten({"state": copied, "samples": dict(samples)}))
        needed = sum(a.nbytes for a in arrays.values())
        with self._guard_storage():
            if shutil.disk_usage(self._folder).free < needed:
                raise OSError(errno.ENOSPC, f"a checkpoint of {needed:,} bytes does not fit on the disk")
            sums = checksums.compute_checksums(arrays)
            # After an error in one process Orbax makes the others that take part wait for 20 minutes.
            self._manager = self._manager or _orbax().open_manager(
                self._folder, self._keep, None if divided else (0,), create=False
            )
            items = {"state": copied, "samples": dict(samples)}
            metadata = {**self._metadata, "sums": sums, "crc": _compute_crc(self._metadata)}
            _orbax().save(self._manager, step, items, loss, metadata)

    def find_newest_step(self) -> int | None:
        """Returns the newest complete step, after waiting for the save in progress; None without one."""
        with self._guard_storage():
            if self._manager:
                self._manager.wait_until_finished()
        return max(list_steps(self._folder.parent), default=None)

    @contextlib.contextmanager
    def _guard_storage(self) -> Iterator[None]:
        """Turns any error of Orbax into a StorageError that names the newest complete checkpoint."""
        try:
            yield
        except Exception as error:
            kept = list_steps(self._folder.parent)
            newest = f"the newest complete checkpoint is step {kept[-1]}" if kept else "no checkpoint is complete"
            reason = kind_and_words(error)
            if os.strerror(errno.ENOSPC) in str(error):  # in a long message of tensorstore's
                reason = os.strerror(errno.ENOSPC)
            raise StorageError(f"{make_write_error(self._folder, reason)}; {newest}") from error

    def load_newest(self) -> Checkpoint:
        """Returns the newest checkpoint that can be read."""
        return find(self._folder.parent, "newest")

    def __exit__(self, *_: Any) -> None:
        """Waits for the save in progress."""
        with self._guard_storage():
            if self._manager:
                self._manager.wait_until_finished()
                self._manager.close()


class InMemory(contextlib.AbstractContextManager["InMemory"]):
    """Newest checkpoint in memory, with the interface of `Checkpoints`: for `fit` without a workdir."""

    def __init__(self, workdir: Path, keep: int, metadata: Mapping[str, Any], broken: tuple[int, ...] = ()):
        self._metadata = dict(metadata)
        self._newest: Checkpoint | None = None

    def save(self, step: int, state: PyTree, samples: Mapping[str, np.ndarray], loss: float | None = None) -> None:
        """Keeps a copy of the state, which training may donate."""
        copied = jax.tree.map(np.array, serialization.to_state_dict(state))
        self._newest = Checkpoint(step, copied, dict(samples), self._metadata)

    def find_newest_step(self) -> None:
        """Returns None: nothing can be resumed from."""

    def load_newest(self) -> Checkpoint:
        assert self._newest is not None
        return self._newest

    def __exit__(self, *_: Any) -> None:
        """Does nothing: nothing is open."""


def _is_replicated(a: Any) -> bool:
    return getattr(a, "is_fully_replicated", True)


def _copy(a: Any) -> Any:
    return np.array(a) if _is_replicated(a) else jnp.copy(a)


def list_steps(workdir: Path) -> list[int]:
    """Returns the steps that have a complete checkpoint, oldest first."""
    folder = Path(workdir) / FOLDER
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def load_newest(workdir: Path) -> Checkpoint | None:
    """Returns the newest checkpoint that can be read, as NumPy arrays, or None if there are no checkpoints.

    Warns of newer checkpoints that cannot be read. Raises StorageError if none of them can.
    """
    folder = Path(workdir).absolute() / FOLDER
    found = list_steps(workdir)
    validated = [r["step"] for r in metrics_log.read(workdir) if "validation/loss" in r]
    if validated and validated[-1] > max(found, default=0):
        warnings.warn(
            f"the checkpoint of step {validated[-1]} is missing in {folder}: removed, or cut off while it was "
            f"saved; falling back to {f'step {found[-1]}' if found else 'the beginning'}",
            stacklevel=2,
        )
    if not found:
        return None
    broken: list[int] = []
    for step in reversed(found):
        path = folder / str(step)
        read = _read(path)
        if not isinstance(read, str):
            return Checkpoint(step, *read, tuple(broken))
        warnings.warn(f"checkpoint {path} cannot be read ({read}); falling back to the one before", stacklevel=2)
        broken.append(step)
    raise StorageError(f"none of the checkpoints in {folder} can be read; restore one, or use another workdir")


def find(workdir: Path, step: Any) -> Checkpoint:
    """Returns the checkpoint of a step, of the "newest", or of the "best", which has the lowest validation loss.

    Raises InputError if there is no such checkpoint, and StorageError if it cannot be read.
    """
    whole = isinstance(step, int | np.integer) and not isinstance(step, bool) and step < 2**63
    if not whole and not (isinstance(step, str) and step in ("newest", "best")):
        raise InputError(f"step={shown(step)} must be a whole number, 'newest' or 'best'")
    if step == "newest" and (saved := load_newest(workdir)):
        return saved
    kept, number = list_steps(workdir), find_best(workdir) if step == "best" else step
    if number not in kept:
        if kept:
            raise InputError(f"{workdir}: no checkpoint of step {step}; saved are {', '.join(map(str, kept))}")
        raise InputError(f"{workdir}: no checkpoint here; give the workdir of a run that has saved one")
    path = Path(workdir).absolute() / FOLDER / str(number)
    read = _read(path)
    if isinstance(read, str):
        raise StorageError(f"checkpoint {path} cannot be read ({read}); load another step")
    return Checkpoint(int(path.name), *read)


def read_metadata(workdir: Path) -> dict[str, Any]:
    """Returns the metadata of the newest checkpoint without reading its arrays, or {} if there is none to be read."""
    for step in list_steps(workdir)[-1:]:
        with contextlib.suppress(StorageError):
            saved = read_json(Path(workdir) / FOLDER / str(step) / "_CHECKPOINT_METADATA").get("custom_metadata")
            return saved if isinstance(saved, dict) else {}
    return {}


def get_variables(saved: Checkpoint) -> dict[str, Any]:
    """Returns the model's variables for evaluation, with averaged parameters if there are any."""
    return {"params": saved.state["ema"] or saved.state["params"], **saved.state["variables"]}


def find_best(workdir: Path) -> int | None:
    """Returns the step with the lowest validation loss among the complete checkpoints, or None."""
    losses = {r["step"]: r["validation/loss"] for r in metrics_log.read(workdir) if "validation/loss" in r}
    return min((s for s in list_steps(workdir) if s in losses), key=losses.__getitem__, default=None)


def _read(path: Path) -> tuple[Any, Any, dict[str, Any]] | str:
    """Returns state, samples and metadata as they were saved, or the reason why they cannot be read."""
    orbax = _orbax()
    with orbax.silence():
        try:
            arrays, saved = orbax.read(path, ("state", "samples"), _check_size)
            metadata = {key: saved[key] for key in ("config", "spec")}
            metadata |= {key: saved[key] for key in ("data", "changes") if key in saved}
            _check_sums(saved, metadata, arrays)
            return arrays["state"], arrays["samples"], metadata
        except Exception as error:  # Orbax, tensorstore and JSON raise errors of many types for damaged files
            gc.collect()  # coroutines of Orbax's that were never awaited, while it is silent
            return kind_and_words(error)


def _orbax() -> Any:
    """Returns the module of Orbax's calls, which a run without a workdir does not import."""
    from aejax.workdir import orbax_io

    return orbax_io


def _check_size(shapes: Any) -> None:
    """Raises StorageError if arrays of these shapes, which a damaged file may inflate, exceed the memory."""
    claimed = sum(math.prod(about.shape) * np.dtype(about.dtype).itemsize for about in jax.tree.leaves(shapes))
    memory = arguments.memory()
    if claimed > memory:
        raise StorageError(f"it claims {claimed:,} bytes of arrays, this machine has {memory:,}")


def _check_sums(saved: Mapping[str, Any], metadata: Mapping[str, Any], arrays: Any) -> None:
    """Raises StorageError if anything differs from what was saved; aejax's first checkpoints had no checksums."""
    if saved.get("crc", _compute_crc(metadata)) != _compute_crc(metadata):
        raise StorageError("its config or spec is not what was saved")
    now = checksums.compute_checksums(dict(_flatten(arrays)))
    before = saved.get("sums", now)
    if differ := sorted(name for name in now | before if now.get(name) != before.get(name)):
        raise StorageError(f"{len(differ)} of its arrays are not what was saved, the first is {differ[0]}")


def _compute_crc(metadata: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(metadata, sort_keys=True).encode())


def fill(template: PyTree, state: Mapping[str, Any], where: str) -> PyTree:
    """Returns `template` with the values of a saved state. Raises InputError if their names or shapes differ."""
    wanted, found = (dict(_flatten(s)) for s in (serialization.to_state_dict(template), state))
    shape = {key: np.shape(value) for key, value in wanted.items()}
    saved = {key: np.shape(value) for key, value in found.items()}
    differ = [k for k in shape | saved if shape.get(k) != saved.get(k)]
    if differ:
        first = min(differ, key=lambda k: (not k.startswith("params"), k))
        raise InputError(
            f"{where} was saved by another architecture: {len(differ)} arrays differ, the first is {first}: "
            f"{saved.get(first, 'absent')} there, {shape.get(first, 'absent')} now; use the config it was trained "
            "with, or another workdir"
        )
    # By path, as empty states of the optimizer, e.g. that of weight decay, may have other names than when it was saved.
    names = serialization.to_state_dict(template)
    filled = jax.tree.unflatten(jax.tree.structure(names), [found[key] for key, _ in _flatten(names)])
    return serialization.from_state_dict(template, filled)


def _flatten(tree: PyTree) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield "/".join(str(getattr(key, "key", key)) for key in path), leaf
