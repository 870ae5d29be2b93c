"""The composition encoder -> bottleneck -> decoder, and how a config builds it."""

import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from aejax.errors import InputError
from aejax.models import pre_encoder
from aejax.models.bottlenecks import BOTTLENECKS, Code
from aejax.models.decoders import DECODERS
from aejax.models.distributions import Prior
from aejax.models.encoders import ENCODERS, MLPEncoder
from aejax.models.layers import Normalise, flatten
from aejax.models.vit import Tokens
from aejax.registry import instance


class Output(struct.PyTreeNode):
    """What an autoencoder returns.

    Attributes:
      code: of the input.
      decoded: parameters of the likelihood of the input, e.g. logits: [batch, ...], or
        [samples, batch, ...] where the code has samples.
      log_scale: of the likelihood, where it is learned.
    """

    code: Code
    decoded: Array
    log_scale: Array | None = None


class Autoencoder(nn.Module):
    """Three modules in a row. Each also works alone.

    Calls take, beside their input: `label`, int32 [batch], where the model is conditional; `keys`, a
    random key for each example, [batch], without which the code is deterministic; `train`.

    In training, a model with a part that draws needs `keys` (Flax's `rngs` is not read), and one that keeps state
    beside its parameters needs those collections mutable, see `aejax.models`; without, they raise InputError:

        output, updated = model.apply(variables, x, keys=keys, train=True, mutable=["codebook"])
        variables = {**variables, **updated}

    Attributes:
      encoder: `encoder(x, keys=..., train=...)`, input [batch, ...] to features.
      bottleneck: `bottleneck(features, keys=..., train=...)` to a `Code`.
      decoder: `decoder(z, train=...)` to parameters of the likelihood of x, [batch, ...], e.g. logits.
      classes: of the labels that encoder and decoder are conditioned on (Sohn et al. 2015); 0: none.
      learned_scale: whether the likelihood's log scale is a parameter (Rybkin et al. 2021).
      pre_bias: whether the decoder's only bias is subtracted from x before it is encoded (Gao et al. 2024, equation 1),
        see `pre_encoder`.
    """

    encoder: nn.Module
    bottleneck: nn.Module
    decoder: nn.Module
    classes: int = 0
    learned_scale: bool = False
    pre_bias: bool = False

    def setup(self):
        if self.learned_scale:
            self.log_scale = self.param("log_scale", nn.initializers.zeros, ())

    def encode(self, x: Array, *, label: Array | None = None, keys: Array | None = None, train: bool = False) -> Code:
        """The code of x; outside of training without keys the mean, the nearest code."""
        return self.code(self.features(x, label=label, keys=keys, train=train), keys=keys, train=train)

    def features(
        self, x: Array, *, label: Array | None = None, keys: Array | None = None, train: bool = False
    ) -> Array | Tokens:
        """What the bottleneck reads of x."""
        if self.pre_bias and not self.is_initializing():  # the decoder has no parameters before its first call
            x = x - pre_encoder.bias(self.decoder.variables["params"]).reshape(x.shape[1:])
        if self.classes and isinstance(self.encoder, MLPEncoder):
            x = flatten(x)  # or each label would take a whole plane of pixels
        return self.encoder(self._conditioned(x, label), keys=keys, train=train)

    def code(self, h: Array | Tokens, *, keys: Array | None = None, train: bool = False) -> Code:
        """The code of features, as of x: several draws of one x need the encoder once."""
        return self.bottleneck(h, *self._pseudo_features(), keys=keys, train=train)

    def decode(self, z: Array, *, label: Array | None = None, train: bool = False) -> Array:
        """Parameters of the likelihood of x given z [batch, *latent], float32."""
        tied = (self.kernels()[::-1],) if getattr(self.decoder, "tied", False) else ()
        return self.decoder(self._conditioned(z, label), *tied, train=train).astype(jnp.float32)

    def prior(self) -> Prior | None:
        """The prior of the code; None where the bottleneck has none."""
        return self.bottleneck.prior_of(*self._pseudo_features()) if hasattr(self.bottleneck, "prior_of") else None

    def lookup(self, indices: Array) -> Array:
        """Discrete codes, as `Code.indices` holds them, to the z that the decoder reads."""
        return self.bottleneck.lookup(indices)

    def kernels(self) -> list[Array]:
        """Kernels of the encoder's dense layers and the bottleneck's, outermost first, for a tied decoder."""
        encoder = self.encoder.variables.get("params", {})
        layers = [encoder[f"dense_{i}"] for i in range(len(encoder)) if f"dense_{i}" in encoder]
        layers += [v for k, v in self.bottleneck.variables.get("params", {}).items() if k == "dense"]
        return [layer["kernel"] for layer in layers]

    def __call__(
        self, x: Array, *, label: Array | None = None, keys: Array | None = None, train: bool = False
    ) -> Output:
        code = self.encode(x, label=label, keys=keys, train=train)
        z = code.z
        if code.samples:  # all at once, as one large batch
            z = z.reshape(-1, *z.shape[2:])
            label = None if label is None else jnp.tile(label, code.samples)
        decoded = self.decode(z, label=label, train=train)
        if decoded.shape[1:] != x.shape[1:]:
            raise InputError(f"the decoder makes {decoded.shape[1:]} but the input is {x.shape[1:]}")
        if code.samples:
            decoded = decoded.reshape(code.samples, *x.shape)
        return Output(code, decoded, self.log_scale if self.learned_scale else None)

    def _conditioned(self, x: Array, label: Array | None) -> Array:
        """x with the one-hot label behind the last axis."""
        if not self.classes:
            return x
        if label is None:
            raise InputError(f"the model is conditional on {self.classes} classes: give a label with each example")
        hot = jax.nn.one_hot(label, self.classes, dtype=jnp.result_type(x))
        hot = hot.reshape(hot.shape[0], *(1,) * (x.ndim - 2), self.classes)
        return jnp.concatenate([x, jnp.broadcast_to(hot, (*x.shape[:-1], self.classes))], -1)

    def _pseudo_features(self) -> tuple[Array, ...]:
        """The encoder's features of the VampPrior's pseudo-inputs, where the bottleneck has some."""
        inputs = self.bottleneck.pseudo_inputs() if hasattr(self.bottleneck, "pseudo_inputs") else None
        if inputs is None:
            return ()
        if self.classes:
            raise InputError("bottleneck.prior='vamp' has no labels for its pseudo-inputs; choose prior='mixture'")
        return (self.encoder(inputs),)


def build(config: Mapping[str, Any], shape: Sequence[int], axis_name: str | None = None) -> Autoencoder:
    """The autoencoder that `config` describes, for inputs of `shape` (one example, without the batch).

    Reads `encoder`, `bottleneck`, `decoder` (each a `name` and the attributes of that module), `classes`, `likelihood`,
    `dtype` and what `pre_encoder.has_bias` reads. A name is a key of ENCODERS, BOTTLENECKS or DECODERS, or
    "package.module:Class". Modules that declare `shape`, `dtype` or `axis_name` are given them; `axis_name` is that of
    the devices that share a batch, over which statistics of the batch are taken.

    Raises InputError where names, attributes or shapes do not fit.
    """
    shape = tuple(shape)
    given = {"shape": shape, "dtype": config["dtype"], "axis_name": axis_name}
    encoder = instance("encoder", ENCODERS, config["encoder"], given)
    bottleneck = instance("bottleneck", BOTTLENECKS, config["bottleneck"], given)
    decoder = instance("decoder", DECODERS, config["decoder"], given)
    model = Autoencoder(
        encoder,
        bottleneck,
        decoder,
        classes=config["classes"],
        learned_scale=config["likelihood"].get("variance") == "learned",
        pre_bias=pre_encoder.has_bias(config, encoder, bottleneck, decoder),
    )
    abstract_output(model, shape)  # runs every check of shapes
    return model


def abstract_output(model: Autoencoder, shape: Sequence[int], drawn: bool = False) -> Output:
    """Shapes and dtypes of the output for a batch of one, a stochastic code `drawn` or not. Computes nothing."""

    def output(x: Array) -> Any:
        label = jnp.zeros(1, jnp.int32) if model.classes else None
        keys = jax.random.split(jax.random.key(0), 1) if drawn else None
        return model.init_with_output(jax.random.key(0), x, label=label, keys=keys)[0]

    return jax.eval_shape(output, jnp.zeros((1, *shape)))


def warn_if_overcomplete(output: Output, config: Mapping[str, Any]) -> None:
    """Warns of a code with as many numbers as the input that nothing keeps from copying it."""
    latent, size = output.code.z.shape[1:], math.prod(output.decoded.shape[1:])
    free = config["bottleneck"]["name"] in ("identity", "dense", "conv", "spherical")
    regularised = config["objective"]["weights"] or config["corruption"]["name"] != "none"
    if math.prod(latent) >= size and free and not regularised:
        warnings.warn(
            f"the code {latent} holds {math.prod(latent):,} numbers and the input {size:,}: it can learn to copy. "
            "Regularise it (corruption.name=gaussian or masking, objective.weights={'l1': 1e-3}) or lower "
            f"bottleneck.features until the code is smaller than {size:,}",
            stacklevel=2,
        )


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
        module = context.module
        seen = any(layer.path == "/".join(module.path) for layer in layers)  # called a second time
        idle = isinstance(module, Normalise) and module.kind == "none"
        if context.method_name == "__call__" and isinstance(result, Array) and not (seen or idle):
            parameters = module.variables.get("params", {})
            count = sum(leaf.size for leaf in jax.tree.leaves(parameters))
            layers.append(Layer("/".join(module.path), result.shape[1:], count))
        return result

    with nn.intercept_methods(record):
        label: dict[str, Any] = {"label": jnp.zeros(1, jnp.int32)} if getattr(model, "classes", 0) else {}
        jax.eval_shape(functools.partial(model.init, **label), jax.random.key(0), jnp.zeros((1, *shape)))
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
