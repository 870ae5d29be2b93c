"""The experiment with perceptual losses: crops that are held out, two runs that differ in their losses, its figures."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from absl import flags
from conftest import command

from aejax import config as config_lib


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


def test_the_command_writes_figures_a_picture_and_goals(experiment, tmp_path, monkeypatch):
    """Of runs that are not trained here: what they reach is given."""
    figures = {"psnr": [20.0, 20.5], "ssim": [0.5, 0.5], "lpips_vgg": [0.3, 0.4], "lpips_alex": [0.2, 0.3]}
    trained = []

    def train(config, workdir, data):
        trained.append(config.adversary.name)
        return SimpleNamespace(reconstruct=lambda x: x / 255)

    monkeypatch.setattr(experiment.aejax, "train", train)
    monkeypatch.setattr(experiment, "measure", lambda run, x: {k: v[len(trained) - 1] for k, v in figures.items()})
    flags.FLAGS(["perceptual", "--steps=2", "--crops=16", f"--perceptual_folder={tmp_path}"])
    experiment.perceptual()
    assert trained == ["patchgan", "none"]
    found = json.loads((tmp_path / "perceptual.json").read_text())
    assert found["perceptual"]["lpips_vgg"] == 0.3
    assert (found["steps"], found["squared error"]["psnr"]) == (2, 20.5)
    entries = json.loads((tmp_path / "goals/tokenizers.json").read_text())
    assert [(entry["value"], entry["goal"], entry["reached"]) for entry in entries] == [
        (0.75, 1.0, True),
        (0.5, 1.0, True),
    ]
    assert {entry["command"] for entry in entries} == {"python -m experiments.perceptual"}
    assert (tmp_path / "perceptual.png").stat().st_size > 10_000
