"""The subject of an evaluation, a run with its data, which every metric reads; and what a metric returns."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from aejax import data
from aejax.data.sources import Truth
from aejax.errors import InputError
from aejax.inference.batches import limit_batch
from aejax.inference.trained import TrainedModel


class Measure(NamedTuple):
    """A figure, and what a reader must know to judge it.

    Attributes:
      value: of the metric.
      unit: e.g. "nats per example".
      protocol: split, sample counts and reduction, in one line.
    """

    value: float
    unit: str
    protocol: str


class Skipped(NamedTuple):
    """The reason why this run or this data has no such metric."""

    reason: str


Measures = dict[str, Measure | Skipped]


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Examples of one split as the run sees them; what is derived from them is computed once, on first use.

    Attributes:
      name: of the split, for protocols.
      x: as stored: what `run.encode` takes.
      label: int32 [n], or None.
      factors: of variation, int32 [n, factors], or None.
      target: what a transcoder is to decode, or None.
      rows: the examples' numbers in `truth`, int [n], or None.
      truth: the features that the data is known to be made of, or None.
    """

    run: TrainedModel
    name: str
    x: np.ndarray
    label: np.ndarray | None = None
    factors: np.ndarray | None = None
    target: np.ndarray | None = None
    rows: np.ndarray | None = None
    truth: Truth | None = None
    _taken: dict[Any, "Part"] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.x)

    def __str__(self) -> str:
        return f"{len(self):,} examples of {self.name}"

    @property
    def condition(self) -> np.ndarray | None:
        """Returns the labels that the run's methods take: None where the run is not conditional."""
        return self.label if self.run.config.classes else None

    @functools.cached_property
    def inputs(self) -> np.ndarray:
        """Returns x in the user's units, [n, *shape] float32."""
        return self.run.in_users_units(self.x)

    @property
    def wanted(self) -> np.ndarray:
        """Returns what the reconstructions are compared with, in the user's units: the inputs, or the targets."""
        return self.inputs if self.target is None else self.target

    @functools.cached_property
    def latents(self) -> np.ndarray:
        """Returns the deterministic codes [n, *latent]."""
        return self.run.encode(self.x, self.condition)

    @property
    def flat_latents(self) -> np.ndarray:
        """Returns the deterministic codes, flattened to [n, units]."""
        return self.latents.reshape(len(self), -1)

    @functools.cached_property
    def reconstructions(self) -> np.ndarray:
        """Returns what the deterministic codes decode to, in the user's units."""
        if self.run.model.skip:
            return self.run.reconstruct(self.x, self.condition)
        decoded = self.run.decode(self.latents, self.condition)
        return np.where(np.isnan(self.inputs), np.float32(np.nan), decoded) if self.run.spec.padded else decoded

    def pair(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields batches of what is wanted and of reconstructions, as computed before, or else without keeping them."""
        size = limit_batch(self.x.shape[1:])
        kept = self._derived("reconstructions") is not None
        for rows in (slice(i, i + size) for i in range(0, len(self), size)):
            if kept:
                yield self.wanted[rows], self.reconstructions[rows]
            else:
                label = None if self.condition is None else self.condition[rows]
                wanted = self.run.in_users_units(self.x[rows]) if self.target is None else self.target[rows]
                yield wanted, self.run.reconstruct(self.x[rows], label)

    def _derived(self, name: str) -> np.ndarray | None:
        """Returns an array that was computed on its first use, or None before that."""
        return self.__dict__.get(name)

    def take(self, count: int, seed: int = 0) -> "Part":
        """Returns `count` examples drawn without replacement, always the same; all where there are no more."""
        if count >= len(self):
            return self
        if (count, seed) not in self._taken:
            rows = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
            pick = lambda a: None if a is None else a[rows]  # noqa: E731
            part = dataclasses.replace(self, x=self.x[rows], label=pick(self.label), factors=pick(self.factors))
            part = dataclasses.replace(part, target=pick(self.target), rows=pick(self.rows))
            for derived in ("inputs", "latents", "reconstructions"):  # which spares computing them again
                if (known := self._derived(derived)) is not None:
                    part.__dict__[derived] = known[rows]
            self._taken[count, seed] = part
        return self._taken[count, seed]


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A run and the data that it is measured on.

    Attributes:
      test: the part that is scored.
      train: the part that probes and references are fitted on.
      split: the name of the run's own split that `test` is; "" for other examples.
    """

    run: TrainedModel
    train: Part
    test: Part
    split: str = ""
    _memory: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls, run: TrainedModel, splits: data.Splits | None = None, split: str = "test", limit: int = 60_000
    ) -> "Subject":
        """Returns the run with its own data, or with `splits`.

        Args:
          split: that is scored: "train", "validation" or "test".
          limit: the most examples that are used of a split, always the same; the protocols say how many they are.

        Raises InputError where the data cannot be loaded, where it is not what the run was trained on (given
        `splits` are not checked), or where there is no such split.
        """
        if split not in data.Splits._fields:
            raise InputError(f"split {split!r} is unknown; choose one of: {', '.join(data.Splits._fields)}")
        if limit < 1:
            raise InputError(f"limit must be at least 1 example, got {limit}")
        own, run = splits is None, run.in_numbers
        splits = splits or data.load(run.config.data, run.trained_on)
        train, test = (_read_part(run, getattr(splits, name), name, limit) for name in ("train", split))
        if split == "test" and (held_out := run.config.data.held_out) >= 0:
            test = dataclasses.replace(test, name=f"test, with label {held_out}, which train lacks")
        return cls(run, train, test, split if own else "")

    @classmethod
    def of_array(
        cls, run: TrainedModel, x: ArrayLike, label: ArrayLike | None = None, target: ArrayLike | None = None
    ) -> "Subject":
        """Returns the run with the examples x [n, ...] alone, which nothing can be fitted on.

        Their labels are [n], and the targets of a transcoder [n, ...]. Raises InputError if one of them does not fit
        the run.
        """
        source, run = run.spec.read(x, label, "x"), run.in_numbers
        if target is not None:
            if not run.spec.target:
                raise InputError("the run decodes its input and no target; leave target out")
            source = data.join_target({"x": source}, {"x": data.from_array(target, name="target")})["x"]
        part = _read_part(run, source, "the given data", len(source))
        return cls(run, part, part)

    @property
    def no_redraw(self) -> str | None:
        """Returns why `redraw` cannot draw binary values, or None."""
        if self.split and self.run.config.data.get("binarize") in ("dynamic", "static"):
            return None
        return "binary values are drawn again for the run's own data with data.binarize=dynamic or static"

    def redraw(self, seed: int) -> Part:
        """Returns the examples of `test` with binary values that are drawn by another seed."""
        if reason := self.no_redraw:
            raise InputError(reason)
        section = self.run.config.data.copy_and_resolve_references().unlock()
        section.binarize_seed = seed
        source = getattr(data.split(data.find(section), section), self.split)
        return _read_part(self.run, source, self.test.name, len(self.test))

    @property
    def unseen(self) -> Skipped | None:
        """Returns why nothing can be fitted on train and scored on test, where both are the same part; else None."""
        same = self.test.name == self.train.name
        return Skipped("it is fitted on the train part and needs another part to be scored on") if same else None

    def once(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Returns `function(self, *arguments)`, computed once for the metrics that share it."""
        key = (function, arguments)
        if key not in self._memory:
            self._memory[key] = function(self, *arguments)
        return self._memory[key]


def _read_part(run: TrainedModel, source: data.Source, name: str, limit: int) -> Part:
    if not run.fits(source.shape):
        raise InputError(f"the run reads examples of {run.spec.shape}, but {name} holds {source.shape}")
    if source.target is not None and tuple(source.target) != tuple(run.spec.target):
        raise InputError(f"the run decodes targets of {run.spec.target}, but {name} holds {tuple(source.target)}")
    arrays = data.read(source.sample(limit))
    if run.spec.target and "target" not in arrays:
        raise InputError(
            f"the run decodes targets of {run.spec.target}, and {name} has none; give target=, or measure splits of "
            "stores, which data.name and data.target name"
        )
    label, factors, target, rows = (arrays.get(key) for key in ("label", "factors", "target", "row"))
    return Part(run, name, arrays["x"], label, factors, target, rows, source.truth)
