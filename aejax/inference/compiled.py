"""The functions of a trained model, each compiled at its first use."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from aejax import models
from aejax.data import Spec
from aejax.objectives import Likelihood


class Compiled:
    """Functions of a batch in the user's units, compiled for this machine's default device.

    Attributes:
      variables: the model's variables on that device.
    """

    def __init__(self, model: models.Autoencoder, spec: Spec, likelihood: Likelihood, variables: Mapping[str, Any]):
        self._model, self._spec, self._likelihood = model, spec, likelihood
        self.variables: Any = jax.device_put(variables)

    @functools.cached_property
    def code(self) -> Callable[..., dict[str, Any]]:
        """Maps x and, if given, labels and keys to `z` and the `indices` of discrete codes."""
        model, spec = self._model, self._spec

        def encode(variables: Any, x: Any, label: Any = None, keys: Any = None) -> dict[str, Any]:
            code: Any = model.apply(variables, spec.prepare(x), label=label, keys=keys, method="encode")
            z = code.z[0] if code.samples else code.z
            return {"z": z} | ({} if code.indices is None else {"indices": code.indices})

        return functools.partial(jax.jit(encode), self.variables)

    @functools.cached_property
    def lookup(self) -> Callable[..., Any]:
        """Maps the indices of discrete codes to z."""
        model = self._model
        lookup = jax.jit(lambda variables, indices: model.apply(variables, indices, method="lookup"))
        return functools.partial(lookup, self.variables)

    @functools.cached_property
    def reconstruct(self) -> Callable[..., Any]:
        """Maps x and labels to the reconstruction of x."""
        model, spec, likelihood = self._model, self._spec, self._likelihood

        def reconstruct(variables: Any, x: Any, label: Any = None) -> Any:
            x = spec.prepare(x)
            output: Any = model.apply(variables, x, label=label)
            return likelihood.reconstruct(output.decoded, x)

        return functools.partial(jax.jit(reconstruct), self.variables)

    @functools.cached_property
    def draw(self) -> Callable[..., Any]:
        """Maps z, a key for each, and labels to a sample of the likelihood."""
        model, spec, likelihood = self._model, self._spec, self._likelihood

        def draw(variables: Any, z: Any, keys: Any, label: Any = None) -> Any:
            decoded: Any = model.apply(variables, z, label=label, method="decode")
            scale: Any = model.apply(variables, label, method="scale")
            own = 0 if likelihood.scale_by_label else None
            return spec.restore(jax.vmap(likelihood.draw, (0, 0, own))(keys, decoded, scale))

        return functools.partial(jax.jit(draw), self.variables)

    @functools.cached_property
    def decode(self) -> Callable[..., Any]:
        """Maps z, labels and what skips the bottleneck to the expected x."""
        model, spec, mean = self._model, self._spec, self._likelihood.mean

        def decode(variables: Any, z: Any, label: Any = None, skipped: Any = None) -> Any:
            decoded: Any = model.apply(variables, z, label=label, skipped=skipped, method="decode")
            return spec.restore(mean(decoded))

        return functools.partial(jax.jit(decode), self.variables)
