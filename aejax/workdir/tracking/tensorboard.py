"""TensorBoard's event files, each record on disk when `write` returns.

tensorboardX's own writer has a thread: a full disk ends it, and the run then waits for it for ever.
"""

import contextlib
import socket
import struct
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# tensorboardX imports torch where that is installed, for tensors that it is never given here: seconds of every start.
if "torch" in sys.modules:
    from tensorboardX.proto import event_pb2, summary_pb2
    from tensorboardX.record_writer import masked_crc32c
else:
    sys.modules["torch"] = None  # type: ignore[assignment]  # "not installed"
    from tensorboardX.proto import event_pb2, summary_pb2
    from tensorboardX.record_writer import masked_crc32c

    del sys.modules["torch"]


class TensorBoard:
    """See `Tracker`. Each start has a file of its own, which hides what others tell of steps after `start`."""

    def __init__(self, workdir: Path, config: Mapping[str, Any], start: int, history: Any):
        # TensorBoard reads the files in the order of their names: that of their beginnings, even if the clock is moved.
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
        """Length, its checksum, the event, its checksum."""
        data = event_pb2.Event(wall_time=time.time(), **event).SerializeToString()
        length = struct.pack("<Q", len(data))
        parts = (length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data)))
        try:
            self._file.write(b"".join(parts))
            self._file.flush()
        except OSError:  # the disk is full: closed now, or it would be tried once more when nobody listens
            with contextlib.suppress(OSError):
                self._file.close()
            raise
