"""Training in dispatches of several steps each: how many, their batches, their program."""

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax import Array

from aejax.data import Feed, shuffle_rows
from aejax.distributed.partition import Partition
from aejax.training.step import Reduce, Task, gather, train_step

MOST = 32  # by then the host's work for a dispatch is small beside that of the shortest steps
_MANY = 1_000  # steps of a run that is worth a hint


def steps_at_once(task: Task, *multiples: int) -> int:
    """Returns the most steps of a dispatch, up to MOST, that divide all `multiples`, the steps at which one must end.

    Returns 1 on CPU for a model with convolutions: in a loop XLA:CPU runs them several times slower than alone
    (jax-ml/jax#12868).
    """
    if _needs_single_steps(task):
        return 1
    return max(n for n in range(1, MOST + 1) if math.gcd(*multiples) % n == 0)


def hint(task: Task, steps: int, log_every: int, checkpoint_every: int) -> None:
    """Prints which settings would let several steps share a dispatch, where theirs allow one step each."""
    if steps >= _MANY and not _needs_single_steps(task) and math.gcd(steps, log_every, checkpoint_every) == 1:
        print(
            f"steps={steps}, log_every={log_every} and checkpoint_every={checkpoint_every} have no common divisor: "
            "each step is dispatched alone, which is slow for a small model; choose multiples of one number, e.g. 20",
            file=sys.stderr,
        )


def _needs_single_steps(task: Task) -> bool:
    return task.convolves and jax.default_backend() == "cpu"


def batches(feed: Feed, batch_size: int, seed: int, partition: Partition, at_once: int, span: range) -> Iterator[Any]:
    """Yields the batches [at_once, batch, ...] of each dispatch of the steps `span`, on the devices."""
    own, rows = partition.own(batch_size), shuffle_rows(len(feed.source), batch_size, seed)

    def rows_of(dispatch: int) -> np.ndarray:
        first = dispatch * at_once
        return np.concatenate([rows(first + i)[own] for i in range(at_once)])

    for batch in feed.batches(rows_of, span.start // at_once, span.stop // at_once):
        steps = {key: value.reshape(at_once, -1, *value.shape[1:]) for key, value in batch.items()}
        yield partition.share(steps, axis=1)


def compile_steps(task: Task, key: Array, partition: Partition) -> Callable[..., Any]:
    """Compiles `state, metrics = function(state, held, batches)`: one `train_step` for each of the batches.

    `held` is `Feed.held`, the batches come from `batches`; metrics are [steps].
    """

    def steps(state: Any, held: Any, batches: Any, reduce: Any) -> Any:
        return scan_steps(state, held, batches, key, task=task, reduce=reduce)

    return partition.compile(steps)


def scan_steps(state: Any, held: Any, batches: Any, key: Array, *, task: Task, reduce: Reduce) -> Any:
    """Returns the state after a `train_step` on each of the batches [steps, batch, ...], and the metrics [steps]."""

    def step(state: Any, batch: Any) -> Any:
        return train_step(state, gather(held, batch), key, task=task, reduce=reduce)

    if all(leaf.shape[0] == 1 for leaf in jax.tree.leaves(batches)):  # no loop even of one step, see `steps_at_once`
        state, metrics = step(state, jax.tree.map(lambda a: a[0], batches))
        return state, jax.tree.map(lambda a: a[None], metrics)
    return jax.lax.scan(step, state, batches)
