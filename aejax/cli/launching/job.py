"""What an executor is given and what it gives back."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

STOPPED = os.EX_TEMPFAIL  # exit status of a command that was stopped, has saved, and goes on when it is given again


@dataclass(frozen=True)
class Job:
    """A command of Python's, e.g. ("-m", "aejax.cli", "train", "--config=...", "--workdir=...").

    With several `processes` each gets the flags by which they find each other. `log` gets what the command prints,
    behind what it holds; process 1 writes beside it, to <stem>.1<suffix>, and so on.
    """

    name: str
    argv: tuple[str, ...]
    log: Path
    processes: int = 1

    def log_of(self, process: int) -> Path:
        return self.log.with_name(f"{self.log.stem}.{process}{self.log.suffix}") if process else self.log


@dataclass(frozen=True)
class Result:
    """How a job ended: 0 done, STOPPED, or failed; then `error` is its last line."""

    name: str
    status: int
    error: str = ""


class Executor(Protocol):
    def run(self, jobs: Sequence[Job], stop: Callable[[], bool]) -> Iterator[Result]:
        """Runs the jobs; one result of each, in the order in which they end."""
        ...


def start(
    argv: Sequence[str], log: Path | None, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen:
    """Starts Python with `argv`, printing to `log`, or to this terminal where that is None; `options` are Popen's."""
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
    with _appended(log) if log else contextlib.nullcontext() as out:
        return subprocess.Popen(
            [sys.executable, *argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            **options,
        )


def _appended(log: Path) -> IO[bytes]:
    """As `aejax.storage.append`, which a compute node should not wait for: a link is not written through."""
    return open(log, "ab", opener=lambda path, flags: os.open(path, flags | os.O_NOFOLLOW, 0o666))


def last_line(log: Path, having: str = "") -> str:
    """The last line of a log that is not empty and has this in it; "" if there is none."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        lines = file.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip() and having in line), "")
