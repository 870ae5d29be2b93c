"""Published autoencoders: from a folder of the Hugging Face hub to a config and variables of aejax, and back.

`names` maps the names and layouts of parameters, `architectures` the classes and their settings, `factors` the scale of
latents, and `hub` reads and writes the files. None of them needs PyTorch or diffusers, and no file is unpickled.
"""

from aejax.pretrained.architectures import describe_model, parse_config
from aejax.pretrained.factors import from_factors, to_factors
from aejax.pretrained.hub import DTYPES, Stored, is_published, read, write
from aejax.pretrained.names import from_hub, to_hub

__all__ = [
    "DTYPES",
    "Stored",
    "describe_model",
    "from_factors",
    "from_hub",
    "is_published",
    "parse_config",
    "read",
    "to_factors",
    "to_hub",
    "write",
]
