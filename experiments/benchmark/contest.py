"""aejax against its peers on one work: each in a process of its own, exactly one of them at work at any time."""

import contextlib
import importlib.util
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

import aejax
from aejax import data
from aejax.errors import kind_and_words
from aejax.training import step
from aejax.training.task import make_task
from experiments.benchmark import contenders
from experiments.benchmark.contenders import CHECKED, CONTENDERS, Given
from experiments.benchmark.works import Work
from experiments.machine import fresh_process


def contest(work: Work, rounds: int) -> dict[str, Any]:
    """By contender: its `check`, its seconds, images and what others took in each round, and its peak memory."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        file = Path(folder, "given.npz")
        given_for(work).write(file)
        names = present(work.name, {name: CONTENDERS[name].needs for name in work.contenders})
        environments = {name: CONTENDERS[name].environment for name in names}
        processes = {name: stack.enter_context(fresh_process(env)) for name, env in environments.items()}

        def ask_contender(name: str, question: Callable[..., dict]) -> dict[str, Any]:
            return ask(processes[name], f"{work.name}: {name}", question, work.name, name, file)

        for name in processes:
            _say(f"{work.name}: {name} is checked")
            found[name] = {"check": ask_contender(name, contenders.check), "seconds": [], "images": [], "others": []}
        # Rounding to bfloat16 moves each side's losses its own way: both are compared with float32.
        expected = found.get("aejax, float32", found["aejax"])["check"]
        for name in processes:
            verify(work, name, found[name]["check"], expected)
        for turn in range(rounds):
            _say(f"{work.name}: round {turn + 1} of {rounds}")
            for name in processes:
                # Not counted: who waited has lost the caches and, where memory is reclaimed, pages.
                ask_contender(name, contenders.turn)
                answer = ask_contender(name, contenders.turn)
                for key in ("seconds", "images", "others"):
                    found[name][key].append(round(answer[key], 4))
        for name in processes:
            found[name].update(ask_contender(name, contenders.peak))
    return found


def present(work: str, needs: Mapping[str, str]) -> list[str]:
    """The contenders whose packages are there, of those given with their packages; says which are not."""
    missing = sorted(package for package in set(needs.values()) if not importlib.util.find_spec(package))
    if missing:
        _say(f"{work}: left out for want of {', '.join(missing)}; pip install -e '.[bench]'")
    return [name for name, package in needs.items() if package not in missing]


def given_for(work: Work) -> Given:
    """Images, rows as `aejax.train` draws them, and aejax's weights: to train from, or trained for a little.

    Importance samples of an untrained model are too noisy to tell whether two programs compute the same.
    """
    images, config = work.images(), work.config()
    if work.kind == "train":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a code is overcomplete
            task = make_task(config, data.Spec(images.shape[1:]))
        state = step.init(task, images.shape[1:], jax.random.key(0))
        variables = {"params": state.params, **state.variables}
    else:
        config.update({"steps": 500, "checkpoint_every": 500})
        variables = aejax.fit(config, images, quiet=True).variables
    rows = list(map(data.shuffle_rows(len(images), work.batch, 0), range(max(work.steps, CHECKED))))
    return Given(images, np.stack(rows), jax.device_get(flatten_dict(variables, sep="/")))


def verify(work: Work, name: str, check: Mapping[str, float], ours: Mapping[str, float]) -> None:
    """Raises InputError where the contender's values are not aejax's within the work's tolerance."""
    for value, expected in ours.items():
        tolerance = work.tolerance.get(value, 0.0)  # parameters are counted
        if not abs(check[value] - expected) <= tolerance * abs(expected):
            raise aejax.InputError(
                f"{work.name}: {name} does other work than aejax, its {value} is {check[value]:,.7g} and aejax's "
                f"{expected:,.7g}, further apart than a share of {tolerance:g}; nothing was timed"
            )


def ask(process: Executor, name: str, question: Callable[..., dict], *who: Any) -> dict[str, Any]:
    """The answer, once it has come. Raises InputError where the contender failed."""
    try:
        return process.submit(question, *who).result()
    except Exception as error:
        raise aejax.InputError(f"{name} failed: {kind_and_words(error)}") from error


def _say(line: str) -> None:
    print(line, file=sys.stderr)
