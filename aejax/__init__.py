"""aejax: autoencoders in JAX, from a config file to latents.

Models are Flax linen modules. In training they take `keys=`, a random key for each example, where they draw, and
`mutable=[...]` where they keep state beside their parameters: see `aejax.models`.
"""

from aejax import config, losses, models, samplers
from aejax.errors import AejaxError, DivergedError, InputError, LostError, StoppedError, StorageError
from aejax.inference.encode_split import encode_split, read_latents
from aejax.inference.run import Run, load_run
from aejax.models import Autoencoder, Code, Output
from aejax.training.loop import fit, train
from aejax.training.step import Task, TrainState, eval_step, train_step

__all__ = [
    "AejaxError",
    "Autoencoder",
    "Code",
    "DivergedError",
    "InputError",
    "LostError",
    "Output",
    "Run",
    "StoppedError",
    "StorageError",
    "Task",
    "TrainState",
    "config",
    "encode_split",
    "eval_step",
    "fit",
    "load_run",
    "losses",
    "models",
    "read_latents",
    "samplers",
    "train",
    "train_step",
]
