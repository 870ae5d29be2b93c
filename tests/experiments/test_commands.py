"""The benchmark of commands: stops at the first step, and does not wait for a run that fails."""

import subprocess
import sys

import pytest

from experiments.benchmark import commands


@pytest.mark.slow
def test_the_first_step_of_a_command_is_sooner_with_what_the_last_start_left():
    found = commands.startup(1, "configs/conv.py:tiny")
    assert 0 < found["warm"] < found["cold"]
    assert found["seconds"] == {kind: [found[kind]] for kind in ("cold", "warm")}


@pytest.mark.slow
def test_a_command_that_fails_is_not_waited_for(tmp_path):
    with pytest.raises(RuntimeError, match="missing"):
        commands._time_first_step("configs/missing.py", str(tmp_path))


def test_the_command_imports_nothing_slow_that_training_does_not_need():
    code = "import sys, aejax.cli.train; aejax.train; print(*{name.partition('.')[0] for name in sys.modules})"
    imported = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "jax" in imported
    assert not {"sklearn", "scipy", "matplotlib", "torch", "tensorflow"} & set(imported)
