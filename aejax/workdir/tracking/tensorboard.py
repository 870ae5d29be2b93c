"""Tracker for TensorBoard, whose event files have each record on disk when `write` returns.

Each event is written at once, without a thread, so that a full disk raises an error in the run.
"""

import contextlib
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aejax.workdir.tracking.tfevents import field, record, scalar


class TensorBoard:
    """Tracker for TensorBoard (see `Tracker`). Each start has a file, which hides later steps of earlier ones."""

    def __init__(self, workdir: Path, config: Mapping[str, Any], start: int, history: Any):
        # TensorBoard reads files in the order of their names, so the numbers increase even if the clock goes back.
        taken = [int(p.name.split(".")[3]) for p in Path(workdir).glob("events.out.tfevents.[0-9]*.*")]
        number = max([int(time.time()), *(n + 1 for n in taken)])
        self._file = (Path(workdir) / f"events.out.tfevents.{number:010}.{socket.gethostname()}").open("xb")
        self._put(field(3, "brain.Event:2"))
        self._put(field(2, start + 1), field(7, field(1, 1)))  # a session starts here

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        self._put(field(2, step), field(5, b"".join(scalar(name, value) for name, value in scalars.items())))

    def close(self, failed: bool) -> None:
        self._file.close()

    def _put(self, *fields: bytes) -> None:
        """Writes one event, with its fields by their numbers in event.proto, and flushes it."""
        try:
            self._file.write(record(field(1, time.time()), *fields))
            self._file.flush()
        except OSError:
            # The disk is full. Left open, the file would try to write once more where no one handles the error.
            with contextlib.suppress(OSError):
                self._file.close()
            raise
