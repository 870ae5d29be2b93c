"""Jobs, the input of an executor, and results, its output."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STOPPED = os.EX_TEMPFAIL  # exit status after a stop that saved, so that the same command resumes


@dataclass(frozen=True)
class Job:
    """Arguments of Python, e.g. ("-m", "aejax.cli", "train", "--config=...", "--workdir=...").

    With several `processes`, each gets flags to find the others. The output is appended to `log`; that of process 1 to
    <stem>.1<suffix> beside it, and so on.
    """

    name: str
    argv: tuple[str, ...]
    log: Path
    processes: int = 1

    def log_of(self, process: int) -> Path:
        return self.log.with_name(f"{self.log.stem}.{process}{self.log.suffix}") if process else self.log


@dataclass(frozen=True)
class Result:
    """End of a job. The status is 0, STOPPED, or that of a failure, whose last line is `error`."""

    name: str
    status: int
    error: str = ""


def start(
    argv: Sequence[str], log: Path | None, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen:
    """Starts Python with `argv` and Popen's `options`, with its output in `log`, or in this terminal for None."""
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
    # Like `aejax.files.append`, which refuses links, too, but takes a compute node longer to import.
    opener = lambda path, flags: os.open(path, flags | os.O_NOFOLLOW, 0o666)  # noqa: E731
    with open(log, "ab", opener=opener) if log else contextlib.nullcontext() as out:
        return subprocess.Popen(
            [sys.executable, *argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            **options,
        )


def last_line(log: Path, having: str = "") -> str:
    """Returns the last line of a log that is not empty and contains `having`, or "" if there is none."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 8192))
        lines = file.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip() and having in line), "")
