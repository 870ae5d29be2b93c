"""Many runs in one program, under vmap: which runs may share one, their stacked states, and their recorder."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax.data import load
from aejax.distributed.partition import Partition
from aejax.errors import AejaxError, InputError
from aejax.files import local
from aejax.inference.loading import from_checkpoint
from aejax.inference.run import Run
from aejax.training import loop, optimizers
from aejax.training.evaluator import compile_sampling, compile_validation
from aejax.training.multistep import Steps, batches, limit_steps, scan_steps, steps_at_once
from aejax.training.recorder import Metrics, Recorder, Window
from aejax.training.step import Task
from aejax.training.task import constrain, make_task
from aejax.workdir.lifecycle import OpenWorkdir, open_workdir, record_failure

_WIDE = 512  # units of a code from which runs take turns on CPUs
# The configs may differ in these hyperparameters and in `seed`, as none of them changes a shape.
HYPERPARAMETERS = ("optim.lr", "optim.weight_decay", "corruption.level", "objective.weights.")


def train_together(
    configs: Sequence[ConfigDict],
    workdirs: Sequence[str | Path],
    *,
    data: loop.Data = load,
    devices: Sequence[jax.Device] | None = None,
    stop: Callable[[], bool] = lambda: False,
    quiet: bool = False,
) -> list[Run | AejaxError]:
    """Trains several runs in one program, or a single run by `aejax.train`.

    Each run has its own workdir, checkpoints and metrics, and equals the run trained alone up to floating-point
    tolerance. A run that diverges or cannot be written ends without ending the others.

    Args:
      configs: configs that differ only in `seed` and in HYPERPARAMETERS. Their runs must be at the same step.
      workdirs: one workdir for each config.
      data, devices, stop, quiet: as in `aejax.train`.

    Returns:
      For each run, what `aejax.train` returns or the error that ended it.

    Raises: errors that prevent every run from starting.
    """
    if len(configs) == 1:
        return [loop.train(configs[0], workdirs[0], data=data, devices=devices, stop=stop, quiet=quiet)]
    partition, *_ = [loop.make_partition(each, devices) for each in configs]
    find_differing(configs)  # raises before a workdir is opened
    quiet = quiet or not partition.primary
    with contextlib.ExitStack() as stack:
        opened = [
            stack.enter_context(open_workdir(local(workdir), each, partition.primary))
            for each, workdir in zip(configs, workdirs, strict=True)
        ]
        values = find_differing([each.config for each in opened])
        first = opened[0]
        config, begin = first.config, first.begin
        if any(each.begin != begin for each in opened):
            raise InputError("runs that train together must be at the same step; run them one by one")

        splits, spec = loop.load_data(first, data)
        task = make_task(config, spec, len(splits.train), partition.axis_name)
        for each in opened:  # raises for a hyperparameter out of range, which cannot be checked once it is traced
            set_hyperparameters(task, each.config, {key: config_lib.get(each.config, key) for key in values})
        starts = [loop.init_state(each, task, spec, splits, partition, quiet) for each in opened]
        states, keys = zip(*starts, strict=True)
        if begin >= config.steps:
            for each in opened:
                each.resume()
            return [from_checkpoint(each.saved, workdir=each.folder) for each in opened if each.saved]
        trained_on, training, validation, fixed = loop.prepare_data(opened, task, spec, splits, partition, quiet)

        most = limit_steps(splits.train, config)
        at_once = steps_at_once(task, begin, config.steps, config.log_every, config.checkpoint_every, most=most)
        train_steps = compile_together(task, config, keys, values, partition)
        configure = lambda task, values: set_hyperparameters(task, config, values)  # noqa: E731
        validate = compile_validation(task, config.batch_size, partition, validation, configure)
        sample = compile_sampling(task, partition, fixed)
        with contextlib.ExitStack() as running:
            members = []
            for i, each in enumerate(opened):
                own = pick(values, i)
                member = Member(each, spec, trained_on, lambda state, own=own: validate(state, own), sample, True)
                running.enter_context(member)
                members.append(member)
            recorder = Recorders(members, config.log_every)
            steps = range(begin, begin if recorder.done else config.steps)
            of_run = [batches(training, config.batch_size, c.seed, partition, at_once, steps) for c in configs]
            dispatches, should_stop = zip(*of_run, strict=True), loop.ask_all(stop, partition)
            state = partition.place(stack_trees(states))
            loop.run_steps(train_steps, state, training.held, dispatches, recorder, first, at_once, should_stop)
        if not any(member.error for member in members):
            partition.wait()  # until all is written
    return [
        member.error or from_checkpoint(member.load_newest(), workdir=each.folder)
        for member, each in zip(members, opened, strict=True)
    ]


class Member(Recorder):
    """Recorder of one of several runs, which an error ends without ending the others.

    Attributes:
      error: the error that ended the run, or None.
    """

    error: AejaxError | None = None
    opened = False

    def __init__(self, workdir: OpenWorkdir, *arguments: Any):
        self._workdir = workdir
        with self._guard():
            super().__init__(workdir, *arguments)
            self.opened = True

    def log(self, step: int, metrics: Metrics) -> None:
        with self._guard():
            super().log(step, metrics)

    def save(self, step: int, state: PyTree, validated: bool) -> None:
        with self._guard():
            super().save(step, state, validated)

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Catches the error of a run; keeps and records the first one."""
        try:
            yield
        except AejaxError as error:
            self.done = True
            if self.error is None:
                self.error = error
                if self._workdir.primary:
                    record_failure(self._workdir.folder, error)

    def __exit__(self, *error: Any) -> None:
        """Closes the recorder and tells trackers of the run's own error, or of the one that ends all runs."""
        own = (type(self.error), self.error, None) if self.error else (None, None, None)
        with self._guard():
            if self.opened:
                super().__exit__(*(error if error[0] else own))


class Recorders:
    """Recorders of several runs, used by the loop like one; metrics and states have a leading axis [runs]."""

    def __init__(self, members: Sequence[Member], log_every: int):
        self._members, self._window = members, Window(log_every, self._log)

    @property
    def done(self) -> bool:
        """Returns whether all runs have ended."""
        return all(member.done for member in self._members)

    def add(self, step: int, metrics: PyTree) -> None:
        """Takes the metrics [runs, steps] of a dispatch."""
        self._window.add(step, metrics)

    def save(self, step: int, state: PyTree, validated: bool) -> None:
        """Saves each run that has not ended."""
        self._window.flush(step)
        for i, member in enumerate(self._members):
            if not member.done:
                member.save(step, pick(state, i), validated)

    def _log(self, step: int, metrics: Metrics) -> None:
        """Logs the metrics [runs, steps] of each run that has not ended."""
        for i, member in enumerate(self._members):
            if not member.done:
                member.log(step, pick(metrics, i))


def compile_together(
    task: Task, config: ConfigDict, keys: Sequence[Array], values: Mapping[str, Array], partition: Partition
) -> Steps:
    """Compiles steps like `multistep.compile_steps`, vmapped over runs, each with its own key and hyperparameters.

    The state, the hyperparameters `values` and the metrics have a leading axis [runs]; the batches are a tuple with the
    batches of each run.
    """

    def steps(state: PyTree, held: PyTree, batches: PyTree, reduce: Any, constants: Any = None) -> Any:
        def one(state: PyTree, batches: PyTree, key: Array, values: Any) -> Any:
            own = set_hyperparameters(task, config, values)
            return scan_steps(state, held, batches, key=key, task=own, reduce=reduce, constants=constants)

        arguments = state, stack_trees(batches), jnp.stack(keys), dict(values)
        return jax.lax.map(lambda each: one(*each), arguments) if take_turns(task) else jax.vmap(one)(*arguments)

    return partition.compile(steps, constants=task.constants)


def take_turns(task: Task) -> bool:
    """Returns whether runs take turns in one program instead of sharing each product, as those of wide codes on CPUs.

    There XLA computes the products of eight runs two to three times as fast one after the other as in one batch, the
    largest units seven times, and skips the losses of dead units where there are none.
    """
    features = getattr(task.model.bottleneck, "features", 0)
    return jax.default_backend() == "cpu" and isinstance(features, int) and features >= _WIDE


def identify_program(config: ConfigDict) -> str:
    """Returns a text that is equal for configs whose runs can share a program, and for no others."""
    plain = config_lib.to_dict(config)
    if config.pretrain.steps:  # pretraining is for one run at a time
        return config_lib.to_json(plain)
    plain["seed"] = plain["optim"]["lr"] = None
    plain["optim"]["weight_decay"] = plain["optim"]["weight_decay"] > 0  # the optimizer's chain differs for 0
    plain["corruption"]["level"] = plain["corruption"]["level"] > 0
    plain["objective"]["weights"] = sorted(plain["objective"]["weights"])
    return config_lib.to_json(plain)


def find_differing(configs: Sequence[ConfigDict]) -> dict[str, Any]:
    """Returns the hyperparameters that differ, [runs] by key. Raises InputError if the configs differ in more."""
    if len({identify_program(config) for config in configs}) > 1:
        other = next(config for config in configs if identify_program(config) != identify_program(configs[0]))
        raise InputError(
            f"runs that train together may differ in seed and {', '.join(HYPERPARAMETERS)}*, these differ in "
            f"{'; '.join(config_lib.differences(configs[0], other))}; train them one by one"
        )
    differ = {d.split(":")[0] for c in configs for d in config_lib.differences(configs[0], c)} - {"seed"}
    return {key: jnp.array([config_lib.get(c, key) for c in configs], jnp.float32) for key in sorted(differ)}


def set_hyperparameters(task: Task, config: ConfigDict, values: Mapping[str, Any]) -> Task:
    """Returns the task with the hyperparameters `values`, which may be traced, instead of the config's."""
    if not values:
        return task

    def select(section: str) -> dict[str, Any]:
        return {key.removeprefix(section): value for key, value in values.items() if key.startswith(section)}

    weights = {**task.objective.weights, **select("objective.weights.")}
    return dataclasses.replace(
        task,
        optimizer=constrain(optimizers.build({**config.optim.to_dict(), **select("optim.")}, config.steps), task.model),
        objective=dataclasses.replace(task.objective, weights=weights),
        corruption=dataclasses.replace(task.corruption, **select("corruption.")),
    )


def stack_trees(trees: Sequence[PyTree]) -> PyTree:
    """Stacks the trees of several runs along a leading axis [runs]."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def pick(tree: PyTree, i: int) -> PyTree:
    """Returns the tree of run `i` from stacked trees."""
    return jax.tree.map(lambda a: a[i], tree)
