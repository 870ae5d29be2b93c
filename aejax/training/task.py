"""Construction of a `Task` from a config, with checks of its parts against each other and against the data."""

import dataclasses
import warnings
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax import models
from aejax.data import Feed, Source, Spec, read_chunks, read_labels
from aejax.errors import InputError
from aejax.objectives import ADVERSARIES, LIKELIHOODS, Corruption, Objective
from aejax.registry import instantiate
from aejax.training import optimizers
from aejax.training.pretraining import list_layers
from aejax.training.step import Task, eval_step, init


def make_task(config: ConfigDict, spec: Spec, examples: int = 1, axis_name: str | None = None) -> Task:
    """Builds the task of `config`.

    Args:
      config: see `aejax.config.default`.
      spec: shape and units of the data.
      examples: number of examples in the training split.
      axis_name: axis of the devices that share a batch, see `Partition`.

    Raises InputError if the parts do not fit each other. Warns of schedules that outlast training, and of a code that
    can learn to copy its input.
    """
    model = models.build(config, spec.shape, axis_name)
    if config.pretrain.steps:
        list_layers(config)
    adversary = None if config.adversary.name == "none" else instantiate("adversary", ADVERSARIES, config.adversary)
    task = Task(
        model=model,
        objective=Objective(instantiate("likelihood", LIKELIHOODS, config.likelihood), **config.objective.to_dict()),
        optimizer=optimizers.build(config.optim, config.steps),
        prepare=spec.prepare,
        restore=spec.restore,
        corruption=Corruption(**config.corruption),
        ema=config.ema,
        frozen=config_lib.parse_patterns(config.optim.freeze),
        adversary=adversary,
        examples=examples,
        axis_name=axis_name,
    )
    traced = _trace(single_device_task(task, config, spec), spec)
    for key, taken in task.objective.unfinished(config.steps).items():
        warnings.warn(
            f"{key}={taken} is more than steps={config.steps}: training ends before this schedule does, with another "
            f"weight or target than the config's; raise steps, or lower {key}",
            stacklevel=2,
        )
    models.warn_if_overcomplete(models.abstract_output(model, spec.shape), config)
    return dataclasses.replace(task, convolves="conv_general_dilated" in traced)


def single_device_task(task: Task, config: ConfigDict, spec: Spec) -> Task:
    """Returns the task for a single device, without `axis_name`."""
    if task.axis_name is None:
        return task
    return dataclasses.replace(task, model=models.build(config, spec.shape), axis_name=None)


def _trace(task: Task, spec: Spec) -> str:
    """Returns the operations of an evaluation as text, without computing anything.

    Raises InputError if a weight has no term, or a term does not fit the model.
    """

    def evaluate(x: Any) -> Any:
        state = init(task, spec.shape, jax.random.key(0))
        batch = {"x": x, **{name: np.arange(2, dtype=np.int32) for name in ("index", "label", "weight")}}
        return eval_step(state, batch, task=task)

    return str(jax.make_jaxpr(evaluate)(jax.ShapeDtypeStruct((2, *spec.shape), np.float32)))


def check_data(config: ConfigDict, task: Task, training: Feed, validation: Feed) -> None:
    """Raises InputError if values or labels do not fit the config."""
    _check_range(task, training.source)
    for feed in (training, validation) if config.classes else ():
        _check_labels(feed, config.classes)


def _check_range(task: Task, source: Source) -> None:
    """Raises InputError for vectors with values outside [0, 1] if the likelihood needs that range."""
    likelihood = task.objective.likelihood
    if likelihood.unit_interval and len(source.shape) == 1:
        for x in map(task.prepare, read_chunks(source)):
            if x.min() < 0 or x.max() > 1:
                raise InputError(
                    f"likelihood.name={type(likelihood).__name__} wants values in [0, 1], the data has "
                    f"{x.min()} to {x.max()}; use gaussian or squared_error, or scale the data"
                )


def _check_labels(feed: Feed, classes: int) -> None:
    """Raises InputError unless all labels are there and below `classes`."""
    if "label" not in feed.source.take(np.arange(1)):
        raise InputError(
            f"classes={classes} makes the model conditional, but the data has no labels; give some or set classes=0"
        )
    label = np.asarray(feed.held["label"]) if feed.held else read_labels(feed.source)
    if label.min() < 0 or label.max() >= classes:
        raise InputError(
            f"the data has labels from {label.min()} to {label.max()}, and classes={classes} means 0 to {classes - 1}; "
            "set classes to the number of labels"
        )
