"""Tracker for TensorBoard, whose event files have each record on disk when `write` returns.

The records are encoded here. Packages that write them import TensorFlow or torch if they find it, which takes seconds,
and write in a thread, which ends when the disk is full and would keep the run waiting forever.
"""

import contextlib
import functools
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_CRC_OF_BYTE = [functools.reduce(lambda crc, _: crc >> 1 ^ 0x82F63B78 * (crc & 1), range(8), n) for n in range(256)]


class TensorBoard:
    """Tracker for TensorBoard (see `Tracker`). Each start has a file, which hides later steps of earlier ones."""

    def __init__(self, workdir: Path, config: Mapping[str, Any], start: int, history: Any):
        # TensorBoard reads files in the order of their names, so the numbers increase even if the clock goes back.
        taken = [int(p.name.split(".")[3]) for p in Path(workdir).glob("events.out.tfevents.[0-9]*.*")]
        number = max([int(time.time()), *(n + 1 for n in taken)])
        self._file = (Path(workdir) / f"events.out.tfevents.{number:010}.{socket.gethostname()}").open("xb")
        self._put(_bytes(3, b"brain.Event:2"))  # file_version
        self._put(_integer(2, start + 1) + _bytes(7, _integer(1, 1)))  # step, session_log.status: START

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes a record of the scalars."""
        with np.errstate(over="ignore"):
            values = [_bytes(1, name.encode()) + b"\x15" + np.float32(v).tobytes() for name, v in scalars.items()]
        self._put(_integer(2, step) + _bytes(5, b"".join(_bytes(1, value) for value in values)))  # step, summary.value

    def close(self, failed: bool) -> None:
        self._file.close()

    def _put(self, fields: bytes) -> None:
        """Writes one record: the event's length, a checksum of the length, the event and its checksum."""
        event = b"\x09" + struct.pack("<d", time.time()) + fields  # wall_time
        length = struct.pack("<Q", len(event))
        try:
            self._file.write(length + _checksum(length) + event + _checksum(event))
            self._file.flush()
        except OSError:
            # The disk is full. Left open, the file would try to write once more where no one handles the error.
            with contextlib.suppress(OSError):
                self._file.close()
            raise


def _integer(field: int, value: int) -> bytes:
    """Encodes a field of a protobuf message that holds a whole number: seven bits a byte, the lowest first."""
    encoded = bytearray([field << 3])
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def _bytes(field: int, value: bytes) -> bytes:
    """Encodes a field of a protobuf message that holds a string or another message."""
    return bytes([field << 3 | 2]) + _integer(0, len(value))[1:] + value


def _checksum(data: bytes) -> bytes:
    """Returns the CRC-32C of `data`, masked as in TFRecord files."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_OF_BYTE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF)
