"""The likelihood of a table, whose columns have likelihoods of their own."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from aejax.errors import InputError, one_of
from aejax.models.likelihoods.columns import Beta, Categorical, Ordinal, StudentT
from aejax.models.likelihoods.counts import NegativeBinomial, Poisson
from aejax.models.likelihoods.likelihood import VARIANCES, Bernoulli, Gaussian, Laplace, Likelihood

NUMBERS: dict[str, Callable[..., Likelihood]] = {"gaussian": Gaussian, "laplace": Laplace, "student_t": StudentT}
LEVELS: dict[str, Callable[..., Likelihood]] = {"categorical": Categorical, "ordinal": Ordinal}
OTHERS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "beta": Beta,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
}
COLUMNS: dict[str, Callable[..., Likelihood]] = {**NUMBERS, **LEVELS, **OTHERS}


def count_levels(column: str) -> int:
    """Returns the number of levels of a column "categorical:3" or "ordinal:3", and 0 for other columns.

    Raises InputError for a column without a likelihood.
    """
    kind, colon, levels = column.partition(":")
    if kind not in COLUMNS:
        raise one_of("likelihood.columns:", kind, COLUMNS)
    if (kind in LEVELS) != bool(colon) or (colon and not (levels.isdecimal() and int(levels) >= 2)):
        raise InputError(f"likelihood.columns: write {kind}{':3, the number of its levels' * (kind in LEVELS)}")
    return int(levels) if colon else 0


@dataclasses.dataclass(frozen=True)
class Mixed(Likelihood):
    """Columns [..., columns] that are independent given the code, each with its own likelihood (Nazabal et al. 2020).

    What is decoded for columns of the same likelihood stands side by side, in the order in which likelihoods occur
    first.

    Attributes:
      columns: the likelihood of each column: gaussian, laplace, student_t, bernoulli, beta, poisson,
        negative_binomial, categorical:LEVELS or ordinal:LEVELS. Empty: those of the data, see `data.Column`.
      variance: of gaussian, laplace and student_t: "learned", one for each column, or "fixed" at 1.
    """

    columns: Sequence[str] = ()
    variance: str = "learned"
    draws = True

    def __post_init__(self):
        object.__setattr__(self, "columns", tuple(self.columns))
        if self.variance not in (known := [name for name in VARIANCES if name != "optimal"]):
            raise one_of("likelihood.variance", self.variance, known)
        _ = self.column_levels

    @property
    def column_levels(self) -> tuple[int, ...]:
        return tuple(count_levels(column) or OTHERS.get(column, Likelihood).levels for column in self.columns)

    @functools.cached_property
    def _groups(self) -> list[tuple[np.ndarray, Likelihood]]:
        """Returns the columns of each likelihood."""
        groups = []
        for name in dict.fromkeys(self.columns):
            options: dict[str, Any] = {"variance": self.variance} if name in NUMBERS else {}
            options |= {"levels": levels} if (levels := count_levels(name)) else {}
            make = COLUMNS[name.partition(":")[0]]
            groups.append((np.flatnonzero(np.array(self.columns) == name), make(**options)))
        return groups

    def decoded_shape(self, shape):
        if len(shape) != 1 or len(self.columns) != shape[0]:
            raise InputError(
                f"likelihood.name='mixed' has {len(self.columns)} columns, and the data holds examples of "
                f"{tuple(shape)}; give a DataFrame or a table's file, or set likelihood.columns"
            )
        return (sum(of.decoded_shape((len(which),))[0] for which, of in self._groups),)

    def scale_shape(self, shape):
        learned = any(of.scale_shape((len(which),)) is not None for which, of in self._groups)
        return (len(self.columns),) if learned else None

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        return self._each(lambda of, part, which, scale: of.nll(part, x[..., which], scale), decoded, log_scale)

    def mean(self, decoded):
        return self._each(lambda of, part, which, scale: of.mean(part), decoded)

    def draw(self, key, decoded, log_scale=None):
        def draw(of: Likelihood, part: Array, which: np.ndarray, scale: Any) -> Array:
            return of.draw(jax.random.fold_in(key, int(which[0])), part, scale)

        return self._each(draw, decoded, log_scale)

    def _each(
        self, function: Callable[..., Array], decoded: Float[Array, "..."], log_scale: Any = None
    ) -> Float[Array, "... columns"]:
        """Returns `function(likelihood, its part of decoded, its columns, their scales)` in the order of columns."""
        ends = np.cumsum([of.decoded_shape((len(which),))[0] for which, of in self._groups])
        parts = jnp.split(decoded, ends[:-1], -1)
        found = [
            function(of, part, which, None if log_scale is None else log_scale[..., which])
            for (which, of), part in zip(self._groups, parts, strict=True)
        ]
        order = np.argsort(np.concatenate([which for which, _ in self._groups]))
        return jnp.concatenate(found, -1)[..., order]
