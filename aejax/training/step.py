"""The training step and the evaluation step: pure functions that need no devices, files or flags."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Int, PyTree

from aejax.data import draw_binary
from aejax.errors import InputError
from aejax.models import Autoencoder, Output, abstract_output
from aejax.models.layers import fold
from aejax.models.sequence import split_padding
from aejax.objectives import Context, Corruption, Discriminator, Objective
from aejax.training import adaptive, optimizers, paths, resampling

Batch = Mapping[str, Array]
Metrics = dict[str, Array]
Reduce = Callable[[PyTree, str], PyTree]


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """The static parts of a step: model, objective, optimizer and options.

    Attributes:
      prepare: maps stored values to the model's units, e.g. `Spec.prepare`.
      restore: maps the model's units to the user's units, e.g. `Spec.restore`.
      ema: decay of the averaged parameters; 0 turns averaging off.
      frozen: patterns of the paths of variables that stay as they are, see `training.paths`.
      discriminator: is trained alongside the model.
      constants: arrays that terms read and nothing trains, see `Objective.load_constants`.
      examples: number of examples in the training split.
      axis_name: axis of the devices that share a batch, see `Partition.axis_name`.
      convolves: whether the step has convolutions, see `multistep.steps_at_once`.
      bfloat16: whether the step computes in bfloat16.
      standardized: whether the model reads standardized data, so that its units are not the user's.
      flip: whether half of the images are mirrored, others in each step.
      draws: whether values in [0, 1] are drawn as 0 or 1, anew in each step, see `data.draw_binary`.
      masked: whether NaN stands for values that do not count, see `Spec.masked`.
    """

    model: Autoencoder
    objective: Objective
    optimizer: optax.GradientTransformation
    prepare: Callable[[Any], Array]
    restore: Callable[[Array], Array] = lambda x: x
    corruption: Corruption = dataclasses.field(default_factory=Corruption)
    ema: float = 0.0
    frozen: Sequence[str] = ()
    discriminator: Discriminator | None = None
    constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    examples: int = 0
    axis_name: str | None = None
    convolves: bool = False
    bfloat16: bool = False
    standardized: bool = False
    flip: bool = False
    draws: bool = False
    masked: bool = False

    @property
    def onednn(self) -> bool:
        """Whether its programs gain by oneDNN, see `processor.Program`."""
        return self.convolves or self.bfloat16

    def context(
        self,
        variables: PyTree,
        x: Array,
        batch: Batch,
        output: Output,
        keys: Array,
        step: Int[Array, ""] | None,
        discriminator: PyTree,
    ) -> Context:
        """Returns the objective's view of a batch: x is prepared, and `keys` holds one key per example."""
        wanted, observed = self.wanted(x, batch), None
        if self.masked:
            wanted, observed = split_padding(wanted)
        label, mean = batch["label"] if self.model.classes else None, self.objective.mean
        given = (variables, wanted, output, keys, step, label, mean, discriminator, self.constants)
        own = None if wanted is x else x
        return Context(self.model.apply, *given, self.examples, self.axis_name, own, observed)

    def wanted(self, x: Array, batch: Batch) -> Array:
        """Returns what the decoder is to make of a batch whose prepared input is x: x, or the target, prepared."""
        return self.prepare(batch["target"]) if "target" in batch else x

    def apply(self, variables: PyTree, x: Array, batch: Batch, keys: Array | None, **options: Any) -> Any:
        """Returns the model's output for x, given the batch's labels if the model is conditional.

        With `mutable`, a pair of the output and the updated collections, hence no type.
        """
        label = batch["label"] if self.model.classes else None
        return self.model.apply(variables, x, keys=keys, label=label, **options)

    def losses(self, c: Context) -> dict[str, Array]:
        """Returns the components [batch] of the objective by name, including those of the discriminator."""
        if not self.discriminator:
            return self.objective(c)
        return self.objective(c, self.discriminator.terms(c.discriminator, c), self.discriminator.adaptive)


class TrainState(struct.PyTreeNode):
    """The arrays that training carries from step to step.

    Attributes:
      step: number of steps done, int32.
      params: parameters of the model, float32.
      variables: other collections of the model, e.g. running statistics.
      opt_state: state of the optimizer.
      ema: averaged parameters, of `Task.ema` or of a schedule-free optimizer; empty without.
      critic: state of the discriminator, e.g. `params` and `opt_state`; empty without one. Saved checkpoints have this
        name.
    """

    step: Int[Array, ""]
    params: PyTree
    variables: PyTree
    opt_state: PyTree
    ema: PyTree
    critic: PyTree = struct.field(default_factory=dict)


def init(task: Task, shape: Sequence[int], key: Array, adjust: Callable[[PyTree], PyTree] | None = None) -> TrainState:
    """Returns the state before the first step, for inputs of `shape`; `adjust` maps the random parameters to others."""
    label = jnp.zeros(1, jnp.int32) if task.model.classes else None
    variables = _strengthen(dict(jax.jit(task.model.init)(key, jnp.zeros((1, *shape)), label=label)))
    params = variables.pop("params")
    params = adjust(params) if adjust else params
    state = start(task, params, variables)
    if task.discriminator:
        output = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), abstract_output(task.model, shape))
        trained, _ = paths.split(params, task.frozen)
        adaptive.check(task.discriminator, state.opt_state, trained)
        critic = task.discriminator.begin(jax.random.fold_in(key, 1), output, trained)
        state = state.replace(critic=_strengthen(critic))
    return state


def _strengthen(tree: PyTree) -> PyTree:
    """Removes weak types, which the step does not return: it would be compiled for both."""
    return jax.tree.map(lambda a: jax.lax.convert_element_type(a, a.dtype), tree)


def start(task: Task, params: PyTree, variables: PyTree) -> TrainState:
    """Returns the state before the first step with these parameters, without a discriminator.

    Raises InputError if `task.frozen` names variables that the model lacks, or leaves no parameter to train.
    """
    paths.check_patterns(
        "optim.freeze", task.frozen, [p for t in (params, *variables.values()) for p in paths.flatten(t)]
    )
    trained, _ = paths.split(params, task.frozen)
    if not trained:
        raise InputError(f"optim.freeze={','.join(task.frozen)} leaves no parameter to train; freeze fewer")
    # Copied, because the state is donated, and some optimizers keep their first parameters.
    opt_state = task.optimizer.init(jax.tree.map(jnp.copy, trained))
    averages = optimizers.average(opt_state, trained) is not None
    if averages and task.ema:
        raise InputError("a schedule-free optimizer averages the parameters itself; set ema=0")
    ema = jax.tree.map(jnp.copy, params) if task.ema or averages else {}
    return TrainState(jnp.zeros((), jnp.int32), params, variables, opt_state, ema)


def gather(held: Batch, batch: Batch) -> Batch:
    """Returns the batch with the rows `batch["index"]` of the arrays that are kept on device."""
    return {**batch, **{key: value[batch["index"]] for key, value in held.items()}}


def keep(tree: PyTree, how: str) -> PyTree:
    """Returns the tree unchanged: the reduction over a single device."""
    return tree


def mirror(keys: Array, x: Array) -> Array:
    """Returns images [batch, h, w, c], each mirrored left to right by a fair coin of its key [batch]."""
    chosen = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(chosen[:, None, None, None], x[:, :, ::-1], x)


def train_step(
    state: TrainState, batch: Batch, key: Array, *, task: Task, reduce: Reduce = keep
) -> tuple[TrainState, Metrics]:
    """Updates the parameters on one batch, and those of the discriminator if the task has one.

    Args:
      state: the state before the step.
      batch: `x` [batch, ...] as stored, `index` [batch] int32, the position of each example in the split, `label`
        [batch] int32 if the model is conditional, `target` [batch, ...] of a transcoder, and `sample_weight` [batch],
        of mean 1 over the split, by which the losses of weighted examples are multiplied.
      key: the key of the run; the step folds in `state.step`.
      task: the static parts of the step.
      reduce: reduces over devices, see `Partition.compile`.

    Returns:
      The state after the step, and scalar metrics by name: the components of the objective and the metrics of the
      bottleneck, averaged over the batch, `grad_norm`, and those of the discriminator, e.g. `critic_loss`.
    """
    keys = derive_keys(jax.random.fold_in(key, state.step), batch)
    x = task.prepare(batch["x"])
    if task.flip:
        x = mirror(fold(keys, 3), x)
    if task.draws:
        x = draw_binary(fold(keys, 4), x)
    noisy = task.corruption(fold(keys, 0), x)
    if task.masked:  # a corruption may set values, and what is not there may not become one
        noisy = jnp.where(jnp.isnan(x), x, noisy)
    discriminator = task.discriminator.view(state.critic) if task.discriminator else None
    trained, frozen = paths.split(state.params, task.frozen)

    def loss_fn(trained):
        variables = {"params": paths.merge(trained, frozen), **state.variables}
        output, updated = task.apply(variables, noisy, batch, fold(keys, 1), train=True, mutable=list(state.variables))
        c = task.context(variables, x, batch, output, fold(keys, 2), state.step, discriminator)
        terms = task.losses(c)
        if "sample_weight" in batch:
            terms = {name: batch["sample_weight"] * value for name, value in terms.items()}
        metrics = jax.tree.map(jnp.mean, terms | dict(output.code.metrics))
        return metrics["loss"], (metrics, updated, output)

    critic = state.critic
    if task.discriminator and task.discriminator.adaptive and "adversarial" in task.objective.weights:
        weight = task.objective.weigh("adversarial", state.step)
        grads, (metrics, variables, output), critic = adaptive.differentiate(
            loss_fn, trained, task.discriminator, weight, state, reduce
        )
    else:
        grads, (metrics, variables, output) = jax.grad(loss_fn, has_aux=True)(trained)
    grads, metrics = reduce((grads, metrics), "mean")
    variables = _reduce_variables(variables, reduce)
    variables = {
        name: paths.merge(tree, paths.split(state.variables[name], task.frozen)[1]) for name, tree in variables.items()
    }
    if task.discriminator:
        before = {"params": state.params, **state.variables}
        c = task.context(before, x, batch, output, fold(keys, 2), state.step, discriminator)
        critic, of_critic = task.discriminator.update(critic, c, reduce)
        metrics |= of_critic
    updates, opt_state = task.optimizer.update(grads, state.opt_state, trained)
    trained = optax.apply_updates(trained, updates)
    if resampling.resamples(task.model):
        fold_key, decoded = (
            jax.random.fold_in(jax.random.fold_in(key, state.step), 4),
            task.objective.mean(output.decoded),
        )
        given = (task.model, state.step, fold_key, x, decoded, output)
        trained, opt_state, variables = resampling.resample(*given, trained, opt_state, variables, task.axis_name)
    params, ema = paths.merge(trained, frozen), _average(task, state, opt_state, trained)
    # Without the barrier the compiler shares the squares with Adam and writes them to memory.
    metrics["grad_norm"] = optax.tree.norm(jax.lax.optimization_barrier(grads))
    return TrainState(state.step + 1, params, variables, opt_state, ema, critic), metrics


def _average(task: Task, before: TrainState, opt_state: Any, trained: Any) -> Any:
    """Returns the averaged parameters after an update of the `trained` ones; frozen ones are not averaged."""
    ema, frozen = paths.split(before.ema, task.frozen)
    averaged = optimizers.average(opt_state, trained)
    if averaged is not None:
        return paths.merge(averaged, frozen)
    if not task.ema:
        return before.ema
    updates, updated = before.step, True
    if isinstance(opt_state, optax.MultiStepsState):  # not every step is an update
        updates, updated = before.opt_state.gradient_step, opt_state.mini_step == 0
    # A smaller decay at first, as the average would stay near the initialization otherwise.
    decay = jnp.minimum(task.ema, (1 + updates) / (10 + updates))
    return paths.merge(optax.incremental_update(trained, ema, jnp.where(updated, 1 - decay, 0.0)), frozen)


def make_keys(seed: int) -> tuple[Array, Array]:
    """Returns the key of a run's initial parameters, and that of its steps."""
    init_key, key = jax.random.split(jax.random.key(seed))
    return init_key, key


def derive_keys(key: Array, batch: Batch) -> Array:
    """Derives a key for each example from its index alone, so that the number of devices does not matter."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"])


def _reduce_variables(variables: PyTree, reduce: Reduce) -> PyTree:
    """Reduces running statistics over devices: floats to their mean, counters to their maximum."""
    # Modules with `axis_name` have already made theirs equal.
    means, largest = reduce(variables, "mean"), reduce(variables, "max")
    pick = lambda v, mean, most: mean if jnp.issubdtype(v.dtype, jnp.floating) else most  # noqa: E731
    return jax.tree.map(pick, variables, means, largest)


def eval_variables(state: TrainState) -> dict[str, PyTree]:
    """Returns the model's variables for evaluation, with the averaged parameters if there are any."""
    return {"params": state.ema or state.params, **state.variables}


def eval_step(state: TrainState, batch: Batch, *, task: Task, reduce: Reduce = keep) -> Metrics:
    """Sums the objective's components, the code's metrics and the squared error over a batch.

    The components are in the model's units, for a code that is sampled as in training, but with the same keys in every
    evaluation and with every weight at the end of its schedule. `squared_error` is in the user's units, for the
    deterministic code; of standardized data, `squared_error_standardized` is the same in the units of the components.

    Args:
      state: the state to evaluate, with its averaged parameters if it has any.
      batch: `x` [batch, ...] as stored, `index` [batch] int32, `weight` [batch], which is 0 for examples that only
        fill the batch, `label` [batch] int32 if the model is conditional, `target` [batch, ...] of a transcoder, and
        `sample_weight` [batch] of weighted examples, in whose weighted mean they count.
      task: the static parts of the step.
      reduce: reduces over devices, see `Partition.compile`.

    Returns:
      Sums over batch and devices by name, and `weight`, the number of examples or the sum of their weights.
    """
    x, variables = task.prepare(batch["x"]), eval_variables(state)
    keys = derive_keys(jax.random.key(0), batch)
    output = task.apply(variables, x, batch, keys)
    discriminator = task.discriminator.view(state.critic) if task.discriminator else None
    c = task.context(variables, x, batch, output, fold(keys, 2), None, discriminator)
    # For a deterministic code the compiler merges this with the computation above.
    wanted = task.wanted(x, batch)
    reconstruction = task.objective.reconstruct(task.apply(variables, x, batch, None).decoded, wanted)
    error = jnp.square(task.restore(reconstruction) - task.restore(wanted))
    error = c.count(error).reshape(x.shape[0], -1).sum(-1)
    terms = task.losses(c) | dict(output.code.metrics) | {"squared_error": error, "weight": jnp.ones_like(error)}
    if task.standardized:
        error = c.count(jnp.square(reconstruction - x))
        terms["squared_error_standardized"] = error.reshape(x.shape[0], -1).sum(-1)
    weight = batch["weight"] * batch.get("sample_weight", 1.0)
    return reduce({name: jnp.sum(value * weight) for name, value in terms.items()}, "sum")
