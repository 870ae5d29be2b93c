"""What a contender's process answers: `check`, its parameters and the values that equal work makes equal; `turn`, the
seconds and images of a round, and the seconds of the cores that others took meanwhile; `peak`, its memory.
"""

import functools
import importlib
import time
from pathlib import Path
from typing import Any

from experiments.benchmark.contenders import CONTENDERS, Contender, Given
from experiments.benchmark.works import WORKS
from experiments.machine import busy_seconds


@functools.cache  # built when the first question comes, so that it disturbs nobody before its turn
def build(work: str, name: str, file: Path) -> Contender:
    entry = CONTENDERS[name]
    module = importlib.import_module(f"experiments.benchmark.contenders.{entry.module}")
    return getattr(module, entry.kind or WORKS[work].kind)(WORKS[work], Given.read(file), entry.variant)


def check(*who: Any) -> dict[str, float]:
    return {"parameters": build(*who).parameters, **build(*who).check()}


def turn(*who: Any) -> dict[str, float]:
    contender = build(*who)
    begin, busy, own = time.perf_counter(), busy_seconds(), time.process_time()
    images = contender.turn()
    seconds, own = time.perf_counter() - begin, time.process_time() - own
    return {"seconds": seconds, "images": images, "others": busy_seconds() - busy - own}


def peak(*who: Any) -> dict[str, float]:
    return {"peak_gib": build(*who).peak()}
