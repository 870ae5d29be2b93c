"""Likelihoods of pixels by mixtures of distributions."""

import dataclasses
import itertools

from jax import Array

from aejax.errors import InputError
from aejax.losses import logistic_mixture
from aejax.models.likelihoods.likelihood import Likelihood
from aejax.registry import check_type


@dataclasses.dataclass(frozen=True)
class LogisticMixture(Likelihood):
    """Probabilities of the 256 levels of all channels of a pixel under a mixture of logistics (Salimans et al. 2017).

    A pixel has one probability, so that `nll` has one channel. `mean` is that before values are discretized.

    Attributes:
      components: number of logistic distributions of a pixel.
    """

    components: int = 10
    unit_interval = True

    def __post_init__(self):
        check_type("likelihood.components", self.components, int)

    def decoded_shape(self, shape):
        if len(shape) != 3:
            raise InputError(f"likelihood.name='logistic_mixture' is for images, got {tuple(shape)}; choose another")
        return (*shape[:2], logistic_mixture.count_parameters(shape[-1], self.components))

    def nll(self, decoded, x, log_scale=None, axis_name=None):
        return logistic_mixture.nll(decoded, x, self.components)

    def mean(self, decoded):
        return logistic_mixture.mean(decoded, self._count_channels(decoded), self.components)

    def draw(self, key, decoded, log_scale=None):
        return logistic_mixture.sample(key, decoded, self._count_channels(decoded), self.components)

    def _count_channels(self, decoded: Array) -> int:
        """Returns the number of channels of x."""
        size = decoded.shape[-1]
        return next(c for c in itertools.count(1) if logistic_mixture.count_parameters(c, self.components) >= size)
