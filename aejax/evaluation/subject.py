"""What every metric reads, a run beside its data; and what every metric returns."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from aejax import data
from aejax.errors import InputError
from aejax.inference.run import Run


class Measure(NamedTuple):
    """A figure, and what one must know to read it.

    Attributes:
      value: of the metric.
      unit: e.g. "nats an example".
      protocol: split, sample counts and reduction, in one line.
    """

    value: float
    unit: str
    protocol: str


class Skipped(NamedTuple):
    """A metric that this run or this data cannot have, and why."""

    reason: str


Measures = dict[str, Measure | Skipped]


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Examples of one split as the run sees them; what is derived is computed once, when first asked for.

    Attributes:
      name: of the split, for protocols.
      x: as stored: what `run.encode` takes.
      label: int32 [n], or None.
      factors: of variation, int32 [n, factors], or None.
    """

    run: Run
    name: str
    x: np.ndarray
    label: np.ndarray | None = None
    factors: np.ndarray | None = None
    _taken: dict[Any, "Part"] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.x)

    def __str__(self) -> str:
        return f"{len(self):,} examples of {self.name}"

    @property
    def condition(self) -> np.ndarray | None:
        """The labels that the run's methods take: None where the run is not conditional."""
        return self.label if self.run.config.classes else None

    @functools.cached_property
    def inputs(self) -> np.ndarray:
        """x in the user's units, [n, *shape] float32."""
        return self.run.in_users_units(self.x)

    @functools.cached_property
    def latents(self) -> np.ndarray:
        """[n, *latent], deterministic."""
        return self.run.encode(self.x, self.condition)

    @property
    def flat_latents(self) -> np.ndarray:
        """[n, numbers of a code]."""
        return self.latents.reshape(len(self), -1)

    @functools.cached_property
    def reconstructions(self) -> np.ndarray:
        """Of the deterministic code, in the user's units."""
        return self.run.decode(self.latents, self.condition)

    def take(self, count: int, seed: int = 0) -> "Part":
        """`count` examples drawn without replacement, always the same; all, where there are no more."""
        if count >= len(self):
            return self
        if (count, seed) not in self._taken:
            rows = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
            pick = lambda a: None if a is None else a[rows]  # noqa: E731
            part = dataclasses.replace(self, x=self.x[rows], label=pick(self.label), factors=pick(self.factors))
            for derived in ("inputs", "latents", "reconstructions"):  # rather than compute them again
                if derived in self.__dict__:
                    part.__dict__[derived] = self.__dict__[derived][rows]
            self._taken[count, seed] = part
        return self._taken[count, seed]


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A run and the data that it is measured on.

    Attributes:
      test: what is scored.
      train: what probes and references are fitted on.
    """

    run: Run
    train: Part
    test: Part
    _memory: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, run: Run, splits: data.Splits | None = None, split: str = "test", limit: int = 60_000) -> "Subject":
        """The run beside its own data, or `splits`.

        Args:
          split: to score: "train", "validation" or "test".
          limit: examples of a split that are used at most, drawn always the same; the protocols say how many.

        Raises InputError where the data cannot be had or is not what the run was trained on (`splits` that are given
        are not checked), or there is no such split.
        """
        if split not in data.Splits._fields:
            raise InputError(f"split {split!r} is unknown; choose one of: {', '.join(data.Splits._fields)}")
        if limit < 1:
            raise InputError(f"limit must be at least 1 example, got {limit}")
        splits = splits or data.load(run.config.data, run.trained_on)
        train, test = (_part(run, getattr(splits, name), name, limit) for name in ("train", split))
        if split == "test" and (held_out := run.config.data.held_out) >= 0:
            test = dataclasses.replace(test, name=f"test, label {held_out} among them, which train has not")
        return cls(run, train, test)

    @property
    def unseen(self) -> Skipped | None:
        """Why what is fitted on the train part cannot be scored, where the test part is that part; else None."""
        same = self.test.name == self.train.name
        return Skipped("fitted on the train part, it needs another part to be scored on") if same else None

    def once(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(self, *arguments)`, computed once: what several metrics share."""
        key = (function, arguments)
        if key not in self._memory:
            self._memory[key] = function(self, *arguments)
        return self._memory[key]


def _part(run: Run, source: data.Source, name: str, limit: int) -> Part:
    if source.shape != run.spec.shape:
        raise InputError(f"the run reads examples of {run.spec.shape}, the {name} split holds {source.shape}")
    arrays = data.read(source.sample(limit))
    return Part(run, name, arrays["x"], arrays.get("label"), arrays.get("factors"))
