"""Eight seeds of an MLP VAE in one program, against eight runs one after the other.

steps: images per second of the bare training steps, alternately, and what share of the machine's rate of matrix
products one run alone takes by the products of its layers: what is left bounds the gain.

commands: seconds of one `experiments.sweep --seeds=8` and of eight `experiments.train`, with all that they do: start,
data, validation, checkpoints. About 15 minutes on two CPU cores.
"""

import importlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from aejax import data
from aejax.config import module
from aejax.distributed.partition import Partition
from aejax.training.multistep import batches, compile_steps
from aejax.training.step import init
from aejax.training.task import make_task
from aejax.training.vmapped import compile_together, stack_trees
from experiments.benchmark.own import timed
from experiments.benchmark.profile import matrix_rate

SEEDS, STEPS, AT_ONCE = 8, 320, 32
WORK = {  # hidden units, latent units, batch
    "784-400-20, batch 128": (400, 20, 128),
    "784-400-20, batch 16": (400, 20, 16),
    "784-32-4, batch 16": (32, 4, 16),
}
COMMAND = (
    "--config=configs/vae.py",
    "--config.encoder.features=(32,)",
    "--config.decoder.features=(32,)",
    "--config.batch_size=16",
)


def together(rounds: int) -> dict[str, Any]:
    """By work: images per second and `times_as_fast`; the seconds of commands."""
    rate = matrix_rate(3 * rounds)
    return {"matrix_gflop_per_second": rate, "steps": {k: _steps(*v, rate, rounds) for k, v in WORK.items()}} | {
        "commands": {"config": " ".join(COMMAND), "runs": SEEDS, **_commands(max(1, rounds // 2))}
    }


def _steps(hidden: int, features: int, batch: int, rate: int, rounds: int) -> dict[str, float]:
    config = importlib.import_module("configs.common").mlp(module("gaussian", features=features), hidden=(hidden,))
    config.batch_size, config.objective.weights.kl = batch, 1.0
    (alone, products), (many, _) = (_of(config, runs) for runs in (1, SEEDS))
    seconds: dict[str, list[float]] = {"alone": [], "together": []}
    for _ in range(rounds):
        seconds["alone"].append(alone())
        seconds["together"].append(many())
    median = {key: statistics.median(value) for key, value in seconds.items()}
    return {
        "alone_images_per_second": round(STEPS * batch / median["alone"]),
        "together_images_per_second": round(SEEDS * STEPS * batch / median["together"]),
        "times_as_fast": round(SEEDS * median["alone"] / median["together"], 2),
        "alone_share_of_matrix_rate": round(products * STEPS / median["alone"] / rate / 1e9, 2),
    }


def _of(config: ConfigDict, runs: int) -> tuple[Any, int]:
    """Seconds of STEPS steps of so many seeds, at each call, the data on the device; operations of a run's products."""
    splits, partition = data.load(config.data), Partition()
    spec = data.Spec.of(splits.train, standardize=False)
    task = make_task(config, spec, len(splits.train))
    feed = data.Feed(splits.train, 2**31, partition.replicate)
    keys = [jax.random.key(seed) for seed in range(runs)]
    states = [init(task, spec.shape, key) for key in keys]
    kernels = sum(a.size for a in jax.tree.leaves(states[0].params) if a.ndim == 2)
    placed = [list(batches(feed, config.batch_size, seed, partition, AT_ONCE, range(STEPS))) for seed in range(runs)]
    if runs == 1:
        compiled, dispatches = compile_steps(task, keys[0], partition), placed[0]
    else:
        compiled, dispatches = compile_together(task, config, keys, {}, partition), list(zip(*placed, strict=True))
    # A product forwards, and one for the gradient of each of its two sides.
    return timed(compiled, stack_trees(states), feed.held, dispatches), 3 * 2 * kernels * config.batch_size


def _commands(rounds: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {"train": [], "sweep": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            for seed in range(SEEDS):
                _run("train", f"--workdir={folder}/{seed}", f"--config.seed={seed}")
            middle = time.perf_counter()
            _run("sweep", f"--workdir={folder}/together", f"--seeds={SEEDS}")
            seconds["train"].append(round(middle - begin, 1))
            seconds["sweep"].append(round(time.perf_counter() - middle, 1))
    ratio = statistics.median(seconds["train"]) / statistics.median(seconds["sweep"])
    return {"seconds": seconds, "times_as_fast": round(ratio, 2)}


def _run(command: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", f"experiments.{command}", *COMMAND, *arguments], check=True)


def sentence(results: dict[str, Any]) -> str:
    """What the README says of it."""
    steps, commands = results["steps"], results["commands"]
    work, best = max(steps.items(), key=lambda item: item[1]["times_as_fast"])
    usual = steps["784-400-20, batch 128"]
    return (
        f"eight seeds of a VAE of {work} train {best['times_as_fast']:.1f} times as fast as one after the other, of "
        f"784-400-20, batch 128 {usual['times_as_fast']:.1f} times, since one alone takes "
        f"{usual['alone_share_of_matrix_rate']:.0%} of two cores' rate of matrix products already; as commands, "
        f"{commands['times_as_fast']:.1f} times"
    )
