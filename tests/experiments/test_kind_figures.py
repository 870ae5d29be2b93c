"""The figures of configs of other data than images: the command that writes them, and docstrings that quote them."""

import importlib
import json
from pathlib import Path

import pytest
from absl import flags
from conftest import command

from experiments import kinds

RESULTS = Path(__file__).parents[2] / "experiments/results/kinds"


@pytest.mark.parametrize("name", [file.stem for file in RESULTS.glob("*.json")])
def test_configs_say_what_was_measured(name):
    documented = " ".join(importlib.import_module(f"configs.{name}").__doc__.split())
    assert kinds.sentence(json.loads((RESULTS / f"{name}.json").read_text())).removesuffix(".") in documented


@pytest.mark.slow
def test_the_command_writes_disentanglement_and_the_error_of_pca(tmp_path):
    module = command("kinds", "experiments")
    flags.FLAGS(["kinds", f"--kinds_folder={tmp_path}", "--kinds_arg=tiny"])
    module.kinds()
    found = json.loads((tmp_path / "volume_vae.json").read_text())
    assert found["steps"] == 4
    assert {"mig", "dci_disentanglement", "factor_vae_score", "pca_squared_error"} < found["test"].keys()
