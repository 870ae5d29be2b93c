"""Bottlenecks: features to the code that the decoder reads, computed in float32.

Each is called as `bottleneck(h, keys=..., train=...)` and returns a `Code`. `keys` holds a random key
for each example, [batch]; without them the code is deterministic: the mean, the nearest code. A bottleneck
that draws in training raises InputError there without them; Flax's `rngs` is not read.

In training some change a collection beside "params", which has to be mutable, and raise InputError where it
is not; see `aejax.models`.
"""

import flax.linen as nn

from aejax.models.bottlenecks.code import Code
from aejax.models.bottlenecks.deterministic import (
    ConvBottleneck,
    DenseBottleneck,
    IdentityBottleneck,
    SphericalBottleneck,
)
from aejax.models.bottlenecks.discrete import FSQ, LFQ, GumbelSoftmax
from aejax.models.bottlenecks.gaussian import GaussianBottleneck
from aejax.models.bottlenecks.masked import MaskedBottleneck
from aejax.models.bottlenecks.sparse import BatchTopK, JumpReLU, TopK
from aejax.models.bottlenecks.vector_quantizer import ResidualQuantizer, VectorQuantizer

BOTTLENECKS: dict[str, type[nn.Module]] = {
    "identity": IdentityBottleneck,
    "dense": DenseBottleneck,
    "conv": ConvBottleneck,
    "spherical": SphericalBottleneck,
    "gaussian": GaussianBottleneck,
    "masked": MaskedBottleneck,
    "topk": TopK,
    "batch_topk": BatchTopK,
    "jumprelu": JumpReLU,
    "vq": VectorQuantizer,
    "residual_vq": ResidualQuantizer,
    "fsq": FSQ,
    "lfq": LFQ,
    "gumbel": GumbelSoftmax,
}

__all__ = [
    "BOTTLENECKS",
    "FSQ",
    "LFQ",
    "BatchTopK",
    "Code",
    "ConvBottleneck",
    "DenseBottleneck",
    "GaussianBottleneck",
    "GumbelSoftmax",
    "IdentityBottleneck",
    "JumpReLU",
    "MaskedBottleneck",
    "ResidualQuantizer",
    "SphericalBottleneck",
    "TopK",
    "VectorQuantizer",
]
