"""One training step and one evaluation step: pure functions, usable without devices, files or flags."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array

from aejax.models import Autoencoder
from aejax.objectives import Corruption, Objective

Batch = Mapping[str, Array]
Metrics = dict[str, Array]
Reduce = Callable[[Any, str], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What a step needs besides its arguments.

    Attributes:
      prepare: stored values to what the model reads, e.g. `Spec.prepare`.
      restore: what the model reads to the user's units, e.g. `Spec.restore`.
      ema: decay of the averaged parameters; 0 is off.
    """

    model: Autoencoder
    objective: Objective
    optimizer: optax.GradientTransformation
    prepare: Callable[[Any], Array]
    restore: Callable[[Array], Array] = lambda x: x
    corruption: Corruption = dataclasses.field(default_factory=Corruption)
    ema: float = 0.0


class TrainState(struct.PyTreeNode):
    """All that a run carries from step to step.

    Attributes:
      step: steps done, int32.
      params: of the model, float32.
      variables: the model's other collections, e.g. running statistics.
      opt_state: of the optimizer.
      ema: averaged parameters; empty where `Task.ema` is 0.
    """

    step: Array
    params: Any
    variables: Any
    opt_state: Any
    ema: Any


def init(task: Task, shape: Sequence[int], key: Array) -> TrainState:
    """The state before the first step, for inputs of `shape`."""
    variables = dict(jax.jit(task.model.init)(key, jnp.zeros((1, *shape))))
    return start(task, variables.pop("params"), variables)


def start(task: Task, params: Any, variables: Any) -> TrainState:
    """The state before the first step, with these parameters."""
    ema = jax.tree.map(jnp.copy, params) if task.ema else {}  # copies: the state is donated
    return TrainState(jnp.zeros((), jnp.int32), params, variables, task.optimizer.init(params), ema)


def gather(held: Batch, batch: Batch) -> Batch:
    """The batch, with the rows `batch["index"]` of the arrays that are held on the device."""
    return {**batch, **{key: value[batch["index"]] for key, value in held.items()}}


def local(tree: Any, how: str) -> Any:
    """The reduction over devices where there is one."""
    return tree


def train_step(
    state: TrainState, batch: Batch, key: Array, *, task: Task, reduce: Reduce = local
) -> tuple[TrainState, Metrics]:
    """One update.

    Args:
      state: before the step.
      batch: `x` [batch, ...] as stored, `index` [batch] int32, the number of each example.
      key: the run's key; the step's is folded in from `state.step`.
      reduce: averages over devices, see `Partition.compile`.

    Returns:
      The state after the step, and scalars: the objective's components, each averaged over the
      batch, the bottleneck's metrics and `grad_norm`.
    """
    x = task.prepare(batch["x"])
    noisy = task.corruption(jax.random.fold_in(key, state.step), x, batch["index"])

    def loss_fn(params):
        variables = {"params": params, **state.variables}
        output, updated = task.model.apply(variables, noisy, train=True, mutable=list(state.variables))
        metrics = jax.tree.map(jnp.mean, task.objective(output, x) | dict(output.code.metrics))
        return metrics["loss"], (metrics, updated)

    grads, (metrics, variables) = jax.grad(loss_fn, has_aux=True)(state.params)
    grads, metrics, variables = reduce((grads, metrics, variables), "mean")
    updates, opt_state = task.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if task.ema:
        updates, updated = state.step, True
        if isinstance(opt_state, optax.MultiStepsState):  # only every so many steps is an update
            updates, updated = state.opt_state.gradient_step, opt_state.mini_step == 0
        # Early updates average over fewer values, or the average would stay near the initialisation.
        decay = jnp.minimum(task.ema, (1 + updates) / (10 + updates))
        ema = optax.incremental_update(params, ema, jnp.where(updated, 1 - decay, 0.0))
    metrics["grad_norm"] = optax.tree.norm(grads)
    return TrainState(state.step + 1, params, variables, opt_state, ema), metrics


def eval_variables(state: TrainState) -> dict[str, Any]:
    """The model's variables for evaluation: averaged parameters where there are some."""
    return {"params": state.ema or state.params, **state.variables}


def eval_step(variables: Mapping[str, Any], batch: Batch, *, task: Task, reduce: Reduce = local) -> Metrics:
    """Sums over the examples with weight 1 of the objective's components and of `squared_error`.

    The components are in the model's units, `squared_error` is in the user's.

    Args:
      variables: of the model.
      batch: `x` [batch, ...] as stored, `weight` [batch], 0 for examples that only fill the batch.

    Returns:
      Sums over batch and devices by name, and `weight`, the number of examples.
    """
    x = task.prepare(batch["x"])
    output: Any = task.model.apply(variables, x)
    error = task.restore(task.objective.mean(output.decoded)) - task.restore(x)
    error = jnp.square(error).reshape(x.shape[0], -1).sum(-1)
    terms = task.objective(output, x) | {"squared_error": error, "weight": jnp.ones_like(error)}
    return reduce({name: jnp.sum(value * batch["weight"]) for name, value in terms.items()}, "sum")
