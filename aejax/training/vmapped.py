"""Runs that one program trains: which may, and how their states and numbers lie beside each other."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax.errors import InputError
from aejax.training import optimizers
from aejax.training.step import Task

# In what they may differ: numbers that change no shape. Beside them `seed`.
NUMBERS = ("optim.lr", "optim.weight_decay", "corruption.level", "objective.weights.")


def common(config: ConfigDict) -> str:
    """The same for configs that may train together, and for no others."""
    plain = config_lib.to_dict(config)
    if config.pretrain.steps:  # layer by layer, of one run
        return config_lib.to_json(plain)
    plain["seed"] = plain["optim"]["lr"] = None
    plain["optim"]["weight_decay"] = plain["optim"]["weight_decay"] > 0  # 0 is another chain
    plain["corruption"]["level"] = plain["corruption"]["level"] > 0
    plain["objective"]["weights"] = sorted(plain["objective"]["weights"])
    return config_lib.to_json(plain)


def numbers(configs: Sequence[ConfigDict]) -> dict[str, Any]:
    """By key the numbers in which the configs differ, [runs]; raises InputError where they differ in more."""
    if len({common(config) for config in configs}) > 1:
        other = next(config for config in configs if common(config) != common(configs[0]))
        raise InputError(
            f"runs that train together may differ in seed and {', '.join(NUMBERS)}*, these differ in "
            f"{'; '.join(config_lib.differences(configs[0], other))}; train them one by one"
        )
    differ = {d.split(":")[0] for c in configs for d in config_lib.differences(configs[0], c)} - {"seed"}
    return {key: jnp.array([config_lib.get(c, key) for c in configs], jnp.float32) for key in sorted(differ)}


def with_numbers(task: Task, config: ConfigDict, numbers: Mapping[str, Any]) -> Task:
    """The task with these numbers, which may be traced, in the place of the config's."""
    if not numbers:
        return task
    of = lambda section: {k.removeprefix(section): v for k, v in numbers.items() if k.startswith(section)}  # noqa: E731
    return dataclasses.replace(
        task,
        optimizer=optimizers.build({**config.optim.to_dict(), **of("optim.")}, config.steps),
        objective=dataclasses.replace(task.objective, weights={**task.objective.weights, **of("objective.weights.")}),
        corruption=dataclasses.replace(task.corruption, **of("corruption.")),
    )


def check(task: Task, configs: Sequence[ConfigDict], numbers: Mapping[str, Any]) -> None:
    """InputError where one of the numbers, which are not looked at when they are traced, does not fit its place."""
    for config in configs:
        with_numbers(task, config, {key: config_lib.get(config, key) for key in numbers})


def stack(trees: Sequence[Any]) -> Any:
    """Of several runs, with a leading axis [runs]; one is left as it is."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees) if len(trees) > 1 else trees[0]


def pick(tree: Any, i: int, runs: int) -> Any:
    """What `stack` was given for run i."""
    return jax.tree.map(lambda a: a[i], tree) if runs > 1 else tree
