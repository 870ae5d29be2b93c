"""Training in dispatches of several steps each: how many, their batches, their program."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from aejax.data import Feed, shuffle_rows
from aejax.partition import Partition
from aejax.step import Reduce, Task, gather, train_step
from aejax.together import stack, with_numbers

MOST = 32  # by then the host's work for a dispatch is small beside that of the shortest steps


def steps_at_once(task: Task, *multiples: int) -> int:
    """The largest number of steps up to MOST that divides all `multiples`: a dispatch ends wherever one of them is due.

    One on CPU for a model with convolutions: in a loop XLA:CPU runs them several times slower than alone
    (jax-ml/jax#12868).
    """
    if task.convolves and jax.default_backend() == "cpu":
        return 1
    return max(n for n in range(1, MOST + 1) if math.gcd(*multiples) % n == 0)


def batches(feed: Feed, batch_size: int, seed: int, partition: Partition, at_once: int, span: range) -> Iterator[Any]:
    """For each dispatch of the steps `span`, its batches [at_once, batch, ...] on the devices (`data.shuffle_rows`)."""
    own, rows = partition.own(batch_size), shuffle_rows(len(feed.source), batch_size, seed)

    def rows_of(dispatch: int) -> np.ndarray:
        first = dispatch * at_once
        return np.concatenate([rows(first + i)[own] for i in range(at_once)])

    for batch in feed.batches(rows_of, span.start // at_once, span.stop // at_once):
        steps = {key: value.reshape(at_once, -1, *value.shape[1:]) for key, value in batch.items()}
        yield partition.share(steps, axis=1)


def compile_steps(task: Task, key: Array, partition: Partition) -> Callable[..., Any]:
    """`state, metrics = function(state, held, batches)`, `train_step` for one batch after the other.

    `held` as in `Feed`, the batches from `batches`; metrics are [steps].
    """

    def steps(state: Any, held: Any, batches: Any, reduce: Any) -> Any:
        return _steps(state, held, batches, key, task=task, reduce=reduce)

    return partition.compile(steps)


def compile_together(
    task: Task, config: ConfigDict, keys: Sequence[Array], numbers: Mapping[str, Array], partition: Partition
) -> Callable[..., Any]:
    """The same of several runs, with a key and numbers (see `together`) for each.

    State, numbers and metrics have a leading axis [runs]; the batches are a tuple, those of each run.
    """

    def steps(state: Any, held: Any, batches: Any, reduce: Any) -> Any:
        def one(state: Any, batches: Any, key: Array, numbers: Any) -> Any:
            return _steps(state, held, batches, key, task=with_numbers(task, config, numbers), reduce=reduce)

        return jax.vmap(one)(state, stack(batches), jnp.stack(keys), dict(numbers))

    return partition.compile(steps)


def _steps(state: Any, held: Any, batches: Any, key: Array, *, task: Task, reduce: Reduce) -> Any:
    step = lambda state, batch: train_step(state, gather(held, batch), key, task=task, reduce=reduce)  # noqa: E731
    if all(leaf.shape[0] == 1 for leaf in jax.tree.leaves(batches)):  # not even a loop of one step, see above
        state, metrics = step(state, jax.tree.map(lambda a: a[0], batches))
        return state, jax.tree.map(lambda a: a[None], metrics)
    return jax.lax.scan(step, state, batches)
