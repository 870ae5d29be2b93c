"""The output of a bottleneck."""

from collections.abc import Mapping

from flax import struct
from jaxtyping import Array, Float, Int

from aejax.models.distributions import Posterior, Prior


class Code(struct.PyTreeNode):
    """Output of a bottleneck.

    Attributes:
      z: input of the decoder, float32: [batch, *latent], or [samples, batch, *latent] if `samples` is not 0.
      losses: unweighted regularizers per example, [batch], summed over latent units, in nats if they are likelihoods;
        `objective.weights` weights them by name.
      metrics: scalars to log, of the whole batch on all devices.
      indices: discrete codes, int32 [batch, ...], which the bottleneck's `lookup` turns into z.
      posterior: q(z|x) of a stochastic code.
      prior: p(z) of a stochastic code.
      mask: [batch, rows, columns], 1 at the patches of the image that are masked.
      revival: code of the dead units alone, of z's shape, for the term `revival`.
      samples: number of importance samples; 0 if z has no axis for them.
    """

    z: Float[Array, "..."]
    losses: Mapping[str, Float[Array, " #batch"]] = struct.field(default_factory=dict)
    metrics: Mapping[str, Float[Array, ""]] = struct.field(default_factory=dict)
    indices: Int[Array, "batch ..."] | None = None
    posterior: Posterior | None = None
    prior: Prior | None = None
    mask: Float[Array, "batch rows columns"] | None = None
    revival: Float[Array, "..."] | None = None
    samples: int = struct.field(pytree_node=False, default=0)
