"""Synthetic activations whose true features are known, after SynthSAEBench (Chanin and Garriga-Alonso 2026).

An example is a sparse sum of known directions. How often a feature fires follows a power law; children fire only with
their parent, and one at a time; all features are weakly correlated. Every example is a function of the seed and its
number alone, and is computed when it is asked for, so that any number of examples takes no memory.
"""

import dataclasses
import functools
from typing import Any

import numpy as np
from scipy.sparse import csr_array, vstack
from scipy.stats import norm

from aejax.data.sources import Arrays, Rows, Source
from aejax.errors import InputError, one_of

_CHUNK = 512  # examples that are computed at once, [chunk, features] in memory
_HELD_OUT = 10_000  # examples at most of the validation and of the test split


@dataclasses.dataclass(frozen=True)
class SparseFeatures:
    """Known features and how they fire. The defaults are 1/16 of those of SynthSAEBench-16k, see `PAPER`.

    Raises InputError if a value is out of range.

    Attributes:
      features: number of features, from the most to the least frequent.
      dims: number of values of an example.
      examples: number of training examples; validation and test have a tenth of that each, at most 10,000.
      seed: of the directions, the correlations, the magnitudes and the examples.
      exponent, most, least: a feature of rank r fires with a probability that is linear in r ** -exponent, from `most`
        to `least`. Below a parent, this is what the probability of firing is compensated for.
      roots, branching, depth: number of trees, of children of a parent, and of levels of children. The first features
        are the roots, then come the children of the first level, and so on; the features that are left have no parent.
      exclusive: whether at most one child of a parent fires.
      scaled: whether a child's magnitude is multiplied by its parent's, relative to the parent's mean.
      rank, correlation: the normal variables whose thresholds decide what fires have the correlations A A^T, where
        the entries of A, [features, rank], have the standard deviation `correlation`.
      first, last: mean magnitude of the first and of the last feature, between which it is linear.
      spread, spread_std: a feature's magnitude has a standard deviation of |N(spread, spread_std^2)|.
      orthogonalize: number of steps that make random directions more orthogonal.
      bias: norm of a vector that is added to each example.
    """

    features: int = 1_024
    dims: int = 256
    examples: int = 100_000
    seed: int = 0
    exponent: float = 0.5
    most: float = 0.4
    least: float = 8e-3
    roots: int = 8
    branching: int = 4
    depth: int = 3
    exclusive: bool = True
    scaled: bool = True
    rank: int = 25
    correlation: float = 0.1
    first: float = 5.0
    last: float = 4.0
    spread: float = 0.5
    spread_std: float = 0.5
    orthogonalize: int = 100
    bias: float = 0.5

    def __post_init__(self) -> None:
        for name, least in (("features", 2), ("dims", 1), ("examples", 1), ("branching", 2), ("rank", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} of sparse_features must be at least {least}, got {getattr(self, name)}")
        for name in ("seed", "roots", "depth", "correlation", "first", "last", "spread_std", "orthogonalize", "bias"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} of sparse_features must not be negative, got {getattr(self, name)}")
        if not 0 < self.least <= self.most < 1 or not self.exponent > 0:
            raise InputError(
                "sparse_features needs 0 < least <= most < 1 and exponent > 0, "
                f"got least={self.least}, most={self.most}, exponent={self.exponent}"
            )

    @classmethod
    def parse(cls, text: str) -> "SparseFeatures":
        """Returns the features that e.g. "features=512,dims=64,scaled=False" describes."""
        kinds: dict[str, Any] = {name: type(value) for name, value in dataclasses.asdict(cls()).items()}
        values: dict[str, Any] = {}
        for item in filter(None, map(str.strip, text.split(","))):
            name, _, value = item.partition("=")
            if name not in kinds:
                raise one_of("data.options of sparse_features", name, kinds)
            try:
                values[name] = {"True": True, "False": False}[value] if kinds[name] is bool else kinds[name](value)
            except (ValueError, KeyError) as error:
                raise InputError(f"data.options: {item!r} needs a value of kind {kinds[name].__name__}") from error
        return cls(**values)

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        """Returns the probability of firing that each feature is meant to have, [features]."""
        power = np.arange(1, self.features + 1) ** -self.exponent
        return self.least + (self.most - self.least) * (power - power[-1]) / (power[0] - power[-1])

    @functools.cached_property
    def parents(self) -> np.ndarray:
        """Returns the number of each feature's parent, or -1, int [features]."""
        parents = np.full(self.features, -1)
        for first, end in self._levels:
            above = (first - (end - first) // self.branching, first)  # of a full tree, whose levels follow each other
            children = np.arange(first, min(end, self.features))
            parents[children] = above[0] + (children - first) // self.branching
        return parents

    @functools.cached_property
    def _levels(self) -> list[tuple[int, int]]:
        """Returns where each level of children begins and ends, in a forest that no number of features cuts off."""
        levels, first, size = [], self.roots, self.roots
        for _ in range(self.depth):
            size *= self.branching
            if first >= self.features or not size:
                break
            levels.append((first, first + size))
            first += size
        return levels

    @functools.cached_property
    def _thresholds(self) -> np.ndarray:
        """Returns what each normal variable has to exceed for its feature to fire, before its parent is asked.

        A child's probability is divided by its parent's and, where children exclude each other, multiplied by 1 plus
        the number of siblings that are expected to fire, too; it is at most 1.
        """
        p, children = self.probabilities.copy(), np.flatnonzero(self.parents >= 0)
        parents = self.parents[children]
        above = self.probabilities[parents]
        p[children] /= above
        if self.exclusive:
            total = np.bincount(parents, self.probabilities[children], self.features)[parents]
            p[children] *= 1 + (total - self.probabilities[children]) / above
        return norm.isf(np.minimum(p, 1)).astype(np.float32)

    @functools.cached_property
    def _factor(self) -> np.ndarray:
        """Returns the factor A of the correlations, [features, rank], with rows of at most 0.995 in length."""
        factor = self._rng(0).normal(size=(self.features, self.rank)) * self.correlation
        length = np.linalg.norm(factor, axis=1, keepdims=True)
        return np.asarray(factor * np.minimum(1, 0.995 / np.maximum(length, 1e-12)), np.float32)

    @functools.cached_property
    def correlations(self) -> np.ndarray:
        """Returns the correlations of the normal variables, [features, features]."""
        factor = self._factor.astype(np.float64)
        correlations = factor @ factor.T
        np.fill_diagonal(correlations, 1)
        return correlations

    @functools.cached_property
    def magnitudes(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mean and the standard deviation of each feature's magnitude, before parents scale it."""
        deviation = np.abs(self._rng(1).normal(self.spread, self.spread_std, self.features))
        return np.linspace(self.first, self.last, self.features, dtype=np.float32), deviation.astype(np.float32)

    @functools.cached_property
    def directions(self) -> np.ndarray:
        """Returns the unit vector of each feature, [features, dims]."""
        x = self._rng(2).normal(size=(self.features, self.dims))
        return orthogonalize(x / np.linalg.norm(x, axis=1, keepdims=True), self.orthogonalize)

    @functools.cached_property
    def offset(self) -> np.ndarray:
        """Returns the vector that is added to each example, [dims]."""
        x = self._rng(3).normal(size=self.dims)
        return (x * (self.bias / np.linalg.norm(x))).astype(np.float32)

    def _rng(self, part: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, 1, part])

    def activations(self, rows: Rows) -> csr_array:
        """Returns the magnitudes of the features in the examples with the given numbers, sparse [n, features]."""
        parts = [self._fire(rows[i : i + _CHUNK]) for i in range(0, len(rows), _CHUNK)]
        return vstack(parts, format="csr") if parts else csr_array((0, self.features), dtype=np.float32)

    def _fire(self, rows: Rows) -> csr_array:
        own = np.sqrt(1 - np.square(self._factor).sum(1))
        mean, deviation = self.magnitudes
        values, luck = np.zeros((2, len(rows), self.features), np.float32)
        for place, row in enumerate(rows.tolist()):
            rng = np.random.default_rng([self.seed, 0, row])
            shared = self._factor @ rng.standard_normal(self.rank, np.float32)
            fired = np.flatnonzero(shared + own * rng.standard_normal(self.features, np.float32) > self._thresholds)
            drawn = rng.standard_normal(len(fired), np.float32)
            values[place, fired] = np.maximum(mean[fired] + deviation[fired] * drawn, 0)
            luck[place, fired] = rng.random(len(fired), np.float32)
        for first, end in self._levels:
            children = slice(first, min(end, self.features))
            parents = self.parents[children]
            above = values[:, parents]
            values[:, children] *= above / mean[parents] if self.scaled else above > 0
            if self.exclusive:
                self._exclude(values[:, children], luck[:, children])
        return csr_array(values)

    def _exclude(self, values: np.ndarray, luck: np.ndarray) -> None:
        """Sets all but one of the active children of each parent to 0, [n, children], in place."""
        for first in range(0, values.shape[1], self.branching):  # the last parent may lack some children
            siblings = slice(first, first + self.branching)
            active = np.where(values[:, siblings] > 0, luck[:, siblings], -1)
            values[:, siblings] *= active == active.max(1, keepdims=True)

    def take(self, rows: Rows) -> Arrays:
        """Returns the examples with the given numbers, {"x": [n, dims], "row": [n]}."""
        rows = np.asarray(rows)
        return {"x": np.asarray(self.activations(rows) @ self.directions + self.offset), "row": rows}

    def splits(self) -> dict[str, Source]:
        """Returns the train, validation and test splits, which share no example."""
        held_out = max(min(self.examples // 10, _HELD_OUT), 1)
        whole = Source(
            "sparse_features",
            self.examples + 2 * held_out,
            (self.dims,),
            np.dtype(np.float32),
            self.take,
            truth=self,
        )
        ends = np.cumsum([0, self.examples, held_out, held_out]).tolist()
        names = ("train", "validation", "test")
        return {name: whole.subset(np.arange(*ends[i : i + 2]), name) for i, name in enumerate(names)}


# The options of SynthSAEBench-16k, with fresh examples for the 200 million samples that the paper trains on.
PAPER = "features=16384,dims=768,roots=128,least=5e-4,examples=200000000"


def orthogonalize(x: np.ndarray, steps: int, rate: float = 3e-4) -> np.ndarray:
    """Returns the unit vectors `x` [n, dims] after steps of Adam that lower their squared cosines, float32.

    The loss is the sum of (x_i x_j)^2 over pairs plus n times that of (|x_i|^2 - 1)^2. Its gradient is computed from
    X^T X, [dims, dims], instead of all pairs.
    """
    x = x.astype(np.float32)
    first, second = np.zeros_like(x), np.zeros_like(x)
    for step in range(1, steps + 1):
        squares = np.square(x).sum(1, keepdims=True)
        gradient = 4 * (x @ (x.T @ x) - squares * x + len(x) * (squares - 1) * x)
        first += 0.1 * (gradient - first)
        second += 0.001 * (np.square(gradient) - second)
        x = x - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), np.float32)
