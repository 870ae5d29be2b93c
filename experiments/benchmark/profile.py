"""Where the time of a training step goes, and how near it comes to what the machine can do.

JAX's profiler on a few steps, its events named by what traced them; beside it the machine's measured rates of matrix
products and of copies, and what share of them the step's operations and bytes are, by the compiler's own count.
"""

import collections
import functools
import gzip
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aejax import data
from aejax.distributed.partition import Partition
from aejax.training.multistep import compile_steps, steps_at_once
from aejax.training.step import init, train_step
from aejax.training.task import make_task
from experiments.benchmark.own import timed
from experiments.benchmark.works import ON_ACCELERATOR, ON_CPU, Work

TRACED, DISPATCHES = 5, 8


def profile(rounds: int) -> dict[str, Any]:
    """The machine's ceilings, and by work what `of_step` finds."""
    accelerated = jax.default_backend() != "cpu"
    size, dtype = (8_192, "bfloat16") if accelerated else (2_048, "float32")
    ceilings = {
        "matrix_gflop_per_second": matrix_rate(3 * rounds, size, dtype),
        "copy_gb_per_second": copy_rate(3 * rounds, 4 * size**2),
    }
    works = ON_ACCELERATOR if accelerated else {k: work for k, work in ON_CPU.items() if work.kind == "train"}
    steps = {}
    for name, work in works.items():
        print(f"profile: {name}", file=sys.stderr)
        steps[name] = of_step(work, rounds)
        steps[name]["share_of_matrix_rate"], steps[name]["share_of_copy_rate"] = (
            round(steps[name][amount] / steps[name]["step_ms"] / ceiling, 3)
            for amount, ceiling in zip(("gflop", "gb"), (rate / 1e3 for rate in ceilings.values()), strict=True)
        )
    return {**ceilings, **steps}


def matrix_rate(rounds: int, size: int = 2_048, dtype: str = "float32") -> int:
    """GFLOP/s of a product of two square matrices, the ceiling of all that is made of products."""
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    return round(2 * size**3 / _seconds(jax.numpy.matmul, (a, a), rounds) / 1e9)


def copy_rate(rounds: int, size: int) -> int:
    """GB/s of a copy of so many float32, read and written, the ceiling of all that is done value by value."""
    a = jax.random.normal(jax.random.key(0), (size,))
    return round(2 * a.nbytes / _seconds(lambda a: a + 1, (a,), rounds) / 1e9)


def _seconds(function: Callable[..., Any], arguments: tuple[Any, ...], rounds: int) -> float:
    compiled = jax.jit(function)
    jax.block_until_ready(compiled(*arguments))
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        jax.block_until_ready([compiled(*arguments) for _ in range(DISPATCHES)])
        seconds.append((time.perf_counter() - begin) / DISPATCHES)
    return statistics.median(seconds)


def of_step(work: Work, rounds: int) -> dict[str, Any]:
    """Of a step: `step_ms` in dispatches as training does them; operations and bytes by the compiler's count; `busy_ms`
    of all operations, which on CPU may run side by side; the share of each kind of operation, forwards and backwards.
    """
    images, config = work.images(), work.config()
    spec, partition = data.Spec(images.shape[1:]), Partition(jax.devices()[:1])
    task, key = make_task(config, spec, len(images)), jax.random.key(0)
    state, held = init(task, spec.shape, key), jax.device_put({"x": images})
    rows = np.stack(list(map(data.shuffle_rows(len(images), work.batch, 0), range(steps_at_once(task, 32)))))

    index = rows[0]
    batch = jax.device_put({"x": images[index], "index": index})
    jitted = jax.jit(functools.partial(train_step, task=task))
    with jax.default_device(jax.devices("cpu")[0]):  # a GPU's compiler does not count operations
        operations = jitted.lower(*jax.tree.map(jax.typeof, (state, batch, key))).cost_analysis()["flops"]
    step = jitted.lower(state, batch, key).compile()
    jax.block_until_ready(step(state, batch, key))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(TRACED):
                jax.block_until_ready(step(state, batch, key))
        trace = json.loads(gzip.decompress(next(Path(folder).rglob("*.trace.json.gz")).read_bytes()))
    times = by_kind(trace["traceEvents"], step.as_text())
    total = sum(times.values())

    compiled = compile_steps(task, key, partition)
    run = timed(compiled, partition.replicate(state), held, [partition.share({"index": rows}, axis=1)] * DISPATCHES)
    seconds = statistics.median(run() for _ in range(rounds)) / len(rows) / DISPATCHES
    return {
        "batch_size": work.batch,
        "step_ms": round(1e3 * seconds, 4),
        "busy_ms": round(total / TRACED / 1e3, 4),
        "gflop": round(operations / 1e9, 6),
        "gb": round(step.cost_analysis()["bytes accessed"] / 1e9, 6),
        "shares": {kind: round(time / total, 3) for kind, time in times.most_common() if time > 0.01 * total},
    }


def origins(program: str) -> dict[str, str]:
    """By the name of each operation in a compiled program: a product or convolution, or the primitive traced for it."""
    found = re.findall(r'%?([\w.-]+) = (?:\([^)]*\)|\S+) ([\w-]+)\([^\n]*?op_name="([^"]*)"', program)
    kind = lambda opcode, path: opcode if opcode in ("dot", "convolution") else path.rpartition("/")[2]  # noqa: E731
    return {name: kind(op, path) + ", backwards" * ("transpose(" in path) for name, op, path in found}


def by_kind(events: list[dict[str, Any]], program: str) -> collections.Counter[str]:
    """Microseconds of the program's operations by their `origins`; without one, under the compiler's own name.

    On a GPU what ran on its streams.
    """
    traced = origins(program)
    kernels = {name.replace(".", "_"): kind for name, kind in traced.items()}
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e.get("name") == "thread_name"}
    streams = {thread for thread, name in names.items() if name.startswith("Stream")}
    times: collections.Counter[str] = collections.Counter()
    for event in events:
        operation = event.get("args", {}).get("hlo_op")
        if streams:
            operation = (operation or event["name"]) if (event.get("pid"), event.get("tid")) in streams else None
        if event.get("ph") != "X" or not operation:
            continue
        if operation.startswith("command_buffer"):  # a CUDA graph: kernels are named as operations or by a library
            kind = kernels.get(event["name"], event["name"].partition("_")[0])
        else:
            kind = traced.get(operation, re.sub(r"[.\d]+$", "", operation))
        times[kind] += event["dur"]
    return times
