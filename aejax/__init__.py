"""aejax: autoencoders in JAX, from a config file to latents.

Models are Flax linen modules. In training they take `keys=`, a random key for each example, where they draw, and
`mutable=[...]` where they keep state beside their parameters: see `aejax.models`.
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from aejax.errors import AejaxError, DivergedError, InputError, StoppedError, StorageError

if TYPE_CHECKING:
    from aejax import config, models, samplers
    from aejax.models import Autoencoder, Code, Output
    from aejax.run import Run, load_run
    from aejax.step import Task, TrainState, eval_step, train_step
    from aejax.train import fit, train

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

# Imported at their first use: `aejax --help` and the processes that wait for a training need no JAX.
_MODULES = {
    "models": ("Autoencoder", "Code", "Output"),
    "run": ("Run", "load_run"),
    "step": ("Task", "TrainState", "eval_step", "train_step"),
    "train": ("fit", "train"),
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


class _Package(types.ModuleType):
    """Keeps `aejax.train` the function until the module of this name has moved to `aejax.training`."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name == "train" and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
