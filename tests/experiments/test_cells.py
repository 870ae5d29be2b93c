"""The comparison of `scvi` with scvi-tools: the command, and that what it measured are goals."""

import json
from pathlib import Path

import pytest
from absl import flags
from conftest import command

ROOT = Path(__file__).parents[2]
PARTS = ("quality", "speed")


@pytest.mark.slow
def test_the_command_writes_figures_of_both_and_their_goals(tmp_path):
    pytest.importorskip("scvi")
    module = command("cells", "experiments")
    flags.FLAGS(["cells", f"--cells_out={tmp_path}", "--cells_tiny"])
    module.main()
    found = json.loads((tmp_path / "cells.json").read_text())
    for part in PARTS:
        assert set(module.NAMES) <= found[part].keys()
    goals = json.loads((tmp_path / "goals/anydata.json").read_text())
    assert {goal["command"] for goal in goals} == {f"python -m experiments.cells --cells_part={part}" for part in PARTS}
    assert all(goal["reached"] in (True, False) and goal["value"] for goal in goals)
