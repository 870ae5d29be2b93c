"""Checkpoints of one JAX are read by another, the oldest and the newest in CI.

AEJAX_OTHER_PYTHON is the interpreter of an environment that has the other.
"""

import os
import shutil
import subprocess

import jax
import numpy as np
import pytest
from conftest import config_of
from runs import ROOT

import aejax
from aejax.workdir import checkpoint

OTHER = os.environ.get("AEJAX_OTHER_PYTHON", "")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not OTHER, reason="AEJAX_OTHER_PYTHON is not set")]

MLP = {"name": "mlp", "features": (8,)}
CHANGES = {
    "basic": {},
    "vae": {"ema": 0.9, "dtype": "bfloat16"},
    # The codebook's running statistics, and its revival.
    "vq_vae": {"ema": 0.9, "encoder": MLP, "decoder": MLP, "bottleneck": {"positions": 4}},
    "wae": {"partition": {"name": "sharded"}},
}
# The other stack trains to step 2 what this one finishes, and finishes what this one trained to step 2.
OTHERS = """
import sys
from pathlib import Path
from test_versions import train
folder = Path(sys.argv[1])
train(folder / "a", 2)
train(folder / "b", 4)
"""


def train(folder, steps):
    """Trains each config to step `steps`, or resumes it."""
    for name, changes in CHANGES.items():
        config = config_of(name)
        config.update({**changes, "steps": steps, "optim": {"name": "sgd", "schedule": "constant"}})
        aejax.train(config, folder / name, quiet=True)


def run(python, *arguments):
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests/faults")))
    environment = {**os.environ, "PYTHONPATH": path, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = subprocess.run([python, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_they_are_not_the_same():
    assert run(OTHER, "-c", "import jax; print(jax.__version__)") != jax.__version__


@pytest.mark.filterwarnings("ignore:dtype=bfloat16. this processor has no instructions")
def test_each_goes_on_with_what_the_other_wrote(tmp_path):
    """That every bit was read is told by the sums in the checkpoint; what follows is rounded by another compiler."""
    train(tmp_path / "b", 2)
    shutil.copytree(tmp_path / "b", tmp_path / "w")
    run(OTHER, "-c", OTHERS, str(tmp_path))
    for folder in ("a", "w"):
        train(tmp_path / folder, 4)
    for name in CHANGES:
        whole = checkpoint.load_newest(tmp_path / "w" / name)
        for folder in ("a", "b"):
            found = checkpoint.load_newest(tmp_path / folder / name)
            assert (found.step, found.broken, checkpoint.list_steps(tmp_path / folder / name)) == (4, (), [2, 4])
            close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-3)  # noqa: E731
            jax.tree.map(close, found.state, whole.state)
