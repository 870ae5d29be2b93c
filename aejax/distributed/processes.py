"""Joining the processes of a run, and leaving them: together at the end, in one line when one of them is lost."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import jax

from aejax.errors import AejaxError, InputError, LostError

LOST = (
    "another process of the run was lost; look at what it said last, and run the same command again on all: "
    "it goes on from the newest checkpoint"
)
APART = (
    "the processes did not find each other; start all of them within a minute, each with another --process=, and see "
    "that the others can reach the first at --coordinator="
)
TIMEOUT = 60  # seconds in which the others must have come
HEARTBEAT = 20  # seconds without a sign of life after which a process is lost

# jaxlib ends a process whose peer was lost by SIGABRT, after pages of text that nothing in Python can stop. A record is
# a line with a mark at its beginning and what follows up to the next; one line of ours tells all that these do.
_READER = f"""
import re, sys
held, ours, told = "", False, False
for line in sys.stdin:
    if line.startswith("error: "):  # a line of its own, perhaps in the middle of one of jaxlib's records
        print(line, end="", file=sys.stderr, flush=True)
        told = True
        continue
    if re.match(r"[IWEF]\\d{{4}} |Fatal|Traceback", line):
        ours = re.match(r"[IWEF]\\d{{4}} .*?(coordination_|preemption_|client\\.h)", line)
    if ours:
        held += line
    elif not line.startswith("[Gloo]"):
        print(line, end="", file=sys.stderr, flush=True)
if re.search(r"^F\\d{{4}} .*client\\.h", held, re.M) and not told:
    print("error: {APART}" if "RegisterTask" in held else "error: {LOST}", file=sys.stderr)
"""


@contextlib.contextmanager
def join(coordinator: str = "", processes: int = 0, process: int = -1) -> Iterator[None]:
    """Makes this process number `process` of `processes`, from 0, whose first listens at `coordinator`, host:port.

    Without them the cluster's environment (Slurm, Open MPI, TPU, ...) says who takes part. To be entered before JAX
    is asked for a device. Left at the end, it waits for the others.

    Raises InputError for numbers that make no sense or an environment that says nothing, LostError where the others
    cannot be reached within TIMEOUT seconds. A process whose peer is lost later says so and ends by SIGABRT, HEARTBEAT
    seconds after that at the latest; or it raises LostError, where the lost one was seen to go.
    """
    if coordinator:
        _check(coordinator, processes, process)
    _read_errors()
    try:
        jax.distributed.initialize(
            coordinator or None,
            processes or None,
            process if coordinator else None,
            initialization_timeout=TIMEOUT,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except ValueError as error:
        raise InputError(
            f"the cluster's environment does not say who takes part ({error}); "
            "give --coordinator=host:port --processes=N --process=I"
        ) from error
    except RuntimeError as error:
        raise LostError(f"{APART} ({_shorten(error)})") from error
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # a ValueError where a program was not yet on its way
        if isinstance(error, AejaxError) or not re.search("Gloo|NCCL|UNAVAILABLE|[Cc]onnection", str(error)):
            raise
        raise LostError(f"{LOST} ({_shorten(error)})") from error
    jax.distributed.shutdown()


def leave(error: AejaxError) -> None:
    """Ends this process of several by an error, without waiting for the others: they are told by its silence."""
    os.write(2, f"error: {error}\n".encode())  # to the reader: jaxlib may be saying the same at this moment
    if jax.process_index() == 0:
        time.sleep(5)  # without the first the others are ended at once, and could not say what they met themselves
    os._exit(1)


def _check(coordinator: str, processes: int, process: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdigit() and 0 < int(port) < 2**16):
        raise InputError(f"--coordinator={coordinator} must be host:port, e.g. 10.0.0.1:1234")
    if processes < 1:
        raise InputError(f"--processes={processes} must be the number of all processes, 1 or more")
    if not 0 <= process < processes:
        raise InputError(f"--process={process} must be from 0 to {processes - 1}, another one for each process")


def _shorten(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _read_errors() -> None:
    """Sends what jaxlib writes, to stdout as well, through `_READER` to stderr; Python writes where it wrote before."""
    sys.stdout.flush()
    sys.stderr.flush()
    out, err = os.dup(1), os.dup(2)
    reader = subprocess.Popen(
        [sys.executable, "-SEc", _READER], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    assert reader.stdin
    os.dup2(reader.stdin.fileno(), 1)
    os.dup2(reader.stdin.fileno(), 2)
    reader.stdin.close()
    sys.stdout, sys.stderr = os.fdopen(out, "w", buffering=1), os.fdopen(err, "w", buffering=1)
