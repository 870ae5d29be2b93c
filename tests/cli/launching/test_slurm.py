"""Jobs through submitit: by its stand-in on this machine, and, where SLURM's programs are, by a real one (slow)."""

import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import one_machine
import pytest

import aejax
from aejax.cli.launching import task
from aejax.cli.launching.job import STOPPED, Job, Result
from aejax.cli.launching.slurm import Slurm
from aejax.workdir import metrics_log

NEVER = lambda: False  # noqa: E731
# Counts to its second argument from where the file says, and saves at SIGTERM, as a training does.
COUNT = """
import pathlib, signal, sys, time
file, until, asked = pathlib.Path(sys.argv[1]), int(sys.argv[2]), []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
first = n = int(file.read_text()) if file.exists() else 0
print("from", n, *sys.argv[3:])
while n < until and not asked:
    n, _ = n + 1, time.sleep(0.1)
file.write_text(str(n))
sys.exit(75 if n < until else 0)
"""


@pytest.fixture
def submitit():
    return pytest.importorskip("submitit")


def python(name, code, folder, *arguments, processes=1):
    return Job(name, ("-c", code, *map(str, arguments)), folder / f"{name}.txt", processes)


def test_without_submitit_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(aejax.InputError, match=r"needs submitit: pip install submitit"):
        next(Slurm(tmp_path).run([python("x", "", tmp_path)], NEVER))


def test_without_slurm_one_line_says_so(submitit, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(aejax.InputError, match=r"SLURM did not take .x.: .*srun") as error:
        next(Slurm(tmp_path).run([python("x", "", tmp_path)], NEVER))
    assert "\n" not in str(error.value)


def test_jobs_are_taken_back_where_a_later_one_is_refused(tmp_path, monkeypatch):
    cancelled = []
    queued = SimpleNamespace(job_id=7, cancel=lambda: cancelled.append(7))

    def submit(self, job, parameters):
        if job.name == "b":
            raise aejax.InputError("SLURM did not take 'b': too many jobs")
        return queued

    monkeypatch.setattr(Slurm, "_submit", submit)
    with pytest.raises(aejax.InputError, match="too many jobs"):
        next(Slurm(tmp_path).run([python(name, "", tmp_path) for name in "ab"], NEVER))
    assert cancelled == [7]


@pytest.mark.parametrize(("state", "again"), [("RUNNING\n", True), ("COMPLETING\n", False), ("", False)])
def test_a_stopped_job_runs_again_unless_it_was_cancelled(state, again, monkeypatch):
    asked = []
    answer = SimpleNamespace(stdout=state)
    monkeypatch.setattr(subprocess, "run", lambda argv, **_: asked.append(argv) or answer)
    assert task.goes_on(SimpleNamespace(cluster="slurm", raw_job_id="7")) == again
    assert asked == [["squeue", "-h", "-j", "7", "-o", "%T"]]
    assert task.goes_on(SimpleNamespace(cluster="local"))
    assert len(asked) == 1


def test_a_task_that_is_told_to_end_tells_its_command(tmp_path, monkeypatch):
    handlers, told = {}, []
    here = SimpleNamespace(global_rank=0, _usr_sig=lambda: signal.SIGUSR2)
    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace(JobEnvironment=lambda: here))
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    wait = lambda: handlers[signal.SIGTERM](signal.SIGTERM, None) or 0  # noqa: E731
    process = SimpleNamespace(pid=0, terminate=lambda: told.append("end"), wait=wait)
    monkeypatch.setattr(task, "start", lambda *_, **__: process)
    assert task.Task(python("x", "", tmp_path))() == 0
    assert told == ["end"]


def test_resources_as_submitit_calls_them(tmp_path):
    job = python("x", "", tmp_path, processes=8)
    given = {
        "slurm_partition": "p",
        "slurm_qos": None,
        "timeout_min": 30,
        "nodes": 2,
        "gpus_per_node": 4,
        "mem_gb": 1.5,
    }
    asked = Slurm(tmp_path, {**given, "cpus_per_task": 3}).parameters(job)
    assert asked == {
        "timeout_min": 30,
        "nodes": 2,
        "tasks_per_node": 4,
        "gpus_per_node": 4,
        "cpus_per_task": 3,
        "mem_gb": 1.5,
        "slurm_partition": "p",
    }
    with pytest.raises(aejax.InputError, match="8 processes cannot be divided among 3 nodes"):
        Slurm(tmp_path, {"nodes": 3}).parameters(job)


def test_a_job_has_ended_once_the_queue_no_longer_lists_it(tmp_path, monkeypatch):
    answers = [(0, "7\n18\n"), (1, ""), (0, "18\n")]  # the second without an answer from SLURM
    answer = lambda argv, **_: SimpleNamespace(**dict(zip(("returncode", "stdout"), answers.pop(0), strict=True)))  # noqa: E731
    monkeypatch.setattr(subprocess, "run", answer)
    assert [Slurm(tmp_path)._ended()(SimpleNamespace(job_id=7)) for _ in range(3)] == [False, False, True]


def test_jobs_by_submitit_on_this_machine(submitit, tmp_path):
    """A failing one has its last line, the processes of one are told to find each other, a stopped one goes on."""
    stop_at_first = "import pathlib, sys; f = pathlib.Path(sys.argv[1]); f.exists() or (f.touch(), sys.exit(75))"
    jobs = [
        python("bad", "import sys; print('a'); sys.exit('error: no such thing')", tmp_path),
        python("stopped", f"{stop_at_first}; print('went on')", tmp_path, tmp_path / "first"),
        python(
            "two", "import os, sys; print(sys.argv[1], os.environ['SUBMITIT_LOCAL_GLOBALID'])", tmp_path, processes=2
        ),
    ]
    results = Slurm(tmp_path / "slurm", cluster="local", poll=0.2).run(jobs, NEVER)
    assert {result.name: result for result in results} == {
        "bad": Result("bad", 1, "error: no such thing"),
        "stopped": Result("stopped", 0),
        "two": Result("two", 0),
    }
    assert jobs[1].log.read_text() == "went on\n"
    assert [jobs[2].log_of(i).read_text() for i in range(2)] == ["--distributed 0\n", "--distributed 1\n"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    lacking = [program for program in one_machine.PROGRAMS if not one_machine.where(program)]
    if lacking:
        pytest.skip(f"no {', '.join(lacking)}: apt-get install slurmctld slurmd slurm-client munge")
    pytest.importorskip("submitit")
    with one_machine.slurm(tmp_path_factory.mktemp("slurm")) as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


def slurm(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def interrupted(job, act, executor, stop=NEVER):
    """The result of a job, with `act(id)` two seconds after it prints."""

    def later():
        while not job.log.exists() or not job.log.read_text():
            time.sleep(0.1)
        time.sleep(2)
        act(slurm("squeue", "-h", "-o", "%A").split()[0])

    thread = threading.Thread(target=later)
    thread.start()
    (result,) = executor.run([job], stop)
    thread.join()
    return result


ACTS = {
    "asked to leave": lambda number: slurm("scancel", "--signal=TERM", number),
    "near its time limit": lambda number: slurm("scancel", "--signal=USR2", number),
    "queued again": lambda number: slurm("scontrol", "requeue", number),
    "preempted": lambda number: slurm("sbatch", "-p", "urgent", "--exclusive", "-o", "/dev/null", "--wrap", "true"),
}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("act", ACTS)
def test_a_job_of_slurm_goes_on_where_it_was(cluster, tmp_path, act, processes):
    job = python("count", COUNT, tmp_path, tmp_path / "n", 60, processes=processes)
    assert interrupted(job, ACTS[act], Slurm(tmp_path / "slurm", poll=1)) == Result("count", 0)
    first, second = (line.split()[1] for line in job.log.read_text().splitlines())
    assert int(first) == 0
    assert 0 < int(second) < 60
    assert (tmp_path / "n").read_text() == "60"


@pytest.mark.slow
@pytest.mark.parametrize("who", ["scancel", "stop"])
def test_a_cancelled_job_of_slurm_saves_and_stays_away(cluster, tmp_path, who):
    job, asked = python("count", COUNT, tmp_path, tmp_path / "n", 600), []
    act = (lambda number: slurm("scancel", number)) if who == "scancel" else asked.append
    result = interrupted(job, act, Slurm(tmp_path / "slurm", poll=1), lambda: bool(asked))
    assert result == Result("count", STOPPED)
    assert 0 < int((tmp_path / "n").read_text()) < 600
    time.sleep(8)  # after which SLURM would have started it again
    assert slurm("squeue", "-h") == ""
    assert job.log.read_text().count("from") == 1


@pytest.mark.slow
def test_a_job_that_slurm_kills_fails_by_slurms_word(cluster, tmp_path):
    job = python("dead", "import os, time; print(1); time.sleep(2); os.kill(os.getppid(), 9)", tmp_path)
    (result,) = Slurm(tmp_path / "slurm", poll=1).run([job], NEVER)
    assert result.status == 1
    assert "Killed" in result.error


@pytest.mark.slow
def test_a_training_under_slurm_ends_as_one_that_was_not_interrupted(cluster, tmp_path):
    """Preempted and gone on with, its metrics are those of a run that nothing came between."""
    flags = ("--config=configs/stacked.py:tiny", "--config.steps=3000", "--config.checkpoint_every=500")
    job = Job("train", ("-m", "experiments.train", *flags, f"--workdir={tmp_path / 'a'}"), tmp_path / "a.txt")

    def act(number):
        while not (tmp_path / "a/checkpoints/500").exists():
            time.sleep(0.05)
        ACTS["near its time limit"](number)

    assert interrupted(job, act, Slurm(tmp_path / "slurm", poll=1)) == Result("train", 0), job.log.read_text()
    assert "saving, then leaving" in job.log.read_text()
    subprocess.run([sys.executable, "-m", "experiments.train", *flags, f"--workdir={tmp_path / 'b'}"], check=True)
    losses = [
        {r["step"]: r["validation/loss"] for r in metrics_log.read(tmp_path / name) if "validation/loss" in r}
        for name in "ab"
    ]
    assert losses[0] == losses[1]
