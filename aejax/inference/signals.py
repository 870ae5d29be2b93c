"""Signals of any length, encoded and decoded in chunks by a convolutional model of sequences."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Num

from aejax.data import as_array
from aejax.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Signals:
    """Encoding and decoding of signals [n, time, channels] of any length, of which a run has seen segments.

    A chunk is read with as much of the signal before it, and for a model that is not causal after it, as its receptive
    field is long: the result is that of the whole signal, and memory does not grow with its length. A causal model
    needs no later samples, so that chunks can be coded as they come.

    Raises InputError for models of other data, with other blocks than `resnet`, or whose codes or normalization are of
    the whole segment.
    """

    run: Any  # a TrainedModel, whose module imports this one

    def __post_init__(self) -> None:
        model, latents = self.run.model, self.run.latents
        parts = (model.encoder, model.decoder)
        if self.run.spec.kind != "sequence" or latents.ndim != 3:
            raise InputError(
                f"signals are sequences whose codes are shorter ones; this run has codes of {latents.shape[1:]} for "
                f"{self.run.spec.kind}s of {self.run.spec.shape}"
            )
        if not all(hasattr(part, "receptive_field") for part in parts) or self.run.config.classes:
            raise InputError("signals are coded in chunks by unconditional models with encoder and decoder resnet")
        if any(getattr(part, "normalisation", "none") == "group" for part in parts):
            raise InputError("normalisation='group' averages over a whole segment; train with 'layer' or 'none'")

    @property
    def factor(self) -> int:
        """Returns the samples that one position of the code stands for."""
        return 2 ** len(self.run.model.encoder.features)

    @functools.cached_property
    def causal(self) -> bool:
        """Returns whether no code, and no sample that is made of it, reads later samples."""
        model = self.run.model
        return all(getattr(part, "causal", True) for part in (model.encoder, model.bottleneck, model.decoder))

    def encode(self, x: Num[np.ndarray, "n time c"], chunk: int | None = None) -> dict[str, Num[np.ndarray, "n t ..."]]:
        """Returns the code `z` of signals, zeros following the end up to whole positions, and `indices` if discrete.

        Args:
          x: in the user's units.
          chunk: samples of x that are encoded at once; defaults to all.
        """
        x = self._read(x, self.run.spec.shape[-1], "signals")
        length = -(-x.shape[1] // self.factor)
        around = -(-self.run.model.encoder.receptive_field // self.factor) + self._bottleneck_field
        x = np.pad(np.asarray(self.run.spec.standardize(x)), ((0, 0), (0, length * self.factor - x.shape[1]), (0, 0)))
        step = length if chunk is None else self._divide(chunk)
        return self._join(lambda a, b: self._encode(x[:, a * self.factor : b * self.factor]), length, step, around)

    def decode(self, z: Num[np.ndarray, "n t d"], chunk: int | None = None) -> Float[np.ndarray, "n time c"]:
        """Returns the signals of codes z, `chunk` samples at once."""
        z = self._read(z, self.run.latents.shape[-1], "codes")
        step = z.shape[1] if chunk is None else self._divide(chunk)
        around = self.run.model.decoder.receptive_field
        return self._join(lambda a, b: {"x": self._decode(z[:, a:b])}, z.shape[1], step, around, self.factor)["x"]

    @property
    def _bottleneck_field(self) -> int:
        return int(getattr(self.run.model.bottleneck, "kernel", 1))

    @staticmethod
    def _read(x: Any, channels: int, what: str) -> np.ndarray:
        x = as_array(x, what).astype(np.float32)
        if x.ndim != 3 or x.shape[-1] != channels or not x.size:
            raise InputError(f"{what} must be [n, time, {channels}], got {x.shape}")
        return x

    def _divide(self, chunk: int) -> int:
        if type(chunk) is not int or chunk < 1 or chunk % self.factor:
            raise InputError(f"chunk must be a multiple of {self.factor}, the samples of a position, got {chunk!r}")
        return chunk // self.factor

    def _join(
        self, function: Callable[[int, int], dict], length: int, step: int, around: int, scale: int = 1
    ) -> dict[str, Any]:
        """Joins what `function` makes of positions from a to b, without what it makes of those around a chunk."""
        parts = []
        for start in range(0, length, step):
            end = min(start + step, length)
            # Every chunk but the first has the same number of positions, so that it is compiled once.
            first, last = max(start - around, 0), end if self.causal else min(end + around, length)
            kept = slice((start - first) * scale, (end - first) * scale)
            parts.append({key: value[:, kept] for key, value in function(first, last).items()})
        return {key: np.concatenate([part[key] for part in parts], 1) for key in parts[0]}

    @functools.cached_property
    def _programs(self) -> tuple[Any, Any]:
        model, spec, likelihood = self.run.model, self.run.spec, self.run.likelihood

        def encode(variables: Any, x: Any) -> dict[str, Any]:
            code: Any = model.apply(variables, x, method="encode")
            return {"z": code.z} | ({} if code.indices is None else {"indices": code.indices})

        def decode(variables: Any, z: Any) -> Any:
            shape = (z.shape[1] * self.factor, *model.decoder.shape[1:])
            other = model.clone(decoder=model.decoder.clone(shape=shape))
            decoded: Any = other.apply(variables, z, method="decode")
            return spec.restore(likelihood.mean(decoded))

        return jax.jit(encode), jax.jit(decode)

    def _encode(self, x: np.ndarray) -> dict[str, np.ndarray]:
        return jax.device_get(self._programs[0](self.run.variables, x))

    def _decode(self, z: np.ndarray) -> np.ndarray:
        return np.asarray(self._programs[1](self.run.variables, z))
