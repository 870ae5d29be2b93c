"""The interface of likelihoods, and likelihoods of images and of numbers without bounds."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float, Key

from aejax import losses
from aejax.errors import InputError, one_of
from aejax.models.layers import whole_batch

VARIANCES = ("fixed", "learned", "optimal")
_LARGEST = 40.0  # logarithm of a mean or a dispersion


def bound_log(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Clips logarithms, so that float32 holds their exponentials, with the gradient of the identity: they return."""
    return x + stop_gradient(jnp.clip(x, -_LARGEST, _LARGEST) - x)


class Likelihood:
    """The interface of a likelihood of x given decoded values.

    Attributes:
      unit_interval: whether x must lie in [0, 1].
      levels: number of levels 0, 1, ... that x may have, -1 for all whole numbers from 0; 0: x may be any number.
      reads_input: whether `reconstruct` reads x, e.g. the total of its counts.
      draws: whether `Run.generate` returns samples of x, because its mean is no value that x can have.
      scale_by_label: whether each label has a learned scale of its own.
      columns: name of the likelihood of each column of a table, see `Mixed`; empty for other data.
    """

    unit_interval = False
    levels = 0
    reads_input = False
    draws = False
    scale_by_label = False
    columns: Sequence[str] = ()

    @property
    def column_levels(self) -> tuple[int, ...]:
        """Returns `levels` of each of the `columns`."""
        return ()

    def decoded_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Returns the shape of the parameters that a decoder makes for x of `shape`."""
        return tuple(shape)

    def scale_shape(self, shape: Sequence[int]) -> tuple[int, ...] | None:
        """Returns the shape of the parameters that are learned beside the decoder, None without such parameters."""
        return None

    def nll(
        self,
        decoded: Float[Array, "..."],
        x: Float[Array, "..."],
        log_scale: Float[Array, "..."] | None = None,
        axis_name: str | None = None,
    ) -> Float[Array, "..."]:
        """Returns -log p(x | decoded) of each value. `log_scale` is the learned log scale, if there is one."""
        raise NotImplementedError

    def mean(self, decoded: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns the expected x; of categories and levels, the most likely x."""
        return decoded

    def reconstruct(self, decoded: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns the expected x, given what `reads_input` says of x itself; defaults to `mean`."""
        return self.mean(decoded)

    def draw(
        self, key: Key[Array, ""], decoded: Float[Array, "..."], log_scale: Float[Array, "..."] | None = None
    ) -> Float[Array, "..."]:
        """Returns a sample of x given the `decoded` values of one example."""
        raise InputError(f"{type(self).__name__} is an error without a density, from which nothing can be drawn")


@dataclasses.dataclass(frozen=True)
class SquaredError(Likelihood):
    """Squared error. It is no likelihood: half of it is the nats of a Gaussian of unit variance, up to a constant."""

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        return jnp.square(decoded - x)


@dataclasses.dataclass(frozen=True)
class AbsoluteError(Likelihood):
    """Absolute error: the nats of a Laplace distribution of unit scale, up to a constant."""

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        return jnp.abs(decoded - x)


@dataclasses.dataclass(frozen=True)
class Bernoulli(Likelihood):
    """Bernoulli distributions of the logits `decoded` (Kingma and Welling 2014, appendix C.1)."""

    unit_interval = True

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        return losses.bernoulli_nll(decoded, x)

    def mean(self, decoded):
        return jax.nn.sigmoid(decoded)

    def draw(self, key, decoded, log_scale=None):
        return jax.random.bernoulli(key, jax.nn.sigmoid(decoded)).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class ContinuousBernoulli(Likelihood):
    """Densities on [0, 1] with the logits `decoded` (Loaiza-Ganem and Cunningham 2019)."""

    unit_interval = True

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        return losses.continuous_bernoulli_nll(decoded, x)

    def mean(self, decoded):
        return losses.continuous_bernoulli_mean(decoded)

    def draw(self, key, decoded, log_scale=None):
        # By the inverse of the distribution function, for a logit below 0 and mirrored for others.
        u, size = jax.random.uniform(key, decoded.shape), jnp.maximum(jnp.abs(decoded), 1e-6)
        x = -jnp.log1p(u * jnp.expm1(-size)) / size
        return jnp.where(decoded > 0, 1 - x, x)


@dataclasses.dataclass(frozen=True)
class Scaled(Likelihood):
    """A likelihood with one scale for all values.

    Attributes:
      scale: the likelihood's scale, in the units that the model reads. A learned variance multiplies it by a factor
        that starts at 1.
      variance: "fixed"; "learned", one parameter; or "optimal", the scale under which the batch is likeliest, in
        closed form (Rybkin et al. 2021, "Simple and effective VAE training with calibrated decoders").
    """

    scale: float = 1.0
    variance: str = "fixed"

    def __post_init__(self):
        if self.variance not in VARIANCES:
            raise one_of("likelihood.variance", self.variance, VARIANCES)
        if not self.scale > 0:
            raise InputError(f"likelihood.scale must be above 0, got {self.scale}")

    def scale_shape(self, shape):
        return () if self.variance == "learned" else None

    def fixed_log_scale(self, learned: Float[Array, ""] | None) -> Float[Array, ""]:
        """Returns the log scale of samples. Raises InputError for an optimal variance, which is that of a batch."""
        if self.variance == "optimal":
            raise InputError("likelihood.variance='optimal' is fitted to each batch, and samples have none: learn it")
        return self.log_scale(learned, jnp.zeros(()), None, 1)

    def log_scale(
        self, learned: Float[Array, ""] | None, errors: Float[Array, "..."], axis_name: str | None, power: int
    ) -> Float[Array, ""]:
        """Returns the log scale. The optimal one averages `errors` raised to `power` over the batch of all devices."""
        if self.variance == "fixed":
            return jnp.asarray(math.log(self.scale))
        if self.variance == "optimal":
            average = whole_batch(jnp.atleast_1d((jnp.abs(errors) ** power).mean()), axis_name).mean()
            return losses.optimal_log_scale(average, power)
        if learned is None:
            raise InputError("likelihood.variance='learned' needs a model that was built with it")
        return math.log(self.scale) + learned


@dataclasses.dataclass(frozen=True)
class Gaussian(Scaled):
    """Gaussians of mean `decoded` and standard deviation `scale`."""

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        return losses.gaussian_nll(decoded, x, self.log_scale(log_scale, decoded - x, axis_name, 2))

    def draw(self, key, decoded, log_scale=None):
        return decoded + jnp.exp(self.fixed_log_scale(log_scale)) * jax.random.normal(key, decoded.shape)


@dataclasses.dataclass(frozen=True)
class Laplace(Scaled):
    """Laplace distributions of location `decoded` and mean absolute deviation `scale`."""

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        return losses.laplace_nll(decoded, x, self.log_scale(log_scale, decoded - x, axis_name, 1))

    def draw(self, key, decoded, log_scale=None):
        return decoded + jnp.exp(self.fixed_log_scale(log_scale)) * jax.random.laplace(key, decoded.shape)


@dataclasses.dataclass(frozen=True)
class DiscretizedLogistic(Scaled):
    """Probabilities of the 256 levels 0, 1/255, ... 1 under logistic distributions of location `decoded`
    (Kingma et al. 2016, appendix; Salimans et al. 2017, equation 2).
    """

    scale: float = 0.1
    unit_interval = True

    def __post_init__(self):
        super().__post_init__()
        if self.variance == "optimal":
            raise InputError("likelihood.variance='optimal' has no closed form for a logistic; choose 'learned'")

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        return losses.discretized_logistic_nll(decoded, x, self.log_scale(log_scale, decoded, axis_name, 1))

    def draw(self, key, decoded, log_scale=None):
        noise = jnp.exp(self.fixed_log_scale(log_scale)) * jax.random.logistic(key, decoded.shape)
        return jnp.round(jnp.clip(decoded + noise, 0.0, 1.0) * 255) / 255
