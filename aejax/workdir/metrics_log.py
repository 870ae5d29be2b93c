"""The log of a run's metrics: the progress bar, metrics.jsonl and the trackers of `aejax.workdir.tracking`."""

import contextlib
import functools
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from tqdm import tqdm

from aejax import config as config_lib
from aejax.files import append, parse_object, read_bytes, write_whole
from aejax.workdir.tracking import Background, resolve_trackers

METRICS = "metrics.jsonl"
_LARGEST = 2**32  # bytes


def read(workdir: Path) -> list[dict[str, Any]]:
    """Returns the records of metrics.jsonl, oldest first, without damaged lines; warns of all but the last of them."""
    file = Path(workdir) / METRICS
    records = []
    lines = read_bytes(file, _LARGEST).splitlines() if file.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            record = parse_object(line)
            numbers = all(isinstance(value, int | float) for value in record.values())
            printed = "".join(record).isprintable()  # names go to terminals and plots
            if not numbers or not printed or not isinstance(record.get("step"), int):
                raise ValueError("no record")
            records.append(record)
        except ValueError:
            if number < len(lines):
                warnings.warn(f"{file}, line {number}, is no record: damaged; left out", stacklevel=2)
    return records


class Logs(contextlib.AbstractContextManager["Logs"]):
    """Writer of metrics, which appear on disk at once. A run that resumes at step `start` drops later records.

    A process that is not `primary` writes nothing, but keeps the same history, on which early stopping depends.
    """

    def __init__(self, workdir: Path, start: int, config: ConfigDict, quiet: bool = False, primary: bool = True):
        records = [r for r in read(workdir) if r["step"] <= start]
        self.history = records
        self._open = contextlib.ExitStack()  # closes what is open if a tracker fails to open
        self._writers: list[Callable[[int, Mapping[str, float]], object]] = []
        if primary:
            file = Path(workdir) / METRICS
            write_whole(file, "".join(json.dumps(r) + "\n" for r in records))
            lines = self._open.enter_context(append(file))
            self._writers.append(lambda step, metrics: lines.write(json.dumps({"step": step, **metrics}) + "\n"))
            for name, make in resolve_trackers(config.tracking).items():
                given = (workdir, config_lib.to_dict(config), start, list(records))
                tracker = self._open.enter_context(Background(name, functools.partial(make, *given)))
                self._writers.append(tracker.write)
        self._batch_size, self._step, self._time, self._quiet = config.batch_size, start, time.perf_counter(), quiet
        self._bar = tqdm(
            total=config.steps * config.batch_size,
            initial=start * config.batch_size,
            unit=" images",
            unit_scale=True,
            dynamic_ncols=True,
            disable=quiet or None,  # without a terminal: a line per validation instead
        )
        self._open.callback(self._bar.close)

    def train(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes training metrics, which are means over the steps since the last call, and the throughput."""
        now = time.perf_counter()
        images = (step - self._step) * self._batch_size
        rate = images / (now - self._time)
        self._bar.update(images)
        self._bar.set_postfix_str(f"loss {metrics['loss']:.4g}")
        self._step, self._time = step, now
        self._write(step, {f"train/{k}": v for k, v in metrics.items()} | {"images_per_second": round(rate, 1)})

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the metrics of a validation, and prints them."""
        self._write(step, {f"validation/{k}": v for k, v in metrics.items()})
        line = f"step {step:,}  validation: " + "  ".join(f"{k} {v:.5g}" for k, v in metrics.items())
        if self._bar.disable and not self._quiet:
            print(line, file=sys.stderr)
        elif not self._quiet:
            self._bar.write(line, file=sys.stderr)

    def restart_clock(self) -> None:
        """Restarts the clock of the throughput, so that validation and saving do not count."""
        self._time = time.perf_counter()

    def _write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds a record to the history, the file and the trackers."""
        self.history.append({"step": step, **metrics})
        for write in self._writers:
            write(step, metrics)

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)
