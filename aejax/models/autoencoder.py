"""The composition encoder -> bottleneck -> decoder, and how a config builds it."""

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from aejax.errors import InputError, one_of
from aejax.models.bottlenecks import BOTTLENECKS, Code
from aejax.models.decoders import DECODERS
from aejax.models.encoders import ENCODERS


class Output(struct.PyTreeNode):
    """What an autoencoder returns: the code, and the parameters of the likelihood of the input."""

    code: Code
    decoded: Array


class Autoencoder(nn.Module):
    """Three modules in a row. Each also works alone.

    Attributes:
      encoder: `encoder(x, train=...)`, input [batch, ...] to features.
      bottleneck: `bottleneck(features, train=...)` to a `Code`.
      decoder: `decoder(z, train=...)` to parameters of the likelihood of x, [batch, ...], e.g. logits.
    """

    encoder: nn.Module
    bottleneck: nn.Module
    decoder: nn.Module

    def encode(self, x: Array, *, train: bool = False) -> Code:
        """The code of x; deterministic when train=False."""
        return self.bottleneck(self.encoder(x, train=train), train=train)

    def decode(self, z: Array, *, train: bool = False) -> Array:
        """Parameters of the likelihood of x given z, float32."""
        tied = (self.kernels()[::-1],) if getattr(self.decoder, "tied", False) else ()
        return self.decoder(z, *tied, train=train).astype(jnp.float32)

    def kernels(self) -> list[Array]:
        """Kernels of the encoder's dense layers and the bottleneck's, outermost first, for a tied decoder."""
        encoder = self.encoder.variables.get("params", {})
        layers = [encoder[f"dense_{i}"] for i in range(len(encoder)) if f"dense_{i}" in encoder]
        layers += [v for k, v in self.bottleneck.variables.get("params", {}).items() if k == "dense"]
        return [layer["kernel"] for layer in layers]

    def __call__(self, x: Array, *, train: bool = False) -> Output:
        code = self.encode(x, train=train)
        decoded = self.decode(code.z, train=train)
        if decoded.shape != x.shape:
            raise InputError(f"the decoder makes {decoded.shape[1:]} but the input is {x.shape[1:]}")
        return Output(code, decoded)


def build(config: Mapping[str, Any], shape: Sequence[int]) -> Autoencoder:
    """The autoencoder that `config` describes, for inputs of `shape` (one example, without the batch).

    Reads `encoder`, `bottleneck`, `decoder` (each a `name` and the attributes of that module) and
    `dtype`. Raises InputError where names, attributes or shapes do not fit.
    """
    shape = tuple(shape)
    model = Autoencoder(
        encoder=_module("encoder", ENCODERS, config["encoder"], dtype=config["dtype"]),
        bottleneck=_module("bottleneck", BOTTLENECKS, config["bottleneck"]),
        decoder=_module("decoder", DECODERS, config["decoder"], shape=shape, dtype=config["dtype"]),
    )
    abstract_output(model, shape)  # runs every check of shapes
    return model


def abstract_output(model: Autoencoder, shape: Sequence[int]) -> Output:
    """Shapes and dtypes of the output for a batch of one. Computes nothing."""
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x)[0], jnp.zeros((1, *shape)))


def warn_if_overcomplete(output: Output, config: Mapping[str, Any]) -> None:
    """Warns of a code with as many numbers as the input that nothing keeps from copying it."""
    latent, size = output.code.z.shape[1:], math.prod(output.decoded.shape[1:])
    regularised = config["objective"]["weights"] or config["corruption"]["name"] != "none"
    if math.prod(latent) >= size and not regularised:
        warnings.warn(
            f"the code {latent} holds {math.prod(latent):,} numbers and the input {size:,}: it can learn to copy. "
            "Regularise it (corruption.name=gaussian or masking, objective.weights={'l1': 1e-3}) or lower "
            f"bottleneck.features until the code is smaller than {size:,}",
            stacklevel=2,
        )


def _module(part: str, classes: Mapping[str, type[nn.Module]], options: Mapping[str, Any], **given: Any) -> nn.Module:
    options = {**given, **options}
    name = options.pop("name", None)
    if name not in classes:
        raise one_of(f"{part}.name", name, classes)
    fields = {f.name: f for f in dataclasses.fields(classes[name]) if f.name not in ("parent", "name")}
    for key in options:
        if key not in fields:
            raise one_of(f"{part} {name!r}: option", key, fields)
    for key, value in options.items():
        several = fields[key].type == Sequence[int]
        numbers = value if several and isinstance(value, Sequence) else (value,)
        if (several and not isinstance(value, Sequence)) or (
            fields[key].type in (int, Sequence[int]) and not all(isinstance(n, int) and n > 0 for n in numbers)
        ):
            what = "whole numbers above 0, e.g. (64, 32)" if several else "a whole number above 0"
            raise InputError(f"{part}.{key} must be {what}, got {value!r}")
    missing = [
        k for k, f in fields.items() if k not in options and f.default is f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"{part} {name!r} needs {', '.join(f'{part}.{key}' for key in missing)}")
    return classes[name](**options)


class Layer(NamedTuple):
    """A line of `summary`: the path of a module, its output without the batch, its own parameters."""

    path: str
    shape: tuple[int, ...]
    parameters: int


def summary(model: nn.Module, shape: Sequence[int]) -> list[Layer]:
    """Every layer of `model` in the order in which an input of `shape` passes it. Computes nothing."""
    layers: list[Layer] = []

    def record(next_call, args, kwargs, context):
        result = next_call(*args, **kwargs)
        if context.method_name == "__call__" and isinstance(result, Array):
            parameters = context.module.variables.get("params", {})
            count = sum(leaf.size for leaf in jax.tree.leaves(parameters))
            layers.append(Layer("/".join(context.module.path), result.shape[1:], count))
        return result

    with nn.intercept_methods(record):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))
    return [a for a in layers if not any(b.path.startswith(a.path + "/") for b in layers)]


def table(model: nn.Module, shape: Sequence[int]) -> str:
    """`summary` as text, with the total."""
    layers = summary(model, shape)
    lines = [("layer", "output", "parameters"), ("input", _by(tuple(shape)), "")]
    lines += [(layer.path, _by(layer.shape), f"{layer.parameters:,}") for layer in layers]
    lines += [("total", "", f"{sum(layer.parameters for layer in layers):,}")]
    path, output, count = (max(len(line[i]) for line in lines) for i in range(3))
    return "\n".join(f"{a:<{path}}  {b:>{output}}  {c:>{count}}" for a, b, c in lines)


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
