"""One contender in a process of its own: python -m experiments.benchmark.contender WORK CONTENDER given.npz

Does what lines on its input say, one at a time, and answers each by a line of JSON: `check`, its parameters
and the values that equal work makes equal; `turn`, the seconds and images of a round, and the seconds of the
cores that others took meanwhile; `peak`, its memory.
"""

import contextlib
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

from experiments.benchmark.contenders import CONTENDERS, Contender
from experiments.benchmark.given import Given
from experiments.benchmark.works import WORKS
from experiments.machine import busy_seconds


def build(work: str, name: str, file: Path) -> Contender:
    entry = CONTENDERS[name]
    module = importlib.import_module(f"experiments.benchmark.contenders.{entry.module}")
    return getattr(module, entry.kind or WORKS[work].kind)(WORKS[work], Given.read(file), entry.variant)


def serve(build: Callable[[], Contender], commands: Iterable[str], answers: TextIO) -> None:
    """Builds the contender when the first command comes, so that it disturbs nobody before its turn."""
    contender = None
    try:
        for command in commands:
            contender = contender or build()
            print(json.dumps(_answer(contender, command.strip())), file=answers, flush=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:500]
        print(json.dumps({"error": f"{type(error).__name__}: {reason}"}), file=answers, flush=True)


def _answer(contender: Contender, command: str) -> dict[str, Any]:
    if command == "check":
        return {"parameters": contender.parameters, **contender.check()}
    if command == "turn":
        begin, busy, own = time.perf_counter(), busy_seconds(), time.process_time()
        images = contender.turn()
        seconds, own = time.perf_counter() - begin, time.process_time() - own
        return {"seconds": seconds, "images": images, "others": busy_seconds() - busy - own}
    return {"peak_gib": contender.peak()}


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to what is now the error stream, and answers stay alone
    with contextlib.suppress(BrokenPipeError):
        serve(lambda: build(sys.argv[1], sys.argv[2], Path(sys.argv[3])), sys.stdin, answers)
