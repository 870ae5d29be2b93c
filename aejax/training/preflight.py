"""A check of an experiment before its launch: shapes, memory and the loss of one batch."""

import math
from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from aejax.data import Feed, Spec, Splits, load, warn_of_penalty, warn_of_scale
from aejax.errors import DivergedError
from aejax.models import abstract_output
from aejax.objectives import SquaredError
from aejax.training.loop import make_partition
from aejax.training.multistep import batches, compile_steps
from aejax.training.step import make_keys
from aejax.training.task import check_data, make_task
from aejax.training.warm_start import initialize

GIB = 2**30


def preflight(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> dict[str, Any]:
    """Trains one batch, saves nothing, and returns shapes and memory.

    Returns:
      `examples` in the training split, shapes of one `input` and one `code`, number of `parameters`, GiB per device of
      the state (`state_gib`) and of the compiled step in all (`step_gib`), both without data kept on device, and the
      `loss` of the batch.

    Raises the errors that `train` would raise before its second batch, and DivergedError if the loss is not finite.
    """
    partition = make_partition(config, devices)
    splits = load(config.data)
    spec = Spec.of(splits.train, config.data.standardize, config.data.normalize)
    splits = Splits(*map(spec.standardize_source, splits))
    task = make_task(config, spec, len(splits.train), partition.axis_name)
    # A budget of 0 streams: reads one batch, and the labels or vectors whose range `train` checks.
    feed, validation = (Feed(part, 0, partition.replicate, buffer=1) for part in (splits.train, splits.validation))
    check_data(config, task, feed, validation)
    warn_of_scale(splits.train, spec)
    if isinstance(task.objective.likelihood, SquaredError):
        warn_of_penalty(splits.train, spec, task.objective.weights)
    init_key, key = make_keys(config.seed)
    state = partition.place(initialize(config, task, spec.shape, init_key, partition))
    state_bytes = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    step: Any = compile_steps(task, key, partition)
    batch = next(batches(feed, config.batch_size, config.seed, partition, 1, range(1)))
    program = step.compile(state, feed.held, batch).memory_analysis()
    needed = program.argument_size_in_bytes + program.temp_size_in_bytes
    _, metrics = step(state, feed.held, batch)
    loss = float(metrics["loss"][0])
    if not math.isfinite(loss):
        raise DivergedError(f"the loss of the first batch is {loss}; look at the data and the likelihood")
    return {
        "examples": len(splits.train),
        "input": spec.shape,
        "code": tuple(abstract_output(task.model, spec.shape).code.z.shape[1:]),
        "parameters": parameters,
        "state_gib": state_bytes / GIB,
        "step_gib": needed / GIB,
        "loss": loss,
    }
