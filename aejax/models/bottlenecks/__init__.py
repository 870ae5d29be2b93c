"""Bottlenecks: from features to the code that the decoder reads, with codes and losses in float32.

Each is called as `bottleneck(h, keys=..., train=...)` and returns a `Code`; for the arguments see `Autoencoder`.
"""

import flax.linen as nn

from aejax.models.bottlenecks.bsq import BSQ
from aejax.models.bottlenecks.code import Code as Code
from aejax.models.bottlenecks.code import Units as Units
from aejax.models.bottlenecks.composed import GroupedCodes, ResidualCodes
from aejax.models.bottlenecks.deterministic import (
    ConvBottleneck,
    DenseBottleneck,
    IdentityBottleneck,
    SphericalBottleneck,
)
from aejax.models.bottlenecks.discrete import FSQ, LFQ, GumbelSoftmax
from aejax.models.bottlenecks.gated import Gated
from aejax.models.bottlenecks.gaussian import GaussianBottleneck
from aejax.models.bottlenecks.hierarchical import HierarchicalGaussian
from aejax.models.bottlenecks.ibq import IBQ
from aejax.models.bottlenecks.ladder import LadderGaussian
from aejax.models.bottlenecks.library import LibraryGaussian
from aejax.models.bottlenecks.masked import MaskedBottleneck
from aejax.models.bottlenecks.matching_pursuit import MatchingPursuit
from aejax.models.bottlenecks.ordered import OrderedCodes
from aejax.models.bottlenecks.simvq import SimVQ
from aejax.models.bottlenecks.sparse import BatchTopK, JumpReLU, SparseReLU, TopK
from aejax.models.bottlenecks.spatial_gaussian import SpatialGaussian
from aejax.models.bottlenecks.two_level import TwoLevelVamp
from aejax.models.bottlenecks.vector_quantizer import ResidualQuantizer, VectorQuantizer

BOTTLENECKS: dict[str, type[nn.Module]] = {
    "identity": IdentityBottleneck,
    "dense": DenseBottleneck,
    "conv": ConvBottleneck,
    "spherical": SphericalBottleneck,
    "gaussian": GaussianBottleneck,
    "spatial_gaussian": SpatialGaussian,
    "library": LibraryGaussian,
    "hierarchical": HierarchicalGaussian,
    "ladder": LadderGaussian,
    "two_level": TwoLevelVamp,
    "masked": MaskedBottleneck,
    "topk": TopK,
    "batch_topk": BatchTopK,
    "jumprelu": JumpReLU,
    "relu": SparseReLU,
    "gated": Gated,
    "matching_pursuit": MatchingPursuit,
    "vq": VectorQuantizer,
    "residual_vq": ResidualQuantizer,
    "fsq": FSQ,
    "lfq": LFQ,
    "bsq": BSQ,
    "ibq": IBQ,
    "simvq": SimVQ,
    "residual": ResidualCodes,
    "grouped": GroupedCodes,
    "ordered": OrderedCodes,
    "gumbel": GumbelSoftmax,
}

# Bottlenecks in whose codes a 0 means that a unit is not active.
SPARSE = (TopK, BatchTopK, JumpReLU, SparseReLU, Gated, MatchingPursuit)
