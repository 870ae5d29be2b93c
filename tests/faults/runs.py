"""What the tests of faults share: a small run, told to stop or as a command, and what must be the same at its end."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import assert_trees_equal, mlp, one_device, scalars, vectors

import aejax
from aejax import data
from aejax.workdir import checkpoint, metrics_log

ROOT = Path(__file__).parents[2]


def train(workdir, config=None, x=None, **kwargs):
    """`aejax.train` on vectors, quiet, on one device unless told."""
    config = config or mlp()
    splits = data.split({"train": data.from_array(vectors() if x is None else x)}, config.data)
    return aejax.train(config, workdir, **{"data": splits, "devices": one_device(), "quiet": True, **kwargs})


def after(dispatches):
    """A `stop` that says yes after so many questions; a dispatch of `mlp()` is two steps."""
    left = iter(range(dispatches - 1))
    return lambda: next(left, None) is None


def assert_same_end(workdir, whole, board=True):
    """The newest checkpoint and all records, but for rates, have the same bits in both; so does what `board` shows."""
    a, b = checkpoint.load_newest(workdir), checkpoint.load_newest(whole)
    assert (a.step, a.metadata) == (b.step, b.metadata)
    assert_trees_equal(a.state, b.state)
    assert_trees_equal(a.samples, b.samples)
    without_rate = [[{**r, "images_per_second": 0} for r in metrics_log.read(folder)] for folder in (workdir, whole)]
    assert without_rate[0] == without_rate[1]
    if board:
        assert_board_tells_the_records(workdir)


def assert_board_tells_the_records(workdir):
    told = {(k, r["step"]): np.float32(v) for r in metrics_log.read(workdir) for k, v in r.items() if k != "step"}
    assert scalars(workdir) == told


def start(*program, cwd=ROOT):
    """A program of Python's on one device, its output and errors in pipes."""
    flags = re.sub(r"device_count=\d+", "device_count=1", os.environ["XLA_FLAGS"])
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, *program], cwd=cwd, env=environment, text=True, **pipes)
