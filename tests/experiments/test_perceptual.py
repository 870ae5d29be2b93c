"""The experiment with perceptual losses: crops that are held out, two runs that differ in their losses, its figures."""

import json

import jax
import numpy as np
import pytest
from conftest import command

from aejax import config as config_lib
from aejax import perceptual


@pytest.fixture
def experiment():
    return command("perceptual", "experiments")


def test_no_pixel_of_a_held_out_crop_is_in_a_training_crop(experiment, monkeypatch):
    """Photographs whose pixels are numbers of their columns, from 0 at the left to 255 at the right."""
    columns = np.broadcast_to(np.linspace(0, 255, 256, dtype=np.uint8)[None, :, None], (100, 256, 3))
    monkeypatch.setattr(experiment, "photographs", lambda: [columns, columns[:70]])
    train, validation, test = experiment.make_splits(50, side=16)
    left, right = (split.take(np.arange(len(split)))["x"] for split in (train, test))
    assert left.max() < 192 <= right.min()
    assert (len(left), len(right), validation) == (50, (6 + 4) * 4, test)
    mirrored = (left[:, 0, 0, 0] > left[:, 0, -1, 0]).mean()
    assert 0.2 < mirrored < 0.8


def test_photographs_are_bundled_with_scikit_image(experiment):
    assert all(p.ndim == 3 and p.shape[-1] == 3 and min(p.shape[:2]) >= 128 for p in experiment.photographs())


def test_both_runs_differ_in_their_losses_alone(experiment):
    ours, plain = (experiment.make_config(50, losses) for losses in (True, False))
    differ = {line.split(":")[0].split(".")[0] for line in config_lib.differences(plain, ours)}
    assert differ == {"adversary", "objective"}
    assert ours.adversary.start == 20
    assert dict(plain.objective.weights) == {"commitment": 0.25}


@pytest.mark.slow
def test_the_command_writes_figures_a_picture_and_goals(experiment, tmp_path, monkeypatch):
    network = perceptual.LPIPS("vgg")
    images = np.zeros((1, 32, 32, 3), np.float32)
    abstract = {n: jax.eval_shape(perceptual.LPIPS(n).init, jax.random.key(0), images, images) for n in ("vgg", "alex")}
    assert network.network == "vgg"
    weights = lambda n="vgg": jax.tree.map(lambda a: np.full(a.shape, 0.01, np.float32), abstract[n])  # noqa: E731
    monkeypatch.setattr(perceptual, "load", weights)
    monkeypatch.setattr(experiment, "make_splits", lambda count, make=experiment.make_splits: make(16, side=64))
    experiment._STEPS.value, experiment._OUT.value = 2, str(tmp_path)
    experiment.perceptual()
    found = json.loads((tmp_path / "perceptual.json").read_text())
    entries = json.loads((tmp_path / "goals/tokenizers.json").read_text())
    assert entries[0]["value"] == round(found["perceptual"]["lpips_vgg"] / found["squared error"]["lpips_vgg"], 3)
    assert entries[1]["value"] == round(found["squared error"]["psnr"] - found["perceptual"]["psnr"], 2)
    assert {entry["command"] for entry in entries} == {"python -m experiments.perceptual"}
    assert (tmp_path / "perceptual.png").stat().st_size > 10_000
