"""How near a training step comes to what the machine can do.

The measured rates are those of large matrix products and of copies; the operations and bytes of a step are the
compiler's own count. Small products are slower than large ones, and the optimizer reads and writes each parameter and
its moments whatever the rate of products. So the ceiling of a step of products is their time, each measured alone by
XLA and by NumPy, whichever is faster, and then that of the update alone. The goals are shares of this ceiling.
"""

import functools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from aejax import data
from aejax.distributed.partition import Partition
from aejax.training.multistep import compile_steps, steps_at_once
from aejax.training.step import Task, TrainState, init, train_step
from aejax.training.task import make_task
from experiments.benchmark import goals
from experiments.benchmark.loop import timer
from experiments.benchmark.works import ON_ACCELERATOR, ON_CPU, Work

DISPATCHES = 8
REPEATS = 32  # of what is measured alone, in one dispatch


def profile(rounds: int) -> dict[str, Any]:
    """Measures the machine's ceilings, and each step's time and share of them."""
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
        if products := steps[name].get("products_ms"):
            steps[name]["share_of_ceiling"] = round((products + steps[name]["update_ms"]) / steps[name]["step_ms"], 3)
    reached = [
        goals.at_least(
            f"{works[name].what}: share of the machine's ceiling, its products and its update alone",
            steps[name]["share_of_ceiling"],
            0.85,
        )
        for name in steps
        if "share_of_ceiling" in steps[name]
    ]
    return {**ceilings, **steps, "goals": reached}


def matrix_rate(rounds: int, size: int = 2_048, dtype: str = "float32") -> int:
    """Measures GFLOP/s of a product of two square matrices, the ceiling of everything that is made of products."""
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    return round(2 * size**3 / _seconds(jax.numpy.matmul, (a, a), rounds) / 1e9)


def copy_rate(rounds: int, size: int) -> int:
    """Measures GB/s of reading and writing `size` float32 values, the ceiling of everything done value by value."""
    a = jax.random.normal(jax.random.key(0), (size,))
    return round(2 * a.nbytes / _seconds(lambda a: a + 1, (a,), rounds) / 1e9)


def _seconds(function: Callable[..., Any], arguments: tuple[Any, ...], rounds: int) -> float:
    compiled = jax.jit(function)
    run = timer(lambda *_: (None, compiled(*arguments)), None, None, [None] * DISPATCHES)
    return statistics.median(run() for _ in range(rounds)) / DISPATCHES


def _time_update(task: Task, state: TrainState, rounds: int) -> float:
    """Returns the seconds of the optimizer's update of all parameters, given gradients in memory."""

    def update(params: Any, opt_state: Any) -> Any:
        def one(carry: Any, _: None) -> tuple[Any, None]:
            updates, opt_state = task.optimizer.update(jax.lax.optimization_barrier(params), carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), opt_state), None

        return jax.lax.scan(one, (params, opt_state), length=REPEATS)[0]

    return _seconds(update, (state.params, state.opt_state), rounds) / REPEATS


def _time_products(program: ClosedJaxpr, rounds: int) -> float:
    """Returns the seconds of a program's products of float32 matrices, each alone, by XLA or NumPy, the faster one."""
    products = [equation for equation in program.eqns if equation.primitive is jax.lax.dot_general_p]
    inner = [value for equation in program.eqns for value in equation.params.values() if isinstance(value, ClosedJaxpr)]
    return sum(_time_product(product, rounds) for product in products) + sum(
        _time_products(each, rounds) for each in inner
    )


def _time_product(product: JaxprEqn, rounds: int) -> float:
    """Returns the seconds of one product of two matrices, alone."""
    a, b = (np.random.default_rng(0).standard_normal(v.aval.shape, np.float32) for v in product.invars)
    ((left,), (right,)), _ = product.params["dimension_numbers"]
    result = np.zeros(product.outvars[0].aval.shape, np.float32)

    def by_numpy() -> float:
        begin = time.perf_counter()
        for _ in range(REPEATS):
            np.dot(a if left else a.T, b.T if right else b, out=result)
        return (time.perf_counter() - begin) / REPEATS

    def by_xla(a: Any, b: Any, result: Any) -> Any:
        def one(carry: Any, _: None) -> tuple[Any, None]:
            b, result = carry
            b = b.at[0, 0].set(result[0, 0] / a.size)  # or XLA would multiply once
            return (b, jax.lax.dot_general(a, b, product.params["dimension_numbers"])), None

        return jax.lax.scan(one, (b, result), length=REPEATS)[0]

    by_numpy()
    return min(_seconds(by_xla, (a, b, result), rounds) / REPEATS, statistics.median(by_numpy() for _ in range(rounds)))


def of_step(work: Work, rounds: int) -> dict[str, Any]:
    """Measures `step_ms`, of dispatches as in training, `update_ms`, and of a step without convolutions `products_ms`.

    The compiler counts `gflop` and `gb`.
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
    accessed = jitted.lower(state, batch, key).compile().cost_analysis()["bytes accessed"]
    alone = {"update_ms": _time_update(task, state, rounds)}
    if not task.convolves:
        alone["products_ms"] = _time_products(jax.make_jaxpr(jitted)(state, batch, key), rounds)
    dispatches = [partition.share({"index": rows}, axis=1)] * DISPATCHES
    run = timer(compile_steps(task, key, partition), partition.replicate(state), held, dispatches)
    seconds = statistics.median(run() for _ in range(rounds)) / len(rows) / DISPATCHES
    return {
        "batch_size": work.batch,
        "step_ms": round(1e3 * seconds, 4),
        **{name: round(1e3 * seconds, 4) for name, seconds in alone.items()},
        "gflop": round(operations / 1e9, 6),
        "gb": round(accessed / 1e9, 6),
    }
