"""What a run says while it trains: the progress bar, metrics.jsonl, and to whom `aejax.workdir.tracking` writes."""

import contextlib
import functools
import json
import sys
import time
import warnings
from collections.abc import Mapping
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
    """The records of metrics.jsonl, oldest first; a last line cut short is left out, another one with a warning."""
    file = Path(workdir) / METRICS
    records = []
    lines = read_bytes(file, _LARGEST).splitlines() if file.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            record = parse_object(line)
            numbers = all(isinstance(value, int | float) for value in record.values())
            printed = "".join(record).isprintable()  # names that can be written and drawn
            if not numbers or not printed or not isinstance(record.get("step"), int):
                raise ValueError("no record")
            records.append(record)
        except ValueError:
            if number < len(lines):
                warnings.warn(f"{file}, line {number}, is no record: damaged; left out", stacklevel=2)
    return records


class Logs:
    """Writes what it is given at once; a resumed run goes on after step `start`, later records are dropped."""

    def __init__(self, workdir: Path, start: int, config: ConfigDict, quiet: bool = False):
        records = [r for r in read(workdir) if r["step"] <= start]
        file = Path(workdir) / METRICS
        write_whole(file, "".join(json.dumps(r) + "\n" for r in records))
        self.history = records
        self._open = contextlib.ExitStack()  # closes the rest where one fails
        self._file = self._open.enter_context(append(file))
        self._trackers = []
        for name, make in resolve_trackers(config.tracking).items():
            given = (workdir, config_lib.to_dict(config), start, list(records))
            self._trackers.append(self._open.enter_context(Background(name, functools.partial(make, *given))))
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
        """Means over the steps since the last call."""
        now = time.perf_counter()
        images = (step - self._step) * self._batch_size
        rate = images / (now - self._time)
        self._bar.update(images)
        self._bar.set_postfix_str(f"loss {metrics['loss']:.4g}")
        self._step, self._time = step, now
        self._write(step, {f"train/{k}": v for k, v in metrics.items()} | {"images_per_second": round(rate, 1)})

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        self._write(step, {f"validation/{k}": v for k, v in metrics.items()})
        line = f"step {step:,}  validation: " + "  ".join(f"{k} {v:.5g}" for k, v in metrics.items())
        if self._bar.disable and not self._quiet:
            print(line, file=sys.stderr)
        elif not self._quiet:
            self._bar.write(line, file=sys.stderr)

    def restart_clock(self) -> None:
        """Leaves what was done since the last step, validation and saving, out of the rate."""
        self._time = time.perf_counter()

    def _write(self, step: int, metrics: Mapping[str, float]) -> None:
        self.history.append({"step": step, **metrics})
        self._file.write(json.dumps(self.history[-1]) + "\n")
        for tracker in self._trackers:
            tracker.write(step, metrics)

    def __enter__(self) -> "Logs":
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)


class Unwritten(Logs):
    """What a process that writes nothing knows of the logs: the history, as the one that writes."""

    def __init__(self, workdir: Path, start: int, *_: Any):
        self.history = [r for r in read(workdir) if r["step"] <= start]

    def train(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing: what is done next does not depend on it."""

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        self.history.append({"step": step, **{f"validation/{k}": v for k, v in metrics.items()}})

    def restart_clock(self) -> None:
        """Nothing: there is no clock."""

    def __exit__(self, *_: Any) -> None:
        """Nothing: no file is open."""
