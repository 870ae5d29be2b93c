"""aejax."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from aejax import Run
from aejax.data import Spec
from aejax.distributed.partition import Partition
from aejax.training.multistep import compile_steps, steps_at_once
from aejax.training.step import start
from aejax.training.task import make_task
from experiments.benchmark.contenders import Contender, Given, mean_square, training
from experiments.benchmark.works import Work
from experiments.machine import peak_gib


def train(work: Work, given: Given, variant: str = "") -> Contender:
    """Images held on the device as uint8, as `aejax.train` holds them, and its step.

    `variant` is another dtype, or "no binarization".
    """
    spec, partition = Spec(given.images.shape[1:]), Partition()
    config = work.config()
    if variant == "no binarization":
        config.data.binarize = "none"
    else:
        config.dtype = variant or config.dtype
    task = make_task(config, spec, len(given.images), partition.axis_name)
    held = partition.replicate({"x": given.images})
    variables = _variables(given)
    state = partition.replicate(start(task, variables.pop("params"), variables))
    compiled = compile_steps(task, jax.random.key(0), partition)

    def prepare(rows: np.ndarray) -> list[Any]:
        at_once = steps_at_once(task, len(rows))
        return [partition.share({"index": part}, axis=1) for part in rows.reshape(-1, at_once, work.batch)]

    def steps(batches: list[Any]) -> float:
        nonlocal state
        losses = []
        for batch in batches:
            state, metrics = compiled(state, held, batch)
            losses.append(metrics["loss"])
        return float(np.mean(jax.device_get(losses)))

    return training(given, work.steps, _count(given), prepare, steps, peak)


def peak() -> float:
    held = jax.devices()[0].memory_stats()  # none on CPU
    return round(held["peak_bytes_in_use"] / 2**30, 3) if held else peak_gib()


def encode(work: Work, given: Given, variant: str = "") -> Contender:
    run = _run(work, given)
    return Contender(
        _count(given), lambda: mean_square(run.encode(given.images[:1_000])), lambda: len(run.encode(given.images))
    )


def bare_forward(work: Work, given: Given, variant: str) -> Contender:
    """Nothing but the jitted encoder, on batches that lie on the device; the codes stay there."""
    run, size = _run(work, given), int(variant)
    model, variables = run.model, jax.device_put(run.variables)
    forward = jax.jit(lambda variables, x: model.apply(variables, run.spec.prepare(x), method="encode").z)
    batches = [jnp.asarray(given.images[i : i + size]) for i in range(0, len(given.images), size)]

    def turn() -> int:
        jax.block_until_ready([forward(variables, batch) for batch in batches])
        return len(given.images)

    return Contender(_count(given), lambda: mean_square(forward(variables, given.images[:1_000])), turn)


def likelihood(work: Work, given: Given, variant: str = "") -> Contender:
    run = _run(work, given)
    nats = lambda images: -run.log_likelihood(images, samples=200)  # noqa: E731
    return Contender(
        _count(given),
        lambda: {"nats of 50 images": float(nats(given.images[:50]).mean())},
        lambda: len(nats(given.images)),
    )


def evidence(work: Work, given: Given, variant: str = "") -> Contender:
    """The images are binarized by a threshold."""
    run, images = _run(work, given), np.where(given.images >= 128, np.uint8(255), np.uint8(0))
    nats = lambda images: -run.log_likelihood(images, samples=5_000)  # noqa: E731
    return Contender(
        _count(given), lambda: {"nats of 50 images": float(nats(images[:50]).mean())}, lambda: len(nats(images))
    )


def _variables(given: Given) -> dict[str, Any]:
    return unflatten_dict({tuple(name.split("/")): value for name, value in given.weights.items()})


def _run(work: Work, given: Given) -> Run:
    x, config = given.images, work.config()
    code = np.zeros((1, config.bottleneck.features), np.float32)
    return Run(config, Spec(x.shape[1:]), 0, _variables(given), code, x[:1], x[:1])


def _count(given: Given) -> int:
    return sum(value.size for value in given.parameters.values())
