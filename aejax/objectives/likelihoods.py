"""Likelihoods of the input given decoded values: negative logarithms of each value, in nats."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from aejax import logistic_mixture, losses
from aejax.errors import InputError, one_of
from aejax.models.layers import whole_batch

VARIANCES = ("fixed", "learned", "optimal")


class Likelihood:
    """The interface of a likelihood; `unit_interval` says whether x must lie in [0, 1]."""

    unit_interval = False

    def nll(
        self,
        decoded: Float[Array, "*#shape"],
        x: Float[Array, "*#shape"],
        log_scale: Float[Array, ""] | None = None,
        axis_name: str | None = None,
    ) -> Float[Array, "..."]:
        """Returns -log p(x | decoded) of each value. `log_scale` is the learned log scale, if there is one."""
        raise NotImplementedError

    def mean(self, decoded: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns the expected x, of the shape of `decoded`."""
        return decoded


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


@dataclasses.dataclass(frozen=True)
class ContinuousBernoulli(Likelihood):
    """Densities on [0, 1] with the logits `decoded` (Loaiza-Ganem and Cunningham 2019)."""

    unit_interval = True

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        return losses.continuous_bernoulli_nll(decoded, x)

    def mean(self, decoded):
        return losses.continuous_bernoulli_mean(decoded)


@dataclasses.dataclass(frozen=True)
class _Scaled(Likelihood):
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
class Gaussian(_Scaled):
    """Gaussians of mean `decoded` and standard deviation `scale`."""

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        return losses.gaussian_nll(decoded, x, self.log_scale(log_scale, decoded - x, axis_name, 2))


@dataclasses.dataclass(frozen=True)
class Laplace(_Scaled):
    """Laplace distributions of location `decoded` and mean absolute deviation `scale`."""

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        return losses.laplace_nll(decoded, x, self.log_scale(log_scale, decoded - x, axis_name, 1))


@dataclasses.dataclass(frozen=True)
class DiscretizedLogistic(_Scaled):
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


@dataclasses.dataclass(frozen=True)
class LogisticMixture(Likelihood):
    """Probabilities of the 256 levels of all channels of a pixel under a mixture of logistics (Salimans et al. 2017).

    The decoder makes `logistic_mixture.count_parameters(channels, components)` channels, which `models.build` sees to.
    A pixel has one probability, so that `nll` has one channel. `mean` is that before values are discretized.

    Attributes:
      components: number of logistic distributions of a pixel.
    """

    components: int = 10
    unit_interval = True

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        return logistic_mixture.nll(decoded, x, self.components)

    def mean(self, decoded):
        return logistic_mixture.mean(decoded, self._count_channels(decoded), self.components)

    def sample(self, keys: Key[Array, " batch"], decoded: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
        """Samples x given `decoded`, one of the levels 0, 1/255, ..., 1 in each channel, by a key for each example."""
        return logistic_mixture.sample(keys, decoded, self._count_channels(decoded), self.components)

    def _count_channels(self, decoded: Array) -> int:
        """Returns the number of channels of x."""
        size = decoded.shape[-1]
        return next(c for c in itertools.count(1) if logistic_mixture.count_parameters(c, self.components) >= size)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "squared_error": SquaredError,
    "absolute_error": AbsoluteError,
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "gaussian": Gaussian,
    "laplace": Laplace,
    "discretised_logistic": DiscretizedLogistic,
    "logistic_mixture": LogisticMixture,
}
