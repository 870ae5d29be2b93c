"""Where the scalars of a run go beside metrics.jsonl: TensorBoard, and the services that `config.tracking` names."""

import importlib.util
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from aejax.errors import InputError, kind_and_words
from aejax.registry import named

# Imported only where a run names them.
TRACKERS: dict[str, Any] = {
    "mlflow": "aejax.workdir.tracking.mlflow:MLflow",
    "tensorboard": "aejax.workdir.tracking.tensorboard:TensorBoard",
    "wandb": "aejax.workdir.tracking.wandb:WandB",
}
PATIENCE = 60  # seconds that a run waits at its end for a service


class Tracker(Protocol):
    """What "package.module:name" of a user's own makes when a run begins or goes on, in a thread of its own.

    `name(workdir, config, start, history)` is given the config as plain dicts, the step of the checkpoint that the run
    goes on from, or 0, and the records of metrics.jsonl up to there, `{"step": 20, "train/loss": 1.5, ...}`. A run
    that was killed had come further than `start`: it writes those steps again, with the same values.
    """

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Called for a step once with what training tells, once with validation; steps do not descend."""

    def close(self, failed: bool) -> None:
        """The run is finished or stopped, or an error ended it."""


class Background:
    """A tracker in its own thread: training does not wait for it, and goes on where it fails."""

    def __init__(self, name: str, make: Callable[[], Tracker]):
        self._name, self._error, self._told, self._failed = name, "", False, False
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
        self._warn()
        if not self._error:
            self._records.put((step, scalars))

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        """Waits until all is written, but not for longer than PATIENCE."""
        self._failed = kind is not None
        self._records.put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._error = f"did not end within {PATIENCE} seconds"
        self._warn()

    def _warn(self) -> None:
        if self._error and not self._told:
            self._told = True
            warnings.warn(
                f"tracking by {self._name} {self._error}; the run goes on without it, metrics.jsonl has everything",
                stacklevel=2,
            )


def trackers(names: str | Iterable[str]) -> dict[str, Callable[..., Tracker]]:
    """By name what makes a tracker, TensorBoard's always. InputError where one is unknown or its package missing."""
    text = names if isinstance(names, str) else ",".join(names)  # of --config.tracking=wandb,mlflow one name is made
    split = filter(None, map(str.strip, text.split(",")))
    return {name: named("tracking", TRACKERS.get(name, name), TRACKERS) for name in ("tensorboard", *split)}


def needs(package: str) -> None:
    """Raises InputError where the package, an extra of its own name, is not installed."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:  # a folder of that name in the working directory is no package
        raise InputError(f"tracking by {package} needs it installed: pip install 'aejax[{package}]'")


def name_of(workdir: Path) -> str:
    """Of a run, as services list it: the last two parts of its workdir."""
    return "/".join(workdir.resolve().parts[-2:])


def scalars_of(history: Sequence[Mapping[str, Any]]) -> Iterable[tuple[int, dict[str, float]]]:
    """Step and scalars of each record."""
    return ((record["step"], {k: v for k, v in record.items() if k != "step"}) for record in history)
