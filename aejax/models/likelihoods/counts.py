"""Likelihoods of counts x [..., features]: whole numbers from 0, such as reads of genes or clicks on items."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aejax import losses
from aejax.errors import InputError, one_of
from aejax.models.likelihoods.likelihood import Likelihood, bound_log

LIBRARIES = ("none", "observed")
DISPERSIONS = ("feature", "feature_label", "value")


@dataclasses.dataclass(frozen=True)
class _Counts(Likelihood):
    """Counts whose mean is the exponential of what is decoded.

    Attributes:
      library: "none"; or "observed": means are fractions of the total of x (its library size), the softmax of what is
        decoded (Lopez et al. 2018, where the total is a latent variable).
      total: the total of the counts that `decode` and `generate` return with library="observed", as a code does not
        tell it.
    """

    library: str = "none"
    total: float = 1e4
    levels = -1
    draws = True

    def __post_init__(self):
        if self.library not in LIBRARIES:
            raise one_of("likelihood.library", self.library, LIBRARIES)
        if not self.total > 0:
            raise InputError(f"likelihood.total must be above 0, got {self.total}")

    @property
    def reads_input(self) -> bool:  # type: ignore[override]
        return self.library == "observed"

    def log_mean(self, decoded: Float[Array, "..."], x: Float[Array, "..."] | None = None) -> Float[Array, "..."]:
        """Returns the log mean, of counts of the same total as x where the library is observed."""
        if self.library == "none":
            return bound_log(decoded)
        total = self.total if x is None else jnp.maximum(x.sum(-1, keepdims=True), 1.0)
        return bound_log(jax.nn.log_softmax(decoded) + jnp.log(total))

    def mean(self, decoded):
        return jnp.exp(self.log_mean(decoded))

    def reconstruct(self, decoded, x):
        return jnp.exp(self.log_mean(decoded, x))


@dataclasses.dataclass(frozen=True)
class Poisson(_Counts):
    """Poisson distributions of log mean `decoded`."""

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        return losses.poisson_nll(self.log_mean(decoded, x), x)

    def draw(self, key, decoded, log_scale=None):
        return jax.random.poisson(key, self.mean(decoded)).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class NegativeBinomial(_Counts):
    """Negative binomial distributions of mean m and variance m + m^2 / t, for the inverse dispersion t.

    Attributes:
      dispersion: "feature", one parameter for each feature; "feature_label", one for each feature and label of a
        conditional model, e.g. for each gene and batch; or "value", which the decoder makes beside each mean.
    """

    dispersion: str = "feature"

    def __post_init__(self):
        super().__post_init__()
        if self.dispersion not in DISPERSIONS:
            raise one_of("likelihood.dispersion", self.dispersion, DISPERSIONS)

    @property
    def scale_by_label(self) -> bool:  # type: ignore[override]
        return self.dispersion == "feature_label"

    @property
    def parameters(self) -> int:
        """Returns the number of decoded numbers for each value."""
        return 1 + (self.dispersion == "value")

    def decoded_shape(self, shape):
        return (*shape[:-1], self.parameters * shape[-1])

    def scale_shape(self, shape):
        return None if self.dispersion == "value" else tuple(shape)

    def split(self, decoded: Float[Array, "..."]) -> list[Float[Array, "..."]]:
        """Returns what is decoded, as one array for each parameter, the mean's first."""
        return jnp.split(decoded, self.parameters, -1)

    def log_dispersion(
        self, decoded: Float[Array, "..."], log_scale: Float[Array, "..."] | None
    ) -> Float[Array, "..."]:
        """Returns the logarithm of the inverse dispersion, decoded or learned."""
        if self.dispersion == "value":
            return bound_log(self.split(decoded)[1])
        if log_scale is None:
            raise InputError(f"likelihood.dispersion={self.dispersion!r} needs a model that was built with it")
        return bound_log(log_scale)

    def mean(self, decoded):
        return jnp.exp(self.log_mean(self.split(decoded)[0]))

    def reconstruct(self, decoded, x):
        return jnp.exp(self.log_mean(self.split(decoded)[0], x))

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        log_mean = self.log_mean(self.split(decoded)[0], x)
        return losses.negative_binomial_nll(log_mean, x, self.log_dispersion(decoded, log_scale))

    def draw(self, key, decoded, log_scale=None):
        of_rate, of_count = jax.random.split(key)
        log_mean, log_dispersion = self.log_mean(self.split(decoded)[0]), self.log_dispersion(decoded, log_scale)
        shape = jnp.broadcast_to(jnp.exp(log_dispersion), log_mean.shape)
        rate = jnp.exp(jax.random.loggamma(of_rate, shape) + log_mean - log_dispersion)
        return jax.random.poisson(of_count, rate).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """Counts that are 0 with a probability whose logit is decoded last, and negative binomial otherwise
    (Lopez et al. 2018).
    """

    @property
    def parameters(self) -> int:
        return super().parameters + 1

    def mean(self, decoded):
        return super().mean(decoded) * jax.nn.sigmoid(-self.split(decoded)[-1])

    def reconstruct(self, decoded, x):
        return super().reconstruct(decoded, x) * jax.nn.sigmoid(-self.split(decoded)[-1])

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        log_mean, logits = self.log_mean(self.split(decoded)[0], x), self.split(decoded)[-1]
        log_dispersion = self.log_dispersion(decoded, log_scale)
        return losses.zero_inflated_negative_binomial_nll(log_mean, x, log_dispersion, logits)

    def draw(self, key, decoded, log_scale=None):
        of_zero, of_count = jax.random.split(key)
        zero = jax.random.bernoulli(of_zero, jax.nn.sigmoid(self.split(decoded)[-1]))
        return jnp.where(zero, 0.0, super().draw(of_count, decoded, log_scale))


@dataclasses.dataclass(frozen=True)
class Multinomial(_Counts):
    """Counts of a given total, with the probabilities softmax(decoded) over the last axis (Liang et al. 2018).

    Attributes:
      total: the total of the counts that `decode` and `generate` return. With 1, `decode` returns probabilities.
    """

    library: str = "observed"
    total: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.library != "observed":
            raise InputError(f"likelihood.library of multinomial is 'observed', got {self.library!r}; leave it out")

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        return losses.multinomial_nll(decoded, x)[..., None]  # of all values of the last axis together

    def draw(self, key, decoded, log_scale=None):
        return jax.random.multinomial(key, round(self.total), jax.nn.softmax(decoded)).astype(jnp.float32)
