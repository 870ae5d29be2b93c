"""The whole training loop compared with its own bare jitted step.

The loop is everything that a run does between two checkpoints: batches, logs, validation, asynchronous saves. The bare
step is the same compiled function on batches that are already on the device. Both average parameters, and take turns in
one process; medians count. What the validation computes is measured, too, as it is work that the bare step lacks.
About 6 minutes on two CPU cores.
"""

import importlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from aejax import data
from aejax.distributed.partition import Partition
from aejax.training.evaluator import compile_validation
from aejax.training.loop import train
from aejax.training.multistep import batches, compile_steps, steps_at_once
from aejax.training.step import init
from aejax.training.task import Task, make_task
from experiments.benchmark import goals

# Config, its argument, steps between two checkpoints.
WORK = {"conv": ("conv", "", 50), "mlp": ("stacked", "mnist", 1_000)}


def loop(rounds: int) -> dict[str, Any]:
    """Compares the loop with its step for each of WORK."""
    found: dict[str, Any] = {}
    for name, (config, arg, every) in WORK.items():
        found[name] = compare_loop(config, arg, every, rounds)
    reached = [
        goals.at_least(f"loop of {name}: share of the speed of its {of_what}", of[key], 0.97)
        for name, of in found.items()
        for of_what, key in (
            ("bare step", "loop_over_bare"),
            ("bare step and validation", "loop_over_bare_and_validation"),
        )
    ]
    return {**found, "goals": reached}


def compare_loop(name: str, arg: str, every: int, rounds: int) -> dict[str, Any]:
    """Measures images per second of the loop and of the bare step in turns."""
    config = importlib.import_module(f"configs.{name}").get_config(arg).unlock()
    config.update({"checkpoint_every": every, "steps": 3 * every, "ema": 0.999})
    splits, partition, key = data.load(config.data), Partition(), jax.random.key(config.seed)
    spec = data.Spec.of(splits.train, config.data.standardize)
    task = make_task(config, spec)
    at_once = steps_at_once(task, config.steps, config.log_every, every)
    feed = data.Feed(splits.train, 2**31, partition.replicate)
    placed = list(batches(feed, config.batch_size, config.seed, partition, at_once, range(every)))
    state = partition.replicate(init(task, spec.shape, key))
    time_bare = timer(compile_steps(task, key, partition), state, feed.held, placed)
    held_out = data.Feed(splits.validation, 2**31, partition.replicate)
    time_validation = _timer_of_validation(task, config.batch_size, partition, held_out, key)
    measured: dict[str, list[float]] = {"loop": [], "bare": [], "validation": []}
    for _ in range(rounds):
        measured["bare"].append(time_bare())
        measured["validation"].append(time_validation())
        measured["loop"].append(_time_loop(config, splits, every // at_once))
    seconds = {key: statistics.median(value) for key, value in measured.items()}
    rates = {key: every * config.batch_size / seconds[key] for key in ("loop", "bare")}
    return {
        "config": f"{name}:{arg}",
        "batch_size": config.batch_size,
        "steps": every,
        "steps_at_once": at_once,
        "loop_images_per_second": round(rates["loop"], 1),
        "bare_images_per_second": round(rates["bare"], 1),
        "loop_over_bare": round(rates["loop"] / rates["bare"], 4),
        "loop_over_bare_and_validation": round((seconds["bare"] + seconds["validation"]) / seconds["loop"], 4),
        "seconds": {key: [round(v, 3) for v in value] for key, value in measured.items()},
    }


def timer(compiled: Callable[..., Any], state: Any, held: Any, dispatches: list) -> Callable[[], float]:
    """Compiles the step by its first dispatch; returns a function that runs all dispatches and returns the seconds."""
    state, _ = jax.block_until_ready(compiled(state, held, dispatches[0]))

    def run() -> float:
        nonlocal state
        begin = time.perf_counter()
        for batch in dispatches:
            state, metrics = compiled(state, held, batch)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - begin

    return run


def _timer_of_validation(task: Task, batch_size: int, partition: Partition, feed: data.Feed, key: jax.Array) -> Any:
    """Compiles the validation; returns a function that runs it once and returns the seconds."""
    validate = compile_validation(task, batch_size, partition, feed)
    state = partition.replicate(init(task, feed.source.shape, key))
    validate(state)

    def run() -> float:
        begin = time.perf_counter()
        validate(state)
        return time.perf_counter() - begin

    return run


def _time_loop(config: ConfigDict, splits: data.Splits, dispatches: int) -> float:
    """Returns the seconds from the first dispatch after one checkpoint to the first after the next."""
    times: list[float] = []

    def stop() -> bool:
        times.append(time.perf_counter())
        return len(times) > 2 * dispatches

    with tempfile.TemporaryDirectory() as workdir:
        train(config, workdir, data=splits, stop=stop)
    return times[2 * dispatches] - times[dispatches]
