"""The recorder of a run: metrics, validation, checkpoints and early stopping."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from aejax.data import Spec
from aejax.errors import AejaxError, DivergedError
from aejax.training.evaluator import Sample, Validate
from aejax.workdir.checkpoint import Checkpoint, Checkpoints, InMemory
from aejax.workdir.lifecycle import OpenWorkdir, guard_storage, is_stale
from aejax.workdir.metrics_log import Logs

Metrics = Mapping[str, np.ndarray]  # [steps]


class Window:
    """Metrics of dispatches, kept on device until the next dispatch runs, so that reading overlaps computation."""

    def __init__(self, log_every: int, log: Callable[[int, Metrics], None]):
        """Calls `log(step, metrics)` with the metrics [..., steps] of all steps since its last call."""
        self._log_every, self._log = log_every, log
        self._window: list[Any] = []
        self._due = 0  # the step at which the window is complete

    def add(self, step: int, metrics: PyTree) -> None:
        """Takes the metrics of the dispatch that ends at `step`, after those of a complete window are logged."""
        if self._due:
            self.flush(self._due)
        self._window.append(metrics)
        self._due = step if step % self._log_every == 0 else 0

    def flush(self, step: int) -> None:
        """Logs all remaining metrics, up to `step`."""
        if self._window:
            dispatches, self._window, self._due = self._window, [], 0
            host = jax.device_get(dispatches)
            self._log(step, {name: np.concatenate([d[name] for d in host], axis=-1) for name in host[0]})


class Recorder(contextlib.AbstractContextManager["Recorder"]):
    """Log and checkpoints of one run, as a context manager that waits for the save in progress.

    Attributes:
      done: whether validation has not improved for `config.patience` validations.
    """

    def __init__(
        self,
        opened: OpenWorkdir,
        spec: Spec,
        trained_on: Mapping[str, Any],
        validate: Validate,
        sample: Sample,
        quiet: bool = False,
        checkpoints: type[Checkpoints] | type[InMemory] = Checkpoints,
    ):
        """Opens the files; `trained_on` comes from `data.identify`, `validate` and `sample` from `evaluator`."""
        config = opened.config
        metadata: dict[str, Any] = {"config": opened.plain, "spec": spec.to_dict(), "data": dict(trained_on)}
        if opened.changes:
            metadata["changes"] = [change._asdict() for change in opened.changes]
        broken = opened.saved.broken if opened.saved and opened.primary else ()
        self._folder, self._patience, self._validate, self._sample = opened.folder, config.patience, validate, sample
        self._window = Window(config.log_every, self.log)
        with contextlib.ExitStack() as opening, guard_storage(self._folder):
            self._logs = opening.enter_context(Logs(self._folder, opened.begin, config, quiet, opened.primary))
            self._checkpoints = checkpoints(self._folder, config.keep, metadata, broken)
            opening.enter_context(self._checkpoints)
            self._open = opening.pop_all()
        self.done = is_stale(self._logs.history, self._patience)

    def add(self, step: int, metrics: PyTree) -> None:
        """Takes the metrics [steps] of the dispatch that ends at `step`; they are logged every `log_every` steps."""
        self._window.add(step, metrics)

    def log(self, step: int, metrics: Metrics) -> None:
        """Logs the means over the steps up to `step`. Raises DivergedError if a value is not finite."""
        with guard_storage(self._folder):
            _check_finite(metrics, step, self._checkpoints)
            self._logs.train(step, {name: float(np.mean(values)) for name, values in metrics.items()})

    def save(self, step: int, state: PyTree, validated: bool) -> None:
        """Saves the state and its samples, after a validation if `validated`.

        Raises DivergedError if metrics or samples are not finite, and StorageError if they cannot be written.
        """
        self._window.flush(step)
        with guard_storage(self._folder):
            loss = None
            if validated:
                results = self._validate(state)
                checked = {name: np.array([value]) for name, value in results.items()}
                _check_finite(checked, step, self._checkpoints, "validation ")
                self._logs.validation(step, results)
                loss = results["loss"]
            samples = self._sample(state)
            computed = {name: x for name, x in samples.items() if name != "inputs"}  # whose padding is NaN
            finite = {name: np.array([0.0 if np.isfinite(x).all() else np.nan]) for name, x in computed.items()}
            _check_finite(finite, step, self._checkpoints)
            self._checkpoints.save(step, state, samples, loss)
            self._logs.restart_clock()
            self.done = is_stale(self._logs.history, self._patience)

    def load_newest(self) -> Checkpoint:
        """Returns the newest checkpoint, after the context has ended."""
        return self._checkpoints.load_newest()

    def __exit__(self, *error: Any) -> None:
        """Waits for the save and tells trackers of an error that ended the run; ignores a second error."""
        try:
            with guard_storage(self._folder):
                self._open.__exit__(*error)
        except AejaxError:
            if error[1] is None:
                raise


def _check_finite(metrics: Metrics, last: int, checkpoints: Checkpoints | InMemory, what: str = "") -> None:
    """Raises DivergedError for the first step with a value that is not finite; metrics are [steps], up to `last`."""
    finite = {name: np.isfinite(values) for name, values in metrics.items()}
    good = np.logical_and.reduce(list(finite.values()))
    if good.all():
        return
    i, first = int(np.argmin(good)), last - len(good) + 1
    broken = [name for name, values in finite.items() if not values[i]]
    saved = checkpoints.find_newest_step()
    kept = "no checkpoint was saved yet" if saved is None else f"the last good checkpoint is step {saved}"
    raise DivergedError(
        f"{what}{' and '.join(broken)} not finite at step {first + i} (steps {first} to {last} were read); "
        f"{kept}; lower optim.lr or set optim.clip{', in a new workdir' if saved else ''}, or look at the data"
    )
