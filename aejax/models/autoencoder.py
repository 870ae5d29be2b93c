"""The autoencoder, encoder -> bottleneck -> decoder, its construction from a config, and its table of layers."""

import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Key, PyTree

from aejax.config import parse_categories
from aejax.errors import InputError, one_of
from aejax.models import pre_encoder
from aejax.models.bottlenecks import BOTTLENECKS, Code
from aejax.models.bottlenecks.selection import Kept
from aejax.models.decoders import DECODERS
from aejax.models.dictionary import DictionaryDecoder
from aejax.models.distributions import Prior
from aejax.models.encoders import ENCODERS, MLPEncoder
from aejax.models.layers import Normalization, flatten, scale_to_unit
from aejax.models.likelihoods import LIKELIHOODS
from aejax.models.vit import Tokens
from aejax.registry import instantiate

# What the encoder reads instead of x, see `Autoencoder.inputs`.
INPUTS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "log1p": jnp.log1p,
    "unit_norm": lambda x: scale_to_unit(flatten(x)).reshape(x.shape),
}
Batch = Float[Array, "batch ..."]
Labels = Int[Array, " batch"]
Keys = Key[Array, " batch"]


class Output(struct.PyTreeNode):
    """Output of an autoencoder.

    Attributes:
      code: code of the input.
      decoded: parameters of the likelihood of the input, e.g. logits: [batch, ...], or [samples, batch, ...] if the
        code has samples.
      log_scale: what the likelihood learns beside the decoder, if anything: a scalar, [*shape], or [batch, *shape].
    """

    code: Code
    decoded: Float[Array, "..."]
    log_scale: Float[Array, "..."] | None = None


class Autoencoder(nn.Module):
    """Composition of an encoder, a bottleneck and a decoder, each of which also works alone.

    Besides their input, the methods take `label`, int32 [batch], if the model is conditional; `keys`, one random key
    per example, [batch]; and `train`. Without keys the code is deterministic: the posterior's mean, the nearest code.

    In training, a stochastic model needs `keys` (Flax's `rngs` is not read), and a model with state other than
    parameters needs its collections to be mutable, see `aejax.models`. Otherwise the call raises InputError.

        output, updated = model.apply(variables, x, keys=keys, train=True, mutable=["codebook"])
        variables = {**variables, **updated}

    Attributes:
      encoder: module called as `encoder(x, keys=..., train=...)`, from inputs [batch, ...] to features.
      bottleneck: module called as `bottleneck(features, keys=..., train=...)`, from features to a `Code`. If it has a
        method `read`, the decoder is given `bottleneck.read(z)`.
      decoder: module called as `decoder(z, train=...)`, from z to parameters of the likelihood of x, [batch, ...].
      classes: number of classes that encoder and decoder are conditioned on (Sohn et al. 2015); 0: unconditional.
      learned_scale: whether the likelihood's log scale is a parameter (Rybkin et al. 2021).
      scale_shape: shape of this parameter, see `Likelihood.scale_shape`.
      scale_by_label: whether each of `classes` has a parameter of this shape.
      inputs: what the encoder reads of x, a key of INPUTS: log(1 + x) of counts, or each example scaled to length 1.
      decoded: shape of the parameters that the decoder makes of one example, see `Likelihood.decoded_shape`; empty
        where it makes one for each value.
      pre_bias: whether the bias of a linear decoder is subtracted from x before x is encoded (Gao et al. 2024,
        equation 1), see `pre_encoder`.
      target: shape of what a transcoder decodes to; empty where that is x (Dunefsky et al. 2024, "Transcoders find
        interpretable LLM feature circuits").
      skip: whether a linear map of x, which starts at 0, is added to what a transcoder decodes (Paulo et al. 2025,
        "Transcoders beat sparse autoencoders for interpretability").
      label_to_encoder: whether the encoder is conditioned, too. If not, codes depend on no label.
      embedding: width of the learned vector that a class is read as; 0: it is read as a one-hot vector.
      categories: numbers of categories of several covariates, of whose combinations, in the order of
        `np.ravel_multi_index`, `classes` is the number. Each covariate is then read as a one-hot vector of its own,
        beside the others, or as an embedding, of which the sum is read. Empty: a class is one covariate.
      missing: whether NaN in x are missing values, of which the encoder reads 0 (Nazabal et al. 2020, "Handling
        incomplete heterogeneous data using VAEs").
      levels: number of levels of each column of a table, 0 or less for numbers: the encoder reads levels as one-hot
        vectors, and 0 where a value is missing. Empty for other data.
    """

    encoder: nn.Module
    bottleneck: nn.Module
    decoder: nn.Module
    classes: int = 0
    learned_scale: bool = False
    scale_shape: Sequence[int] = ()
    scale_by_label: bool = False
    decoded: Sequence[int] = ()
    inputs: str = "linear"
    pre_bias: bool = False
    target: Sequence[int] = ()
    skip: bool = False
    label_to_encoder: bool = True
    embedding: int = 0
    categories: Sequence[int] = ()
    missing: bool = False
    levels: Sequence[int] = ()

    def setup(self):
        if self.skip:
            zeros = nn.initializers.zeros
            self.skip_map = nn.Dense(math.prod(self.target), use_bias=False, kernel_init=zeros, name="skip_map")
        if self.classes and self.embedding:
            shape = (sum(self.categories) or self.classes, self.embedding)
            self.label_embedding = self.param("label_embedding", nn.initializers.normal(1.0), shape)
        if self.learned_scale:
            labels = (self.classes,) if self.scale_by_label else ()
            self.log_scale = self.param("log_scale", nn.initializers.zeros, (*labels, *self.scale_shape))

    def encode(self, x: Batch, *, label: Labels | None = None, keys: Keys | None = None, train: bool = False) -> Code:
        """Returns the code of x [batch, ...]."""
        return self.code(self.features(x, label=label, keys=keys, train=train), label=label, keys=keys, train=train)

    def features(
        self, x: Batch, *, label: Labels | None = None, keys: Keys | None = None, train: bool = False
    ) -> Batch | Tokens:
        """Returns the encoder's output, which the bottleneck reads."""
        if self.pre_bias and not self.is_initializing():  # the decoder has no parameters before its first call
            x = x - pre_encoder.get_bias(self.decoder.variables["params"]).reshape(x.shape[1:])
        if self.levels:
            x = expand_levels(x, self.levels)
        elif self.missing:
            x = jnp.where(jnp.isnan(x), 0, x)
        if self.inputs not in INPUTS:
            raise one_of("inputs", self.inputs, INPUTS)
        x = INPUTS[self.inputs](x)
        if self.classes and self.label_to_encoder:
            if isinstance(self.encoder, MLPEncoder):
                x = flatten(x)  # otherwise the label would be appended to every pixel
            x = self._append_label(x, label)
        return self.encoder(x, keys=keys, train=train)

    def code(
        self, h: Batch | Tokens, *, label: Labels | None = None, keys: Keys | None = None, train: bool = False
    ) -> Code:
        """Returns the code of h, which `features` returned. Several codes of one x can be sampled from the same h.

        The label is that of x, for a bottleneck whose prior depends on it.
        """
        read = {"label": label} if self.classes and getattr(self.bottleneck, "reads_label", False) else {}
        return self.bottleneck(h, *self._encode_pseudo_inputs(), **read, keys=keys, train=train)

    def decode(
        self,
        z: Batch,
        *,
        label: Labels | None = None,
        kept: Kept | None = None,
        train: bool = False,
        skipped: Batch | None = None,
        read: Batch | None = None,
    ) -> Batch:
        """Returns the parameters of p(x | z), float32 [batch, ...], for z [batch, *latent].

        `kept` holds the units of a sparse z that are not 0, for a decoder that reads no others. `skipped` is the input
        of a model with `skip`, whose linear map is added; without it, nothing is. `read` is `Code.read` of z, which is
        otherwise computed here.
        """
        if hasattr(self.bottleneck, "read"):
            z = self.bottleneck.read(z) if read is None else read
        options = {"kept": kept} if isinstance(self.decoder, DictionaryDecoder) and not self.classes else {}
        tied = (self.kernels()[::-1],) if getattr(self.decoder, "tied", False) else ()
        decoded = self.decoder(self._append_label(z, label), *tied, **options, train=train).astype(jnp.float32)
        return decoded if skipped is None else decoded + self.skip_map(flatten(skipped)).reshape(decoded.shape)

    def prior(self) -> Prior | None:
        """Returns the prior of z, or None if the bottleneck has none."""
        return self.bottleneck.prior_of(*self._encode_pseudo_inputs()) if hasattr(self.bottleneck, "prior_of") else None

    def lookup(self, indices: Int[Array, "batch ..."]) -> Batch:
        """Returns z [batch, *latent] of discrete codes, which are given as in `Code.indices`."""
        return self.bottleneck.lookup(indices)

    def kernels(self) -> list[Array]:
        """Returns the kernels of the dense layers of encoder and bottleneck, outermost first, for a tied decoder."""
        encoder, bottleneck = (part.variables.get("params", {}) for part in (self.encoder, self.bottleneck))
        layers = [encoder[f"dense_{i}"] for i in range(len(encoder)) if f"dense_{i}" in encoder]
        layers += [bottleneck["dense"]] if "dense" in bottleneck else []
        return [layer["kernel"] for layer in layers]

    def __call__(
        self, x: Batch, *, label: Labels | None = None, keys: Keys | None = None, train: bool = False
    ) -> Output:
        """Encodes x [batch, ...] and decodes its code."""
        code = self.encode(x, label=label, keys=keys, train=train)
        z, of_x = code.z, label
        if code.samples:  # decodes all importance samples as one large batch
            z = z.reshape(-1, *z.shape[2:])
            label = None if label is None else jnp.tile(label, code.samples)
        skipped = x if self.skip else None
        decoded = self.decode(z, label=label, kept=code.kept, train=train, skipped=skipped, read=code.read)
        wanted, what = (tuple(self.target), "target") if self.target else (x.shape[1:], "input")
        if self.decoded:
            wanted, what = tuple(self.decoded), "shape of the likelihood's parameters"
        if decoded.shape[1:] != wanted:
            raise InputError(f"the decoder makes {decoded.shape[1:]} but the {what} is {wanted}; make them equal")
        if code.samples:
            decoded = decoded.reshape(code.samples, len(x), *wanted)
        return Output(code, decoded, self.scale(of_x))

    def scale(self, label: Labels | None = None) -> Float[Array, "..."] | None:
        """Returns what the likelihood learns beside the decoder, for examples with these labels; None for nothing."""
        if not self.learned_scale:
            return None
        return self.log_scale[label] if self.scale_by_label else self.log_scale

    def _append_label(self, x: Array, label: Array | None) -> Array:
        """Appends the label, one-hot or embedded, to the last axis of x, if the model is conditional."""
        if not self.classes:
            return x
        if label is None:
            raise InputError(f"the model is conditional on {self.classes} classes: give a label with each example")
        sizes = self.categories or (self.classes,)
        parts = jnp.unravel_index(label, sizes) if self.categories else (label,)
        one_hot = [
            jax.nn.one_hot(part, size, dtype=jnp.result_type(x)) for part, size in zip(parts, sizes, strict=True)
        ]
        vector = jnp.concatenate(one_hot, -1)
        if self.embedding:
            vector = (vector.astype(jnp.float32) @ self.label_embedding).astype(jnp.result_type(x))
        vector = vector.reshape(vector.shape[0], *(1,) * (x.ndim - 2), vector.shape[-1])
        return jnp.concatenate([x, jnp.broadcast_to(vector, (*x.shape[:-1], vector.shape[-1]))], -1)

    def _encode_pseudo_inputs(self) -> tuple[Array, ...]:
        """Returns a tuple of the encoder's features of the VampPrior's pseudo-inputs; empty under other priors."""
        inputs = self.bottleneck.pseudo_inputs() if hasattr(self.bottleneck, "pseudo_inputs") else None
        if inputs is None:
            return ()
        if self.classes:
            raise InputError("bottleneck.prior='vamp' has no labels for its pseudo-inputs; choose prior='mixture'")
        return (self.encoder(inputs),)


def expand_levels(x: Float[Array, "batch columns"], levels: Sequence[int]) -> Float[Array, "batch width"]:
    """Returns columns side by side, those of levels 0, 1, ... as one-hot vectors, with 0 in the place of NaN."""
    widths = np.maximum(levels, 1)
    level = np.concatenate([np.arange(width) for width in widths])
    x = x[:, np.repeat(np.arange(len(levels)), widths)]
    return jnp.where(np.repeat(levels, widths) > 0, (x == level).astype(x.dtype), jnp.where(jnp.isnan(x), 0, x))


def build(
    config: Mapping[str, Any],
    shape: Sequence[int],
    axis_name: str | None = None,
    target: Sequence[int] = (),
    columns: Sequence[str] = (),
) -> Autoencoder:
    """Builds the autoencoder of `config` for inputs of `shape` (one example, without the batch axis).

    A transcoder decodes to examples of the shape `target`, which is empty for all other models. `columns` are the
    likelihoods of a table's columns, see `Mixed.columns`.

    Reads the keys `encoder`, `bottleneck`, `decoder` (each a `name` and the attributes of that module), `classes`,
    `condition`, `likelihood`, `dtype`, `skip`, `inputs`, `data.missing`, and keys that `pre_encoder.has_bias` reads. A
    name is a key of ENCODERS, BOTTLENECKS or DECODERS, or "package.module:Class". A module that has an attribute
    `shape`, `dtype`, `classes` or `axis_name` gets its value from here. `axis_name` names the axis of the devices that
    share a batch, over which batch statistics are computed.

    Raises InputError if names, attributes or shapes do not fit.
    """
    shape = tuple(shape)
    likelihood = instantiate("likelihood", LIKELIHOODS, config["likelihood"], {"columns": tuple(columns)})
    levels = likelihood.column_levels
    read = (int(np.maximum(levels, 1).sum()),) if levels else shape
    shared = {"shape": read, "dtype": config["dtype"], "axis_name": axis_name, "classes": config["classes"]}
    encoder = instantiate("encoder", ENCODERS, config["encoder"], shared)
    bottleneck = instantiate("bottleneck", BOTTLENECKS, config["bottleneck"], shared)
    wanted = tuple(target) or shape
    decoded, scale_shape = likelihood.decoded_shape(wanted), likelihood.scale_shape(wanted)
    if likelihood.scale_by_label and not config["classes"]:
        raise InputError("likelihood.dispersion='feature_label' needs labels; set classes, or dispersion='feature'")
    decoder = instantiate("decoder", DECODERS, config["decoder"], {**shared, "shape": decoded})
    skip = config.get("skip", False)
    if skip and (not target or config["classes"]):
        raise InputError("skip=True is for transcoders without classes; set data.target and classes=0, or skip=False")
    model = Autoencoder(
        encoder,
        bottleneck,
        decoder,
        classes=config["classes"],
        label_to_encoder=config.get("condition", {}).get("encoder", True),
        embedding=config.get("condition", {}).get("embedding", 0),
        categories=parse_categories(config),
        learned_scale=scale_shape is not None,
        scale_shape=scale_shape or (),
        scale_by_label=likelihood.scale_by_label,
        decoded=() if decoded == wanted else decoded,
        levels=levels,
        pre_bias=not (target or levels) and pre_encoder.has_bias(config, encoder, bottleneck, decoder),
        target=tuple(target),
        skip=skip,
        inputs=config.get("inputs", "linear"),
        missing=config.get("data", {}).get("missing", False),
    )
    abstract_output(model, shape)  # runs the modules' checks of shapes
    return model


def set_axis(model: Autoencoder, axis_name: str | None) -> Autoencoder:
    """Returns the model with the `axis_name` of the devices that share a batch, in each of its parts that has one."""
    parts = {name: getattr(model, name) for name in ("encoder", "bottleneck", "decoder")}
    return model.clone(
        **{k: part.clone(axis_name=axis_name) for k, part in parts.items() if hasattr(part, "axis_name")}
    )


def abstract_output(model: Autoencoder, shape: Sequence[int], drawn: bool = False) -> Output:
    """Returns the output's shapes and dtypes for one example, without computing it. `drawn` gives the model keys."""

    def output(x: Array) -> Any:
        label = jnp.zeros(1, jnp.int32) if model.classes else None
        keys = jax.random.split(jax.random.key(0), 1) if drawn else None
        return model.init_with_output(jax.random.key(0), x, label=label, keys=keys)[0]

    return jax.eval_shape(output, jnp.zeros((1, *shape)))


def abstract_variables(model: nn.Module, shape: Sequence[int]) -> PyTree:
    """Returns the shapes and dtypes of the model's variables for inputs of `shape`, without computing them."""
    label: dict[str, Any] = {"label": jnp.zeros(1, jnp.int32)} if getattr(model, "classes", 0) else {}
    return jax.eval_shape(functools.partial(model.init, **label), jax.random.key(0), jnp.zeros((1, *shape)))


def warn_if_overcomplete(output: Output, config: Mapping[str, Any]) -> None:
    """Warns if the model can learn to copy: its code is as large as the input, and nothing regularizes it."""
    latent, size = output.code.z.shape[1:], math.prod(output.decoded.shape[1:])
    unconstrained = config["bottleneck"]["name"] in ("identity", "dense", "conv", "spherical")
    regularized = config["objective"]["weights"] or config["corruption"]["name"] != "none"
    if math.prod(latent) >= size and unconstrained and not regularized:
        warnings.warn(
            f"the code {latent} holds {math.prod(latent):,} numbers and the input {size:,}: it can learn to copy. "
            "Regularize it (corruption.name=gaussian or masking, objective.weights={'l1': 1e-3}) or lower "
            f"bottleneck.features until the code is smaller than {size:,}",
            stacklevel=2,
        )


class Layer(NamedTuple):
    """One layer in `summary`: the path of its module, its output shape without the batch, its number of parameters."""

    path: str
    shape: tuple[int, ...]
    parameters: int


def summary(model: nn.Module, shape: Sequence[int]) -> list[Layer]:
    """Lists the innermost layers of `model` in the order in which an input of `shape` passes through them."""
    layers: list[Layer] = []

    def record(next_call, args, kwargs, context):
        result = next_call(*args, **kwargs)
        module = context.module
        path = "/".join(module.path)
        called_before = any(layer.path == path for layer in layers)
        does_nothing = isinstance(module, Normalization) and module.kind == "none"
        if context.method_name == "__call__" and isinstance(result, Array) and not (called_before or does_nothing):
            parameters = jax.tree.leaves(module.variables.get("params", {}))
            layers.append(Layer(path, result.shape[1:], sum(leaf.size for leaf in parameters)))
        return result

    with nn.intercept_methods(record):
        abstract_variables(model, shape)
    return [layer for layer in layers if not any(other.path.startswith(layer.path + "/") for other in layers)]


def table(model: nn.Module, shape: Sequence[int]) -> str:
    """Formats `summary` as a table, with the total number of parameters."""
    layers = summary(model, shape)
    lines = [("layer", "output", "parameters"), ("input", _format_shape(tuple(shape)), "")]
    lines += [(layer.path, _format_shape(layer.shape), f"{layer.parameters:,}") for layer in layers]
    lines += [("total", "", f"{sum(layer.parameters for layer in layers):,}")]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}" for a, b, c in lines)


def _format_shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
