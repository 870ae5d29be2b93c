"""Published autoencoders: from a folder of the Hugging Face hub to a config and variables of aejax, and back.

`names` maps the names and layouts of parameters, `architectures` the classes and their settings, `factors` the scale of
latents, and `hub` reads and writes the files. `sae` and `sae_files` do so for sparse autoencoders. None of them needs
PyTorch, diffusers or SAELens, and no file is unpickled.
"""

from pathlib import Path

from aejax.pretrained.architectures import describe_model, parse_config
from aejax.pretrained.factors import from_factors, to_factors
from aejax.pretrained.hub import DTYPES, Stored, read, write
from aejax.pretrained.hub import is_published as _is_published
from aejax.pretrained.names import from_hub, to_hub
from aejax.pretrained.sae import describe_sae, parse_sae
from aejax.pretrained.sae_files import LAYOUTS, convert_card, find_layout, list_layouts, read_sae, write_sae
from aejax.pretrained.sae_parameters import SAE, SAECard

__all__ = [
    "DTYPES",
    "LAYOUTS",
    "SAE",
    "SAECard",
    "Stored",
    "convert_card",
    "describe_model",
    "describe_sae",
    "find_layout",
    "from_factors",
    "from_hub",
    "is_published",
    "list_layouts",
    "parse_config",
    "parse_sae",
    "read",
    "read_sae",
    "to_factors",
    "to_hub",
    "write",
    "write_sae",
]


def is_published(folder: Path) -> bool:
    """Returns whether the folder holds a published autoencoder, and not a run of aejax."""
    return _is_published(folder) or find_layout(folder) is not None
