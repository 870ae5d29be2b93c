"""aejax: autoencoders in JAX, from a config file to latents.

Models are Flax linen modules. In training they take `keys=`, a random key for each example, where they draw, and
`mutable=[...]` where they keep state beside their parameters: see `aejax.models`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from aejax.errors import AejaxError, DivergedError, InputError, LostError, StoppedError, StorageError

if TYPE_CHECKING:
    from aejax import config, losses, models, samplers
    from aejax.config_files import load_config
    from aejax.inference.encode_anndata import encode_anndata, read_anndata
    from aejax.inference.encode_sparse import encode_sparse, read_sparse
    from aejax.inference.encode_split import encode_split, read_latents, read_statistics
    from aejax.inference.latent_statistics import LatentStatistics
    from aejax.inference.loading import load_pretrained, load_run
    from aejax.inference.run import Run
    from aejax.inference.tiles import map_tiles
    from aejax.models import Autoencoder, Code, Output
    from aejax.objectives import Objective
    from aejax.training.loop import fit, train
    from aejax.training.step import Task, TrainState, eval_step, init, train_step

__version__ = "0.1.0"

__all__ = [
    "AejaxError",
    "Autoencoder",
    "Code",
    "DivergedError",
    "InputError",
    "LatentStatistics",
    "LostError",
    "Objective",
    "Output",
    "Run",
    "StoppedError",
    "StorageError",
    "Task",
    "TrainState",
    "config",
    "encode_anndata",
    "encode_sparse",
    "encode_split",
    "eval_step",
    "fit",
    "init",
    "load_config",
    "load_pretrained",
    "load_run",
    "losses",
    "map_tiles",
    "models",
    "read_anndata",
    "read_latents",
    "read_sparse",
    "read_statistics",
    "samplers",
    "train",
    "train_step",
]

# Imported at their first use: `aejax --help` and the processes that wait for a training need no JAX.
_MODULES = {
    "config_files": ("load_config",),
    "inference.encode_anndata": ("encode_anndata", "read_anndata"),
    "inference.encode_sparse": ("encode_sparse", "read_sparse"),
    "inference.encode_split": ("encode_split", "read_latents", "read_statistics"),
    "inference.latent_statistics": ("LatentStatistics",),
    "inference.loading": ("load_pretrained", "load_run"),
    "inference.run": ("Run",),
    "inference.tiles": ("map_tiles",),
    "models": ("Autoencoder", "Code", "Output"),
    "objectives": ("Objective",),
    "training.loop": ("fit", "train"),
    "training.step": ("Task", "TrainState", "eval_step", "init", "train_step"),
}


def __getattr__(name: str) -> Any:
    """Imports a public name, or a module of the package, when it is first used."""
    for module, names in _MODULES.items():
        if name in names:
            value = getattr(importlib.import_module(f"aejax.{module}"), name)
            break
    else:
        try:
            value = importlib.import_module(f"aejax.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"aejax.{name}":
                raise
            raise AttributeError(f"module 'aejax' has no attribute {name!r}") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
