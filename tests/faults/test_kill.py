"""Killed by kill -9, at any moment, again and again: the same command ends as if nothing had been."""

import contextlib
import os
import signal
import time

import numpy as np
import pytest
from commands import server
from runs import after, assert_same_end, train

from aejax.files import TEMPORARY
from aejax.workdir import checkpoint, metrics_log

# What was being saved is missing, and is said to be; that a checkpoint cannot be read would be an error.
pytestmark = pytest.mark.filterwarnings("ignore:the checkpoint of step .* is missing")

CONFIG = '''
import aejax
from aejax.config import module

def get_config(arg=""):
    """Saves most of the time: 4 MB every 20 steps of a millisecond."""
    config = aejax.config.default()
    config.data.name = "sheet"
    config.encoder = module("mlp", features=(500, 500))
    config.bottleneck = module("dense", features=2)
    config.decoder = module("mlp", features=(100,))
    config.update({"batch_size": 16, "log_every": 10, "checkpoint_every": 20, "keep": 2, "ema": 0.9})
    return aejax.config.lock(config)
'''


class Starts:
    """Of one command, by a server that has its imports done."""

    def __init__(self, folder, *arguments):
        self.log, self._arguments = folder / "log", arguments

    def begin(self):
        self.log.unlink(missing_ok=True)
        self._process = server().begin("train", *self._arguments, output=self.log, errors=self.log)
        return time.monotonic()

    def runs(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process, 0)
            return True
        return False

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process, signal.SIGKILL)
        return self.end()

    def end(self):
        return server().end()


@pytest.fixture
def starts(tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    config = f"--config={tmp_path / 'config.py'}"
    return lambda workdir, steps: Starts(tmp_path, config, f"--config.steps={steps}", f"--workdir={workdir}")


def newest(workdir):
    return max(checkpoint.list_steps(workdir), default=0)


def unfinished(workdir):
    return {(p.name, p.stat().st_ctime_ns) for p in (workdir / "checkpoints").iterdir() if "tmp" in p.name}


def until_saved(start, workdir, after, seconds=90):
    deadline = time.monotonic() + seconds
    while newest(workdir) <= after and start.runs():
        assert time.monotonic() < deadline, start.log.read_text()
        time.sleep(0.005)


def moments(rng, from_start, after_save):
    """Whether each kill follows a save, and the fraction of its span at which it comes: one in each of equal parts."""
    spread = lambda n: (np.arange(n) + rng.random(n)) / n  # noqa: E731
    return rng.permutation(
        [*((False, at) for at in spread(from_start)), *((True, at) for at in spread(after_save))]
    ).tolist()


@pytest.mark.slow
def test_killed_again_and_again_it_ends_the_same(tmp_path, starts):
    """Killed at 4 moments from the command's first line on, and at 9 within 0.3 s of a save: in each part of both."""
    seed = int(np.random.default_rng().integers(2**31))
    print(f"seed {seed}")  # pytest shows it where the test fails
    rng = np.random.default_rng(seed)
    planned = moments(rng, 4, 9)
    workdir, steps = tmp_path / "run", 60 * (2 + len(planned))  # more than there are between the kills
    run = starts(workdir, steps)
    for _ in range(2):  # the first compiles; what it takes to go on is what is divided
        before, begun = newest(workdir), run.begin()
        until_saved(run, workdir, before)
        startup = time.monotonic() - begun
        assert run.kill() == -signal.SIGKILL
    landed = []
    for follows_save, at in planned:
        before, left = newest(workdir), unfinished(workdir)
        run.begin()
        if follows_save:
            until_saved(run, workdir, before)
        time.sleep(at * (0.3 if follows_save else 1.2 * startup))
        complete = newest(workdir)
        status = run.kill()
        assert status == -signal.SIGKILL or (status == 0 and complete == steps), run.log.read_text()
        landed.append("save" if unfinished(workdir) - left else "start" if complete == before else "steps")
        assert checkpoint.load_newest(workdir).step >= complete >= before  # none is lost
    print({kind: landed.count(kind) for kind in sorted(set(landed))})
    run.begin()
    assert run.end() == 0, run.log.read_text()
    whole = starts(tmp_path / "whole", steps)
    whole.begin()
    assert whole.end() == 0
    assert_same_end(workdir, tmp_path / "whole")
    assert "save" in landed
    assert "start" in landed
    assert checkpoint.list_steps(workdir) == checkpoint.list_steps(tmp_path / "whole")
    # A file that was cut off minutes ago is left, as another process might still write to it.
    names = [p.name for p in workdir.iterdir() if "tfevents" not in p.name and p.suffix != TEMPORARY]
    assert sorted(names) == [
        "checkpoints",
        "config.json",
        "evaluation",
        "metrics.jsonl",
    ]


@pytest.mark.slow
def test_records_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    train(tmp_path, stop=after(2))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "train/loss": 1.0}\n{"step": 7, "trai')  # written after the save, then killed
    train(tmp_path)
    steps = [r["step"] for r in metrics_log.read(tmp_path) if "train/loss" in r]
    assert steps == [2, 4, 6, 8]
