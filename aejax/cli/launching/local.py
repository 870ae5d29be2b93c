"""Executor on this machine: a bounded number of jobs at a time, each with its own devices."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import aejax
from aejax.cli.launching.job import STOPPED, Job, Result, last_line, start
from aejax.files import make_write_error

POLL = 0.1  # seconds
GRACE = 10.0  # seconds between SIGTERM and SIGKILL for the processes of a job in which one has died


@dataclass(frozen=True)
class Local:
    """Executor that runs at most `at_once` jobs at a time on this machine.

    The jobs divide the GPUs or TPU chips, and share them if there are fewer devices than jobs. `devices_per_process`
    runs on CPU, with this number of devices for XLA. `stream` sends the output of each job's first process to this
    terminal instead of its log.
    """

    at_once: int = 1
    devices_per_process: int | None = None
    stream: bool = False

    def run(self, jobs: Sequence[Job], stop: Callable[[], bool]) -> Iterator[Result]:
        kind, devices = ("cpu", []) if self.devices_per_process else accelerators()
        shares = divided(devices, self.at_once)
        for job in jobs:
            check(job, kind, len(shares[0]))
        waiting, running = list(jobs), dict[int, _Running]()
        told = False
        try:
            while waiting or running:
                if stop() and not told:
                    told = True
                    for started in running.values():
                        started.leave()
                    yield from (Result(job.name, STOPPED, "not started") for job in waiting)
                    waiting.clear()
                for slot in range(self.at_once):
                    if slot not in running and waiting:
                        shared = shares.count(shares[slot]) > 1
                        envs = environments(kind, shares[slot], waiting[0].processes, self, shared)
                        running[slot] = _Running(waiting.pop(0), envs, self.stream)
                for slot, started in list(running.items()):
                    result = started.result()
                    if result:
                        del running[slot]
                        yield result
                time.sleep(POLL)
        finally:  # after a second Ctrl-C, or when the caller stops reading results
            for started in running.values():
                started.kill()


class _Running:
    """Processes of one job."""

    def __init__(self, job: Job, envs: Sequence[Mapping[str, str]], stream: bool):
        self.job, self.stream, self.deadline = job, stream, float("inf")
        self.died: int | None = None  # the first process that failed
        self.processes = list[subprocess.Popen]()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        try:
            for i, env in enumerate(envs):
                argv = (*job.argv, *together(f"127.0.0.1:{port}", job.processes, i))
                # In its own session, as Ctrl-C at the terminal would reach the process twice, directly and by `leave`.
                log = None if stream and i == 0 else job.log_of(i)
                self.processes.append(start(argv, log, env, start_new_session=True))
        except BaseException as error:
            self.kill()
            if isinstance(error, OSError):
                raise make_write_error(job.log, error, "remove the link") from error
            raise

    def leave(self) -> None:
        """Asks all processes to save and exit."""
        for process in self.processes:
            process.terminate()

    def kill(self) -> None:
        """Kills all processes and the processes that they have started."""
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def result(self) -> Result | None:
        """Returns None while the job runs. When one process dies, ends the others, which would wait for it."""
        statuses = [process.poll() for process in self.processes]
        if self.died is None:
            self.died = next((i for i, s in enumerate(statuses) if s not in (None, 0, STOPPED)), None)
            if self.died is not None:
                self.leave()
                self.deadline = time.monotonic() + GRACE
        if time.monotonic() > self.deadline:
            self.kill()
        elif None in statuses:
            return None
        if self.died is None:
            return Result(self.job.name, STOPPED if STOPPED in statuses else 0)
        seen = self.stream and self.died == 0
        error = "" if seen else last_line(self.job.log_of(self.died))
        status = self.processes[self.died].returncode
        if status < 0:  # a signal, about which the process itself cannot have written anything
            error = f"ended by {signal.Signals(-status).name}" + f"; its last line: {error}" * bool(error)
        if len(statuses) > 1:
            error = f"process {self.died} of {len(statuses)}: {error or 'see above'}"
        return Result(self.job.name, status if status > 0 else 128 - status, error)


def check(job: Job, kind: str, devices: int) -> None:
    """Raises InputError if the processes of a job cannot have devices of their own."""
    if kind == "tpu" and job.processes > 1:
        raise aejax.InputError("one process uses all TPU chips of a machine; leave out --processes")
    if kind == "gpu" and devices % job.processes:
        raise aejax.InputError(
            f"{devices} GPUs cannot be divided among {job.processes} processes; choose --processes so that they can"
        )


def accelerators() -> tuple[str, list[str]]:
    """Returns ("gpu", "tpu" or "cpu", the numbers of the devices) of this machine without starting JAX."""
    for kind, variable, patterns in (
        ("gpu", "CUDA_VISIBLE_DEVICES", ("nvidia[0-9]*",)),
        ("tpu", "TPU_VISIBLE_CHIPS", ("accel[0-9]*", "vfio/[0-9]*")),
    ):
        files = next((there for pattern in patterns if (there := list(Path("/dev").glob(pattern)))), [])
        # Counted from 0, whatever the files are called in a container.
        found = [str(number) for number in range(len(files))]
        if variable in os.environ:
            found = [device for device in os.environ[variable].split(",") if device not in ("", "-1")]
        if found and os.environ.get("JAX_PLATFORMS") != "cpu":
            return kind, found
    return "cpu", []


def divided(devices: Sequence[str], slots: int) -> list[list[str]]:
    """Divides the devices into `slots` equal groups of neighbors. If they are fewer, each slot gets one, in turn."""
    each = len(devices) // slots
    if not each:
        return [list(devices[i % len(devices) :][:1]) if devices else [] for i in range(slots)]
    return [list(devices[i * each :][:each]) for i in range(slots)]


def environments(
    kind: str, devices: Sequence[str], processes: int, local: Local, shared: bool = False
) -> list[dict[str, str]]:
    """Returns variables that give each process its part of the job's devices, which may be `shared` with other jobs."""
    if kind == "gpu":
        name = "XLA_PYTHON_CLIENT_PREALLOCATE"  # by default JAX takes most of a GPU, and the next job fails
        memory = {name: os.environ.get(name, "false")} if shared else {}
        return [{"CUDA_VISIBLE_DEVICES": ",".join(share), **memory} for share in divided(devices, processes)]
    if kind == "tpu" and local.at_once > 1:  # one chip each, as the wiring of several would have to be described
        bounds = dict.fromkeys(("TPU_CHIPS_PER_PROCESS_BOUNDS", "TPU_PROCESS_BOUNDS"), "1,1,1")
        return [{"TPU_VISIBLE_CHIPS": devices[0], **bounds}]
    if local.devices_per_process:
        forced = f"--xla_force_host_platform_device_count={local.devices_per_process}"
        flags = f"{os.environ.get('XLA_FLAGS', '')} {forced}".strip()  # if two flags force a count, the last one holds
        return [{"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}] * processes
    return [{}] * processes


def together(coordinator: str, processes: int, process: int) -> tuple[str, ...]:
    """Returns the flags by which the processes of a job find each other, or none for a single process."""
    if processes == 1:
        return ()
    return (f"--coordinator={coordinator}", f"--processes={processes}", f"--process={process}")
