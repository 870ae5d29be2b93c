"""Likelihoods of the input given decoded values: negative logarithms per value, in nats.

Each has `nll(decoded, x, log_scale, axis_name)`, which returns one number for each value of `decoded`
([..., batch, *shape]), and `mean(decoded)`, the expected x.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import Array

from aejax.errors import InputError, one_of
from aejax.models.layers import whole_batch

VARIANCES = ("fixed", "learned", "optimal")


class Likelihood:
    """What all likelihoods have; `unit_interval` says whether x must lie in [0, 1]."""

    unit_interval = False

    def nll(self, decoded: Array, x: Array, log_scale: Array | None = None, axis_name: str | None = None) -> Array:
        """-log p(x | decoded) of each value. `log_scale` is the learned one, where there is one."""
        raise NotImplementedError

    def mean(self, decoded: Array) -> Array:
        """The expected x, of decoded's shape."""
        return decoded


@dataclasses.dataclass(frozen=True)
class SquaredError(Likelihood):
    """Squared error. No likelihood: half of it is the nats of a Gaussian of unit variance, up to a constant."""

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        return jnp.square(decoded - x)


@dataclasses.dataclass(frozen=True)
class AbsoluteError(Likelihood):
    """Absolute error: the nats of a Laplace of unit scale, up to a constant."""

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        return jnp.abs(decoded - x)


def _cross_entropy(logits: Array, x: Array) -> Array:
    """-x log sigmoid(l) - (1 - x) log sigmoid(-l), with one logarithm: a tenth of a VAE's step on CPU is in these."""
    return jnp.maximum(logits, 0) - logits * x + jnp.log1p(jnp.exp(-jnp.abs(logits)))


@dataclasses.dataclass(frozen=True)
class Bernoulli(Likelihood):
    """Logits `decoded` (Kingma and Welling 2014, appendix C.1)."""

    unit_interval = True

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        return _cross_entropy(decoded, x)

    def mean(self, decoded):
        return jax.nn.sigmoid(decoded)


@dataclasses.dataclass(frozen=True)
class ContinuousBernoulli(Likelihood):
    """Logits `decoded`; a density on [0, 1], normalised (Loaiza-Ganem and Cunningham 2019, equations 6 to 8)."""

    unit_interval = True

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        # In logits l the normaliser 2 atanh(1 - 2p) / (1 - 2p) is l / tanh(l / 2), whose series serves near 0.
        near = jnp.abs(decoded) < 0.1
        safe = jnp.where(near, 1.0, decoded)
        log_c = jnp.where(
            near,
            math.log(2) + jnp.log1p(jnp.square(decoded) / 12 - decoded**4 / 720),
            jnp.log(safe / jnp.tanh(safe / 2)),
        )
        return _cross_entropy(decoded, x) - log_c

    def mean(self, decoded):
        near = jnp.abs(decoded) < 0.1
        safe = jnp.where(near, 1.0, decoded)
        far = jax.nn.sigmoid(safe) / jnp.tanh(safe / 2) - 1 / safe
        return jnp.where(near, 0.5 + decoded / 12 - decoded**3 / 720, far)


@dataclasses.dataclass(frozen=True)
class _Scaled(Likelihood):
    """A likelihood with one scale for all values.

    Attributes:
      scale: of the likelihood, in the units that the model reads; where the variance is learned, the
        learned factor begins at 1.
      variance: "fixed"; "learned", one parameter; or "optimal", the maximum of the likelihood over the
        batch, in closed form (Rybkin et al. 2021, "Simple and effective VAE training with calibrated
        decoders").
    """

    scale: float = 1.0
    variance: str = "fixed"

    def __post_init__(self):
        if self.variance not in VARIANCES:
            raise one_of("likelihood.variance", self.variance, VARIANCES)
        if not self.scale > 0:
            raise InputError(f"likelihood.scale must be above 0, got {self.scale}")

    def log_scale(self, learned: Array | None, deviations: Array, axis_name: str | None, power: int) -> Array:
        """The log scale; `deviations`, raised to `power`, are what the optimal one averages."""
        if self.variance == "fixed":
            return jnp.asarray(math.log(self.scale))
        if self.variance == "optimal":
            average = whole_batch(jnp.atleast_1d((jnp.abs(deviations) ** power).mean()), axis_name).mean()
            # The floor keeps a perfect reconstruction's likelihood finite. At the optimum the gradient
            # through the scale is zero: it is left out.
            return jax.lax.stop_gradient(jnp.log(jnp.maximum(average, 1e-8)) / power)
        if learned is None:
            raise InputError("likelihood.variance='learned' needs a model that was built with it")
        return math.log(self.scale) + learned


@dataclasses.dataclass(frozen=True)
class Gaussian(_Scaled):
    """Mean `decoded`, standard deviation `scale`."""

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        log_std = self.log_scale(log_scale, decoded - x, axis_name, 2)
        return 0.5 * jnp.square((decoded - x) * jnp.exp(-log_std)) + log_std + 0.5 * math.log(2 * math.pi)


@dataclasses.dataclass(frozen=True)
class Laplace(_Scaled):
    """Location `decoded`, mean absolute deviation `scale`."""

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        log_b = self.log_scale(log_scale, decoded - x, axis_name, 1)
        return jnp.abs(decoded - x) * jnp.exp(-log_b) + log_b + math.log(2)


@dataclasses.dataclass(frozen=True)
class DiscretisedLogistic(_Scaled):
    """Probability of one of 256 levels 0, 1/255, ... 1 under a logistic of location `decoded`
    (Kingma et al. 2016, appendix; Salimans et al. 2017, equation 2)."""

    scale: float = 0.1
    unit_interval = True

    def __post_init__(self):
        super().__post_init__()
        if self.variance == "optimal":
            raise InputError("likelihood.variance='optimal' has no closed form for a logistic; choose 'learned'")

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        log_s = self.log_scale(log_scale, decoded, axis_name, 1)
        half, inverse = 0.5 / 255, jnp.exp(-log_s)
        above, below = (x - decoded + half) * inverse, (x - decoded - half) * inverse
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), each factor safe in logarithms.
        inner = jax.nn.log_sigmoid(above) + jax.nn.log_sigmoid(-below) + jnp.log(-jnp.expm1(-2 * half * inverse))
        log_p = jnp.where(x < half, jax.nn.log_sigmoid(above), inner)  # the outer levels reach to infinity
        return -jnp.where(x > 1 - half, jax.nn.log_sigmoid(-below), log_p)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "squared_error": SquaredError,
    "absolute_error": AbsoluteError,
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "gaussian": Gaussian,
    "laplace": Laplace,
    "discretised_logistic": DiscretisedLogistic,
}
