import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import mostly_slow

import aejax
from aejax.cli.launching import local
from aejax.cli.launching.job import STOPPED, Job, Result, last_line
from aejax.cli.launching.local import Local, divided, environments

ROOT = Path(__file__).parents[3]
NEVER = lambda: False  # noqa: E731
# Saves and leaves at SIGTERM, as a training does; says that it is ready first.
PATIENT = """
import pathlib, signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
pathlib.Path(sys.argv[1]).touch()
while not asked: time.sleep(0.01)
print("saved"); sys.exit(75)
"""


def python(name, code, folder, *arguments, processes=1):
    return Job(name, ("-c", code, *map(str, arguments)), folder / "logs" / f"{name}.txt", processes)


def wait_for(ready):
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(marker):
    listed = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(marker) in line and "ps -ww" not in line]


def test_each_job_has_one_result_and_a_failing_one_does_not_stop_the_rest(tmp_path):
    jobs = [
        python("good", "print('fine')", tmp_path),
        python("bad", "print('a'); raise SystemExit('error: no such thing')", tmp_path),
        python("killed", "import os; os.kill(os.getpid(), 9)", tmp_path),
        python("stopped", f"raise SystemExit({STOPPED})", tmp_path),
        python("last", "print('fine')", tmp_path),
    ]
    assert list(Local().run(jobs, NEVER)) == [
        Result("good", 0),
        Result("bad", 1, "error: no such thing"),
        Result("killed", 137, "ended by SIGKILL"),
        Result("stopped", STOPPED),
        Result("last", 0),
    ]
    assert (tmp_path / "logs/good.txt").read_text() == "fine\n"
    list(Local().run(jobs[:1], NEVER))
    assert (tmp_path / "logs/good.txt").read_text() == "fine\nfine\n"  # the log of a run that goes on is kept


@pytest.mark.parametrize("at_once", mostly_slow([1, 3]))
def test_no_more_than_so_many_jobs_are_alive_and_no_slot_is_idle(tmp_path, at_once):
    code = """
import pathlib, sys, time
me, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1]).parent
me.touch(); time.sleep(0.4)
print(len(list(folder.glob("alive*")))); me.unlink()
"""
    (tmp_path / "here").mkdir()
    jobs = [python(f"{i}", code, tmp_path, tmp_path / f"here/alive{i}") for i in range(2 * at_once + 1)]
    assert all(result.status == 0 for result in Local(at_once).run(jobs, NEVER))
    counts = [int((tmp_path / f"logs/{job.name}.txt").read_text()) for job in jobs]
    assert max(counts) == at_once


def test_devices_are_divided_among_jobs_at_a_time_and_their_processes():
    assert divided("01234567", 1) == [list("01234567")]
    assert divided("01234567", 4) == [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"]]
    assert divided("01234567", 3) == [["0", "1"], ["2", "3"], ["4", "5"]]  # a batch divides among as many
    assert divided("01", 3) == [["0"], ["1"], ["0"]]
    assert divided("", 2) == [[], []]
    gpus = environments("gpu", ["4", "5"], 2, Local(2))
    assert gpus == [{"CUDA_VISIBLE_DEVICES": "4"}, {"CUDA_VISIBLE_DEVICES": "5"}]
    assert environments("tpu", ["3"], 1, Local(4))[0]["TPU_VISIBLE_CHIPS"] == "3"
    assert environments("tpu", ["0", "1"], 1, Local(1)) == [{}]
    assert environments("cpu", [], 2, Local()) == [{}, {}]


def test_devices_are_those_that_the_environment_leaves(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,3")
    assert local.accelerators() == ("gpu", ["GPU-a", "3"])
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert local.accelerators() == ("cpu", [])
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("TPU_VISIBLE_CHIPS", "0,1")
    assert local.accelerators() == ("tpu", ["0", "1"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    there = {"nvidia[0-9]*": ["nvidia3", "nvidia5"]}  # of eight, as a container is given two
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(map(Path, there.get(pattern, []))))
    assert local.accelerators() == ("gpu", ["0", "1"])


@pytest.mark.slow
def test_jobs_get_their_own_gpu_in_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "accelerators", lambda: ("gpu", ["0", "1"]))
    code = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES']); time.sleep(0.5)"
    jobs = [python(f"{i}", code, tmp_path) for i in range(4)]
    assert [r.status for r in Local(2).run(jobs, NEVER)] == [0] * 4
    assert [(tmp_path / f"logs/{i}.txt").read_text().strip() for i in range(2)] == ["0", "1"]
    assert sorted((tmp_path / f"logs/{i}.txt").read_text().strip() for i in (2, 3)) == ["0", "1"]
    code = "import os; print(os.environ.get('XLA_PYTHON_CLIENT_PREALLOCATE'))"
    for at_once, printed in ((2, "None\n"), (3, "false\n")):  # the first of three shares its GPU with the last
        assert next(Local(at_once).run([python(f"of {at_once}", code, tmp_path)], NEVER)).status == 0
        assert (tmp_path / f"logs/of {at_once}.txt").read_text() == printed
    with pytest.raises(aejax.InputError, match="2 GPUs cannot be divided among 3 processes"):
        next(Local().run([python("three", code, tmp_path, processes=3)], NEVER))


def test_the_processes_of_a_job_are_told_how_to_find_each_other(tmp_path):
    code = "import os, sys; print(sys.argv[1:], os.environ['XLA_FLAGS'], os.environ['JAX_PLATFORMS'])"
    job = python("two", code, tmp_path, "mine", processes=2)
    assert list(Local(devices_per_process=3).run([job], NEVER)) == [Result("two", 0)]
    first, second = (job.log_of(i).read_text() for i in range(2))
    assert [job.log_of(i).name for i in range(2)] == ["two.txt", "two.1.txt"]
    address = first.split("--coordinator=")[1].split("'")[0]
    assert address.startswith("127.0.0.1:")
    for i, text in enumerate((first, second)):
        assert text.startswith(f"['mine', '--coordinator={address}', '--processes=2', '--process={i}'] ")
        assert text.split()[-2:] == ["--xla_force_host_platform_device_count=3", "cpu"]


def test_an_error_that_was_streamed_is_not_looked_for_in_a_log(tmp_path):
    job = python("job", "raise SystemExit('error: no such thing')", tmp_path)
    assert list(Local(stream=True).run([job], NEVER)) == [Result("job", 1)]
    code = "import sys, time; time.sleep(60) if '--process=1' in sys.argv else sys.exit('error: no such thing')"
    result = Result("job", 1, "process 0 of 2: see above")
    assert list(Local(stream=True).run([python("job", code, tmp_path, processes=2)], NEVER)) == [result]


def test_when_a_process_dies_the_rest_are_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "GRACE", 0.5)
    code = """
import signal, sys, time
if "--process=1" in sys.argv: sys.exit("error: out of memory")
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # waits for its peer in a collective
time.sleep(60)
"""
    begin = time.monotonic()
    (result,) = Local().run([python("two", code, tmp_path, tmp_path, processes=2)], NEVER)
    assert result == Result("two", 1, "process 1 of 2: error: out of memory")
    assert time.monotonic() - begin < 20
    assert not alive(tmp_path)


def test_stop_lets_jobs_save_and_does_not_start_the_rest(tmp_path):
    ready = [tmp_path / f"ready{i}" for i in range(3)]
    jobs = [python(f"{i}", PATIENT, tmp_path, ready[i]) for i in range(3)]
    results = list(Local(2).run(jobs, lambda: ready[0].exists() and ready[1].exists()))
    assert sorted(results, key=lambda r: r.name) == [
        Result("0", STOPPED),
        Result("1", STOPPED),
        Result("2", STOPPED, "not started"),
    ]
    assert not ready[2].exists()
    assert [(tmp_path / f"logs/{i}.txt").read_text() for i in range(2)] == ["saved\n"] * 2


def test_a_caller_that_leaves_leaves_no_process_behind(tmp_path):
    jobs = [
        python("short", "", tmp_path),
        python("long", "import time; time.sleep(60)", tmp_path, tmp_path / "marker"),
    ]
    results = Local(2).run(jobs, NEVER)
    assert next(results).name == "short"
    assert alive(tmp_path / "marker")
    results.close()
    assert not alive(tmp_path / "marker")


def test_the_last_line_is_that_of_a_progress_bar_too(tmp_path):
    log = tmp_path / "log"
    assert last_line(log) == ""
    log.write_bytes(b"one\n" + b"x" * 9000 + b"\n 10%\r 20%\r 30% \xff\n\n  \n")
    assert last_line(log) == "30% \N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("number", "times", "status"), mostly_slow([(signal.SIGTERM, 1, STOPPED), (signal.SIGINT, 2, 130)])
)
def test_signals_reach_all_processes_and_the_status_comes_back(tmp_path, number, times, status):
    """As a training under `experiments.launch`, whose Ctrl-C the terminal sends to all processes of the group."""
    code = f"""
import sys
from pathlib import Path
from aejax.cli.launching.job import Job
from aejax.cli.launching.local import Local
from aejax.cli.command import until_signal
try:
    with until_signal() as asked:
        job = Job("two", ("-c", {PATIENT if times == 1 else PATIENT.replace("while not asked", "while True")!r},
            sys.argv[1]), Path(sys.argv[1] + ".log"), 2)
        (result,) = Local().run([job], asked)
except KeyboardInterrupt:
    sys.exit(130)
sys.exit(result.status)
"""
    marker = tmp_path / "ready"
    process = subprocess.Popen([sys.executable, "-c", code, marker], cwd=ROOT, start_new_session=True)
    logs = [tmp_path / "ready.log", tmp_path / "ready.1.log"]
    wait_for(lambda: marker.exists() and all(log.exists() for log in logs))
    time.sleep(0.5)  # both have their handlers
    for _ in range(times):
        os.killpg(process.pid, number)
        time.sleep(0.5)
    assert process.wait(30) == status
    assert [log.read_text() for log in logs] == ["saved\n" if times == 1 else ""] * 2
    assert not alive(marker)
