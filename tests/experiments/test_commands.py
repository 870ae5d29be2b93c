"""The benchmark of commands: it stops at the first step, and does not wait for a run that fails."""

import subprocess
import sys

import pytest
from conftest import interpreter

from experiments.benchmark import commands


def test_the_warm_start_of_a_round_has_the_cache_of_its_cold_start(monkeypatch):
    caches = []
    monkeypatch.setattr(commands, "_time_first_step", lambda config, cache: caches.append(cache) or len(caches))
    found = commands.startup(2)
    assert caches[0] == caches[1] != caches[2] == caches[3]
    assert (found["cold"], found["warm"]) == (2, 3)  # medians of 1, 3 and of 2, 4


@pytest.mark.slow
def test_a_command_is_stopped_at_its_first_step(tmp_path):
    assert commands._time_first_step("configs/conv.py:tiny", str(tmp_path)) > 1
    assert any((tmp_path / "programs").iterdir())


def test_the_clock_stops_at_the_first_line_of_metrics_or_at_a_failure(tmp_path, monkeypatch):
    """By commands that are not Python's, one of which writes that line and never ends."""
    write = 'for a; do case "$a" in --workdir=*) mkdir -p "${a#*=}"; echo {} > "${a#*=}/metrics.jsonl";; esac; done'
    interpreter(f"sleep 0.2; {write}; exec sleep 1000", tmp_path, monkeypatch)
    assert 0.2 <= commands._time_first_step("c.py", str(tmp_path)) < 100
    interpreter("echo the config is missing; exit 1", tmp_path, monkeypatch)
    with pytest.raises(RuntimeError, match="the config is missing"):
        commands._time_first_step("c.py", str(tmp_path))


@pytest.mark.slow
def test_a_command_that_fails_is_not_waited_for(tmp_path):
    with pytest.raises(RuntimeError, match="missing"):
        commands._time_first_step("configs/missing.py", str(tmp_path))


def test_the_command_imports_nothing_slow_that_training_does_not_need():
    code = "import sys, aejax.cli.train; aejax.train; print(*{name.partition('.')[0] for name in sys.modules})"
    imported = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "jax" in imported
    assert not {"sklearn", "scipy", "matplotlib", "torch", "tensorflow"} & set(imported)
