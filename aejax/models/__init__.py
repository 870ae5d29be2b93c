"""Encoders, bottlenecks and decoders as linen modules, and their composition."""

from aejax.models.autoencoder import Autoencoder, Output, abstract_output, build, summary, table, warn_if_overcomplete
from aejax.models.bottlenecks import (
    FSQ,
    LFQ,
    BatchTopK,
    Code,
    ConvBottleneck,
    DenseBottleneck,
    GaussianBottleneck,
    GumbelSoftmax,
    IdentityBottleneck,
    JumpReLU,
    MaskedBottleneck,
    ResidualQuantizer,
    SphericalBottleneck,
    TopK,
    VectorQuantizer,
)
from aejax.models.decoders import ConvDecoder, MLPDecoder
from aejax.models.encoders import ConvEncoder, MLPEncoder
from aejax.models.resnet import ResNetDecoder, ResNetEncoder
from aejax.models.vit import Tokens, ViTDecoder, ViTEncoder

__all__ = [
    "FSQ",
    "LFQ",
    "Autoencoder",
    "BatchTopK",
    "Code",
    "ConvBottleneck",
    "ConvDecoder",
    "ConvEncoder",
    "DenseBottleneck",
    "GaussianBottleneck",
    "GumbelSoftmax",
    "IdentityBottleneck",
    "JumpReLU",
    "MLPDecoder",
    "MLPEncoder",
    "MaskedBottleneck",
    "Output",
    "ResNetDecoder",
    "ResNetEncoder",
    "ResidualQuantizer",
    "SphericalBottleneck",
    "Tokens",
    "TopK",
    "VectorQuantizer",
    "ViTDecoder",
    "ViTEncoder",
    "abstract_output",
    "build",
    "summary",
    "table",
    "warn_if_overcomplete",
]
