"""The steps of the Containerfile, followed without an engine."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def steps():
    """(instruction, the rest of its line), without comments, lines that go on joined."""
    text = (ROOT / "experiments/Containerfile").read_text().replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line and not line.startswith("#")]


def copied():
    """(name, where it goes) of each path that COPY names."""
    for instruction, rest in steps():
        if instruction == "COPY":
            *names, into = shlex.split(rest)
            yield from ((name, into) for name in names)


def copy(target):
    """A folder as an engine would make it, where COPY FOLDER TARGET copies what is in the folder."""
    for name, into in copied():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / into, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target / into)


def tracked():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    return set(listed.stdout.splitlines())


@pytest.mark.slow
def test_what_is_copied_is_in_the_checkout_and_enough(tmp_path):
    files = tracked()
    for name, _ in copied():
        assert name in files or any(file.startswith(f"{name}/") for file in files), name
    copy(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} >= {"pyproject.toml", "README.md", "LICENSE"}
    entry = json.loads(next(rest for instruction, rest in steps() if instruction == "ENTRYPOINT"))
    command = [sys.executable, *entry[1:], "--config=configs/basic.py:tiny", f"--workdir={tmp_path / 'run'}"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "step 4" in done.stdout


def test_it_starts_from_a_plain_image_and_does_not_run_as_root():
    instructions = [instruction for instruction, _ in steps()]
    assert instructions[0] == "FROM"
    assert re.fullmatch(r"python:3\.\d+-slim", steps()[0][1])
    last = max(i for i, name in enumerate(instructions) if name == "USER")
    assert steps()[last][1] != "root"
    assert "RUN" not in instructions[last:]  # what is installed is not the user's to change
    assert f"useradd --create-home {steps()[last][1]}" in " ".join(rest for _, rest in steps())


@pytest.mark.slow
def test_its_pip_command_installs_a_clean_copy(tmp_path):
    """Beside the dependencies that are installed here: that pip finds them all is what installing the clone shows."""
    copy(tmp_path)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    here, there = (sysconfig.get_path("purelib", vars={"base": base}) for base in (sys.prefix, str(tmp_path / "venv")))
    (Path(there) / "installed.pth").write_text(f"{here}\n")  # whose own .pth files, and so an aejax there, are not read
    defaults = dict(rest.split("=", 1) for instruction, rest in steps() if instruction == "ARG")
    path = f"{tmp_path / 'venv/bin'}:{os.environ['PATH']}"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PATH": path, **defaults}
    install = next(rest for instruction, rest in steps() if instruction == "RUN" and rest.startswith("pip install"))
    subprocess.run(["sh", "-ec", install], cwd=tmp_path, env=environment, check=True)
    arguments = ["-m", "experiments.train", "--config=configs/basic.py:tiny", f"--workdir={tmp_path / 'run'}"]
    subprocess.run([tmp_path / "venv/bin/python", *arguments], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "run/checkpoints").is_dir()
