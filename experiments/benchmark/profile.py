"""Where the time of a training step goes: JAX's profiler on a few steps, its events named by what traced them."""

import collections
import functools
import gzip
import json
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aejax import data
from aejax.step import init, train_step
from aejax.train import make_task
from experiments.benchmark import models

STEPS = 5
# Images of each work whose step is taken apart.
WORKS = {"vae": models.mnist_few, "conv": models.mnist_few, "vq_vae": models.squares}


def profile(rounds: int) -> dict[str, Any]:
    """By work: milliseconds of a step, and the share of each kind of operation, forwards and backwards.

    Beside them the machine's `matrix_rate`.
    """
    steps = {name: _of_step(getattr(models, name)(), images()) for name, images in WORKS.items()}
    return {"matrix_gflop_per_second": matrix_rate(3 * rounds), **steps}


def matrix_rate(rounds: int, size: int = 2048) -> int:
    """GFLOP/s of a product of two square matrices, the ceiling of all that is made of products."""
    a = jax.numpy.ones((size, size))
    product = jax.jit(jax.numpy.matmul)
    product(a, a).block_until_ready()
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        product(a, a).block_until_ready()
        seconds.append(time.perf_counter() - begin)
    return round(2 * size**3 / statistics.median(seconds) / 1e9)


def _of_step(config: Any, images: np.ndarray) -> dict[str, Any]:
    spec = data.Spec.of(data.from_array(images, None, name="images", size=0), False)
    task, key = make_task(config, spec, len(images)), jax.random.key(0)
    state = init(task, spec.shape, key)
    index = np.arange(config.batch_size, dtype=np.int32)
    batch = jax.device_put({"x": images[index], "index": index})
    step = jax.jit(functools.partial(train_step, task=task), donate_argnums=0).lower(state, batch, key).compile()
    state, _ = jax.block_until_ready(step(state, batch, key))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(STEPS):
                state, _ = jax.block_until_ready(step(state, batch, key))
        trace = json.loads(gzip.decompress(next(Path(folder).rglob("*.trace.json.gz")).read_bytes()))
    times = by_kind(trace["traceEvents"], step.as_text())
    total = sum(times.values())
    return {
        "batch_size": config.batch_size,
        "busy_ms": round(total / STEPS / 1e3, 1),  # of all operations, which may run side by side
        "shares": {kind: round(time / total, 3) for kind, time in times.most_common() if time > 0.01 * total},
    }


def origins(program: str) -> dict[str, str]:
    """By the name of each operation in a compiled program: a product or convolution, or the primitive traced for it."""
    found = re.findall(r'%?([\w.-]+) = (?:\([^)]*\)|\S+) ([\w-]+)\([^\n]*?op_name="([^"]*)"', program)
    kind = lambda opcode, path: opcode if opcode in ("dot", "convolution") else path.rpartition("/")[2]  # noqa: E731
    return {name: kind(op, path) + ", backwards" * ("transpose(" in path) for name, op, path in found}


def by_kind(events: list[dict[str, Any]], program: str) -> collections.Counter[str]:
    """Microseconds of the program's operations by their `origins`; without one, under the compiler's own name."""
    traced = origins(program)
    times: collections.Counter[str] = collections.Counter()
    for event in events:
        operation = event.get("args", {}).get("hlo_op")
        if event.get("ph") == "X" and operation:
            times[traced.get(operation, re.sub(r"[.\d]+$", "", operation))] += event["dur"]
    return times
