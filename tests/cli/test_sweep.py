"""The command of a sweep: what is finished is skipped, what failed is told at the end, a stop stops."""

import errno
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from absl import flags
from conftest import command, config_of

import aejax
from aejax.ablation.plan import grid, plan
from aejax.cli.launching.job import STOPPED, Job, Result
from aejax.cli.launching.local import Local
from aejax.training import vmapped
from aejax.workdir import checkpoint
from configs import basic

# ml-collections reads the config file by it.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
FLAGS = ["--config=configs/basic.py:tiny", "--sweep.optim.lr=1e-2,1e-3"]


@pytest.fixture
def sweep(monkeypatch, tmp_path):
    """Runs the command with these flags as `python -m` would; its exit status."""

    def run(*more):
        module = command("sweep")
        for name in [n for n in flags.FLAGS if n.startswith("config.")]:
            delattr(flags.FLAGS, name)
        monkeypatch.setattr(sys, "argv", ["sweep", *FLAGS, f"--workdir={tmp_path}", *more])
        try:
            module.main()
        except SystemExit as error:
            return error.code
        return 0

    return SimpleNamespace(run=run, workdir=tmp_path)


def test_runs_skips_and_tells(sweep, capsys):
    assert sweep.run("--dry_run") == 0
    assert not list(sweep.workdir.iterdir())
    assert capsys.readouterr().out.split() == ["lr=0.01", "new", "lr=0.001", "new"]

    broken = sweep.workdir / "lr=0.01"  # the first, so that it stands in the way of the second
    broken.mkdir()
    (broken / "notes.txt").write_text("not a run")
    status = sweep.run()
    assert "1 of 2 runs failed" in status
    assert "holds files but no run" in status
    assert checkpoint.list_steps(sweep.workdir / "lr=0.001") == [2, 4]
    assert [run["name"] for run in json.loads((sweep.workdir / "sweep.json").read_text())["runs"]] == [
        "lr=0.01",
        "lr=0.001",
    ]

    (broken / "notes.txt").unlink()
    capsys.readouterr()
    assert sweep.run() == 0
    told = capsys.readouterr().out
    assert "1 of 2 runs are finished already" in told
    assert "[1/1] lr=0.01: step 4" in told  # alone: the other is further
    assert aejax.load_run(broken).config.optim.lr == 0.01

    status = sweep.run("--config.steps=6", "--config.batch_size=8")
    assert "batch_size: 16 -> 8" in status


@pytest.mark.slow
def test_what_failed_says_why_and_may_be_mended(sweep, capsys):
    broken = "--config.data.train=train[:3]"
    assert "2 of 2 runs failed" in sweep.run(broken)
    capsys.readouterr()
    assert sweep.run("--dry_run", broken) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in told] == [["lr=0.01", "failed:"], ["lr=0.001", "failed:"]]
    assert all("batch_size=16 is larger than the 3 training examples" in line for line in told)
    assert sweep.run() == 0
    assert sweep.run("--dry_run") == 0
    assert "failed" not in capsys.readouterr().out


@pytest.mark.slow
def test_on_a_full_disk_the_plan_stays(sweep, monkeypatch):
    assert sweep.run() == 0
    plan_file = sweep.workdir / "sweep.json"
    before = plan_file.read_text()

    def full(file):
        os.truncate(file, 10)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    told = sweep.run("--seeds=2")
    assert told.startswith(f"error: {plan_file} cannot be written (No space left on device); free some space")
    monkeypatch.undo()
    assert plan_file.read_text() == before


def test_a_stop_leaves_the_rest(sweep, monkeypatch, capsys):
    trained = []

    def train(configs, folders, stop, **options):
        trained.extend(folder.name for folder in folders)
        stop.asked = True
        raise aejax.StoppedError("stopped")

    class Asked:
        asked = False

        def __call__(self):
            return self.asked

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr("aejax.cli.command.until_signal", Asked)
    monkeypatch.setattr(vmapped, "train_together", train)  # imported anew by the command
    assert sweep.run("--together=1") == 75
    assert trained == ["lr=0.01"]
    assert "the same command resumes" in capsys.readouterr().err


@pytest.mark.parametrize(("kmeans", "sizes"), [(False, [2]), (True, [1, 1])])
def test_codes_that_begin_by_kmeans_train_one_by_one(sweep, monkeypatch, kmeans, sizes):
    trained = []

    def train(configs, folders, **options):
        trained.append(len(configs))
        return [SimpleNamespace(step=4)] * len(configs)

    monkeypatch.setattr(vmapped, "train_together", train)
    assert sweep.run("--config.bottleneck.name=vq", f"--config.bottleneck.kmeans={kmeans}") == 0
    assert trained == sizes


def test_codes_of_a_nested_quantizer_that_begin_by_kmeans_train_one_by_one():
    config = config_of("vq_vae", "tiny,grouped")
    assert config.bottleneck.quantizer.kmeans
    assert command("sweep")._better_alone(config, None)


def test_jobs_are_this_command_for_a_group_each(sweep, monkeypatch, capsys):
    module = command("sweep")
    runs = plan(basic.get_config("tiny"), grid({"batch_size": [16, 8], "optim.lr": [1e-2, 1e-3]}))
    submitted, statuses = [], [0, 1]

    class Executor:
        def run(self, jobs, stop):
            submitted.extend(jobs)
            yield from (Result(job.name, statuses[i], "out of memory" * i) for i, job in enumerate(jobs))

    monkeypatch.setattr(module, "_EXECUTOR", lambda folder: Executor())
    monkeypatch.setattr(flags, "FLAGS", SimpleNamespace(jobs=2, executor="local"))
    monkeypatch.setattr(module, "_TOGETHER", SimpleNamespace(value=8))
    given = ["--config=c.py", "--workdir=w", "--jobs", "2", "--sweep.batch_size=16,8", "--only=a"]
    (sweep.workdir / "batch_size=8_lr=0.01").mkdir(parents=True)
    (sweep.workdir / "batch_size=8_lr=0.01/ended.txt").write_text("failed: its own error\n")
    errors = module.launch_all(runs, sweep.workdir, lambda: False, given)
    assert errors == {"batch_size=8_lr=0.01": "its own error", "batch_size=8_lr=0.001": "out of memory"}
    same = ("-m", "aejax.cli", "sweep", *given, "--executor=local", "--jobs=1")
    assert [job.argv for job in submitted] == [
        (*same, "--only=batch_size=16_lr=0.01,batch_size=16_lr=0.001"),
        (*same, "--only=batch_size=8_lr=0.01,batch_size=8_lr=0.001"),
    ]
    statuses[:] = [STOPPED, 137]  # by a signal of somebody else
    errors = module.launch_all(runs, sweep.workdir, lambda: False, given)
    assert list(errors.values()) == ["stopped"] * 2 + ["its own error", "out of memory"]
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "[1/2] batch_size=16_lr=0.01: stopped",
        "[2/2] batch_size=8_lr=0.01: out of memory",
    ]
    submitted.clear()
    module.launch_all(runs[:2], sweep.workdir, lambda: False, given)
    assert [job.argv[-1] for job in submitted] == [f"--only={run.name}" for run in runs[:2]]  # one for each job
    submitted.clear()
    monkeypatch.setattr(flags, "FLAGS", SimpleNamespace(jobs=2, executor="slurm"))  # where --jobs means nothing
    module.launch_all(runs[:2], sweep.workdir, lambda: False, given)
    assert len(submitted) == 1


def test_the_flags_say_where_jobs_run(tmp_path):
    def executor(*given):
        module = command("sweep")
        flags.FLAGS(["sweep", FLAGS[0], f"--workdir={tmp_path}", *given])
        return module._EXECUTOR(tmp_path)

    assert executor("--slurm.gpus=2") == Local(1)
    assert executor("--jobs=3") == Local(3)
    slurm = executor("--executor=slurm", "--jobs=3", "--slurm.gpus=2")
    assert slurm.folder == tmp_path / "slurm"
    submitted = {"timeout_min": 60, "nodes": 1, "gpus_per_node": 2, "tasks_per_node": 1}
    assert slurm.parameters(Job("a", (), tmp_path / "log")) == submitted


@pytest.mark.slow
def test_jobs_train_each_run_once(tmp_path):
    argv = ["-m", "experiments.sweep", *FLAGS, "--seeds=2", "--jobs", "2", f"--workdir={tmp_path}"]
    with subprocess.Popen([sys.executable, *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as all_:
        try:
            told = all_.communicate(timeout=100)[0]
        finally:
            all_.terminate()
    assert all_.returncode == 0, told
    names = [f"lr={lr}_seed={seed}" for lr in (0.001, 0.01) for seed in (0, 1)]
    assert sorted(line.split("] ")[1] for line in told.splitlines()) == [f"{name}: done" for name in names[::2]]
    trained = "".join((tmp_path / f"logs/{name}.log").read_text() for name in names[::2])
    assert [trained.count(f"] {name}: step 4") for name in names] == [1] * 4
    assert [checkpoint.list_steps(tmp_path / name) for name in names] == [[2, 4]] * 4


def test_mistakes(sweep):
    assert "did you mean 'optim.lr'" in sweep.run("--sweep.optim.lrr=1")
    assert "has no values" in sweep.run("--sweep.steps")
    assert "given twice" in sweep.run("--sweep.optim.lr=1")
    assert "--only 'lr=0.02' is unknown" in sweep.run("--only=lr=0.02")
