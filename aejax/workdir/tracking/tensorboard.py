"""Tracker for TensorBoard, whose event files have each record on disk when `write` returns.

Each event is written at once, without a thread, so that a full disk raises an error in the run. Its records are
protocol buffers, each between checksums. They are encoded here because the libraries that write such files import
TensorFlow or, if it is installed, torch.
"""

import contextlib
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


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


def record(*fields: bytes) -> bytes:
    """Returns an event of encoded fields, with its length before it and a checksum after each of the two."""
    data = b"".join(fields)
    length = struct.pack("<Q", len(data))
    return length + checksum(length) + data + checksum(data)


def field(number: int, value: bytes | str | int | float) -> bytes:
    """Returns a field of a protocol buffer: a whole number, a double, or text or an inner message with its length."""
    match value:
        case float():
            return _varint(number << 3 | 1) + struct.pack("<d", value)
        case int():
            return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def scalar(tag: str, value: float) -> bytes:
    """Returns the summary of one value, in single precision."""
    with np.errstate(over="ignore"):  # a value beyond the range becomes infinite, where struct would raise
        single = np.float32(value).tobytes()
    return field(1, field(1, tag) + _varint(2 << 3 | 5) + single)


def checksum(data: bytes) -> bytes:
    """Returns the CRC-32C of `data`, rotated and with a constant added, as TFRecord files have it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF)


def _varint(number: int) -> bytes:
    """Returns a whole number in groups of 7 bits, the lowest first."""
    groups = []
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])


def _divided(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (byte & 1) * 0x82F63B78
    return byte


_CRC = [_divided(byte) for byte in range(256)]
