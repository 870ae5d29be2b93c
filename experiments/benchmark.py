"""How much of its own bare jitted step the whole loop reaches: python -m experiments.benchmark

The loop is all that a run does between two checkpoints: batches, logs, validation, asynchronous
saves. The bare step is the same compiled function on batches that are already on the device. Both
take turns in one process; medians count. Writes experiments/results/loop.json. About 6 minutes on
two CPU cores; needs MNIST (data.data_dir or TFDS_DATA_DIR).
"""

import importlib
import json
import os
import platform
import statistics
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import jax
from absl import flags

from aejax import data
from aejax.partition import Partition
from aejax.step import gather, init, train_step
from aejax.train import make_task, train
from experiments import main

_OUT = flags.DEFINE_string("out", "experiments/results/loop.json", "File to write.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Times that loop and bare step take turns.")
# Config, its argument, steps between two checkpoints.
WORK = {"conv": ("conv", "", 50), "mlp": ("stacked", "mnist", 1_000)}


def machine() -> dict:
    """What the figures were measured on."""
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    return {
        "device": jax.devices()[0].device_kind,
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint")},
        "date": datetime.now(UTC).date().isoformat(),
    }


def _cpuinfo() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def loop_against_step(name: str, arg: str, every: int, rounds: int) -> dict:
    """Images per second of the loop and of the bare step, alternately."""
    config = importlib.import_module(f"configs.{name}").get_config(arg).unlock()
    config.update({"checkpoint_every": every, "steps": 2 * every + 2})
    splits = data.load(config.data)
    bare = _bare_step(config, splits, every)
    measured: dict[str, list[float]] = {"loop": [], "bare": []}
    for _ in range(rounds):
        measured["bare"].append(bare())
        measured["loop"].append(_loop(config, splits, every))
    rates = {key: every * config.batch_size / statistics.median(value) for key, value in measured.items()}
    return {
        "config": f"{name}:{arg}",
        "batch_size": config.batch_size,
        "steps": every,
        "loop_images_per_second": round(rates["loop"], 1),
        "bare_images_per_second": round(rates["bare"], 1),
        "loop_over_bare": round(rates["loop"] / rates["bare"], 4),
        "seconds": {key: [round(v, 3) for v in value] for key, value in measured.items()},
    }


def _loop(config, splits: data.Splits, every: int) -> float:
    """Seconds from the first step after one checkpoint to the first after the next."""
    times: list[float] = []
    with tempfile.TemporaryDirectory() as workdir:
        train(config, workdir, data=splits, stop=lambda: times.append(time.perf_counter()) or False)
    return times[2 * every] - times[every]


def _bare_step(config, splits: data.Splits, steps: int):
    spec = data.Spec.of(splits.train, config.data.standardize)
    task = make_task(config, spec)
    partition = Partition()
    key = jax.random.key(config.seed)
    step = partition.compile(
        lambda state, held, batch, reduce: train_step(state, gather(held, batch), key, task=task, reduce=reduce)
    )
    held = partition.replicate(data.read(splits.train))
    rows = [data.rows(len(splits.train), config.batch_size, config.seed, i) for i in range(steps)]
    batches = [partition.share({"index": r}) for r in rows]
    state, _ = step(partition.replicate(init(task, spec.shape, key)), held, batches[0])

    def run() -> float:
        nonlocal state
        begin = time.perf_counter()
        for batch in batches:
            state, metrics = step(state, held, batch)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - begin

    return run


def sentence(results: dict) -> str:
    """What the README says of it."""
    shares = (
        f"{results[name]['loop_over_bare']:.0%} for {what}" for name, what in (("conv", "`conv`"), ("mlp", "the MLP"))
    )
    return f"{' and '.join(shares)} of its own bare jitted step's images per second"


def benchmark() -> None:
    results = {"machine": machine()}
    for name, (config, arg, every) in WORK.items():
        results[name] = loop_against_step(config, arg, every, _ROUNDS.value)
        print(json.dumps({name: results[name]}))
    Path(_OUT.value).write_text(json.dumps(results, indent=2) + "\n")
    print(sentence(results))


if __name__ == "__main__":
    main.run(benchmark)
