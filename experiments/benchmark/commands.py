"""Seconds of whole commands, as a user gives them.

startup: from giving the command that trains `conv` on MNIST to the end of its first step, cold (with empty caches of
programs and of decoded data) and warm (with what the cold start left there).

imports: of the package, and of a command's help.

evaluation: `evaluate` on a trained MLP VAE.

together: one `sweep --seeds=8` of a narrow MLP VAE, and eight times `train`. About 4 minutes a round on two CPU cores.
"""

import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from aejax.training.loop import train
from experiments.benchmark import goals

SEEDS = 8
NARROW = [
    "--config=configs/vae.py",
    "--config.encoder.features=(32,)",
    "--config.decoder.features=(32,)",
    "--config.batch_size=16",
]


def startup(rounds: int, config: str = "configs/conv.py:mnist") -> dict[str, Any]:
    """Measures the seconds to the first step in each round, cold and warm, and returns them with their medians."""
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            for kind in seconds:
                seconds[kind].append(_time_first_step(config, cache))
    medians = {kind: statistics.median(s) for kind, s in seconds.items()}
    reached = [goals.at_most(f"{config}: seconds from the command to its first step, cold", medians["cold"], 6)]
    return {"config": config, **medians, "seconds": seconds, "goals": reached}


def imports(rounds: int) -> dict[str, Any]:
    """Measures the seconds to import aejax, and to reach what it loads when asked, beside what it is made of."""
    programs = {
        "jax, flax.linen, optax": ["-c", "import jax, flax.linen, optax"],
        "aejax": ["-c", "import aejax"],
        "aejax.fit": ["-c", "import aejax; aejax.fit"],
        "aejax train --help": ["-m", "aejax.cli", "train", "--help"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds + 1):  # the first round fills the caches of files
        for name, arguments in programs.items():
            begin = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(round(time.perf_counter() - begin, 3))
    base, *medians = (statistics.median(s[1:]) for s in seconds.values())
    reached = [
        goals.at_most(f"import {name}: times as long as jax, flax.linen and optax", round(taken / base, 3), 1.15)
        for name, taken in zip(("aejax", "aejax.fit"), medians, strict=False)
    ]
    return {"seconds": seconds, "goals": [*reached, goals.at_most("aejax train --help: seconds", medians[-1], 0.3)]}


def _time_first_step(config: str, cache: str) -> float:
    """Returns the seconds until the first line of metrics.jsonl, which a run writes before it validates or saves."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{cache}/programs", "XDG_CACHE_HOME": cache}
    with tempfile.TemporaryDirectory() as workdir, tempfile.TemporaryFile() as output:
        metrics = Path(workdir) / "run/metrics.jsonl"
        steps = ["--config.steps=1", "--config.log_every=1"]
        command = _command("train", f"--config={config}", f"--workdir={metrics.parent}", *steps)
        begin = time.perf_counter()
        with subprocess.Popen(command, env=environment, stdout=output, stderr=output) as child:
            try:
                while not (metrics.exists() and metrics.stat().st_size):
                    if child.poll() is not None:
                        output.seek(0)
                        raise RuntimeError(f"no first step: {output.read().decode().splitlines()[-1:]}")
                    time.sleep(0.005)
                return round(time.perf_counter() - begin, 2)
            finally:
                child.kill()


def evaluation(rounds: int) -> dict[str, Any]:
    """Measures the seconds of the whole evaluation of configs/vae.py in each round."""
    with tempfile.TemporaryDirectory() as workdir:
        train(importlib.import_module("configs.vae").get_config(), workdir)
        seconds = [_time(_command("evaluate", f"--workdir={workdir}")) for _ in range(rounds)]
    return {"evaluate": {"config": "vae", "seconds": seconds}}


def together(rounds: int) -> dict[str, Any]:
    """Measures the seconds of a sweep over eight seeds and of eight commands, alternately."""
    seconds: dict[str, list[float]] = {"train": [], "sweep": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            runs = [[*NARROW, f"--workdir={folder}/{seed}", f"--config.seed={seed}"] for seed in range(SEEDS)]
            seconds["train"].append(round(sum(_time(_command("train", *run)) for run in runs), 1))
            sweep = _command("sweep", *NARROW, f"--workdir={folder}/together", f"--seeds={SEEDS}")
            seconds["sweep"].append(_time(sweep))
    ratio = statistics.median(seconds["train"]) / statistics.median(seconds["sweep"])
    found = {"config": " ".join(NARROW), "runs": SEEDS, "seconds": seconds, "times_as_fast": round(ratio, 2)}
    return {"commands": found}


def _command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"experiments.{name}", *arguments]


def _time(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True)
    return round(time.perf_counter() - begin, 1)
