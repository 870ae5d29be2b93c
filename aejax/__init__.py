"""aejax: autoencoders in JAX, from a config file to latents.

Models are Flax linen modules. In training they take `keys=`, a random key for each example, where they draw, and
`mutable=[...]` where they keep state beside their parameters: see `aejax.models`.
"""

from aejax import config, models, samplers
from aejax.errors import AejaxError, DivergedError, InputError, StoppedError, StorageError
from aejax.models import Autoencoder, Code, Output
from aejax.run import Run, load_run
from aejax.step import Task, TrainState, eval_step, train_step
from aejax.train import fit, train

__version__ = "0.1.0"

__all__ = [
    "AejaxError",
    "Autoencoder",
    "Code",
    "DivergedError",
    "InputError",
    "Output",
    "Run",
    "StoppedError",
    "StorageError",
    "Task",
    "TrainState",
    "config",
    "eval_step",
    "fit",
    "load_run",
    "models",
    "samplers",
    "train",
    "train_step",
]
