"""Checkpoints of a run, saved and read with Orbax; no other module imports Orbax."""

import contextlib
import errno
import functools
import gc
import json
import logging
import math
import os
import shutil
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import preservation_policy

from aejax import arguments
from aejax.errors import InputError, StorageError, kind_and_words
from aejax.files import make_write_error
from aejax.workdir import checksums, metrics_log

FOLDER = "checkpoints"


class Checkpoint(NamedTuple):
    """The saved content of one training step.

    Attributes:
      step: number of training steps done.
      state: nested dict of NumPy arrays, see `fill`.
      samples: latents, reconstructions and inputs of the fixed evaluation batch.
      metadata: the config, the spec of the data and, except in old checkpoints, the identity of the data as `data`.
      broken: newer steps whose checkpoints could not be read.
    """

    step: int
    state: dict[str, Any]
    samples: dict[str, np.ndarray]
    metadata: dict[str, Any]
    broken: tuple[int, ...] = ()


class Checkpoints:
    """Writer of checkpoints, asynchronous; keeps the newest `keep` and the one with the lowest validation loss.

    Close it, or use it as a context manager: an exit without that loses the save in progress.
    """

    def __init__(self, workdir: Path, keep: int, metadata: Mapping[str, Any], broken: tuple[int, ...] = ()):
        folder = Path(workdir).absolute() / FOLDER
        for step in broken:  # moved, not deleted, so that the step can be saved again
            aside = folder.with_name(f"{FOLDER}.broken")
            aside.mkdir(exist_ok=True)
            number = len(list(aside.iterdir()))
            (folder / str(step)).rename(aside / f"{step}.{number}")
        loss = lambda metrics: metrics["validation_loss"]  # noqa: E731
        best = preservation_policy.BestN(get_metric_fn=loss, reverse=True, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy([preservation_policy.LatestN(keep), best]),
            best_fn=loss,  # without it Orbax stores no metrics
            best_mode="min",
            cleanup_tmp_directories=True,
        )
        self._folder, self._metadata = folder, dict(metadata)
        self._manager = ocp.CheckpointManager(folder, options=options)

    def save(self, step: int, state: PyTree, samples: Mapping[str, np.ndarray], loss: float | None = None) -> None:
        """Starts a save of a copy of the state, so that training can donate the state meanwhile.

        Each process saves its own parts of arrays that devices share. All processes must call this method. Raises
        StorageError if the checkpoint cannot be written.
        """
        copied = jax.tree.map(_copy, serialization.to_state_dict(state))
        arrays = dict(_flatten({"state": copied, "samples": dict(samples)}))
        needed = sum(a.nbytes for a in arrays.values())
        with self._guard_storage():
            if shutil.disk_usage(self._folder).free < needed:
                raise OSError(errno.ENOSPC, f"a checkpoint of {needed:,} bytes does not fit on the disk")
            sums = checksums.compute_checksums(arrays)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(copied), samples=ocp.args.StandardSave(dict(samples))
                ),
                metrics=None if loss is None else {"validation_loss": loss},
                custom_metadata={**self._metadata, "sums": sums, "crc": _compute_crc(self._metadata)},
                force=True,
            )

    def find_newest_step(self) -> int | None:
        """Returns the newest complete step, after waiting for the save in progress; None without one."""
        with self._guard_storage():
            self._manager.wait_until_finished()
        return max(list_steps(self._folder.parent), default=None)

    def close(self) -> None:
        """Waits for the save in progress."""
        with self._guard_storage():
            self._manager.wait_until_finished()
            self._manager.close()

    @contextlib.contextmanager
    def _guard_storage(self) -> Iterator[None]:
        """Turns any error of Orbax into a StorageError that names the newest complete checkpoint."""
        try:
            yield
        except Exception as error:
            _expect_late_arrays()
            kept = list_steps(self._folder.parent)
            newest = f"the newest complete checkpoint is step {kept[-1]}" if kept else "no checkpoint is complete"
            reason = kind_and_words(error)
            if os.strerror(errno.ENOSPC) in str(error):  # in a long message of tensorstore's
                reason = os.strerror(errno.ENOSPC)
            raise StorageError(f"{make_write_error(self._folder, reason)}; {newest}") from error

    def __enter__(self) -> "Checkpoints":
        return self

    def load_newest(self) -> Checkpoint | None:
        """Returns the newest checkpoint that can be read, or None."""
        return load_newest(self._folder.parent)

    def __exit__(self, *_: Any) -> None:
        self.close()


class InMemory:
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

    def load_newest(self) -> Checkpoint | None:
        """Returns the newest checkpoint."""
        return self._newest

    def __enter__(self) -> "InMemory":
        return self

    def __exit__(self, *_: Any) -> None:
        """Does nothing: nothing is open."""


def _copy(a: Any) -> Any:
    return np.array(a) if getattr(a, "is_fully_replicated", True) else jnp.copy(a)


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
        read = _read(folder / str(step))
        if not isinstance(read, str):
            return Checkpoint(step, *read, tuple(broken))
        warnings.warn(
            f"checkpoint {folder / str(step)} cannot be read ({read}); falling back to the one before", stacklevel=2
        )
        broken.append(step)
    raise StorageError(f"none of the checkpoints in {folder} can be read; restore one, or use another workdir")


def load(workdir: Path, step: int | None) -> Checkpoint | None:
    """Returns the checkpoint of a step, or None if there is none. Raises StorageError if it cannot be read."""
    if step not in list_steps(workdir):
        return None
    path = Path(workdir).absolute() / FOLDER / str(step)
    read = _read(path)
    if isinstance(read, str):
        raise StorageError(f"checkpoint {path} cannot be read ({read}); load another step")
    return Checkpoint(int(path.name), *read)


def is_preempted(number: int) -> bool:
    """Returns whether a process of the run is about to be preempted, according to the cluster or a SIGTERM.

    `number` counts the calls from 1 in every process: all processes get the same answer for the same number.
    """
    return ocp.utils.reached_preemption(number)


def find_best(workdir: Path) -> int | None:
    """Returns the step with the lowest validation loss among the complete checkpoints, or None."""
    losses = {r["step"]: r["validation/loss"] for r in metrics_log.read(workdir) if "validation/loss" in r}
    return min((s for s in list_steps(workdir) if s in losses), key=losses.__getitem__, default=None)


def _read(path: Path) -> tuple[Any, Any, dict[str, Any]] | str:
    """Returns state, samples and metadata as they were saved, or the reason why they cannot be read."""
    handlers = {"state": ocp.StandardCheckpointHandler(), "samples": ocp.StandardCheckpointHandler()}
    handler = ocp.CompositeCheckpointHandler(metrics=ocp.JsonCheckpointHandler(), **handlers)
    with _silence():
        try:
            with ocp.Checkpointer(handler) as checkpointer:
                about = checkpointer.metadata(path)
                shapes = {name: about.item_metadata[name].tree for name in handlers}
                _check_size(shapes)
                wanted = {name: ocp.args.StandardRestore(jax.tree.map(_make_target, shapes[name])) for name in handlers}
                items = checkpointer.restore(path, args=ocp.args.Composite(**wanted))
            saved = dict(about.custom_metadata)
            metadata = {key: saved[key] for key in ("config", "spec")}
            if "data" in saved:
                metadata["data"] = saved["data"]
            _check_sums(saved, metadata, {name: items[name] for name in handlers})
            return items.state, items.samples, metadata
        except Exception as error:  # Orbax, tensorstore and JSON raise errors of many types for damaged files
            _expect_late_arrays()
            return kind_and_words(error)


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


def _make_target(about: Any) -> Any:
    """Returns a target that makes Orbax restore a whole NumPy array; it takes the memory of a single value."""
    return np.broadcast_to(np.zeros((), about.dtype), about.shape)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Silences the tasks that a failed read leaves behind, which log when they are garbage-collected."""
    loggers = [logging.getLogger(name) for name in ("asyncio", "absl")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
            gc.collect()
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _expect_late_arrays() -> None:
    """Ignores the late errors of a failed read or save, whose other arrays finish when nobody waits for them."""
    if getattr(sys.unraisablehook, "func", None) is not _ignore_late:
        sys.unraisablehook = functools.partial(_ignore_late, sys.unraisablehook)


def _ignore_late(before: Callable[[Any], Any], unraisable: Any) -> None:
    """Passes an unraisable error to the hook `before`, unless it comes from a late array."""
    if str(unraisable.exc_value) != "Event loop is closed":
        before(unraisable)


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
    return serialization.from_state_dict(template, dict(state))


def _flatten(tree: PyTree) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield "/".join(str(getattr(key, "key", key)) for key in path), leaf
