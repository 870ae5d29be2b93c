"""What a bottleneck returns."""

from collections.abc import Mapping

from flax import struct
from jax import Array

from aejax.models.distributions import Posterior, Prior


class Code(struct.PyTreeNode):
    """What a bottleneck returns.

    Attributes:
      z: what the decoder reads, float32: [batch, *latent], or [samples, batch, *latent] where
        `samples` is not 0.
      losses: unweighted regularisers per example, [batch], summed over latent units, in nats where
        they are likelihoods; `objective.weights` weighs them by name.
      metrics: scalars to log, of the whole batch on all devices.
      indices: discrete codes, int32 [batch, ...]; the bottleneck's `lookup` makes z of them.
      posterior, prior: of a stochastic code.
      mask: [batch, rows, columns], 1 at the patches of the image that the encoder did not see.
      revival: like z, the code of the dead units alone, for the term `revival`.
      samples: importance samples drawn; 0 where z has no such axis.
    """

    z: Array
    losses: Mapping[str, Array] = struct.field(default_factory=dict)
    metrics: Mapping[str, Array] = struct.field(default_factory=dict)
    indices: Array | None = None
    posterior: Posterior | None = None
    prior: Prior | None = None
    mask: Array | None = None
    revival: Array | None = None
    samples: int = struct.field(pytree_node=False, default=0)
