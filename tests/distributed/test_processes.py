"""Several processes on loopback: the same run as one process with as many devices."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from conftest import mlp, one_device, vectors

import aejax
from aejax import config, data
from aejax.distributed import processes
from aejax.workdir import checkpoint, metrics_log

WHOLE = ("sharded", "pmap")
OF_TWO = pytest.mark.parametrize("group", [pytest.param(2, marks=pytest.mark.slow)], indirect=True)

# One group trains all that the tests look at: joining takes longer than training.
GROUP = """
import json, sys
from pathlib import Path
import numpy as np
import aejax
from aejax import config, data
from aejax.workdir import checkpoint
from aejax.distributed import processes

folder, address, n, i = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
x, configs = np.load(folder / "x.npy"), json.loads((folder / "configs.json").read_text())
source = data.from_array(x)
taken = []
def take(rows):
    taken.extend(map(int, rows))
    return source.take(rows)
with processes.join(address, n, i):
    for name, values in configs.items():
        splits = data.split({"train": aejax.data.Source("x", len(x), source.shape, source.dtype, take)},
                            config.from_dict(values).data)
        asked = iter(range(1))  # only the last one is asked to stop
        stop = lambda: name in ("stopped", "pretraining") and i == n - 1 and next(asked, None) is None
        taken.clear()
        profiled = range(2, 4) if name == "streamed" else None
        try:
            run = aejax.train(
                config.from_dict(values), folder / name, data=splits, stop=stop, quiet=True, profiled=profiled)
        except aejax.StoppedError as error:
            (folder / f"{name}.{i}.txt").write_text(str(error))
            continue
        said = {"step": run.step, "taken": taken, "loss": float(np.square(run.reconstructions - run.inputs).mean())}
        (folder / f"{name}.{i}.json").write_text(json.dumps(said))
"""


def address():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{s.getsockname()[1]}"


def start(n, arguments, devices=4, **options):
    """n processes of these arguments, which are given the address, n, and each its number."""
    flags = re.sub(r"device_count=\d+", f"device_count={devices // n}", os.environ["XLA_FLAGS"])
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    at = address()
    return [
        subprocess.Popen([sys.executable, *arguments(at, n, i)], env=env, stderr=subprocess.PIPE, text=True, **options)
        for i in range(n)
    ]


def small(**changes):
    """6 -> 8 -> 4 -> 8 -> 6: what four devices can divide, and what they cannot."""
    return mlp(
        encoder=aejax.config.module("mlp", features=(8,), activation="tanh"),
        bottleneck=aejax.config.module("gaussian", features=4),
        decoder=aejax.config.module("mlp", features=(8,), activation="tanh"),
        objective__weights__kl=1.0,
        optim__name="sgd",
        ema=0.9,
        **changes,
    )


def of_group(n):
    """What a group of n trains: two processes also streams and layer by layer, which is the same to four."""
    of_two = {"streamed": small(data__memory_mb=0), "pretraining": mlp(pretrain__steps=2**30)}
    of_all = {"pmap": small(), "sharded": small(partition__name="sharded"), "stopped": small()}
    return of_all | (of_two if n == 2 else {})


# Imports once for all processes, which are forks of one that has no backend yet.
FORKS = """
import os, sys
import aejax.distributed.processes, aejax.training.loop
code, n = sys.argv.pop(1), int(sys.argv[3])
children = []
for i in range(n):
    if not (child := os.fork()):
        sys.argv.append(str(i))
        exec(code)
        raise SystemExit
    children.append(child)
raise SystemExit([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] != [0] * n)
"""


def write_group(folder, configs):
    np.save(folder / "x.npy", vectors(197))
    (folder / "configs.json").write_text(json.dumps({name: config.to_dict(c) for name, c in configs.items()}))


def train_in_group(folder, n):
    write_group(folder, of_group(n))
    group = start(n, lambda at, n, i: ["-c", GROUP, str(folder), at, str(n), str(i)])
    for i, process in enumerate(group):
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        (folder / f"{i}.txt").write_text(said)
    return folder


@pytest.fixture(scope="module", params=[pytest.param(n, marks=pytest.mark.slow) for n in (2, 4)])
def group(request, tmp_path_factory):
    """The folder of what two processes trained, or four."""
    return train_in_group(tmp_path_factory.mktemp("group"), request.param), request.param


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process with four devices trained."""
    folder = tmp_path_factory.mktemp("alone")
    train_on(folder, jax.devices())
    return folder


def train_on(folder, devices, **changes):
    splits = data.split({"train": data.from_array(vectors(197))}, small().data)
    return aejax.train(small(log_every=2, **changes), folder, data=splits, devices=devices, quiet=True)


def assert_same(a, b):
    """Records and states up to the rounding of sums in another order."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        checkpoint.load_newest(a).state,
        checkpoint.load_newest(b).state,
    )
    for x, y in zip(metrics_log.read(a), metrics_log.read(b), strict=True):
        x.pop("images_per_second", None), y.pop("images_per_second", None)
        assert x == pytest.approx(y, rel=1e-5)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    short = {"steps": 4, "checkpoint_every": 4}
    train_on(tmp_path / "alone", jax.devices()[:2], **short)
    write_group(tmp_path, {"run": small(data__memory_mb=0, **short)})
    (forks,) = start(1, lambda at, n, i: ["-c", FORKS, GROUP, str(tmp_path), at, "2"], devices=1)
    _, said = forks.communicate(timeout=300)
    assert forks.returncode == 0, said
    assert_same(tmp_path / "run", tmp_path / "alone")
    assert len(list((tmp_path / "run").glob("events.*"))) == 1
    first, second = (json.loads((tmp_path / f"run.{i}.json").read_text()) for i in range(2))
    assert first["step"] == second["step"] == 4
    assert first["loss"] == second["loss"]
    assert first["taken"] != second["taken"]  # each reads its half of a batch


def assert_trained_as_one_and_written_once(group, alone, name):
    folder, n = group
    assert_same(folder / name, alone)
    assert len(list((folder / name).glob("events.*"))) == 1
    said = [json.loads((folder / f"{name}.{i}.json").read_text()) for i in range(n)]
    assert {s["step"] for s in said} == {8}
    assert len({s["loss"] for s in said}) == 1


@pytest.mark.parametrize("name", WHOLE)
def test_processes_train_as_one_and_write_once(group, alone, name):
    assert_trained_as_one_and_written_once(group, alone, name)


@OF_TWO
def test_processes_train_on_streams_as_one_and_write_once(group, alone):
    assert_trained_as_one_and_written_once(group, alone, "streamed")


@OF_TWO
def test_the_first_process_alone_is_profiled(group):
    folder, n = group
    told = ["profile of steps 3 to 4" in (folder / f"{i}.txt").read_text() for i in range(n)]
    assert told == [True] + [False] * (n - 1)
    assert len(list(folder.glob("*/plugins/profile/*/*.xplane.pb"))) == 1


@OF_TWO
def test_each_process_reads_its_share_of_a_stream(group):
    folder, n = group
    whole = 8 * 16 + 2 * 2 * 16  # of 8 training steps and two validations of two batches
    # Each looks at the train split's scale, at 16 examples each of train and validation, and at 8 that are the samples.
    looked_at = len(np.load(folder / "x.npy")) + 2 * 16 + 8
    for i in range(n):
        taken = json.loads((folder / f"streamed.{i}.json").read_text())["taken"]
        assert whole // n <= len(taken) <= whole // n + looked_at + 2


def test_one_that_is_asked_to_stop_stops_all_at_one_step_and_any_devices_go_on(group, alone):
    folder, n = group
    stopped = {json.loads((folder / f"stopped.{i}.json").read_text())["step"] for i in range(n)}
    assert len(stopped) == 1
    assert 0 < stopped.pop() < 8
    finished = train_on(folder / "stopped", one_device())
    assert finished.step == 8
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        checkpoint.load_newest(folder / "stopped").state,
        checkpoint.load_newest(alone).state,
    )


@OF_TWO
def test_one_that_is_asked_to_stop_in_pretraining_stops_all(group):
    folder, n = group
    for i in range(n):
        assert "stopped in pretraining" in (folder / f"pretraining.{i}.txt").read_text()


ENDLESS = """
import json, sys
import numpy as np
import aejax
from aejax import config
from aejax.distributed import processes
folder, address, n, i = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with processes.join(address, n, i):
    values = config.from_dict(json.load(open(folder + "/config.json")))
    print(aejax.fit(values, np.load(folder + "/x.npy"), folder + "/run", quiet=True).step)
"""


@pytest.mark.slow
def test_sigterm_to_one_that_does_not_handle_it_saves_and_stops_all(tmp_path):
    endless = small(steps=2**30, optim__schedule="constant", checkpoint_every=2**20)
    (tmp_path / "config.json").write_text(config.to_json(endless))
    np.save(tmp_path / "x.npy", vectors(197))
    group = start(
        2, lambda at, n, i: ["-c", ENDLESS, str(tmp_path), at, str(n), str(i)], devices=2, stdout=subprocess.PIPE
    )
    while not metrics_log.read(tmp_path / "run") and not any(process.poll() for process in group):
        time.sleep(0.1)
    group[1].send_signal(signal.SIGTERM)
    ends = [process.communicate(timeout=60) for process in group]
    assert [process.returncode for process in group] == [0, 0], ends
    stopped = {out.split()[-1] for out, _ in ends}
    assert stopped == {str(checkpoint.list_steps(tmp_path / "run")[-1])}


def command(folder, **more):
    arguments = [f"--{key}={value}" for key, value in more.items()]

    def of(at, n, i):
        return [
            *("-m", "experiments.train", "--config=configs/basic.py:tiny", f"--workdir={folder}"),
            *(f"--coordinator={at}", f"--processes={n}", f"--process={i}", *arguments),
        ]

    return of


@pytest.mark.parametrize("told", [True, False])
def test_pages_of_jaxlib_are_one_line(told):
    """Our own may come while jaxlib is writing its record."""
    pages = [
        "F1126 17:01:02.345678 1 client.h:77] Terminating process",
        "more",
        "*** Check failure ***",
        "    @ 0x7fe SetError()",
    ]
    own = ["error: ours"] * told
    lines = [*pages[:2], *own, *pages[2:], "E1126 17:01:02.345678 1 other.cc:5] kept", "and its next line"]
    argv = [sys.executable, "-c", processes._READER]
    said = subprocess.run(argv, input="\n".join(lines) + "\n", capture_output=True, text=True, check=True).stderr
    last = own if told else [f"error: {processes.LOST}"]
    assert sorted(said.splitlines()) == sorted([*last, *lines[-2:]])


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_the_loss_of_one_ends_the_others_in_one_line_and_the_run_goes_on(tmp_path, lost):
    run = command(
        tmp_path, **{"config.steps": 2**30, "config.optim.schedule": "constant", "config.checkpoint_every": 20}
    )
    group = start(2, run, devices=2)
    while not checkpoint.list_steps(tmp_path) and not any(process.poll() for process in group):
        time.sleep(0.1)
    group[lost].send_signal(signal.SIGKILL)
    begin = time.monotonic()
    other = group[1 - lost]
    _, said = other.communicate(timeout=120)
    group[lost].communicate()
    assert time.monotonic() - begin < 2 * processes.HEARTBEAT
    assert other.returncode != 0
    told = ("validation:", "  ", "data.kind")  # metrics, the table of layers, and what the data was taken for
    errors = [line for line in said.splitlines() if not any(words in line for words in told)]
    assert len(errors) == 1, said
    assert errors[0].startswith("error: another process of the run was lost")
    before = checkpoint.list_steps(tmp_path)[-1]
    more = {"config.steps": before + 20, "config.optim.schedule": "constant", "config.checkpoint_every": 20}
    for process in start(2, command(tmp_path, **more), devices=2):
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert checkpoint.list_steps(tmp_path)[-1] == before + 20


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (jax.errors.JaxRuntimeError("UNAVAILABLE: Gloo all-reduce failed"), aejax.LostError),
        (ValueError("Connection reset by peer"), aejax.LostError),
        (ValueError("shapes do not match"), ValueError),
        (aejax.InputError("connection='tcp' is unknown"), aejax.InputError),
    ],
)
def test_an_error_of_the_network_is_the_loss_of_another_process(monkeypatch, error, raised):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: None)
    monkeypatch.setattr(processes, "_read_errors", lambda: None)
    with pytest.raises(raised) as found, processes.join("host:1234", 2, 0):
        raise error
    assert type(found.value) is raised


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("host", 2, 0), "--coordinator=host must be host:port"),
        (("host:0", 2, 0), "must be host:port"),
        (("host:1234", 0, 0), "--processes=0 must be the number"),
        (("host:1234", 2, 2), "--process=2 must be from 0 to 1"),
        (("host:1234", 2, -1), "--process=-1 must be from 0 to 1"),
    ],
)
def test_numbers_that_make_no_sense_are_named(arguments, message):
    with pytest.raises(aejax.InputError, match=message), processes.join(*arguments):
        pass


@pytest.mark.slow
def test_a_first_process_that_cannot_be_reached_is_one_line_within_the_timeout():
    code = (
        "import sys; from aejax.distributed import processes; processes.TIMEOUT = 2\n"
        "with processes.join(sys.argv[1], 2, 1): pass"
    )
    (process,) = start(1, lambda at, n, i: ["-c", code, at])
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert said.startswith("error: the processes did not find each other")
    assert said.count("\n") == 1


# What jaxlib says where the first of two processes was killed, shortened.
SAID = """\
W1125 16:04:13.652443    3707 preemption_sync_manager.cc:147] Failed to retrieve preemption notice: UNAVAILABLE
Additional GRPC error information from remote target coordination_service:
:UNAVAILABLE:Stream removed (Socket closed)
E1125 16:04:13.652485    3707 preemption_sync_manager.cc:159] Failed to cancel preemption barrier
=== Source Location Trace: ===
"""
FATAL = "F1125 16:04:14.1 3707 client.h:80] Terminating process\nall of it\n"


SAYINGS = [
    ("from below\n", "from below\n"),
    (SAID, ""),
    (SAID + "W1125 16:04:15.0 1 other.cc:1] of\nanother\n", "W1125 16:04:15.0 1 other.cc:1] of\nanother\n"),
    (SAID + "Fatal Python error: Segmentation fault\n", "Fatal Python error: Segmentation fault\n"),
    ("[Gloo] Rank 0\nfrom below\n", "from below\n"),
    (SAID + FATAL, f"error: {processes.LOST}\n"),
    (SAID + "error: Python saw it\n" + FATAL, "error: Python saw it\n"),
    (FATAL + "in RegisterTask\n", f"error: {processes.APART}\n"),
]
# Each is said by a fork of its own: the imports take longer than all else.
SAYS = """
import json, os, sys
from aejax.distributed import processes
heard = []
for said in json.loads(sys.argv[1]):
    out, into = os.pipe()
    if not (child := os.fork()):
        os.close(out)
        os.dup2(into, 2)
        os.close(into)
        processes._read_errors()
        os.write(2, said.encode())
        print("from above", file=sys.stderr)
        raise SystemExit
    os.close(into)
    with os.fdopen(out) as end:
        heard.append(end.read())
    os.waitpid(child, 0)
print(json.dumps(heard))
"""


@pytest.mark.slow
def test_of_what_jaxlib_says_of_a_lost_process_one_line_is_left():
    sayings = json.dumps([said for said, _ in SAYINGS])
    (process,) = start(1, lambda at, n, i: ["-c", SAYS, sayings], stdout=subprocess.PIPE)
    heard, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    left = [said.replace("from above\n", "", 1) for said in json.loads(heard)]
    assert left == [left for _, left in SAYINGS]
