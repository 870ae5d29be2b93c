"""Encoders, bottlenecks and decoders as linen modules, and their composition."""

from aejax.models.autoencoder import Autoencoder, Output, abstract_output, build, summary, table, warn_if_overcomplete
from aejax.models.bottlenecks import Code, ConvBottleneck, DenseBottleneck, IdentityBottleneck
from aejax.models.decoders import ConvDecoder, MLPDecoder
from aejax.models.encoders import ConvEncoder, MLPEncoder

__all__ = [
    "Autoencoder",
    "Code",
    "ConvBottleneck",
    "ConvDecoder",
    "ConvEncoder",
    "DenseBottleneck",
    "IdentityBottleneck",
    "MLPDecoder",
    "MLPEncoder",
    "Output",
    "abstract_output",
    "build",
    "summary",
    "table",
    "warn_if_overcomplete",
]
