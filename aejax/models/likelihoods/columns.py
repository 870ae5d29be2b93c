"""Likelihoods of columns of tables: categories, ordered levels, numbers with heavy tails, and numbers in (0, 1)."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aejax import losses
from aejax.errors import InputError
from aejax.models.likelihoods.likelihood import Likelihood, Scaled, bound_log


@dataclasses.dataclass(frozen=True)
class _Levels(Likelihood):
    """Levels x = 0, 1, ..., levels - 1, of which `logits` says how likely each is."""

    levels: int = 2
    draws = True

    def __post_init__(self):
        if self.levels < 2:
            raise InputError(f"likelihood.levels must be at least 2, got {self.levels}")

    def logits(self, decoded: Float[Array, "..."]) -> Float[Array, "... {self.levels}"]:
        """Returns the log probability of each level, up to a constant, on a last axis."""
        raise NotImplementedError

    def mean(self, decoded):
        return jnp.argmax(self.logits(decoded), -1).astype(jnp.float32)

    def draw(self, key, decoded, log_scale=None):
        return jax.random.categorical(key, self.logits(decoded)).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Categorical(_Levels):
    """Categories x = 0, 1, ..., levels - 1, whose logits are decoded side by side for each value."""

    def decoded_shape(self, shape):
        return (*shape[:-1], shape[-1] * self.levels)

    def logits(self, decoded):
        return decoded.reshape(*decoded.shape[:-1], -1, self.levels)

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        return losses.categorical_nll(self.logits(decoded), x)


@dataclasses.dataclass(frozen=True)
class Ordinal(_Levels):
    """Ordered levels x = 0, 1, ..., levels - 1 with P(x <= k) = sigmoid(c_k), whose cuts c_k ascend
    (McCullagh 1980).

    The first cut of each value is decoded, then the distances to the next cuts, before a softplus.
    """

    def decoded_shape(self, shape):
        return (*shape[:-1], shape[-1] * (self.levels - 1))

    def cuts(self, decoded: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns the cuts of each value on a last axis of levels - 1."""
        parts = decoded.reshape(*decoded.shape[:-1], -1, self.levels - 1)
        return jnp.cumsum(jnp.concatenate([parts[..., :1], jax.nn.softplus(parts[..., 1:])], -1), -1)

    def logits(self, decoded):
        cuts = self.cuts(decoded)[..., None, :]
        return -losses.ordinal_nll(jnp.zeros(()), jnp.arange(self.levels, dtype=jnp.float32), cuts)

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        return losses.ordinal_nll(jnp.zeros(()), x, self.cuts(decoded))


@dataclasses.dataclass(frozen=True)
class StudentT(Scaled):
    """Student's t distributions of location `decoded`, whose tails an outlier moves less than a Gaussian's.

    Attributes:
      df: degrees of freedom.
    """

    df: float = 4.0

    def __post_init__(self):
        super().__post_init__()
        if self.variance == "optimal":
            raise InputError("likelihood.variance='optimal' has no closed form for Student's t; choose 'learned'")
        if not self.df > 0:
            raise InputError(f"likelihood.df must be above 0, got {self.df}")

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        log_scale = self.log_scale(log_scale, decoded, axis_name, 1)
        return losses.student_t_nll(decoded, x, log_scale, jnp.log(self.df))

    def draw(self, key, decoded, log_scale=None):
        return decoded + jnp.exp(self.fixed_log_scale(log_scale)) * jax.random.t(key, self.df, decoded.shape)


@dataclasses.dataclass(frozen=True)
class Beta(Likelihood):
    """Beta distributions on (0, 1): the logits of their means are decoded, then the logs of their concentrations."""

    unit_interval = True

    def decoded_shape(self, shape):
        return (*shape[:-1], 2 * shape[-1])

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        logits, log_concentration = jnp.split(decoded, 2, -1)
        return losses.beta_nll(logits, x, bound_log(log_concentration))

    def mean(self, decoded):
        return jax.nn.sigmoid(jnp.split(decoded, 2, -1)[0])

    def draw(self, key, decoded, log_scale=None):
        logits, log_concentration = jnp.split(decoded, 2, -1)
        concentration = jnp.exp(bound_log(log_concentration))
        a, b = concentration * jax.nn.sigmoid(logits), concentration * jax.nn.sigmoid(-logits)
        return jax.random.beta(key, a, b)
