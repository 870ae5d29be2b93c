"""Shapes in annotations are those of the arrays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_arguments_and_results_have_the_shapes_of_their_annotations():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "tests/shapes.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-4:] == [
        "reject_wrong_shapes",
        "run_the_examples_of_losses",
        "trace_configs",
        "use_runs",
    ]
