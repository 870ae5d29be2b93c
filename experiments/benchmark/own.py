"""aejax against itself.

loop: how much of its own bare jitted step the whole loop reaches. The loop is all that a run does
between two checkpoints: batches, logs, validation, asynchronous saves. The bare step is the same
compiled function on batches that are already on the device. Both average parameters, and take turns in
one process; medians count. About 6 minutes on two CPU cores.

evaluation: seconds of `experiments.evaluate` on a trained MLP VAE, and seconds and peak memory of
importance-sampled likelihoods under a VAE of 784-400-20. About 6 minutes.
"""

import importlib
import math
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from aejax import Run, data
from aejax.config import module
from aejax.distributed.partition import Partition
from aejax.training.loop import train
from aejax.training.multistep import batches, compile_steps, steps_at_once
from aejax.training.step import Task, eval_variables, init
from aejax.training.task import make_task
from experiments.machine import peak_gib

# Config, its argument, steps between two checkpoints.
WORK = {"conv": ("conv", "", 50), "mlp": ("stacked", "mnist", 1_000)}


def loop_against_step(name: str, arg: str, every: int, rounds: int) -> dict:
    """Images per second of the loop and of the bare step, alternately; with averaged parameters."""
    config = importlib.import_module(f"configs.{name}").get_config(arg).unlock()
    config.update({"checkpoint_every": every, "steps": 3 * every, "ema": 0.999})
    splits = data.load(config.data)
    spec = data.Spec.of(splits.train, config.data.standardize)
    task = make_task(config, spec)
    at_once = steps_at_once(task, config.steps, config.log_every, every)
    bare = _bare_step(config, splits, spec, task, at_once, every)
    measured: dict[str, list[float]] = {"loop": [], "bare": []}
    for _ in range(rounds):
        measured["bare"].append(bare())
        measured["loop"].append(_loop(config, splits, every // at_once))
    rates = {key: every * config.batch_size / statistics.median(value) for key, value in measured.items()}
    return {
        "config": f"{name}:{arg}",
        "batch_size": config.batch_size,
        "steps": every,
        "steps_at_once": at_once,
        "loop_images_per_second": round(rates["loop"], 1),
        "bare_images_per_second": round(rates["bare"], 1),
        "loop_over_bare": round(rates["loop"] / rates["bare"], 4),
        "seconds": {key: [round(v, 3) for v in value] for key, value in measured.items()},
    }


def _loop(config, splits: data.Splits, dispatches: int) -> float:
    """Seconds from the first dispatch after one checkpoint to the first after the next, so many dispatches later."""
    times: list[float] = []

    def stop() -> bool:
        times.append(time.perf_counter())
        return len(times) > 2 * dispatches

    with tempfile.TemporaryDirectory() as workdir:
        train(config, workdir, data=splits, stop=stop)
    return times[2 * dispatches] - times[dispatches]


def _bare_step(config, splits: data.Splits, spec: data.Spec, task: Task, at_once: int, steps: int):
    partition, key = Partition(), jax.random.key(config.seed)
    feed = data.Feed(splits.train, 2**31, partition.replicate)
    compiled = compile_steps(task, key, partition)
    placed = list(batches(feed, config.batch_size, config.seed, partition, at_once, range(steps)))
    return timed(compiled, partition.replicate(init(task, spec.shape, key)), feed.held, placed)


def timed(compiled, state, held, dispatches: list):
    """Seconds of all dispatches, at each call; once through the first of them before, which compiles."""
    state, _ = jax.block_until_ready(compiled(state, held, dispatches[0]))

    def run() -> float:
        nonlocal state
        begin = time.perf_counter()
        for batch in dispatches:
            state, metrics = compiled(state, held, batch)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - begin

    return run


def sentence(results: dict) -> str:
    """What the README says of it."""
    shares = (
        f"{results[name]['loop_over_bare']:.0%} for {what}" for name, what in (("conv", "`conv`"), ("mlp", "the MLP"))
    )
    return f"{' and '.join(shares)} of its own bare jitted step's images per second"


def loop(rounds: int) -> dict:
    """`loop_against_step` of each of WORK."""
    return {name: loop_against_step(config, arg, every, rounds) for name, (config, arg, every) in WORK.items()}


def evaluation(rounds: int) -> dict:
    """Whole commands on a trained `vae`; likelihoods of MNIST's test images under `_likelihoods`' model."""
    with tempfile.TemporaryDirectory() as workdir:
        train(importlib.import_module("configs.vae").get_config(), workdir)
        command = [sys.executable, "-m", "experiments.evaluate", f"--workdir={workdir}"]
        seconds = [_seconds(lambda: subprocess.run(command, check=True)) for _ in range(rounds)]
    return {"evaluate": {"config": "vae", "seconds": seconds}, "log_likelihood": _likelihoods(rounds)}


def _likelihoods(rounds: int) -> list[dict]:
    """For each number of samples: seconds, compilation left out, and the process's peak memory so far."""
    config = importlib.import_module("configs.common").mlp(module("gaussian", features=20), hidden=(400,))
    splits = data.load(config.data)
    spec = data.Spec.of(splits.train, standardize=False)
    x = data.read(splits.test)["x"]
    variables = eval_variables(init(make_task(config, spec), spec.shape, jax.random.key(0)))
    run = Run(config, spec, 0, jax.device_get(variables), np.zeros((1, 20), np.float32), x[:1], x[:1])
    found = []
    for images, samples in ((10_000, 200), (100, 20_000)):  # the same number of draws
        run.log_likelihood(x[:images], samples)
        seconds = [_seconds(lambda: run.log_likelihood(x[:images], samples)) for _ in range(rounds)]  # noqa: B023
        peak = peak_gib()
        found.append({"images": images, "samples": samples, "seconds": seconds, "peak_gib": round(peak, 2)})
    return found


def sentence_on_evaluation(results: dict) -> str:
    """What the README says of it."""
    whole = statistics.median(results["evaluate"]["seconds"])
    short, long = results["log_likelihood"]
    peak = max(short["peak_gib"], long["peak_gib"])
    return (
        f"On two cores the whole evaluation of this VAE takes {whole:.0f} s, {short['samples']} importance samples of "
        f"each of {short['images']:,} images under a VAE of 784-400-20 {statistics.median(short['seconds']):.0f} s; "
        f"memory stays below {math.ceil(peak * 10) / 10:.1f} GiB, with {long['samples']:,} samples too"
    )


def _seconds(function) -> float:
    begin = time.perf_counter()
    function()
    return round(time.perf_counter() - begin, 1)
