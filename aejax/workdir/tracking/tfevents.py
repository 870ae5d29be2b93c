"""Records of TensorBoard's event files: protocol buffers, each between checksums.

They are encoded here because the libraries that write such files import TensorFlow or, if it is installed, torch.
"""

import struct

import numpy as np


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
