"""The pre-encoder bias of sparse autoencoders: the decoder's bias, subtracted from x before it is encoded.

z = sparse(W (x - c) + b), decoded = V z + c, where c starts at the mean of the train split (Bricken et al. 2023,
"Towards monosemanticity"; Gao et al. 2024, "Scaling and evaluating sparse autoencoders", equation 1). Without c, the
mean of the data decides which units are active, and most of the other units die.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from aejax.models.bottlenecks import SPARSE, DenseBottleneck
from aejax.models.decoders import MLPDecoder
from aejax.models.dictionary import DictionaryDecoder
from aejax.models.encoders import MLPEncoder

_LAYER = "dense_0"  # the only layer of a linear MLPDecoder
# Likelihoods whose decoded value is in the units of x.
_IN_UNITS_OF_X = ("squared_error", "absolute_error", "gaussian", "laplace", "discretised_logistic")


def has_bias(config: Mapping[str, Any], encoder: nn.Module, bottleneck: nn.Module, decoder: nn.Module) -> bool:
    """Returns whether a model has a pre-encoder bias.

    It does if it is a sparse autoencoder of x itself: the encoder has no layers; the bottleneck is one of SPARSE, e.g.
    topk, or dense with relu under an l1 penalty; the decoder is one linear layer; and decoded values are in the units
    of x. With layer-wise pretraining it does not, nor under a config older than the key `pre_bias`.
    """
    relu = isinstance(bottleneck, DenseBottleneck) and bottleneck.activation == "relu"
    return (
        config.get("pre_bias", False)
        and not config["pretrain"]["steps"]
        and config["likelihood"]["name"] in _IN_UNITS_OF_X
        and (isinstance(bottleneck, SPARSE) or (relu and "l1" in config["objective"]["weights"]))
        and (isinstance(encoder, MLPEncoder) and not encoder.features)
        and (
            isinstance(decoder, DictionaryDecoder)
            or (isinstance(decoder, MLPDecoder) and not decoder.features and decoder.output == "linear")
        )
    )


def get_bias(params: Mapping[str, Any]) -> Array:
    """Returns the bias among the decoder's parameters, flat: [features]."""
    return params[_LAYER]["bias"]


def start_transcoder(mean: np.ndarray, mean_target: np.ndarray, params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `params` of a transcoder whose units read x without its mean, and whose decoder's bias is the target's.

    A transcoder has no pre-encoder bias: what is added to the output is no place in the space of x. The bias of the
    units does the same at the start. Models with other layers are left as they are.
    """
    if params.get("encoder") or "dense" not in params["bottleneck"] or list(params["decoder"]) != [_LAYER]:
        return dict(params)
    dense = params["bottleneck"]["dense"]
    dense = {**dense, "bias": dense["bias"] - mean.ravel() @ dense["kernel"]}
    return {**start_at(mean_target, params), "bottleneck": {**params["bottleneck"], "dense": dense}}


def start_at(mean: np.ndarray, params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `params` of an autoencoder with its pre-encoder bias set to the data's mean, [*shape]."""
    layer = {**params["decoder"][_LAYER], "bias": mean.ravel()}
    return {**params, "decoder": {**params["decoder"], _LAYER: layer}}


def find_unit_rows(decoder: nn.Module) -> tuple[str, int] | None:
    """Returns the path of the kernel whose rows `decoder.unit_norm` keeps at length 1, and the axis along a row."""
    if not (isinstance(decoder, DictionaryDecoder) and decoder.unit_norm):
        return None
    return ("bottleneck/dense/kernel", 0) if decoder.tied else (f"decoder/{_LAYER}/kernel", 1)


def tie(decoder: nn.Module, params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `params` of an autoencoder with a `DictionaryDecoder` as training starts from them.

    The rows of the decoder have the length `initial_norm`, or 1 with `unit_norm`, and the encoder is their transpose.
    """
    if not isinstance(decoder, DictionaryDecoder) or not (decoder.initial_norm or decoder.unit_norm):
        return dict(params)
    layer, encoder = params["decoder"][_LAYER], params.get("bottleneck", {}).get("dense", {})
    rows = layer["kernel"] if "kernel" in layer else encoder["kernel"].T
    rows = rows / jnp.linalg.norm(rows, axis=1, keepdims=True) * (1.0 if decoder.unit_norm else decoder.initial_norm)
    tied = dict(params)
    if "kernel" in layer:
        tied["decoder"] = {**params["decoder"], _LAYER: {**layer, "kernel": rows}}
    if decoder.initial_norm and "kernel" in encoder and encoder["kernel"].shape == rows.T.shape:
        tied["bottleneck"] = {**params["bottleneck"], "dense": {**encoder, "kernel": rows.T}}
    return tied
