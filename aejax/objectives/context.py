"""What a term may read."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jax import Array

from aejax.models import Output
from aejax.models.layers import whole_batch


@dataclasses.dataclass(frozen=True)
class Context:
    """One batch at one step, on one device.

    Attributes:
      apply: of the model: `c.apply(c.variables, z, method="decode", **c.given)`.
      variables: the model's, with the parameters that are being differentiated.
      x: [batch, ...], clean.
      output: for x, which corruption may have changed.
      keys: a random key for each example, [batch].
      step: steps done; None in evaluation, where schedules have run out.
      label: [batch], where the model is conditional.
      mean: decoded values to the expected x.
      critic: parameters of the adversary's discriminator.
      examples: in the training split.
      axis_name: of the devices that share the batch.
    """

    apply: Callable[..., Any]
    variables: Mapping[str, Any]
    x: Array
    output: Output
    keys: Array
    step: Array | None = None
    label: Array | None = None
    mean: Callable[[Array], Array] = lambda decoded: decoded
    critic: Any = None
    examples: int = 0
    axis_name: str | None = None

    @property
    def z(self) -> Array:
        """The code [batch, *latent]; of several importance samples the first."""
        return self.output.code.z[0] if self.output.code.samples else self.output.code.z

    @property
    def given(self) -> dict[str, Array]:
        """Further arguments of the model's methods."""
        return {} if self.label is None else {"label": self.label}

    def decode(self, z: Array) -> Array:
        """Decoded values of z [batch, *latent], running statistics as they are."""
        return self.apply(self.variables, z, method="decode", **self.given)

    def whole(self, x: Array) -> Array:
        """This device's rows to those of all devices."""
        return whole_batch(x, self.axis_name)
