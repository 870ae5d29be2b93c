"""Warm start: the state before the first step, with variables of another run or of one's own instead of random ones."""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.core import FrozenDict
from jax import Array
from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax.distributed.partition import Partition
from aejax.errors import InputError
from aejax.files import local
from aejax.inference.loading import load_pretrained
from aejax.inference.run import Run
from aejax.pretrained import is_published
from aejax.training import paths
from aejax.training.step import Task, TrainState, init, start
from aejax.workdir import checkpoint

InitFrom = Run | Mapping[str, Any]


class Source(NamedTuple):
    """Variables to start from, nested by collection, and where they come from, for messages."""

    name: str
    variables: Mapping[str, Any]


def initialize(
    config: ConfigDict,
    task: Task,
    shape: Sequence[int],
    key: Array,
    partition: Partition,
    adjust: Callable[[Any], Any] | None = None,
    init_from: InitFrom | None = None,
    quiet: bool = True,
) -> TrainState:
    """Returns the state before the first step, see `step.init`, warm where `init_from` or `config.init_from` says so.

    Only variables of the model are taken; the optimizer and a discriminator begin anew. Raises InputError if the
    variables do not fit the model.
    """
    source = _read(config, init_from)
    if source is None:
        return partition.init(functools.partial(init, task, shape, adjust=adjust), key)
    abstract = jax.eval_shape(functools.partial(init, task, shape), key)
    wanted = {"params": abstract.params, **abstract.variables}
    taken = select(source, wanted, config_lib.parse_patterns(config.init_from.include))
    if not quiet:
        count, total = (sum(map(len, map(paths.flatten, tree.values()))) for tree in (taken, wanted))
        print(f"starting from {source.name}: {count} of the model's {total} arrays", file=sys.stderr)

    def begin(key: Array, taken: Any) -> TrainState:
        cold = init(task, shape, key, adjust)
        warm = {name: paths.merge(tree, taken.get(name, {})) for name, tree in cold.variables.items()}
        return start(task, paths.merge(cold.params, taken["params"]), warm).replace(critic=cold.critic)

    return partition.init(begin, key, taken)  # an argument, as constants would be compiled into the program


def _read(config: ConfigDict, given: InitFrom | None) -> Source | None:
    """Returns the source that is given or that the config names, or None for a random start."""
    section = config.init_from
    if given is None and not section.workdir:
        if section.include:
            raise InputError("init_from.include chooses what to take from init_from.workdir; set that, too")
        return None
    if config.pretrain.steps:
        raise InputError("init_from and pretrain.steps both set the initial parameters; leave one of them out")
    if given is None and is_published(folder := local(section.workdir)):
        return Source(str(folder), load_pretrained(folder).variables)
    if given is None:
        step = int(section.step) if section.step.isdecimal() else section.step
        saved = checkpoint.find(local(section.workdir), step)
        return Source(f"{section.workdir}, step {saved.step:,}", checkpoint.get_variables(saved))
    if section.workdir:
        raise InputError(f"init_from is given, and the config names {section.workdir}; leave one of them out")
    if isinstance(given, Run):
        return Source(f"a run of step {given.step:,}", given.variables)
    if not isinstance(given, dict | FrozenDict) or not given:
        raise InputError(f"init_from must be a Run or nested dicts of parameters, got {type(given).__name__}")
    return Source("the given parameters", given if "params" in given else {"params": given})


def select(source: Source, wanted: Mapping[str, Any], include: Sequence[str]) -> dict[str, Any]:
    """Returns those variables of the source that `include` matches, or all, nested by collection.

    `wanted` holds the model's variables, or their shapes. Bare parameters leave the other collections as they are.
    Raises InputError if names or shapes of the variables that `include` matches differ.
    """
    whole = len(source.variables) > 1  # parameters and other collections
    taken: dict[str, Any] = {"params": {}}
    names: list[str] = []
    differ: list[str] = []
    for collection in sorted(source.variables.keys() | (wanted.keys() if whole else set())):
        theirs, ours = (paths.flatten(tree.get(collection, {})) for tree in (source.variables, wanted))
        both = sorted(theirs.keys() | ours.keys())
        names += both
        chosen = [path for path in both if paths.is_chosen(path, include or [""])]
        shapes = {
            path: [str(np.shape(tree[path])) if path in tree else "absent" for tree in (theirs, ours)]
            for path in chosen
        }
        differ += [f"{path}: {there} there, {here} here" for path, (there, here) in shapes.items() if there != here]
        fits = {path: np.asarray(theirs[path], ours[path].dtype) for path in chosen if len(set(shapes[path])) == 1}
        taken[collection] = paths.nest(fits)
    paths.check_patterns("init_from.include", include, names)
    if differ:
        more = f"; and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise InputError(
            f"{source.name} does not fit this model: {len(differ)} arrays differ ({'; '.join(differ[:3])}{more}); take "
            "only what fits by init_from.include, e.g. encoder/"
        )
    return taken
