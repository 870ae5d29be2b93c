"""The only file that knows of Orbax."""

import contextlib
import errno
import gc
import logging
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization
from orbax.checkpoint.checkpoint_managers import preservation_policy

from aejax import logs
from aejax.errors import InputError, StorageError

FOLDER = "checkpoints"


class Checkpoint(NamedTuple):
    """What a step's folder holds.

    Attributes:
      step: training steps done.
      state: nested dict of numpy arrays, see `fill`.
      samples: latents, reconstructions and inputs of the fixed evaluation batch.
      metadata: the config and the spec of the data.
      broken: newer steps whose folders could not be read.
    """

    step: int
    state: dict[str, Any]
    samples: dict[str, np.ndarray]
    metadata: dict[str, Any]
    broken: tuple[int, ...] = ()


class Checkpoints:
    """Saves asynchronously; keeps the newest `keep` and the best by validation loss.

    Close it, or use it as a context manager: leaving early loses the save under way.
    """

    def __init__(self, workdir: Path, keep: int, metadata: Mapping[str, Any], broken: tuple[int, ...] = ()):
        folder = Path(workdir).absolute() / FOLDER
        for step in broken:  # out of the way of the next save of that step, but not lost
            aside = folder.with_name(f"{FOLDER}.broken")
            aside.mkdir(exist_ok=True)
            number = len(list(aside.iterdir()))
            (folder / str(step)).rename(aside / f"{step}.{number}")
        best = preservation_policy.BestN(
            get_metric_fn=lambda metrics: metrics["validation_loss"],
            reverse=True,
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        self._folder, self._metadata = folder, dict(metadata)
        self._manager = ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=preservation_policy.AnyPreservationPolicy(
                    [preservation_policy.LatestN(keep), best]
                ),
                best_fn=lambda metrics: metrics["validation_loss"],  # without it Orbax stores no metrics
                best_mode="min",
                cleanup_tmp_directories=True,
            ),
        )

    def save(self, step: int, state: Any, samples: Mapping[str, np.ndarray], loss: float | None = None) -> None:
        """Starts a save. The state is copied first: training may go on and donate it.

        Arrays that devices share are saved by shares, each by a process that has it. All processes call this.
        """
        copied = jax.tree.map(_copy, serialization.to_state_dict(state))
        needed = sum(a.nbytes for a in jax.tree.leaves((copied, samples)))
        with self._storage_errors():
            if shutil.disk_usage(self._folder).free < needed:
                raise OSError(errno.ENOSPC, f"a checkpoint of {needed:,} bytes does not fit on the disk")
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(copied), samples=ocp.args.StandardSave(dict(samples))
                ),
                metrics=None if loss is None else {"validation_loss": loss},
                custom_metadata=self._metadata,
                force=True,
            )

    def newest_step(self) -> int | None:
        """The newest complete step, once the save under way is done."""
        with self._storage_errors():
            self._manager.wait_until_finished()
        return max(steps(self._folder.parent), default=None)

    def close(self) -> None:
        """Waits for the save under way."""
        with self._storage_errors():
            self._manager.wait_until_finished()
            self._manager.close()

    @contextlib.contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            kept = steps(self._folder.parent)
            newest = f"the newest complete checkpoint is step {kept[-1]}" if kept else "no checkpoint is complete"
            reason = " ".join(str(error).split())[:200]
            raise StorageError(
                f"{self._folder} could not be written ({type(error).__name__}: {reason}); {newest}; free some "
                "space or rights and run the same command again"
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _copy(a: Any) -> Any:
    return np.array(a) if getattr(a, "is_fully_replicated", True) else jnp.copy(a)


def steps(workdir: Path) -> list[int]:
    """The steps with a complete checkpoint, oldest first."""
    folder = Path(workdir) / FOLDER
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def newest(workdir: Path) -> Checkpoint | None:
    """The newest checkpoint that can be read, as numpy, on any machine; None where there is none.

    Warns of newer ones that cannot be read. Raises StorageError where there are some and none can.
    """
    folder = Path(workdir).absolute() / FOLDER
    found = steps(workdir)
    validated = [r["step"] for r in logs.read(workdir) if "validation/loss" in r]
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
        with _hushed():
            read = _read(folder / str(step))
        if not isinstance(read, str):
            return Checkpoint(step, *read, tuple(broken))
        warnings.warn(
            f"checkpoint {folder / str(step)} cannot be read ({read}); falling back to the one before", stacklevel=2
        )
        broken.append(step)
    raise StorageError(f"none of the checkpoints in {folder} can be read; restore one, or use another workdir")


def load(workdir: Path, step: int | None) -> Checkpoint | None:
    """The checkpoint of a step; None where there is none, StorageError where it cannot be read."""
    if step not in steps(workdir):
        return None
    path = Path(workdir).absolute() / FOLDER / str(step)
    with _hushed():
        read = _read(path)
    if isinstance(read, str):
        raise StorageError(f"checkpoint {path} cannot be read ({read}); load another step")
    return Checkpoint(int(path.name), *read)


def preempted(number: int) -> bool:
    """Whether this process or another of the run will be taken away, as Orbax hears it of the cluster, or by SIGTERM.

    `number` counts the calls from 1, the same in all processes: they are told at the same one.
    """
    return ocp.utils.reached_preemption(number)


def best(workdir: Path) -> int | None:
    """The step with the lowest validation loss among the complete checkpoints."""
    losses = {r["step"]: r["validation/loss"] for r in logs.read(workdir) if "validation/loss" in r}
    return min((s for s in steps(workdir) if s in losses), key=losses.__getitem__, default=None)


def _read(path: Path) -> tuple[Any, Any, dict[str, Any]] | str:
    """State, samples and metadata, or why they cannot be read."""
    handlers = {"state": ocp.StandardCheckpointHandler(), "samples": ocp.StandardCheckpointHandler()}
    handler = ocp.CompositeCheckpointHandler(metrics=ocp.JsonCheckpointHandler(), **handlers)
    try:
        with ocp.Checkpointer(handler) as checkpointer:
            about = checkpointer.metadata(path)
            wanted = {name: ocp.args.StandardRestore(_as_numpy(about.item_metadata[name])) for name in handlers}
            items = checkpointer.restore(path, args=ocp.args.Composite(**wanted))
            metadata = dict(about.custom_metadata)
            return items.state, items.samples, {key: metadata[key] for key in ("config", "spec")}
    except Exception as error:  # whatever a damaged file makes Orbax, tensorstore or JSON raise
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _as_numpy(metadata: Any) -> Any:
    """What asks Orbax for numpy arrays, whole, however they were saved: such arrays, of one number in memory."""
    one = lambda about: np.broadcast_to(np.zeros((), about.dtype), about.shape)  # noqa: E731
    return jax.tree.map(one, metadata.tree)


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Silences the tasks that a failed read leaves behind: they complain when they are collected."""
    logger, hook = logging.getLogger("asyncio"), sys.unraisablehook
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    try:
        yield
        gc.collect()
    finally:
        logger.setLevel(level)
        sys.unraisablehook = hook


def fill(template: Any, state: Mapping[str, Any], where: str) -> Any:
    """`template` with the values of a saved state. Raises InputError where they do not fit."""
    wanted, found = (dict(_flat(s)) for s in (serialization.to_state_dict(template), state))
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


def _flat(tree: Any) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield "/".join(str(getattr(key, "key", key)) for key in path), leaf
