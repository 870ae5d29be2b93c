"""The clock moved, before a resumed start and while a run trains: what is newest is told by steps, never by time."""

import contextlib
import os
import time

import numpy as np
import pytest
from conftest import events
from runs import after, assert_board_tells_the_records, assert_same_end, train

import aejax
from aejax.workdir import checkpoint, metrics_log

YEAR = 365 * 86400.0


@pytest.fixture
def clock(monkeypatch):
    """Moves the wall clock by so many seconds."""
    real = time.time

    def move(seconds):
        monkeypatch.setattr(time, "time", lambda: real() + seconds)
        monkeypatch.setattr(time, "time_ns", lambda: int((real() + seconds) * 1e9))

    return move


@pytest.mark.parametrize("first", [-YEAR, YEAR])
def test_what_is_kept_and_newest_is_of_the_last_step(first, clock, tmp_path):
    """Saved a year earlier or later than the step before, by the clock and by the folder's time."""
    samples = {name: np.zeros(1, np.float32) for name in ("latents", "reconstructions", "inputs")}
    with checkpoint.Checkpoints(tmp_path, 2, {"config": {}, "spec": {}}) as checkpoints:
        for step, seconds in ((7, 0), (8, 2 * first), (9, first), (10, 0)):
            clock(seconds)
            checkpoints.save(step, {"w": np.full(3, step, np.float32)}, samples)
            os.utime(tmp_path / "checkpoints" / str(checkpoints.find_newest_step()), (2e9 + seconds,) * 2)
    assert checkpoint.list_steps(tmp_path) == [9, 10]
    newest = checkpoint.load_newest(tmp_path)
    assert newest.step == 10
    np.testing.assert_array_equal(newest.state["w"], np.full(3, 10))


@pytest.mark.slow
@pytest.mark.parametrize("first", [-YEAR, YEAR])
def test_moved_between_start_and_resume(first, clock, tmp_path):
    clock(first)
    train(tmp_path / "run", stop=after(2))
    clock(-first)
    train(tmp_path / "run", stop=after(1))
    clock(0)
    train(tmp_path / "run")
    train(tmp_path / "whole")
    assert_same_end(tmp_path / "run", tmp_path / "whole")  # and TensorBoard's files, read in the order of their names
    starts = [event.step for event in events(tmp_path / "run") if event.HasField("session_log")]
    assert starts == [1, 5, 7]


@pytest.mark.slow
def test_moved_while_it_trains(clock, tmp_path):
    moves = iter([600, -YEAR, -YEAR, -2 * YEAR])
    train(tmp_path / "run", stop=lambda: clock(next(moves)))
    train(tmp_path / "whole")
    assert_same_end(tmp_path / "run", tmp_path / "whole")
    rates = [r["images_per_second"] for r in metrics_log.read(tmp_path / "run") if "images_per_second" in r]
    assert len(rates) == 4
    assert all(np.isfinite(rate) and rate > 0 for rate in rates)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the checkpoint of step .* is missing")
def test_moved_forward_during_a_save_it_ends_in_one_line_at_the_worst(clock, tmp_path):
    """Orbax gives up a save that took 20 minutes by the wall clock."""
    with contextlib.suppress(aejax.StorageError):
        train(tmp_path / "run", stop=lambda: clock(YEAR))
    train(tmp_path / "run")
    train(tmp_path / "whole")
    assert_same_end(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_the_newest_checkpoint_is_that_of_the_last_step_whatever_the_files_say(tmp_path):
    train(tmp_path)
    now = time.time()
    for step, age in ((4, -YEAR), (8, YEAR)):
        folder = tmp_path / "checkpoints" / str(step)
        for path in (folder, *folder.rglob("*")):
            os.utime(path, (now - age, now - age))
    assert aejax.load_run(tmp_path).step == 8
    assert checkpoint.load_newest(tmp_path).step == 8


@pytest.mark.slow
def test_starts_within_one_second_have_files_of_their_own(clock, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 2e9)
    for dispatches in (1, 2, 1):
        train(tmp_path, stop=after(dispatches))
    assert len(list(tmp_path.glob("events*"))) == 3
    assert_board_tells_the_records(tmp_path)
