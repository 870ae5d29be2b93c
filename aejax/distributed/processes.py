"""Entry and exit of the processes of a run: together at the end, with one line each when one of them is lost."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from aejax.errors import AejaxError, InputError, LostError, kind_and_words

LOST = (
    "another process of the run was lost; look at its last messages, and run the same command again on all: "
    "it resumes from the newest checkpoint"
)
APART = (
    "the processes did not find each other; start all of them within a minute, each with another --process=, and "
    "check that the others can reach the first at --coordinator="
)
TIMEOUT = 60  # seconds within which all processes must have joined
HEARTBEAT = 20  # seconds without a sign of life after which a process is lost

# When a peer is lost, jaxlib ends the process by SIGABRT, after pages of text that Python cannot suppress. This reader
# keeps jaxlib's records to itself, each a line with a mark at its beginning and the lines up to the next mark, and
# prints one line in their place.
_READER = f"""
import re, sys
kept, ours, printed = "", False, False
for line in sys.stdin:
    if line.startswith("error: "):  # a line of its own, perhaps in the middle of one of jaxlib's records
        print(line, end="", file=sys.stderr, flush=True)
        printed = True
        continue
    if re.match(r"[IWEF]\\d{{4}} |Fatal|Traceback", line):
        ours = re.match(r"[IWEF]\\d{{4}} .*?(coordination_|preemption_|client\\.h)", line)
    if ours:
        kept += line
    elif not line.startswith("[Gloo]"):
        print(line, end="", file=sys.stderr, flush=True)
if re.search(r"^F\\d{{4}} .*client\\.h", kept, re.M) and not printed:
    print("error: {APART}" if "RegisterTask" in kept else "error: {LOST}", file=sys.stderr)
"""


@contextlib.contextmanager
def join(coordinator: str = "", processes: int = 0, process: int = -1) -> Iterator[None]:
    """Joins the run's processes; at the end of the context, waits for the others. Enter it before JAX uses a device.

    When a peer is lost later, the process prints one line and ends by SIGABRT within HEARTBEAT seconds, or raises
    LostError if a collective operation fails first.

    Args:
      coordinator: host:port at which the first process listens; defaults to the cluster's environment (Slurm, Open
        MPI, TPU, ...) for all arguments.
      processes: the number of processes.
      process: the index of this one, from 0.

    Raises:
      InputError: the arguments do not fit together, or the environment does not describe the processes.
      LostError: the others cannot be reached within TIMEOUT seconds.
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
        raise LostError(f"{APART} ({kind_and_words(error)})") from error
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # a ValueError if the program had not been dispatched
        if isinstance(error, AejaxError) or not re.search("Gloo|NCCL|UNAVAILABLE|[Cc]onnection", str(error)):
            raise
        raise LostError(f"{LOST} ({kind_and_words(error)})") from error
    jax.distributed.shutdown()


def leave(error: AejaxError) -> None:
    """Ends this process with an error, without waiting for the others, which notice its missing heartbeat."""
    os.write(2, f"error: {error}\n".encode())  # to the reader, as jaxlib may report the same at this moment
    if jax.process_index() == 0:
        time.sleep(5)  # the others end as soon as the first process does, and need time to print their own errors
    os._exit(1)


def _check(coordinator: str, processes: int, process: int) -> None:
    """Raises InputError for arguments that do not fit together."""
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdigit() and 0 < int(port) < 2**16):
        raise InputError(f"--coordinator={coordinator} must be host:port, e.g. 10.0.0.1:1234")
    if processes < 1:
        raise InputError(f"--processes={processes} must be the number of all processes, 1 or more")
    if not 0 <= process < processes:
        raise InputError(f"--process={process} must be from 0 to {processes - 1}, another one for each process")


def _read_errors() -> None:
    """Redirects jaxlib's output through `_READER` to stderr; Python's own stdout and stderr stay as they were."""
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


def is_preempted(number: int) -> bool:
    """Returns whether a process of the run is about to be preempted, according to the cluster or a SIGTERM.

    `number` counts the calls from 1 in every process: all processes get the same answer for the same number.
    """
    try:
        return multihost_utils.reached_preemption_sync_point(number)
    except RuntimeError:  # JAX's configuration has the service off
        return False
