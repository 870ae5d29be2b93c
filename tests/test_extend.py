"""The README's claim: a bottleneck and a term in one file of one's own, without touching aejax."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import mlp, one_device, vectors

import aejax

MINE = '''
import flax.linen as nn
import jax
import jax.numpy as jnp

import aejax
from aejax.config import module


class Rounded(nn.Module):
    """A dense layer whose outputs are rounded to multiples of `step`, and a loss that is logged."""

    features: int
    step: float = 0.5

    @nn.compact
    def __call__(self, h, *, keys=None, train=False):
        z = nn.Dense(self.features)(h)
        off = jax.lax.stop_gradient(jnp.round(z / self.step) * self.step - z)
        return aejax.Code(z=z + off, losses={"rounding": jnp.square(off).sum(-1)})


def variance(c, target=1.0):
    """Squared distance of the code's variance over the whole batch from `target`, summed over units."""
    return jnp.square(c.whole(c.z).var(0) - target).sum()


def get_config(arg=""):
    config = aejax.config.default()
    config.data.name = "sheet"
    config.encoder = module("mlp", features=(4,))
    config.bottleneck = module("mine:Rounded", features=2, step=0.25)
    config.decoder = module("mlp", features=(4,))
    config.objective.weights = {"rounding": 0.1, "variance": 2.0}
    config.objective.options.variance = {"function": "mine:variance", "target": 0.5}
    aejax.config.shrink(config)
    return aejax.config.lock(config)
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "mine.py"
    sys.modules.pop("mine", None)


@pytest.mark.slow
def test_one_file_adds_a_bottleneck_and_a_term(mine, tmp_path):
    """By the command line, as a user would, and loaded again by name."""
    repository = Path(__file__).parents[1]
    command = ["-m", "experiments.train", f"--config={mine}", f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with pytest.raises(aejax.InputError, match=r"names 'mine:Rounded', .* load_run trust=\['mine'\], or --trust=mine"):
        aejax.load_run(tmp_path / "run")
    run = aejax.load_run(tmp_path / "run", trust=["mine"])
    np.testing.assert_allclose(run.latents, np.round(run.latents / 0.25) * 0.25, atol=1e-5)
    records = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "validation/rounding" in records
    assert "validation/variance" in records


@pytest.mark.slow
def test_its_term_is_what_it_says(mine, tmp_path):
    x = vectors(16)
    config = mlp(steps=1, checkpoint_every=1, batch_size=16, data__validation="train", data__train="train")
    config.data.test = "train"
    config.objective.weights = {"variance": 2.0}
    config.objective.options = {"variance": {"function": "mine:variance", "target": 0.5}}
    run = aejax.fit(config, x, tmp_path / "run", devices=one_device())
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    expected = np.square(run.encode(x).var(0) - 0.5).sum()
    assert last["validation/variance"] == pytest.approx(expected, rel=1e-4)
    assert last["validation/loss"] == pytest.approx(last["validation/reconstruction"] + 2 * expected, rel=1e-4)
    config.objective.options.variance.taget = 1.0
    with pytest.raises(aejax.InputError, match=r"option 'taget' is unknown; did you mean 'target'"):
        aejax.fit(config, x, devices=one_device())


def test_what_cannot_be_imported_is_one_line(mine):
    for section, name, message in (
        ("bottleneck", "mine:Rounder", "bottleneck.name='mine:Rounder' cannot be imported"),
        ("bottleneck", "os:getcwd", "bottleneck.name='os:getcwd' is no module or dataclass"),
        ("bottleneck", "nowhere:Thing", "No module named 'nowhere'"),
        *(
            ("bottleneck", name, rf"bottleneck.name '{name}' is unknown")
            for name in (":", ":x", ".mine:Rounder", "a b:c")
        ),
        ("encoder", "mine:Rounded", "encoder 'mine:Rounded'"),
    ):
        config = mlp()
        config[section].name = name
        with pytest.raises(aejax.InputError, match=message):
            aejax.fit(config, vectors(), devices=one_device())
