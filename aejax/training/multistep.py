"""Dispatches of several training steps each: their number of steps, their batches, their program."""

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from aejax.data import Feed, Order, Source, draw_crops, stream_mixed
from aejax.distributed.partition import Compiled, Partition
from aejax.training.step import Reduce, Task, gather, train_step

Steps = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]  # state, data on device, batches: state, metrics

MOST = 32  # with more, the host's work per dispatch is already small compared with the shortest steps
_LARGEST = 2**26  # bytes of the batches of a dispatch
_MANY = 1_000  # steps from which a run is long enough for a hint


def steps_at_once(task: Task, *multiples: int, most: int = MOST) -> int:
    """Returns the number of steps of a dispatch, at most `most`, which divides all `multiples`.

    A dispatch must end at each of the multiples. Returns 1 on CPU for a model with convolutions, which XLA:CPU runs
    several times slower inside a loop (jax-ml/jax#12868).
    """
    if _needs_single_steps(task):
        return 1
    return max(n for n in range(1, most + 1) if math.gcd(*multiples) % n == 0)


def hint(task: Task, steps: int, log_every: int, checkpoint_every: int) -> None:
    """Prints which settings would let several steps share a dispatch, if the current ones do not."""
    if steps >= _MANY and not _needs_single_steps(task) and math.gcd(steps, log_every, checkpoint_every) == 1:
        print(
            f"steps={steps}, log_every={log_every} and checkpoint_every={checkpoint_every} have no common divisor: "
            "each step is dispatched alone, which is slow for a small model; choose multiples of one number, e.g. 20",
            file=sys.stderr,
        )


def _needs_single_steps(task: Task) -> bool:
    """Returns whether a loop of steps would be slower than single steps, see `steps_at_once`."""
    return task.convolves and jax.default_backend() == "cpu"


def batches(
    feed: Feed, batch_size: int, seed: int, partition: Partition, at_once: int, span: range
) -> Iterator[PyTree]:
    """Yields the batches [at_once, batch, ...] of each dispatch of the steps in `span`, on the devices."""
    own, rows = partition.own(batch_size), feed.order(batch_size, seed)
    dispatches = span.start // at_once, span.stop // at_once

    def rows_of(dispatch: int) -> np.ndarray:
        first = dispatch * at_once
        return np.concatenate([rows(first + i)[own] for i in range(at_once)])

    def crops_of(dispatch: int) -> np.ndarray:
        steps = range(dispatch * at_once, (dispatch + 1) * at_once)
        return np.concatenate([draw_crops(seed, step, rows(step)[own], feed.zoom) for step in steps])

    if isinstance(rows, Order) and not feed.held:
        found = stream_mixed(feed.source, rows, own, at_once, *dispatches)
    else:
        found = feed.batches(rows_of, *dispatches, crops_of)
    for batch in found:
        steps = {key: value.reshape(at_once, -1, *value.shape[1:]) for key, value in batch.items()}
        yield partition.share(steps, axis=1)


def describe_inputs(source: Source, config: ConfigDict, at_once: int) -> tuple[PyTree, PyTree]:
    """Returns the shapes of the data that `Feed` will keep on device, and of the batches of a dispatch."""
    batch, arrays = (at_once, config.batch_size), {"x": (source.shape, source.dtype)}
    if source.target is not None:
        arrays["target"] = (source.target, np.dtype(np.float32))
    if source.weights is not None:
        arrays["sample_weight"] = ((), np.dtype(np.float32))
    if config.classes:
        arrays["label"] = ((), np.dtype(np.int32))
    held = _is_held(source, config)
    first = (len(source),) if held else batch
    described = {name: jax.ShapeDtypeStruct((*first, *shape), dtype) for name, (shape, dtype) in arrays.items()}
    index = {"index": jax.ShapeDtypeStruct(batch, np.int32)}
    return (described, index) if held else ({}, index | described)


def _is_held(source: Source, config: ConfigDict) -> bool:
    """Returns whether `Feed` will keep the source on device."""
    return source.nbytes <= config.data.memory_mb * 2**20 and not source.draw


def limit_steps(source: Source, config: ConfigDict) -> int:
    """Returns the most steps of a dispatch: fewer than MOST if the batches of a store would take more than 64 MiB."""
    if not source.block or _is_held(source, config):
        return MOST
    each = config.batch_size * (source.nbytes // len(source))
    return int(np.clip(_LARGEST // each, 1, MOST))


def compile_steps(task: Task, key: Array, partition: Partition) -> Compiled:
    """Compiles `state, metrics = function(state, held, batches)`, which runs a `train_step` for each batch.

    `held` is `Feed.held`, the data kept on device; the batches come from `batches`; metrics are [steps].
    """
    steps = functools.partial(scan_steps, key=key, task=task)
    return partition.compile(steps, onednn=task.onednn, constants=task.constants)


def scan_steps(
    state: PyTree, held: PyTree, batches: PyTree, *, key: Array, task: Task, reduce: Reduce, constants: PyTree = None
) -> PyTree:
    """Runs a `train_step` on each of the batches [steps, batch, ...]; returns the state and the metrics [steps].

    `constants`, if they are given, take the place of the task's own, see `Partition.compile`.
    """
    task = dataclasses.replace(task, constants=constants) if constants else task

    def step(state: PyTree, batch: PyTree) -> Any:
        return train_step(state, gather(held, batch), key, task=task, reduce=reduce)

    if all(leaf.shape[0] == 1 for leaf in jax.tree.leaves(batches)):  # without a loop, see `steps_at_once`
        state, metrics = step(state, jax.tree.map(lambda a: a[0], batches))
        return state, jax.tree.map(lambda a: a[None], metrics)
    return jax.lax.scan(step, state, batches)
