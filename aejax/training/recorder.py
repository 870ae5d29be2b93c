"""One run of those that train together: what it writes, and what ends it before the others."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax.data import Spec
from aejax.errors import AejaxError, DivergedError, in_one_line
from aejax.workdir import checkpoint
from aejax.workdir.lifecycle import end, is_stale, storage_errors
from aejax.workdir.metrics_log import Logs, Unwritten

Metrics = Mapping[str, np.ndarray]  # [steps]


class Member:
    """Logs and checkpoints of one run.

    Attributes:
      error: what went wrong, if something did.
      ended: whether it did, or the run stopped early for want of a better validation.
    """

    error: AejaxError | None = None
    ended = False

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        spec: Spec,
        trained_on: Mapping[str, Any],
        saved: checkpoint.Checkpoint | None,
        primary: bool,
        quiet: bool,
    ):
        """`trained_on` is the `identity` of the data, `primary` as in `Partition`."""
        plain = config_lib.to_save(config, saved.metadata["config"] if saved else None)
        metadata = {"config": plain, "spec": spec.to_dict(), "data": dict(trained_on)}
        self._workdir, self._patience, self._primary = workdir, config.patience, primary
        begin = saved.step if saved else 0
        self._open = contextlib.ExitStack()
        with self._guarded():
            logs = Logs if primary else Unwritten
            self._logs = self._open.enter_context(logs(workdir, begin, config, quiet))
            self._checkpoints = self._open.enter_context(
                checkpoint.Checkpoints(workdir, config.keep, metadata, saved.broken if saved and primary else ())
            )
            self.ended = is_stale(self._logs.history, self._patience)

    def report(self, step: int, metrics: Metrics) -> None:
        """Logs the means over the steps up to `step`."""
        with self._guarded():
            _check_finite(metrics, step, self._checkpoints)
            self._logs.train(step, {name: float(np.mean(values)) for name, values in metrics.items()})

    def save(
        self,
        step: int,
        state: Any,
        sample: Callable[[Any], dict[str, np.ndarray]],
        validate: Callable[[Any], dict[str, float]] | None,
    ) -> None:
        """Saves the state and its samples, validated first where `validate` is given."""
        with self._guarded():
            loss = None
            if validate:
                results = validate(state)
                checked = {name: np.array([value]) for name, value in results.items()}
                _check_finite(checked, step, self._checkpoints, "validation ")
                self._logs.validation(step, results)
                loss = results["loss"]
            samples = sample(state)
            finite = {name: np.array([0.0 if np.isfinite(x).all() else np.nan]) for name, x in samples.items()}
            _check_finite(finite, step, self._checkpoints)
            self._checkpoints.save(step, state, samples, loss)
            self._logs.restart_clock()
            self.ended = is_stale(self._logs.history, self._patience)

    def __enter__(self) -> "Member":
        return self

    def __exit__(self, *error: Any) -> None:
        """Waits for the save under way. The trackers hear whether an error ended the run, this one or its own."""
        own = (type(self.error), self.error, None) if self.error else (None, None, None)
        with self._guarded():
            self._open.__exit__(*(error if error[0] else own))

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            with storage_errors(self._workdir):
                yield
        except AejaxError as error:
            self.error, self.ended = self.error or error, True
            if self._primary:
                end(self._workdir, f"failed: {in_one_line(self.error)}")


def _check_finite(metrics: Metrics, last: int, checkpoints: checkpoint.Checkpoints, what: str = "") -> None:
    """Raises for the first step with a number that is not finite; metrics are [steps], of the steps up to `last`."""
    finite = {name: np.isfinite(values) for name, values in metrics.items()}
    good = np.logical_and.reduce(list(finite.values()))
    if good.all():
        return
    i, first = int(np.argmin(good)), last - len(good) + 1
    broken = [name for name, values in finite.items() if not values[i]]
    saved = checkpoints.newest_step()
    kept = "no checkpoint was saved yet" if saved is None else f"the last good checkpoint is step {saved}"
    raise DivergedError(
        f"{what}{' and '.join(broken)} not finite at step {first + i} (steps {first} to {last} were read); "
        f"{kept}; lower optim.lr or set optim.clip{', in a new workdir' if saved else ''}, or look at the data"
    )
