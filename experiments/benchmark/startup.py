"""Seconds from starting the command to the end of its first training step, and where they go.

The command is a user's, `python -m experiments.train --config=configs/conv.py:mnist`, to train for one step. A run
writes the first line of its metrics.jsonl when the numbers of that step have come from the device, before it
validates or saves anything: when the line is there, the step is done, and the command is stopped. The clock looks every
5 ms. Cold: with empty caches of programs and of decoded data. Warm: once more, with what the cold start left there.
"""

import importlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from aejax.cli.__main__ import main

CONFIG = "configs/conv.py:mnist"
# What jax.monitoring calls the stages of a compilation.
STAGES = {
    "trace": "/jax/core/compile/jaxpr_trace_duration",
    "lower": "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "compile": "/jax/core/compile/backend_compile_duration",  # or reading the cache
}


def startup(rounds: int, config: str = CONFIG) -> dict[str, Any]:
    """Seconds of each round, cold and warm; and once for each, with a profile that costs a little, where they go."""
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            for kind in seconds:
                seconds[kind].append(_to_first_step(config, cache))
    with tempfile.TemporaryDirectory() as cache:
        profiles = {kind: _profile(config, cache) for kind in seconds}
    medians = {kind: round(statistics.median(values), 2) for kind, values in seconds.items()}
    return {"config": config, **medians, "seconds": seconds, "profile": profiles, "imports": imports()}


def _to_first_step(config: str, cache: str) -> float:
    with tempfile.TemporaryDirectory() as workdir, tempfile.TemporaryFile() as said:
        metrics = Path(workdir) / "run/metrics.jsonl"
        command = [sys.executable, "-m", "experiments.train", *_arguments(config, f"{workdir}/run")]
        begin = time.perf_counter()
        with subprocess.Popen(command, env=_env(cache), stdout=said, stderr=said) as child:
            try:
                while not (metrics.exists() and metrics.stat().st_size):
                    if child.poll() is not None:
                        said.seek(0)
                        raise RuntimeError(f"no first step: {said.read().decode().splitlines()[-1:]}")
                    time.sleep(0.005)
                return round(time.perf_counter() - begin, 2)
            finally:
                child.kill()


def _arguments(config: str, workdir: str) -> list[str]:
    return [f"--config={config}", f"--workdir={workdir}", "--config.steps=1", "--config.log_every=1"]


def _env(cache: str) -> dict[str, str]:
    return {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{cache}/programs", "XDG_CACHE_HOME": cache}


def _profile(config: str, cache: str) -> dict[str, float]:
    """Seconds of each stage of one start, see `_profiled`."""
    with tempfile.TemporaryDirectory() as workdir:
        begin = str(time.perf_counter())
        command = [sys.executable, "-m", "experiments.benchmark.startup", begin, *_arguments(config, f"{workdir}/run")]
        output = subprocess.run(command, env=_env(cache), check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def _profiled(begin: float, arguments: list[str]) -> None:
    """Runs the command in this process up to its first step; prints the seconds of each stage as JSON, and leaves.

    imports: until the command's own code runs. data: finding, decoding and placing it. trace, lower, compile: of all
    programs, without those for validation and samples, which come later. rest: the step itself, initial values,
    files. `begin` is the parent's time.perf_counter(), which is the same clock in all processes on Linux.
    """
    import jax

    modules = ("aejax.training.loop", "aejax.workdir.metrics_log", "aejax.cli.command")
    trainer, logs, command = map(importlib.import_module, modules)
    stages: Counter = Counter()
    names = {event: name for name, event in STAGES.items()}

    def on_event(event: str, seconds: float, **_: Any) -> None:
        if event in names:
            stages[names[event]] += seconds

    def timed(function: Any, name: str) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments, **more)
            stages[name] += time.perf_counter() - start
            return result

        return call

    def started(train: Any) -> None:
        stages["imports"] = time.perf_counter() - begin
        train()

    def done(*_: Any) -> None:
        total = time.perf_counter() - begin
        stages["rest"] = total - stages.total()
        print(json.dumps({name: round(seconds, 2) for name, seconds in {**stages, "total": total}.items()}), flush=True)
        os._exit(0)  # as the measured command is stopped, too

    jax.monitoring.register_event_duration_secs_listener(on_event)
    trainer.load, trainer.Feed = timed(trainer.load, "data"), timed(trainer.Feed, "data")
    command.run = (lambda run: lambda train: run(lambda: started(train)))(command.run)
    logs.Logs.train = done
    sys.argv = ["aejax", "train", *arguments]
    main()


def imports(slowest: int = 12) -> dict[str, float]:
    """Seconds of `aejax train`'s imports by `python -X importtime`: all, and the slowest packages with theirs."""
    command = [sys.executable, "-X", "importtime", "-c", "import aejax.cli.train"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    found = re.findall(r"import time:\s+\d+ \|\s+(\d+) \| +(\S+)", lines)
    seconds = {name: round(int(microseconds) / 1e6, 3) for microseconds, name in found}
    packages = [name for name in seconds if "." not in name]
    top = sorted(packages, key=lambda name: -seconds[name])[:slowest]
    return {"aejax.cli.train": seconds["aejax.cli.train"], **{name: seconds[name] for name in top}}


if __name__ == "__main__":
    _profiled(float(sys.argv[1]), sys.argv[2:])
