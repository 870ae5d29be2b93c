"""What is minimised: a reconstruction term, weighted further terms, and the corruption of the input.

Everything here is per example, [batch], summed over pixels or units, in nats where it is a
likelihood; the training step averages over the batch.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from aejax.errors import InputError, one_of
from aejax.models import Output


def _sum(x: Array) -> Array:
    """[batch, ...] to [batch]."""
    return x.reshape(x.shape[0], -1).sum(-1)


class Reconstruction(NamedTuple):
    """How decoded values are read.

    Attributes:
      loss: (decoded, x) to [batch].
      mean: decoded to the expected x, of the same shape.
      unit_interval: whether x must lie in [0, 1].
    """

    loss: Callable[[Array, Array], Array]
    mean: Callable[[Array], Array]
    unit_interval: bool = False


RECONSTRUCTIONS: dict[str, Reconstruction] = {
    # Squared error; half of it is the nats of a Gaussian with unit variance, up to a constant.
    "squared_error": Reconstruction(lambda decoded, x: _sum(jnp.square(decoded - x)), lambda decoded: decoded),
    # Negative log-likelihood of a Bernoulli with logits `decoded` (Kingma and Welling 2014, appendix C.1).
    "bernoulli": Reconstruction(
        lambda decoded, x: _sum(optax.sigmoid_binary_cross_entropy(decoded, x)), jax.nn.sigmoid, unit_interval=True
    ),
}

TERMS: dict[str, Callable[[Output, Array], Array]] = {
    # Sparsity: sum of the absolute activations of the code (Olshausen and Field 1996).
    "l1": lambda output, x: _sum(jnp.abs(output.code.z)),
}


@dataclasses.dataclass(frozen=True)
class Objective:
    """Reconstruction plus the weighted sum of further terms.

    Attributes:
      reconstruction: a key of `RECONSTRUCTIONS`.
      weights: weight by name, of `TERMS` or of the bottleneck's `losses`.
    """

    reconstruction: str
    weights: Mapping[str, float]

    def __post_init__(self):
        if self.reconstruction not in RECONSTRUCTIONS:
            raise one_of("objective.reconstruction", self.reconstruction, RECONSTRUCTIONS)
        for name, weight in self.weights.items():
            if not isinstance(weight, int | float):
                raise InputError(f"objective.weights: {name} must be a number, got {weight!r}")

    def __call__(self, output: Output, x: Array) -> dict[str, Array]:
        """Each component by name and their weighted sum as `loss`, per example [batch]."""
        terms = {"reconstruction": RECONSTRUCTIONS[self.reconstruction].loss(output.decoded, x)}
        loss = terms["reconstruction"]
        for name, weight in self.weights.items():
            if name in output.code.losses:
                terms[name] = output.code.losses[name]
            elif name in TERMS:
                terms[name] = TERMS[name](output, x)
            else:
                raise one_of("objective.weights: term", name, {*TERMS, *output.code.losses})
            loss = loss + weight * terms[name]
        return {"loss": loss, **terms}

    def mean(self, decoded: Array) -> Array:
        """The reconstruction, in the units of the model's input."""
        return RECONSTRUCTIONS[self.reconstruction].mean(decoded)


CORRUPTIONS: dict[str, Callable[[Array, Array, float], Array]] = {
    "none": lambda key, x, level: x,
    # Isotropic noise of deviation `level` (Vincent et al. 2010, section 3.3).
    "gaussian": lambda key, x, level: x + level * jax.random.normal(key, x.shape),
    # A share `level` of the values is set to 0 (masking noise, ibid.).
    "masking": lambda key, x, level: x * jax.random.bernoulli(key, 1 - level, x.shape),
}


@dataclasses.dataclass(frozen=True)
class Corruption:
    """Noise on the encoder's input in training.

    The noise of an example depends on the key and on the example's index, so that it is the same on
    any number of devices.
    """

    name: str = "none"
    level: float = 0.0

    def __post_init__(self):
        if self.name not in CORRUPTIONS:
            raise one_of("corruption.name", self.name, CORRUPTIONS)
        if self.level < 0 or (self.name == "masking" and self.level >= 1):
            raise InputError(f"corruption.level must be at least 0, and below 1 for masking; got {self.level}")
        if self.name != "none" and self.level == 0:
            raise InputError(f"corruption {self.name!r} needs corruption.level above 0, e.g. 0.3")

    def __call__(self, key: Array, x: Array, index: Array) -> Array:
        """x [batch, ...] with noise; index [batch] tells the examples apart."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
        return jax.vmap(lambda k, v: CORRUPTIONS[self.name](k, v, self.level))(keys, x)
