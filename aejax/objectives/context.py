"""The context of a term: all that it may read of a batch."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from aejax.models import Output
from aejax.models.layers import whole_batch


@dataclasses.dataclass(frozen=True)
class Context:
    """One batch at one step, on one device.

    Attributes:
      apply: the model's, for calls such as `c.apply(c.variables, z, method="decode", **c.given)`.
      variables: the model's, with the parameters that are differentiated.
      x: what the decoder is to make, [batch, ...]: the clean input, or a transcoder's target.
      output: the model's output for x, after corruption where there is one.
      keys: a random key for each example, [batch].
      step: the number of finished steps; None in evaluation, where every schedule has reached its end.
      label: [batch], where the model is conditional.
      mean: maps decoded values to the expected x.
      discriminator: the discriminator's parameters, where there is one.
      constants: arrays that terms read and nothing trains, by name, see `terms.CONSTANTS`.
      examples: the number of examples of the training split.
      axis_name: the name of the axis of the devices that share the batch.
      input: the clean input of a transcoder, or of sequences with padding; None where it is x.
      observed: which values of x count, bool [batch, ...]; the others are 0 in x. None: all of them.
    """

    apply: Callable[..., Any]
    variables: Mapping[str, Any]
    x: Float[Array, "batch ..."]
    output: Output
    keys: Key[Array, " batch"]
    step: Int[Array, ""] | None = None
    label: Int[Array, " batch"] | None = None
    mean: Callable[[Array], Array] = lambda decoded: decoded
    discriminator: Any = None
    constants: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    examples: int = 0
    axis_name: str | None = None
    input: Float[Array, "batch ..."] | None = None
    observed: Bool[Array, "batch ..."] | None = None

    @property
    def z(self) -> Float[Array, "batch ..."]:
        """The code [batch, *latent]; the first of several importance samples."""
        return self.output.code.z[0] if self.output.code.samples else self.output.code.z

    @property
    def given(self) -> dict[str, Array]:
        """Further arguments of the model's methods."""
        return {} if self.label is None else {"label": self.label}

    def count(self, values: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns values [..., batch, *shape] of x with 0 in the place of those of x that are not observed.

        Those of all channels together, with a last axis of 1, count where all channels are observed.
        """
        if self.observed is None:
            return values
        joint = values.shape[-1] != self.observed.shape[-1]
        return jnp.where(self.observed.all(-1, keepdims=True) if joint else self.observed, values, 0)

    def decode(self, z: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
        """Decodes z [batch, *latent] with the running statistics of evaluation."""
        return self.apply(self.variables, z, method="decode", **self.given)

    def whole(self, x: Float[Array, "batch ..."]) -> Float[Array, "devices_batch ..."]:
        """Returns the rows of x from all devices, [devices * batch, ...]."""
        return whole_batch(x, self.axis_name)
