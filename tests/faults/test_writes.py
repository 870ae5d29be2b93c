"""Every command that writes, where nothing or not all can be written: one line, and all files are as they were."""

import contextlib
import json
import os
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from conftest import command, mlp, mostly_slow, one_device, vectors
from jax.experimental.compilation_cache import compilation_cache

import aejax
from aejax.cli import command as cli

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two runs on a file, one of which has been evaluated."""
    folder = tmp_path_factory.mktemp("runs")
    np.save(folder / "data.npy", vectors())
    for name, lr in {"a": 1e-3, "b": 1e-2}.items():
        config = mlp(data__name=str(folder / "data.npy"), optim__lr=lr)
        aejax.train(config, folder / name, devices=one_device(), quiet=True)
    (folder / "a/evaluation/8").mkdir(parents=True)
    (folder / "a/evaluation/8/metrics.json").write_text('{"codes": {"used": {"value": 1.0}}}')
    return folder


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command as `python -m` would; its exit status. capsys keeps what is printed off the disk."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()  # of the suite: JAX would leave programs there that are cut off

    def run(name, *arguments):
        module = command(name)
        for flag in [n for n in flags.FLAGS if n.startswith("config.")]:
            delattr(flags.FLAGS, flag)
        monkeypatch.setattr(sys, "argv", [name, *arguments, "--compilation_cache="])
        try:
            module.main()
        except SystemExit as error:
            return error.code
        return 0

    yield run
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


@contextlib.contextmanager
def largest(size):
    """Writing beyond `size` bytes of a file fails, for libraries as for Python."""
    before, written = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # Python would leave compiled modules of aejax cut off
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = written


def content(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


SEARCH = """
from configs import basic
get_config = basic.get_config
def search(trial): return {"optim.lr": trial.suggest_float("lr", 1e-4, 1e-2)}
"""

# {} is a copy of the runs. A limit lets what is smaller pass: the next writer is the one that fails.
COMMANDS = {
    "train": (0, "train --config=configs/basic.py:tiny --workdir={}/new"),
    "train's checkpoint": (3_000, "train --config=configs/basic.py:tiny --workdir={}/new"),
    "evaluate": (0, "evaluate --workdir={}/a --groups=reconstruction --nofigures"),
    "evaluate's pictures": (4_000, "evaluate --workdir={}/a --groups=codes"),
    "encode": (0, "encode --workdir={}/a --split=train --out={}/codes.npz"),
    "encode's chunk": (1_000, "encode --workdir={}/a --split=train --out={}/codes.npz"),
    "encode's record": (4_000, "encode --workdir={}/a --split=train --out={}/codes.array_record"),
    "sample": (100, "sample --workdir={}/a --out={}/samples.npz"),
    "sample's picture": (100, "sample --workdir={}/a --out={}/samples.png"),
    "compare": (0, "compare {}"),
    "compare's pictures": (10_000, "compare {}"),
    "export": (0, "export --workdir={}/a --out={}/programs"),
    "sweep": (0, "sweep --config=configs/basic.py:tiny --workdir={}/sweep"),
    "search": (0, "search --config={}/mine.py --workdir={}/study --trials=1"),
}


@pytest.mark.parametrize(("limit", "line"), mostly_slow(COMMANDS.values(), COMMANDS["sweep"]), ids=COMMANDS)
def test_a_full_disk_is_one_line_and_nothing_is_lost(limit, line, trained, tmp_path, run):
    if line.startswith("search"):
        pytest.importorskip("optuna")
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    (folder / "mine.py").write_text(SEARCH)
    before = content(folder)
    name, *arguments = line.format(*[folder] * 2).split()
    with largest(limit), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*the statistics of the latents are not kept")
        status = run(name, *arguments)
    assert str(status).startswith("error: "), status
    assert "\n" not in status
    assert "cannot be" in status or "could not be" in status, status
    after = content(folder)
    changed = {p.name for p in before if after.get(p) != before[p]}
    assert changed <= ({"metrics.json"} if limit else set())  # which holds more, and is whole
    if name == "evaluate":
        assert json.loads((folder / "a/evaluation/8/metrics.json").read_text())["codes"]
    assert not [p for p in after if p.suffix == ".tmp"]
    if name in ("encode", "sample", "export"):
        assert run(name, *arguments) == 0


@pytest.mark.slow
def test_launch_on_a_full_disk_is_one_line(tmp_path):
    """The training that it starts has the same limit; so has the log that its processes write to."""
    arguments = ("--processes=2", "--config=configs/basic.py:tiny", f"--workdir={tmp_path / 'run'}")
    for limit in (0, 3_000):
        done = subprocess.run(
            [sys.executable, "-m", "aejax.cli", "launch", *arguments, "--compilation_cache="],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},  # as in `largest`
            preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
            capture_output=True,
            text=True,
            timeout=240,  # Orbax would let the others wait for 20 minutes
        )
        assert done.returncode == 1, done
        assert "Traceback" not in done.stdout + done.stderr
        reason, ended = (line for line in done.stderr.splitlines() if line.startswith("error: "))
        assert "cannot be written" in reason or "could not be saved" in reason
        assert re.fullmatch(r"error: process \d of 2: see above", ended)


@pytest.mark.parametrize("name", ["estimator", "families", "reproduce"])
def test_a_full_disk_under_an_experiment_is_one_line(name, tmp_path, monkeypatch, capsys):
    """With figures of naught seconds; they are printed before they are written, and so not lost."""
    table, folder = tmp_path / "table.json", tmp_path / "families"
    folder.mkdir()
    table.write_text("{}")
    flag = {"estimator": "estimator_table", "families": "folder", "reproduce": "table"}[name]
    module = command(name, "experiments")
    if name == "reproduce":
        monkeypatch.setattr(module, "score", lambda _: {"squared_error": 1.0})
        monkeypatch.setattr(module, "table", lambda _: "the table")
    if name == "estimator":
        monkeypatch.setattr(module, "compare", lambda *_: {"the": "table"})
    more = ["--table_only"] if name == "families" else []
    monkeypatch.setattr(sys, "argv", [name, f"--{flag}={folder if more else table}", *more, "--compilation_cache="])
    with largest(0), pytest.raises(SystemExit, match=r"error: .*cannot be written .*same command again"):
        cli.run(getattr(module, name))
    assert table.read_text() == "{}"
    assert not list(tmp_path.glob("*.tmp"))
    assert ("| experiment |" if name == "families" else "table") in capsys.readouterr().out


@pytest.fixture
def read_only(trained, tmp_path):
    """The runs on a file system that nothing can be written to, by root neither."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def mount(*options):
        return not subprocess.run(["mount", *options, str(folder)], capture_output=True, check=False).returncode

    if not shutil.which("mount") or not mount("-t", "tmpfs", "-o", "size=8m", "tmpfs"):
        pytest.skip("no right to mount a file system")
    try:
        shutil.copytree(trained, folder, dirs_exist_ok=True)
        assert mount("-o", "remount,ro")
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
def test_a_run_in_a_read_only_folder_is_used_with_out(read_only, tmp_path, run, capsys):
    workdir, out = f"--workdir={read_only / 'a'}", tmp_path / "out"
    assert run("evaluate", workdir, f"--out={out}", "--groups=reconstruction", "--nofigures") == 0
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # printed by the command
        assert run("sample", workdir, f"--out={out / 'samples.npz'}", "--sampler=gaussian") == 0
        assert run("encode", workdir, f"--out={out / 'codes.npz'}") == 0
    printed = capsys.readouterr().err
    assert "warning: the sampler is not kept: " in printed
    assert "the statistics of the latents are not kept" in printed
    assert run("compare", str(read_only), f"--out={out}") == 0
    assert {"metrics.json", "samples.npz", "codes.npz", "report.html"} <= {p.name for p in out.iterdir()}
    for name, *more in (["evaluate", "--groups=codes", "--nofigures", workdir], ["compare", str(read_only)]):
        assert "cannot be written (Read-only file system)" in run(name, *more)


@pytest.mark.slow
def test_home_is_expanded_and_a_comma_is_no_separator_in_a_name_that_is_there(trained, tmp_path, run, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(trained / "a", tmp_path / "a,b")
    shutil.copy("configs/basic.py", tmp_path / "mine.py")
    here = set(Path.cwd().iterdir())
    assert run("evaluate", "--workdir=~/a,b", "--groups=reconstruction", "--nofigures", "--out=~/out") == 0
    assert (tmp_path / "out/metrics.json").exists()
    assert run("train", "--check", "--config=~/mine.py:tiny", "--workdir=~/new") == 0
    assert "is remote" in run("train", "--check", "--config=~/mine.py:tiny", "--workdir=gs://bucket/run")
    (tmp_path / "file").touch()
    assert "a file is in its place" in run("train", "--check", "--config=~/mine.py:tiny", "--workdir=~/file/run")
    found = {p.name for p in tmp_path.iterdir()} - {".config", ".cache"}  # matplotlib's, where it is first drawn with
    assert found == {"a,b", "file", "mine.py", "out"}
    assert set(Path.cwd().iterdir()) == here


@pytest.mark.parametrize("damage", mostly_slow(["cut off", "no database", "another", "other texts"]))
def test_a_damaged_study_is_one_line(damage, tmp_path, run):
    pytest.importorskip("optuna")
    from aejax.ablation.study import Study

    about = {"objective": "x", "config": '{"a": 1}'}
    with Study(tmp_path, "minimize", about) as study:
        study.claim(1)
    file = tmp_path / "study.db"
    content = file.read_bytes()
    with sqlite3.connect(file) as database:
        if damage == "another":
            database.execute("UPDATE trials SET state = 'odd'")
        elif damage == "other texts":
            database.execute("UPDATE study_user_attributes SET value_json = ?", ['"{"'])
    if damage == "cut off":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "no database":
        file.write_bytes(b"text" * 5_000)
    with pytest.raises(aejax.AejaxError) as error, Study(tmp_path, "minimize", about) as study:
        study.claim(1)
    assert "\n" not in str(error.value)
    assert "study" in str(error.value)
