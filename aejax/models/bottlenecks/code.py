"""The output of a bottleneck."""

from collections.abc import Mapping

from flax import struct
from jaxtyping import Array, Float, Int

from aejax.models.bottlenecks.selection import Kept
from aejax.models.distributions import Posterior, Prior


class Units(struct.PyTreeNode):
    """The units of a sparse bottleneck before they are made sparse, which terms such as `ghost` read.

    Attributes:
      pre: units before they are made sparse; of a gated bottleneck, its gates.
      dead: 1 at dead units and 0 at others; None if the bottleneck does not count them.
      threshold: value above which a unit is active; None if it is learned by no parameter.
      gates: whether `pre` are gates, which terms such as `gate_l1` train.
    """

    pre: Float[Array, "batch features"]
    dead: Float[Array, " features"] | None = None
    threshold: Float[Array, " features"] | None = None
    gates: bool = struct.field(pytree_node=False, default=False)


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
      units: units of a sparse code before they are made sparse.
      kept: the units of a sparse code that are not 0, for decoders that read no others.
      samples: number of importance samples; 0 if z has no axis for them.
      read: what the bottleneck's `read(z)` returns, if it has been computed; of all samples as one batch.
      kl_by_unit: KL of each unit of a hierarchy of which it is known.
    """

    z: Float[Array, "..."]
    losses: Mapping[str, Float[Array, " #batch"]] = struct.field(default_factory=dict)
    metrics: Mapping[str, Float[Array, ""]] = struct.field(default_factory=dict)
    indices: Int[Array, "batch ..."] | None = None
    posterior: Posterior | None = None
    prior: Prior | None = None
    mask: Float[Array, "batch rows columns"] | None = None
    revival: Float[Array, "..."] | None = None
    units: Units | None = None
    kept: Kept | None = None
    samples: int = struct.field(pytree_node=False, default=0)
    read: Float[Array, "..."] | None = None
    kl_by_unit: Float[Array, "batch d"] | None = None
