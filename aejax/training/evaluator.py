"""Evaluation of a state during training: validation metrics, and the samples saved with a checkpoint."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from aejax.data import Feed, pad_rows
from aejax.distributed.partition import Partition
from aejax.training.step import Task, TrainState, eval_step, eval_variables, gather
from aejax.training.task import single_device_task

Validate = Callable[..., dict[str, float]]
Sample = Callable[[TrainState], dict[str, np.ndarray]]


def compile_validation(
    task: Task,
    batch_size: int,
    partition: Partition,
    feed: Feed,
    configure: Callable[[Task, PyTree], Task] = lambda task, values: task,
) -> Validate:
    """Returns `validate(state, values={})`, which computes the means of `eval_step` over the whole split.

    `configure` puts traced hyperparameters, `values`, into the task, so that runs that differ in them share one
    program.
    """
    batches, own = math.ceil(len(feed.source) / batch_size), partition.own(batch_size)

    def rows_and_weight(i: int) -> list[np.ndarray]:
        return [a[own] for a in pad_rows(len(feed.source), batch_size, i)]

    def evaluate(carry: Any, held: Any, batch: Any, reduce: Any, constants: Any = None) -> Any:
        batch, full = gather(held["data"], batch), dataclasses.replace(task, constants=constants or {})
        return carry, eval_step(held["state"], batch, task=configure(full, held["values"]), reduce=reduce)

    compiled = partition.compile(evaluate, onednn=task.onednn, constants=task.constants)

    def validate(state: TrainState, values: Mapping[str, Any] = {}) -> dict[str, float]:
        held = {"state": state, "data": feed.held, "values": partition.replicate(values)}
        sums = []
        for i, batch in enumerate(feed.batches(lambda i: rows_and_weight(i)[0], 0, batches)):
            batch = {**batch, "weight": rows_and_weight(i)[1]}
            sums.append(compiled((), held, partition.share(batch))[1])
        sums = jax.device_get(sums)
        totals = {key: sum(float(s[key]) for s in sums) for key in sums[0]}
        count = totals.pop("weight")
        means = {key: value / count for key, value in totals.items()}
        if task.masked:  # examples have different numbers of values
            return means
        shape = feed.source.shape if feed.source.target is None else feed.source.target
        return means | {"squared_error_per_value": means["squared_error"] / math.prod(shape)}

    return validate


def compile_sampling(task: Task, partition: Partition, batch: Mapping[str, Any]) -> Sample:
    """Returns `sample(state)`, which computes latents, reconstructions and inputs of `batch` in the user's units."""
    task = single_device_task(task)  # as the batch is not divided

    def apply(variables: Any, batch: Any) -> dict[str, Any]:
        x = task.prepare(batch["x"])
        output: Any = task.apply(variables, x, batch, None)
        reconstructions = task.restore(task.objective.reconstruct(output.decoded, task.wanted(x, batch)))
        return {"latents": output.code.z, "reconstructions": reconstructions, "inputs": task.restore(x)}

    compiled = partition.compile_whole(apply)
    return lambda state: compiled(eval_variables(state), batch)
