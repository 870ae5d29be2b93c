"""Tracker for TensorBoard, whose event files have each record on disk when `write` returns.

tensorboardX's own writer has a thread, which ends when the disk is full, and the run would wait for it forever.
"""

import contextlib
import socket
import struct
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# If torch is installed, tensorboardX imports it, which takes seconds, for tensors that it never gets here.
if "torch" in sys.modules:
    from tensorboardX.proto import event_pb2, summary_pb2
    from tensorboardX.record_writer import masked_crc32c
else:
    sys.modules["torch"] = None  # type: ignore[assignment]  # "not installed"
    from tensorboardX.proto import event_pb2, summary_pb2
    from tensorboardX.record_writer import masked_crc32c

    del sys.modules["torch"]


class TensorBoard:
    """Tracker for TensorBoard (see `Tracker`). Each start has a file, which hides later steps of earlier ones."""

    def __init__(self, workdir: Path, config: Mapping[str, Any], start: int, history: Any):
        # TensorBoard reads files in the order of their names, so the numbers increase even if the clock goes back.
        taken = [int(p.name.split(".")[3]) for p in Path(workdir).glob("events.out.tfevents.[0-9]*.*")]
        number = max([int(time.time()), *(n + 1 for n in taken)])
        self._file = (Path(workdir) / f"events.out.tfevents.{number:010}.{socket.gethostname()}").open("xb")
        self._put(file_version="brain.Event:2")
        self._put(step=start + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        values = [summary_pb2.Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._put(step=step, summary=summary_pb2.Summary(value=values))

    def close(self, failed: bool) -> None:
        self._file.close()

    def _put(self, **event: Any) -> None:
        """Writes one record: the event's length, a checksum of the length, the event and its checksum."""
        data = event_pb2.Event(wall_time=time.time(), **event).SerializeToString()
        length = struct.pack("<Q", len(data))
        parts = (length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data)))
        try:
            self._file.write(b"".join(parts))
            self._file.flush()
        except OSError:
            # The disk is full. Left open, the file would try to write once more where no one handles the error.
            with contextlib.suppress(OSError):
                self._file.close()
            raise
