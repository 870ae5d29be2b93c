"""Sparse autoencoders as modules of aejax: from the parameters in published files to a config and variables, and back.

Files are read and written by `sae_files`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from aejax.data import Spec
from aejax.errors import InputError
from aejax.models import Autoencoder, BatchTopK, DenseBottleneck, JumpReLU, TopK
from aejax.models.bottlenecks import Gated, MatchingPursuit, SparseReLU
from aejax.models.decoders import MLPDecoder
from aejax.models.dictionary import DictionaryDecoder
from aejax.models.encoders import MLPEncoder
from aejax.models.sparse_folding import fold_normalization
from aejax.objectives import Likelihood
from aejax.pretrained.sae_files import GEMMA_SCOPE, SAELENS, SPARSIFY
from aejax.pretrained.sae_parameters import SAE

_NAMES = {"standard": "relu", "batchtopk": "batch_topk"}  # of the others, that of SAELens
_GATED = {"b_mag": "bias", "r_mag": "log_scale"}  # names there and here


def parse_sae(sae: SAE) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns values of a config and the variables."""
    pursuit = sae.kind == "matching_pursuit"
    bottleneck: dict[str, Any] = {"name": _NAMES.get(sae.kind, sae.kind), "features": sae.sizes[1]}
    dense = {"kernel": sae.tensors["W_dec"].T if pursuit else sae.tensors["W_enc"]}
    layer = {"bias": sae.tensors["b_dec"]}
    if not pursuit:
        dense["bias"] = sae.tensors["b_gate" if sae.kind == "gated" else "b_enc"]
        layer["kernel"] = sae.tensors["W_dec"]
    params: dict[str, Any] = {"dense": dense}
    weights: dict[str, float] = {}
    options: dict[str, Any] = {}
    variables: dict[str, Any] = {}
    if pursuit:
        threshold = float(sae.options["residual_threshold"])
        bottleneck |= {"tolerance": threshold, "stop_at_repeat": sae.options["stop_on_duplicate_support"]}
    if sae.k:
        bottleneck["k"] = sae.k
    if sae.kind == "standard":
        weights["l1"], options["l1"] = _get(sae.details, "l1_coefficient", 1.0), {"decoder_norms": True}
    if sae.kind == "gated":
        weights |= {"gate_l1": _get(sae.details, "l1_coefficient", 1.0), "gate_reconstruction": 1.0}
        options["gate_l1"] = {"decoder_norms": True}
        params |= {here: sae.tensors[there] for there, here in _GATED.items()}
    if sae.kind == "jumprelu":
        bottleneck |= {"positive": False, "bandwidth": _get(sae.details, "jumprelu_bandwidth", 0.05)}
        weights["l0"] = _get(sae.details, "l0_coefficient", 1.0)
        params["threshold"] = sae.tensors["threshold"]
    if sae.kind == "batchtopk":
        variables["sparse"] = {"bottleneck": {"threshold": sae.tensors["topk_threshold"]}}
    if sae.widths:
        weights["prefixes"], options["prefixes"] = 1.0, {"widths": sae.widths}
    variables["params"] = {"bottleneck": params, "decoder": {"dense_0": layer}}
    sections: dict[str, Any] = {
        "encoder": {"name": "mlp"},
        "bottleneck": bottleneck,
        "decoder": {"name": "dictionary", "tied": pursuit},
    }
    if "W_skip" in sae.tensors:
        variables["params"]["skip_map"] = {"kernel": sae.tensors["W_skip"].T}
        sections["skip"] = True
    if sae.per_token:
        sections["data"] = {"normalize": "per_token"}
    return {**sections, "objective": {"weights": weights, "options": options}}, variables


def describe_sae(
    model: Autoencoder, variables: Mapping[str, Any], spec: Spec, likelihood: Likelihood, layout: str
) -> SAE:
    """Returns the sparse autoencoder that computes what the model does, as `layout` stores it.

    Standardized inputs and, where the layout has no choice of it, the pre-encoder bias are folded into the weights.
    Raises InputError if the model is none that the layouts have.
    """
    bottleneck = model.bottleneck
    if reason := _differs(model, likelihood):
        raise InputError(
            f"{layout} holds sparse autoencoders alone (an encoder without layers; topk, batch_topk, jumprelu, gated, "
            f"matching_pursuit, relu or dense with relu; a linear decoder); the model has {reason}"
        )
    if spec.per_token and layout != SAELENS:
        raise InputError(f"the layout {layout} has no data.normalize=per_token, only saelens has; choose that")
    if isinstance(bottleneck, MatchingPursuit):
        return _describe_pursuit(model, variables["params"], spec)
    params: Any = variables["params"]
    dense, layer = params["bottleneck"]["dense"], params["decoder"]["dense_0"]
    kernel = np.asarray(dense["kernel"])
    tensors = {
        "W_enc": kernel,
        "W_dec": np.asarray(layer["kernel"]) if "kernel" in layer else np.ascontiguousarray(kernel.T),  # tied
        "b_gate" if isinstance(bottleneck, Gated) else "b_enc": np.asarray(dense["bias"]),
        "b_dec": np.asarray(layer["bias"]),
    }
    if model.skip:
        tensors["W_skip"] = np.asarray(params["skip_map"]["kernel"]).T
    transcoder = bool(model.target)
    sae = SAE("standard", tensors, model.pre_bias, transcoder=transcoder, per_token=spec.per_token)
    if isinstance(bottleneck, TopK):
        sae = dataclasses.replace(sae, kind="topk", k=bottleneck.k)
    elif isinstance(bottleneck, Gated):
        tensors |= {there: np.asarray(params["bottleneck"][here]) for there, here in _GATED.items()}
        sae = dataclasses.replace(sae, kind="gated")
    elif isinstance(bottleneck, JumpReLU):
        learned = params["bottleneck"]
        tensors["threshold"] = np.asarray(
            jnp.exp(learned["log_threshold"]) if bottleneck.positive else learned["threshold"]
        )
        sae = dataclasses.replace(sae, kind="jumprelu")
    elif isinstance(bottleneck, BatchTopK):
        # A unit equal to the threshold is kept here, and only one above it there.
        threshold = np.asarray(variables["sparse"]["bottleneck"]["threshold"], np.float32)
        below = np.nextafter(threshold, np.float32(-np.inf)) if threshold > 0 else np.float32(0)
        tensors["threshold"] = np.full(bottleneck.features, below, np.float32)
        details = {"k": bottleneck.k, "topk_threshold_lr": 1 - bottleneck.decay}
        sae = dataclasses.replace(sae, kind="jumprelu", trained_as="batchtopk", details=details)
    if layout == GEMMA_SCOPE and sae.kind == "standard":
        tensors["threshold"] = np.zeros_like(tensors["b_enc"])
        sae = dataclasses.replace(sae, kind="jumprelu")
    if spec.mean:
        sae = _fold_scale(sae, np.array(spec.mean), np.array(spec.deviation))
    wanted = {GEMMA_SCOPE: False, SPARSIFY: not sae.transcoder}.get(layout, sae.pre_bias)
    return sae if sae.pre_bias == wanted else _move_bias(sae)


def _describe_pursuit(model: Autoencoder, params: Any, spec: Spec) -> SAE:
    bottleneck: Any = model.bottleneck
    if spec.mean or not getattr(model.decoder, "tied", False) or model.target:
        raise InputError(
            "SAELens has matching pursuit only with decoder.tied=True, data.standardize=False and no target; the model "
            f"has tied={getattr(model.decoder, 'tied', False)}, standardize={bool(spec.mean)}, target={model.target}"
        )
    tensors = {"W_dec": np.asarray(params["bottleneck"]["dense"]["kernel"]).T}
    tensors["b_dec"] = np.asarray(params["decoder"]["dense_0"]["bias"])
    if not model.pre_bias and tensors["b_dec"].any():
        raise InputError("SAELens has matching pursuit without a pre-encoder bias only with a decoder's bias of 0")
    options = {"residual_threshold": bottleneck.tolerance, "stop_on_duplicate_support": bottleneck.stop_at_repeat}
    kind, per_token = "matching_pursuit", spec.per_token
    return SAE(kind, tensors, model.pre_bias, bottleneck.k, options=options, per_token=per_token)


def _differs(model: Autoencoder, likelihood: Likelihood) -> str:
    """Returns what the model has that no sparse autoencoder has; empty if it is one."""
    encoder, bottleneck, decoder = model.encoder, model.bottleneck, model.decoder
    if not isinstance(encoder, MLPEncoder) or encoder.features:
        return f"the encoder {type(encoder).__name__}" + " with layers" * isinstance(encoder, MLPEncoder)
    if type(bottleneck) not in (DenseBottleneck, SparseReLU, TopK, BatchTopK, JumpReLU, Gated, MatchingPursuit):
        return f"the bottleneck {type(bottleneck).__name__}"
    if isinstance(bottleneck, DenseBottleneck) and bottleneck.activation != "relu":
        return f"bottleneck.activation={bottleneck.activation!r}"
    linear = isinstance(decoder, MLPDecoder) and not decoder.features and decoder.output == "linear"
    if not (isinstance(decoder, DictionaryDecoder) or (linear and not decoder.spectral)):
        return f"the decoder {type(decoder).__name__} that is not one linear layer"
    if model.classes:
        return f"classes={model.classes}"
    if type(likelihood).mean is not Likelihood.mean:
        return f"the likelihood {type(likelihood).__name__}, whose mean is another than what the decoder makes"
    return ""


def _fold_scale(sae: SAE, mean: np.ndarray, deviation: np.ndarray) -> SAE:
    """Returns the sparse autoencoder of x that computes what `sae` does of (x - mean) / deviation, [inputs] each."""
    weights = {name: sae.tensors[name] for name in ("W_enc", "W_dec", "b_dec")} | {"b_enc": np.zeros(sae.sizes[1])}
    folded = fold_normalization(weights, deviation, mean, sae.pre_bias)
    return _with(sae, _shift(sae, folded.pop("b_enc")) | folded)


def _move_bias(sae: SAE) -> SAE:
    """Returns the sparse autoencoder that computes the same with the pre-encoder bias in b_enc, or the reverse."""
    shift = sae.tensors["b_dec"].astype(np.float64) @ sae.tensors["W_enc"]
    return dataclasses.replace(_with(sae, _shift(sae, -shift if sae.pre_bias else shift)), pre_bias=not sae.pre_bias)


def _shift(sae: SAE, units: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the biases of the encoder after `units`, [latents], were added to what it computes before its biases."""
    t = sae.tensors
    if sae.kind == "gated":
        return {"b_gate": t["b_gate"] + units, "b_mag": t["b_mag"] + np.exp(t["r_mag"].astype(np.float64)) * units}
    return {"b_enc": t["b_enc"] + units}


def _with(sae: SAE, tensors: Mapping[str, np.ndarray]) -> SAE:
    float32 = {name: value.astype(np.float32) for name, value in tensors.items()}
    return dataclasses.replace(sae, tensors={**sae.tensors, **float32})


def _get(details: Mapping[str, Any], key: str, default: float) -> float:
    """Returns a positive number in settings of a training, or the default."""
    value: Any = details.get(key)
    return float(value) if type(value) in (int, float) and 0 < value < 1e30 else default
