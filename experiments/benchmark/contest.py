"""aejax against its peers on one work: each in a process of its own, exactly one of them at work at any time."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

import aejax
from aejax import data
from aejax.training import step
from aejax.training.task import make_task
from experiments.benchmark.contenders import CONTENDERS
from experiments.benchmark.given import CHECKED, Given
from experiments.benchmark.works import Work


def contest(work: Work, rounds: int) -> dict[str, Any]:
    """By contender: its `check`, its seconds, images and what others took in each round, and its peak memory."""
    names = present(work)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        file = Path(folder, "given.npz")
        given_for(work).write(file)
        children = {name: stack.enter_context(Child.of(work, name, file)) for name in names}
        for name, child in children.items():
            _say(f"{work.name}: {name} is checked")
            found[name] = {"check": child.ask("check"), "seconds": [], "images": [], "others": []}
            verify(work, name, found[name]["check"], found["aejax"]["check"])
        for turn in range(rounds):
            _say(f"{work.name}: round {turn + 1} of {rounds}")
            for name, child in children.items():
                child.ask("turn")  # not counted: who waited has lost the caches and, where memory is reclaimed, pages
                answer = child.ask("turn")
                for key in ("seconds", "images", "others"):
                    found[name][key].append(round(answer[key], 4))
        for name, child in children.items():
            found[name].update(child.ask("peak"))
    return found


def present(work: Work) -> list[str]:
    """The work's contenders whose packages are there; says which are not."""
    missing = sorted({CONTENDERS[name].needs for name in work.contenders if not _there(CONTENDERS[name].needs)})
    if missing:
        _say(f"{work.name}: left out for want of {', '.join(missing)}; pip install -e '.[bench]'")
    return [name for name in work.contenders if CONTENDERS[name].needs not in missing]


def _there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


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


class Child:
    """A contender's process."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str] | None = None):
        self.name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  as long as the process
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **(environment or {})},
            text=True,
        )

    @classmethod
    def of(cls, work: Work, name: str, file: Path) -> "Child":
        command = [sys.executable, "-m", "experiments.benchmark.contender", work.name, name, str(file)]
        return cls(f"{work.name}: {name}", command, CONTENDERS[name].environment)

    def ask(self, command: str) -> dict[str, Any]:
        """The answer, once it has come. Raises InputError where the contender failed."""
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            print(command, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise aejax.InputError(f"{self.name} ended with status {self._process.wait()}: {said[-1]}")
        answer = json.loads(line)
        if "error" in answer:
            raise aejax.InputError(f"{self.name} failed: {answer['error']}")
        return answer

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def _say(line: str) -> None:
    print(line, file=sys.stderr)
