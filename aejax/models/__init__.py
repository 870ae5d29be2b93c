"""Encoders, bottlenecks and decoders as linen modules, and their composition.

In addition to "params", a model may have these collections, which `apply(..., train=True)` updates:

    batch_stats: running statistics of normalisation="batch" and power iterations of spectral=True.
    codebook: the codes of vq and residual_vq with update="ema" (`shares`, `sums`; `started` with kmeans, `ages` with
      revive_after); the constant vectors of simvq (`frozen`); the number of training steps of gumbel with anneal_steps
      (`steps`).
    sparse: with dead_after, the number of steps for which each unit was inactive (`idle`); batch_topk's `threshold`.

In training they must be mutable, for example `mutable=["codebook"]`, and `apply` returns their new values after the
output; otherwise it raises InputError. Evaluation only reads them.
"""

from aejax.models.autoencoder import (
    Autoencoder,
    Output,
    abstract_output,
    abstract_variables,
    build,
    set_axis,
    summary,
    table,
    warn_if_overcomplete,
)
from aejax.models.bottlenecks import (
    BSQ,
    FSQ,
    IBQ,
    LFQ,
    BatchTopK,
    Code,
    ConvBottleneck,
    DenseBottleneck,
    Gated,
    GaussianBottleneck,
    GroupedCodes,
    GumbelSoftmax,
    HierarchicalGaussian,
    IdentityBottleneck,
    JumpReLU,
    LadderGaussian,
    LibraryGaussian,
    MaskedBottleneck,
    MatchingPursuit,
    OrderedCodes,
    ResidualCodes,
    ResidualQuantizer,
    SimVQ,
    SparseReLU,
    SpatialGaussian,
    SphericalBottleneck,
    TopK,
    TwoLevelVamp,
    VectorQuantizer,
)
from aejax.models.dc import DCDecoder, DCEncoder
from aejax.models.dcgan import DCGANDecoder, DCGANEncoder
from aejax.models.decoders import ConvDecoder, LibraryDecoder, MLPDecoder
from aejax.models.dictionary import DictionaryDecoder
from aejax.models.encoders import ConvEncoder, LibraryEncoder, MLPEncoder
from aejax.models.kl import KLDecoder, KLEncoder
from aejax.models.ladder import PyramidDecoder, PyramidEncoder
from aejax.models.resnet import ResNetDecoder, ResNetEncoder
from aejax.models.sequence import RNNDecoder, RNNEncoder, SequenceDecoder, SequenceEncoder
from aejax.models.sparse_folding import fold_normalization
from aejax.models.taesd import TinyDecoder, TinyEncoder
from aejax.models.vit import Tokens, ViTDecoder, ViTEncoder

__all__ = [
    "BSQ",
    "FSQ",
    "IBQ",
    "LFQ",
    "Autoencoder",
    "BatchTopK",
    "Code",
    "ConvBottleneck",
    "ConvDecoder",
    "ConvEncoder",
    "DCDecoder",
    "DCEncoder",
    "DCGANDecoder",
    "DCGANEncoder",
    "DenseBottleneck",
    "DictionaryDecoder",
    "Gated",
    "GaussianBottleneck",
    "GroupedCodes",
    "GumbelSoftmax",
    "HierarchicalGaussian",
    "IdentityBottleneck",
    "JumpReLU",
    "KLDecoder",
    "KLEncoder",
    "LadderGaussian",
    "LibraryDecoder",
    "LibraryEncoder",
    "LibraryGaussian",
    "MLPDecoder",
    "MLPEncoder",
    "MaskedBottleneck",
    "MatchingPursuit",
    "OrderedCodes",
    "Output",
    "PyramidDecoder",
    "PyramidEncoder",
    "RNNDecoder",
    "RNNEncoder",
    "ResNetDecoder",
    "ResNetEncoder",
    "ResidualCodes",
    "ResidualQuantizer",
    "SequenceDecoder",
    "SequenceEncoder",
    "SimVQ",
    "SparseReLU",
    "SpatialGaussian",
    "SphericalBottleneck",
    "TinyDecoder",
    "TinyEncoder",
    "Tokens",
    "TopK",
    "TwoLevelVamp",
    "VectorQuantizer",
    "ViTDecoder",
    "ViTEncoder",
    "abstract_output",
    "abstract_variables",
    "build",
    "fold_normalization",
    "set_axis",
    "summary",
    "table",
    "warn_if_overcomplete",
]
