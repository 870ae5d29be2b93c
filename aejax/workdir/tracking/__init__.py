"""Trackers, which a run's scalars go to beside metrics.jsonl: TensorBoard, and the services in `config.tracking`."""

import contextlib
import importlib.util
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from aejax.errors import kind_and_words, not_installed
from aejax.registry import resolve

# Imported only if a run names them.
TRACKERS: dict[str, Any] = {
    "mlflow": "aejax.workdir.tracking.mlflow:MLflow",
    "tensorboard": "aejax.workdir.tracking.tensorboard:TensorBoard",
    "wandb": "aejax.workdir.tracking.wandb:WandB",
}
PATIENCE = 60  # seconds that a run waits for a service at its end


class Tracker(Protocol):
    """Protocol of a tracker; a user's own is named as "package.module:name" in `config.tracking`.

    When a run begins or resumes, a thread of its own calls `name(workdir, config, start, history)`: `config` is plain
    dicts, `start` the step of the checkpoint that the run resumes from, or 0, and `history` the records of
    metrics.jsonl up to there, e.g. `{"step": 20, "train/loss": 1.5}`. A run that was killed had written steps after
    `start`, too; it writes them again, with the same values.
    """

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Records scalars of a step. Training and validation call it once each for a step; steps never decrease."""

    def close(self, failed: bool) -> None:
        """Ends the run, which is finished or was stopped, or was ended by an error if it `failed`."""


class Background(contextlib.AbstractContextManager["Background"]):
    """A tracker in its own thread, so that training neither waits for it nor fails with it."""

    def __init__(self, name: str, make: Callable[[], Tracker]):
        self._name, self._error, self._warned, self._failed = name, "", False, False
        self._records: SimpleQueue[tuple[int, Mapping[str, float]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(make,), name=f"tracking by {name}", daemon=True)
        self._thread.start()

    def _run(self, make: Callable[[], Tracker]) -> None:
        try:
            tracker = make()
            for record in iter(self._records.get, None):
                tracker.write(*record)
            tracker.close(self._failed)
        except Exception as error:
            self._error = f"failed ({kind_and_words(error)})"

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Passes the scalars on without waiting; warns once if the tracker has failed."""
        self._warn()
        if not self._error:
            self._records.put((step, scalars))

    def __exit__(self, kind: Any, *_: Any) -> None:
        """Waits until everything is written, at most PATIENCE seconds."""
        self._failed = kind is not None
        self._records.put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._error = f"did not end within {PATIENCE} seconds"
        self._warn()

    def _warn(self) -> None:
        if self._error and not self._warned:
            self._warned = True
            warnings.warn(
                f"tracking by {self._name} {self._error}; the run goes on without it, metrics.jsonl has everything",
                stacklevel=2,
            )


def resolve_trackers(names: str | Iterable[str]) -> dict[str, Callable[..., Tracker]]:
    """Returns what makes each tracker by name, TensorBoard's always among them.

    Raises InputError if a name is unknown or its package is not installed.
    """
    text = names if isinstance(names, str) else ",".join(names)  # --config.tracking=wandb,mlflow gives a single name
    split = filter(None, map(str.strip, text.split(",")))
    return {name: resolve("tracking", TRACKERS.get(name, name), TRACKERS) for name in ("tensorboard", *split)}


def require(package: str) -> None:
    """Raises InputError if `package` is not installed."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:  # without an origin it is a folder of that name, not a package
        raise not_installed(f"tracking by {package}", package)


def name_run(workdir: Path) -> str:
    """Returns a run's name in the lists of services: the last two parts of its workdir."""
    return "/".join(workdir.resolve().parts[-2:])


def split_steps(history: Sequence[Mapping[str, Any]]) -> Iterable[tuple[int, dict[str, float]]]:
    """Yields the step and the scalars of each record."""
    return ((record["step"], {k: v for k, v in record.items() if k != "step"}) for record in history)
