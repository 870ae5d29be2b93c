"""What the figures were measured on: machine, processes of their own, and how much memory these took."""

import contextlib
import os
import platform
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import get_context, parent_process
from pathlib import Path
from unittest import mock


def machine(peers: tuple[str, ...] = ()) -> dict:
    """Processor, cores and versions; of `peers`, those that are installed."""
    import jax  # peers' processes read their memory here and must not pay for jax

    return {
        "device": jax.devices()[0].device_kind,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint")},
        **{name: version(name) for name in peers if find_spec(name)},
        "date": datetime.now(UTC).date().isoformat(),
    }


def peak_gib() -> float:
    """The most memory that this process held at once.

    Not `ru_maxrss`, which begins with what the parent held when it started this process.
    """
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 2**20, 3)


@contextlib.contextmanager
def fresh_process(environment: Mapping[str, str]) -> Iterator[Executor]:
    """A pool of one process that has imported nothing yet, with these variables beside those of this one."""
    with ProcessPoolExecutor(1, get_context("spawn"), _begin) as pool:
        with mock.patch.dict(os.environ, environment):
            pool.submit(os.getpid).result()  # which starts it
        yield pool


def _begin() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries print what nobody asked for
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent_process().join()  # a pool's process would go on waiting for work if this one were killed
    os._exit(1)


def busy_seconds() -> float:
    """That the cores of this process have worked so far, for whom ever."""
    cores = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    # user, nice, system, (idle, iowait,) irq, softirq, steal, see proc(5)
    ticks = sum(int(line[i]) for line in lines if line[0] in cores for i in (1, 2, 3, 6, 7, 8))
    return ticks / os.sysconf("SC_CLK_TCK")


def _cpu() -> str:
    """Its name, and what tells processors of one name apart, which differ twofold in what they can do."""
    pairs = (line.partition(":") for line in cpuinfo())
    of = {key.strip(): value.strip() for key, _, value in pairs}
    told = ", ".join(f"{key.removeprefix('cpu ')} {of[key]}" for key in ("cpu family", "model") if key in of)
    return of.get("model name", platform.machine()) + f" ({told})" * bool(told)


def cpuinfo() -> list[str]:
    """Lines on the processor, where the system has them."""
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []
