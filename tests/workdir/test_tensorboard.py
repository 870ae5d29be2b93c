"""TensorBoard's records are those that its own protocol buffers make."""

import struct

import numpy as np
import pytest
from conftest import events
from tensorboardX.proto import event_pb2, summary_pb2
from tensorboardX.record_writer import masked_crc32c

from aejax.workdir.tracking.tensorboard import TensorBoard, checksum, field, record, scalar


def test_a_start_hides_the_steps_after_it(tmp_path):
    tracker = TensorBoard(tmp_path, {}, 4, None)
    tracker.write(6, {"loss": 1.5})
    tracker.close(failed=False)
    version, started, written = events(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert started.session_log.status == event_pb2.SessionLog.START
    assert started.step == 5  # TensorBoard leaves out what earlier files have from this step on
    assert (written.step, written.summary.value[0].simple_value) == (6, 1.5)


@pytest.mark.parametrize("data", [b"", b"123456789", bytes(range(256)) * 3])
def test_checksums(data):
    assert checksum(data) == struct.pack("<I", masked_crc32c(data))


@pytest.mark.parametrize(
    "value", [1.5, 0, -3e-9, 0.1, np.float32(7), np.float64(0.1), 1e39, float("inf"), float("nan")]
)
def test_an_event_of_scalars(value):
    values = {"train/loss": value, "ä" * 200: -value}  # longer than a length of one byte
    made = record(field(1, 1.7e9), field(2, 300), field(5, b"".join(scalar(*pair) for pair in values.items())))
    summary = summary_pb2.Summary(
        value=[summary_pb2.Summary.Value(tag=tag, simple_value=number) for tag, number in values.items()]
    )
    data = event_pb2.Event(wall_time=1.7e9, step=300, summary=summary).SerializeToString()
    assert made[12:-4] == data
    assert struct.unpack("<Q", made[:8]) == (len(data),)
    assert (made[8:12], made[-4:]) == (checksum(made[:8]), checksum(data))
