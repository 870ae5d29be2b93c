"""`experiments.launch` as a user gives it, and its printed lines as a shell reads them."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import command, interpreter

import aejax
from aejax.cli.launching import hosts
from aejax.cli.launching.job import Job

ROOT = Path(__file__).parents[3]
AWKWARD = (
    "--config=configs/vae.py:tiny",
    "--workdir=/data/it's $HOME; a",
    '--config.data.name="x y"',
    "--config.optim.lr=1e-3",
)


def launch(*arguments, cwd=ROOT):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "experiments.launch", *arguments], cwd=cwd, env=env, capture_output=True, text=True
    )


def spoken_by_shell(line, tmp_path, program):
    """What a shell that is given the line hands to `program`, and what the remote shell hands to Python."""
    show = f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"
    for name in (program, "folder/.venv/bin/python"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(show)
        file.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    run = lambda text: json.loads(subprocess.run(["sh", "-c", text], cwd=tmp_path, env=env, capture_output=True).stdout)  # noqa: E731
    local = run(line)
    return local, run(local[-1].removeprefix("--command="))


def test_a_shell_hands_the_hosts_the_very_arguments(tmp_path):
    job = Job("x", ("-m", "aejax.cli", "train", *AWKWARD), tmp_path / "log")
    lines = hosts.over_ssh(job, ["a", "me@b"], "folder")
    for i, (line, host) in enumerate(zip(lines, ["a", "me@b"], strict=True)):
        local, remote = spoken_by_shell(line, tmp_path, "ssh")
        assert local[0] == host
        assert len(local) == 2
        assert remote == [*job.argv, "--coordinator=a:8476", "--processes=2", f"--process={i}"]


def test_a_folder_in_the_home_of_the_host(tmp_path):
    folder, env = tmp_path / "it's mine", {**os.environ, "HOME": str(tmp_path)}
    folder.mkdir()
    line = hosts.on_host("~/it's mine", ("-m", "x")).replace(hosts.PYTHON, "pwd;:")
    assert subprocess.run(["sh", "-c", line], env=env, capture_output=True, text=True).stdout == f"{folder}\n"


def test_a_shell_hands_the_pod_the_very_arguments(tmp_path):
    job = Job("x", ("-m", "aejax.cli", "train", *AWKWARD), tmp_path / "log")
    local, remote = spoken_by_shell(hosts.over_gcloud(job, "pod", "folder"), tmp_path, "gcloud")
    assert local[:-1] == ["compute", "tpus", "tpu-vm", "ssh", "pod", "--worker=all"]
    assert remote == [*job.argv, "--distributed"]


@pytest.mark.parametrize(("names", "wrong"), [(["a", "a"], "twice"), (["a", ""], "''"), (["-oProxyCommand=x"], "-o")])
def test_hosts_that_cannot_be(tmp_path, names, wrong):
    with pytest.raises(aejax.InputError, match=wrong):
        hosts.over_ssh(Job("x", (), tmp_path / "log"), names, "folder")


def test_flags_are_divided(tmp_path):
    divide = command("launch").divide
    argv = ["launch", "--executor=slurm", "--slurm.time=5", *AWKWARD, "--processes=2", "--steps=3", "--nohelp"]
    assert divide(argv) == [*AWKWARD, "--steps=3", "--nohelp"]
    assert argv == ["launch", "--executor=slurm", "--slurm.time=5", "--processes=2"]


@pytest.mark.parametrize(("wrong", "status"), [("", 0), ("--wrong", 3)])
def test_processes_are_given_the_training_and_their_numbers(wrong, status, tmp_path, monkeypatch, capfd):
    """Started without Python; `test_the_workdir_may_be_this_folder` trains."""
    interpreter(f'echo "$@"; case "$*" in *--wrong*process=1) exit {status};; esac', tmp_path, monkeypatch)
    training = ["--config=c.py", f"--workdir={tmp_path / 'run'}", *filter(None, [wrong])]
    monkeypatch.setattr(sys, "argv", ["launch", *training, "--processes=2", "--devices_per_process=1"])
    with pytest.raises(SystemExit) as ended:
        command("launch").main()
    assert ended.value.code == status
    said = [capfd.readouterr().out.split(), (tmp_path / "run.1.log").read_text().split()]
    for i, words in enumerate(said):
        assert words[: 3 + len(training)] == ["-m", "aejax.cli", "train", *training]
        assert words[-2:] == ["--processes=2", f"--process={i}"]
    assert said[0][-3] == said[1][-3]
    assert said[0][-3].startswith("--coordinator=127.0.0.1:")


@pytest.mark.slow
def test_one_training(tmp_path):
    workdir = tmp_path / "run"
    arguments = ("--config=configs/basic.py:tiny", f"--workdir={workdir}", "--config.seed=3")
    done = launch(*arguments)
    assert done.returncode == 0, done.stderr
    assert "step 4: latents" in done.stdout
    assert json.loads((workdir / "config.json").read_text())["seed"] == 3
    failed = launch("--config=configs/none.py", f"--workdir={workdir}")
    assert failed.returncode == 1
    assert failed.stderr == "error: flag --config=configs/none.py: there is no such file; check its path\n"


@pytest.mark.slow
def test_the_workdir_may_be_this_folder(tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    arguments = (f"--config={ROOT}/configs/basic.py:tiny", "--workdir=.", "--processes=2", "--devices_per_process=1")
    done = launch(*arguments, cwd=workdir)
    assert done.returncode == 0, done.stderr
    assert (workdir / "config.json").exists()
    assert (tmp_path / "run.1.log").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--config=a"], "--workdir=... is missing"),
        (["--config=a", "--workdir=b", "--processes", "2"], "'2' is not a flag; write --name=value"),
        (["--config=a", "--workdir=b", "--executor=hosts"], "needs either --hosts=a,b,c or --tpu=NAME"),
        (["--config=a", "--workdir=b", "--processes=0"], "--processes=0"),
        (["--config=a", "--workdir=b", "--executor=hosts", "--hosts=a,a"], "names a host twice"),
        (["--config=a", "--workdir=b", "--executor=slurm", "--slurm.tme=3"], "slurm.tme"),
    ],
)
def test_mistakes_are_one_line(arguments, error, monkeypatch):
    launch = command("launch")
    monkeypatch.setattr(sys, "argv", ["launch", *arguments])
    with pytest.raises(SystemExit, match=f"^error: .*{re.escape(error)}") as refused:
        launch.main()
    assert "\n" not in str(refused.value)


def test_lines_of_hosts(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["launch", "--executor=hosts", "--hosts=a,b", "--config=c", "--workdir=w"])
    command("launch").main()
    lines = capsys.readouterr().out.splitlines()
    assert [shlex.split(line)[:2] for line in lines] == [["ssh", "a"], ["ssh", "b"]]
