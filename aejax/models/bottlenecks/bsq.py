"""Binary spherical quantization."""

import jax
import jax.numpy as jnp
from jax import Array

from aejax.losses import bernoulli_entropy, commitment_loss
from aejax.models.bottlenecks.code import Code
from aejax.models.bottlenecks.discrete import LFQ, join_bits
from aejax.models.bottlenecks.quantizer import measure_mean_entropy, measure_usage
from aejax.models.layers import flatten, get_axis, scale_to_unit


class BSQ(LFQ):
    """Binary spherical quantization: the signs of `bits` features, with features and codes scaled to length 1.

    Zhao et al. 2024, "Image and video tokenization with binary spherical quantization", section 4. x is scaled to
    length 1, and z = sign(x) / sqrt(bits). As in `LFQ`, p(c|x) is the softmax over all codes c of
    -|x - c|^2 / temperature, that is, of their inner products with x times 2 / temperature. It factorizes over bits: a
    bit is 1 with probability sigmoid(4 x / (temperature sqrt(bits))).

    Losses, each with its own weight:
      commitment: |x - z|^2, at most 2 for each vector.
      sample_entropy: entropy of p(c|x) in nats, summed over positions, exact.
      codebook_entropy: minus the sum of the entropies of the bits in nats, each averaged over positions and the whole
        batch, the same for each example. The sum is an upper bound of the entropy of p(c|x) averaged likewise, exact if
        the bits are independent. It is also logged as the metric `codebook_entropy_upper_bound`.
    """

    def bound(self, x: Array) -> Array:
        return scale_to_unit(x)

    def quantize(self, x: Array, keys: Array | None, train: bool) -> Code:
        """Returns the signs of x [..., bits], scaled to length 1, as a code. Its z is a constant."""
        indices = join_bits(x > 0)
        z = self.lookup(indices)
        logits = 4 * x / (self.temperature * self.bits**0.5)
        log_p = jnp.stack([jax.nn.log_sigmoid(-logits), jax.nn.log_sigmoid(logits)], -1)
        entropy = measure_mean_entropy(log_p.reshape(-1, self.bits, 2), get_axis(self))
        return Code(
            z=z,
            losses={
                "commitment": commitment_loss(x, z),
                "sample_entropy": flatten(bernoulli_entropy(logits)).sum(-1),
                "codebook_entropy": jnp.broadcast_to(-entropy, x.shape[:1]),
            },
            metrics=measure_usage(indices, self.size, get_axis(self)) | {"codebook_entropy_upper_bound": entropy},
            indices=indices,
        )

    def lookup(self, indices: Array) -> Array:
        """Returns z [..., bits] in {-1, 1} / sqrt(bits) of indices [...]."""
        return super().lookup(indices) / self.bits**0.5
