"""Checkpoints written by the oldest supported JAX go on under the newest, and back.

Each stack leaves its runs in the folder AEJAX_STACKS, and goes on with those that others left there; .ci/run has both.
"""

import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import config_of
from runs import after

import aejax
from aejax import checkpoint, logs

FOLDER = os.environ.get("AEJAX_STACKS")
pytestmark = [
    pytest.mark.skipif(not FOLDER, reason="no other stack: .ci/run names a folder by AEJAX_STACKS"),
    pytest.mark.filterwarnings("ignore:the code .* it can learn to copy"),
]
OWN = f"{jax.__version__}-jax"
FAMILIES = {
    "basic": ("basic", {}),
    "conv": ("conv", {"dtype": "bfloat16", "ema": 0.9}),
    "vae": ("vae", {}),
    "vq_vae": ("vq_vae", {}),  # a codebook with running statistics
    "sharded": ("vae", {"partition.name": "sharded"}),
}


def train(name, folder, **kwargs):
    config_name, changes = FAMILIES[name]
    config = config_of(config_name)
    small = {"steps": 8, "log_every": 2, "checkpoint_every": 4, "data.cache": False}
    config.update_from_flattened_dict(small | changes)
    devices = jax.devices() if name == "sharded" else jax.devices()[:1]
    return aejax.train(config, folder, devices=devices, quiet=True, **kwargs)


@pytest.mark.parametrize("name", FAMILIES)
def test_runs_of_other_stacks_go_on(name, tmp_path):
    own = Path(FOLDER) / OWN / name
    if not own.exists():
        train(name, own, stop=after(2))
    whole = train(name, tmp_path / "whole")
    for other in Path(FOLDER).iterdir():
        folder = shutil.copytree(other / name, tmp_path / other.name)
        begun = aejax.load_run(folder)
        assert 0 < begun.step < 8
        np.testing.assert_allclose(begun.encode(begun.inputs), begun.latents, rtol=1e-3, atol=1e-4)
        ended = train(name, folder)
        a, b = (checkpoint.newest(tmp_path / n).state["params"] for n in (other.name, "whole"))
        apart = [np.abs(x - y).max() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)]
        losses = [logs.read(tmp_path / n)[-1]["validation/loss"] for n in (other.name, "whole")]
        print(f"{name}: {other.name} gone on with by {OWN}: parameters within {max(apart):.1e}, losses {losses}")
        assert max(apart) < (1e-2 if "dtype" in FAMILIES[name][1] else 1e-3)
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
        assert ended.step == whole.step == 8
