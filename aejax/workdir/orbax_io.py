"""Calls of Orbax that write and read checkpoints; no other module imports Orbax, which takes 0.1 s."""

import asyncio
import contextlib
import logging
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import preservation_policy


def open_manager(
    folder: Path, keep: int, processes: Iterable[int] | None = None, create: bool = True
) -> ocp.CheckpointManager:
    """Returns Orbax's manager, which keeps the newest `keep` checkpoints and the one with the lowest validation loss.

    Args:
      folder: of all checkpoints.
      keep: number of the newest ones to keep.
      processes: those that save and read; defaults to all.
      create: whether to create the folder.
    """
    loss = lambda metrics: metrics["validation_loss"]  # noqa: E731
    best = preservation_policy.BestN(get_metric_fn=loss, reverse=True, n=1, keep_checkpoints_without_metrics=False)
    active = None if processes is None else set(processes)
    options = ocp.CheckpointManagerOptions(
        preservation_policy=preservation_policy.AnyPreservationPolicy([preservation_policy.LatestN(keep), best]),
        best_fn=loss,  # without it Orbax stores no metrics
        best_mode="min",
        cleanup_tmp_directories=True,
        create=create,
        multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=0, active_processes=active),
    )
    return ocp.CheckpointManager(folder, options=options)


def save(
    manager: ocp.CheckpointManager, step: int, items: Mapping[str, Any], loss: float | None, metadata: dict[str, Any]
) -> None:
    """Starts a save of named trees of arrays."""
    manager.save(
        step,
        args=ocp.args.Composite(**{name: ocp.args.StandardSave(tree) for name, tree in items.items()}),
        metrics=None if loss is None else {"validation_loss": loss},
        custom_metadata=metadata,
        force=True,
    )


def read(path: Path, names: Sequence[str], check: Callable[[PyTree], None]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the named trees of a checkpoint, as NumPy arrays, and its metadata.

    `check` gets the shapes before anything is read. Raises errors of many types for damaged files.
    """
    handlers = {name: ocp.PyTreeCheckpointHandler(type_handler_registry=_READERS) for name in names}
    handler = ocp.CompositeCheckpointHandler(metrics=ocp.JsonCheckpointHandler(), **handlers)
    with ocp.Checkpointer(handler) as checkpointer:
        about = checkpointer.metadata(path)
        shapes = {name: about.item_metadata[name].tree for name in names}
        check(shapes)
        wanted = {name: _make_target(shapes[name]) for name in names}
        items = checkpointer.restore(path, args=ocp.args.Composite(**wanted))
    return {name: items[name] for name in names}, dict(about.custom_metadata)


class _ReadToTheEnd:
    """A way to read arrays that ends all reads before it raises the error of one.

    Orbax raises the first error and closes its event loop. Reads that end later find the loop closed, and print that.
    """

    async def metadata(self, infos: Sequence[Any]) -> list[Any]:
        read: Any = super().metadata  # type: ignore[misc]
        return await _end_all(read([info]) for info in infos)

    async def deserialize(self, infos: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        read: Any = super().deserialize  # type: ignore[misc]
        return await _end_all(read([info], [arg]) for info, arg in zip(infos, args, strict=True))


class _ArrayReader(_ReadToTheEnd, ocp.type_handlers.ArrayHandler):
    """Reader of arrays that were saved from devices."""


class _NumpyReader(_ReadToTheEnd, ocp.type_handlers.NumpyHandler):
    """Reader of arrays that were saved from the host, and into NumPy arrays."""


_READERS = ocp.type_handlers.create_type_handler_registry((jax.Array, _ArrayReader()), (np.ndarray, _NumpyReader()))


async def _end_all(reads: Iterable[Awaitable[Sequence[Any]]]) -> list[Any]:
    """Concatenates the results of the reads, or raises an error once all have ended."""
    values: list[Any] = []
    for result in await asyncio.gather(*reads, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
        values += result
    return values


def _make_target(shapes: Any) -> ocp.args.PyTreeRestore:
    """Makes Orbax restore whole NumPy arrays; the targets take the memory of a single value each."""
    target = jax.tree.map(lambda about: np.broadcast_to(np.zeros((), about.dtype), about.shape), shapes)
    return ocp.args.PyTreeRestore(target, restore_args=ocp.checkpoint_utils.construct_restore_args(target))


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Drops what Orbax logs in this thread about a checkpoint that cannot be read, which our own error says, too."""
    this, logger = threading.get_ident(), logging.getLogger("absl")
    of_others = lambda record: record.thread != this  # noqa: E731
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        logger.addFilter(of_others)
        try:
            yield
        finally:
            logger.removeFilter(of_others)
