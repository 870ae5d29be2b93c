"""Checkpoints of one JAX are read by another, the oldest and the newest in CI.

AEJAX_OTHER_PYTHON is the interpreter of an environment that has the other.
"""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from runs import ROOT

from aejax.workdir import checkpoint

OTHER = os.environ.get("AEJAX_OTHER_PYTHON", "")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not OTHER, reason="AEJAX_OTHER_PYTHON is not set")]

CHANGES = {
    "basic": {},
    "vae": {"ema": 0.9, "dtype": "bfloat16"},
    "vq_vae": {"ema": 0.9},  # the codebook's running statistics, and its revival
    "wae": {"partition": {"name": "sharded"}},
}
TRAIN = """
import importlib, json, sys
from pathlib import Path
import aejax
folder, steps, changes = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
for name in changes:
    config = importlib.import_module(f"configs.{name}").get_config("tiny").unlock()
    config.update({**changes[name], "steps": steps, "optim": {"name": "sgd", "schedule": "constant"}})
    aejax.train(config, folder / name, quiet=True)
"""


def run(python, *arguments):
    done = subprocess.run([python, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_they_are_not_the_same():
    assert run(OTHER, "-c", "import jax; print(jax.__version__)") != jax.__version__


def test_each_goes_on_with_what_the_other_wrote(tmp_path):
    """That every bit was read is told by the sums in the checkpoint; what follows is rounded by another compiler."""
    for folder, pythons in {"a": (OTHER, sys.executable), "b": (sys.executable, OTHER), "w": (sys.executable,)}.items():
        for python, steps in zip(pythons, (2, 4) if len(pythons) == 2 else (4,), strict=True):
            run(python, "-c", TRAIN, str(tmp_path / folder), str(steps), json.dumps(CHANGES))
    for name in CHANGES:
        whole = checkpoint.load_newest(tmp_path / "w" / name)
        for folder in ("a", "b"):
            found = checkpoint.load_newest(tmp_path / folder / name)
            assert (found.step, found.broken, checkpoint.list_steps(tmp_path / folder / name)) == (4, (), [2, 4])
            close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-3)  # noqa: E731
            jax.tree.map(close, found.state, whole.state)
