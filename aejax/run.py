"""A trained autoencoder in use: numpy in, numpy out."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from ml_collections import ConfigDict

from aejax import checkpoint, models
from aejax import config as config_lib
from aejax.data import Spec
from aejax.errors import InputError
from aejax.objectives import Objective

_BATCH = 256


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Run:
    """What a checkpoint holds, ready to use on this machine's default device.

    Inputs and reconstructions have the user's units: [0, 1] for images (uint8 of 0 to 255 is read
    too), the data's own for vectors.

    Attributes:
      config: the experiment's.
      spec: of one example.
      step: training steps done.
      variables: the model's, with averaged parameters where `ema` is on.
      latents, reconstructions, inputs: of the fixed evaluation batch, the first validation examples.
    """

    config: ConfigDict
    spec: Spec
    step: int
    variables: Mapping[str, Any]
    latents: np.ndarray
    reconstructions: np.ndarray
    inputs: np.ndarray

    def __repr__(self) -> str:
        return f"Run(step={self.step}, data={self.config.data.name!r}, {self.spec.shape} -> {self.latents.shape[1:]})"

    @functools.cached_property
    def model(self) -> models.Autoencoder:
        return models.build(self.config, self.spec.shape)

    def encode(self, x: Any) -> np.ndarray:
        """The latents of x, [n, *latent]; deterministic."""
        return _batched(self._encode, self.spec.check(x))

    def decode(self, z: Any) -> np.ndarray:
        """The expected x given latents [n, *latent]."""
        z = np.asarray(z, np.float32)
        if not len(z) or z.shape[1:] != self.latents.shape[1:]:
            raise InputError(f"the run's latents are (n, *{self.latents.shape[1:]}), the given ones {z.shape}")
        return _batched(self._decode, z)

    def reconstruct(self, x: Any) -> np.ndarray:
        """`decode(encode(x))`."""
        return self.decode(self.encode(x))

    def in_users_units(self, x: Any) -> np.ndarray:
        """What `reconstruct(x)` is to be compared with: x as float32, images in [0, 1]."""
        return np.asarray(self.spec.restore(self.spec.prepare(self.spec.check(x))))

    def generate(self, num: int, seed: int = 0) -> np.ndarray:
        """Decodes draws from a Gaussian with the mean and the covariance of the saved latents."""
        z = self.latents.reshape(len(self.latents), -1)
        centred = (z - z.mean(0)) / np.sqrt(max(len(z) - 1, 1))
        # eps @ centred has covariance centred^T centred: no matrix of latent x latent is ever built.
        draws = z.mean(0) + np.random.default_rng(seed).normal(size=(num, len(z))) @ centred
        return self.decode(draws.reshape(num, *self.latents.shape[1:]))

    @functools.cached_property
    def _on_device(self) -> Any:
        return jax.device_put(self.variables)

    @functools.cached_property
    def _encode(self) -> Callable:
        model, spec = self.model, self.spec

        def encode(variables, x):
            code: Any = model.apply(variables, spec.prepare(x), method="encode")
            return code.z

        return functools.partial(jax.jit(encode), self._on_device)

    @functools.cached_property
    def _decode(self) -> Callable:
        model, spec = self.model, self.spec
        mean = Objective(self.config.objective.reconstruction, {}).mean

        def decode(variables, z):
            decoded: Any = model.apply(variables, z, method="decode")
            return spec.restore(mean(decoded))

        return functools.partial(jax.jit(decode), self._on_device)


def _batched(function: Callable, x: np.ndarray) -> np.ndarray:
    """`function` over batches of one size, or of a power of two below it, so that few are compiled."""
    size = min(_BATCH, 1 << (len(x) - 1).bit_length())
    parts: list[Any] = []
    for i in range(0, len(x), size):
        parts.append(function(x[np.minimum(np.arange(i, i + size), len(x) - 1)]))
        parts[-2:-1] = map(np.asarray, parts[-2:-1])  # fetched while the next batch is computed
    return np.concatenate([np.asarray(part) for part in parts])[: len(x)]


def load_run(workdir: str | Path, step: int | Literal["newest", "best"] = "newest") -> Run:
    """A complete checkpoint of a workdir, wherever and on however many devices it was trained.

    `step` is a number, "newest", or "best", the one with the lowest validation loss. Raises
    InputError where there is none, StorageError where none can be read.
    """
    workdir = Path(workdir)
    if step == "newest":
        saved = checkpoint.newest(workdir)
    else:
        saved = checkpoint.load(workdir, checkpoint.best(workdir) if step == "best" else step)
    if saved is None:
        raise InputError(f"{workdir}: no checkpoint here; give the workdir of a run that has saved one")
    return from_checkpoint(saved)


def from_checkpoint(saved: checkpoint.Checkpoint) -> Run:
    params = saved.state["ema"] or saved.state["params"]
    return Run(
        config=config_lib.from_dict(saved.metadata["config"]),
        spec=Spec.from_dict(saved.metadata["spec"]),
        step=saved.step,
        variables={"params": params, **saved.state["variables"]},
        **saved.samples,
    )
