"""How much of a training step lies on each device, by partition: a wide MLP VAE on one device of the host and on four.

Each is measured in a process of its own. `state` is what the shards on the first device take; `step` is the compiler's
own account of the program on one device, by `memory_analysis()`: its arguments, and what it holds beside them.
"""

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

import jax
import numpy as np

from aejax import data
from aejax.config import module
from aejax.distributed.partition import Partition
from aejax.training.multistep import compile_steps
from aejax.training.step import init
from aejax.training.task import make_task
from configs import common

MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Point:
    """A partition of so many devices, for 784-width-width-20-...-784."""

    name: str
    devices: int
    width: int = 2_048
    batch: int = 128


POINTS = [Point("pmap", 1), Point("pmap", 4), Point("sharded", 4)]


def partition(rounds: int, points: list[Point] = POINTS) -> dict[str, Any]:
    """What `measure` finds for each; the compiler says it, so that once is enough."""
    return {"points": [_in_a_process(point) for point in points]}


def _in_a_process(point: Point) -> dict[str, Any]:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={point.devices}"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "experiments.benchmark.partition", json.dumps(vars(point))]
    output = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def measure(point: Point) -> dict[str, Any]:
    """Of one device, in MiB.

    Returns:
      The point, and: `parameters`, their number; `state_mib`; of the step, `arguments_mib`, `temporary_mib`.
    """
    config = common.mlp(module("gaussian", features=20), hidden=(point.width, point.width))
    config.objective.weights.kl = 1.0
    spec, devices = data.Spec((28, 28, 1)), Partition(jax.devices(), point.name)
    task, key = make_task(config, spec, axis_name=devices.axis_name), jax.random.key(0)
    state = devices.place(devices.init(lambda key: init(task, spec.shape, key), key))
    images = np.random.default_rng(0).integers(0, 256, (1, point.batch, 28, 28, 1), np.uint8)
    batch = devices.share({"x": images, "index": np.arange(point.batch, dtype=np.int32)[None]}, axis=1)
    step: Any = compile_steps(task, key, devices)
    about = step.__wrapped__.lower(state, {}, batch).compile().memory_analysis()
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return {
        **dataclasses.asdict(point),
        "parameters": parameters,
        "state_mib": round(held / MIB, 1),
        "arguments_mib": round(about.argument_size_in_bytes / MIB, 1),
        "temporary_mib": round(about.temp_size_in_bytes / MIB, 1),
    }


if __name__ == "__main__":
    print(json.dumps(measure(Point(**json.loads(sys.argv[1])))))
