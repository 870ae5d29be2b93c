"""cfg.json of SAELens, and of its versions before 6, as a sparse autoencoder, and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aejax.errors import InputError, one_of, shown
from aejax.pretrained.sae_parameters import SAE, SKIP, TENSORS, SAECard, check_tensors, fold_norm, require_whole

_KINDS = {name: name for name in TENSORS} | {"matryoshka_batchtopk": "batchtopk"}
# The kinds of transcoders, with and without W_skip.
_TRANSCODERS = {
    "transcoder": ("standard", False),
    "skip_transcoder": ("standard", True),
    "jumprelu_transcoder": ("jumprelu", False),
    "jumprelu_skip_transcoder": ("jumprelu", True),
}
_PER_TOKEN = "constant_norm_rescale"
_ARCHITECTURES = (*_KINDS, *_TRANSCODERS)


def _complete(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings of SAELens with those that older versions leave out or call otherwise."""
    transcoder = str(settings.get("architecture")) in _TRANSCODERS
    config = {"architecture": "standard", "apply_b_dec_to_input": not transcoder, "dtype": "float32", **settings}
    activation = settings.get("activation_fn", settings.get("activation_fn_str", "relu"))
    options = settings.get("activation_fn_kwargs")
    if activation == "topk":
        config |= {"architecture": "topk", **(options if isinstance(options, Mapping) else {})}
    return {**config, "activation_fn": activation, "dtype": str(config["dtype"]).removeprefix("torch.")}


def parse_saelens(settings: Mapping[str, Any], tensors: dict[str, np.ndarray], file: Path, where: str) -> SAE:
    """Returns the sparse autoencoder. Raises InputError, with `where`, for settings or tensors that do not fit."""
    config = _complete(settings)
    if config["activation_fn"] not in ("relu", "topk"):
        unknown = shown(config["activation_fn"])
        raise InputError(f"{where}: activation_fn={unknown} is not supported; only 'relu' and 'topk' are")
    name = config["architecture"]
    if not isinstance(name, str) or name not in _ARCHITECTURES:
        raise InputError(f"{where}: {one_of('architecture', str(name), _ARCHITECTURES)}")
    transcoder = name in _TRANSCODERS
    kind, skip = _TRANSCODERS[name] if transcoder else (_KINDS[name], False)
    sizes = {key: require_whole(config, key, where) for key in ("d_in", "d_sae")}
    sizes["d_out"] = require_whole(config, "d_out", where) if transcoder else sizes["d_in"]
    # The scale of "expected_average_only_in" and the whitening are folded into the weights when SAELens saves them.
    normalization = settings.get("normalize_activations")
    if normalization == "layer_norm":
        raise InputError(
            f"{where}: normalize_activations='layer_norm' is not supported; normalize the activations yourself, and "
            "set it to 'none'"
        )
    per_token = normalization == _PER_TOKEN
    known = (None, False, True, "none", "expected_average_only_in", "covariance_whitening", _PER_TOKEN)
    if normalization not in known:
        raise InputError(f"{where}: normalize_activations={shown(normalization)} is unknown; set it to 'none'")
    if type(config["apply_b_dec_to_input"]) is not bool:
        raise InputError(
            f"{where}: apply_b_dec_to_input must be true or false, got {shown(config['apply_b_dec_to_input'])}"
        )
    if transcoder and config["apply_b_dec_to_input"]:
        raise InputError(f"{where}: apply_b_dec_to_input must be false for a transcoder, whose b_dec is of its output")
    if kind == "jumprelu" and "log_threshold" in tensors:  # of older versions
        tensors = {**tensors, "threshold": np.exp(tensors["log_threshold"])}
        del tensors["log_threshold"]
    scale = tensors.get("scaling_factor")
    if scale is not None and (np.asarray(scale, np.float32) == 1).all():  # older versions wrote it unused
        tensors = {name: value for name, value in tensors.items() if name != "scaling_factor"}
    tensors = check_tensors(file, tensors, {**TENSORS[kind], **(SKIP if skip else {})}, sizes)
    if kind in ("topk", "batchtopk") and config.get("rescale_acts_by_decoder_norm", kind == "batchtopk"):
        tensors = fold_norm(tensors)
    metadata = settings.get("metadata")
    details = metadata.get("training_architecture_details") if isinstance(metadata, Mapping) else None
    k = require_whole(config, "k", where) if kind in ("topk", "batchtopk") else 0
    options: dict[str, Any] = {}
    if kind == "matching_pursuit":
        k, options = _read_pursuit(config, sizes["d_in"], where)
        if not config["apply_b_dec_to_input"] and tensors["b_dec"].any():
            raise InputError(f"{where}: with apply_b_dec_to_input=false b_dec is not used here; set it to 0")
    details = details if isinstance(details, Mapping) else settings  # of older versions and of training
    widths = _read_widths(settings, sizes["d_sae"], where) if name == "matryoshka_batchtopk" else ()
    return SAE(
        kind, tensors, config["apply_b_dec_to_input"], k, transcoder, per_token, options, widths, details=details
    )


def _read_pursuit(config: Mapping[str, Any], inputs: int, where: str) -> tuple[int, dict[str, Any]]:
    """Returns the number of steps of matching pursuit, and what ends it before."""
    steps = config.get("max_iterations")
    options = {"residual_threshold": 1e-2, "stop_on_duplicate_support": True}
    options |= {key: config[key] for key in options if key in config}
    if type(options["residual_threshold"]) not in (int, float) or not 0 <= options["residual_threshold"] < 1e30:
        raise InputError(
            f"{where}: residual_threshold must not be negative, got {shown(options['residual_threshold'])}"
        )
    if type(options["stop_on_duplicate_support"]) is not bool:
        raise InputError(f"{where}: stop_on_duplicate_support must be true or false")
    return inputs if steps is None else require_whole(config, "max_iterations", where), options


def _read_widths(settings: Mapping[str, Any], latents: int, where: str) -> tuple[int, ...]:
    """Returns the widths of nested prefixes below the whole."""
    widths = settings.get("matryoshka_widths")
    given: list[Any] = widths if isinstance(widths, list) else [None]
    if not all(type(n) is int for n in given) or [0, *given] != sorted({0, *given}) or given[-1] > latents:
        raise InputError(f"{where}: matryoshka_widths must rise from above 0 to d_sae={latents}, got {shown(widths)}")
    return tuple(n for n in given if n < latents)


def describe_saelens(sae: SAE, card: SAECard, dtype: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of cfg.json."""
    inputs, latents, outputs = sae.sizes
    kind = (sae.kind, "W_skip" in sae.tensors)
    name = next(name for name, each in _TRANSCODERS.items() if each == kind) if sae.transcoder else sae.kind
    config: dict[str, Any] = {
        "architecture": name,
        "d_in": inputs,
        "d_sae": latents,
        "dtype": dtype,
        "device": "cpu",
        "apply_b_dec_to_input": sae.pre_bias,
        "normalize_activations": _PER_TOKEN if sae.per_token else "none",
        "reshape_activations": card.settings.get("reshape_activations", "none"),
    }
    if sae.transcoder:
        config["d_out"] = outputs
    if sae.kind == "topk":
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    if sae.kind == "matching_pursuit":
        config |= {**sae.options, "max_iterations": sae.k}
    described = {"training_architecture": sae.trained_as, "training_architecture_details": dict(sae.details)}
    known = {**(described if sae.trained_as else {}), **card.metadata, **metadata}
    major = str(known.get("sae_lens_version")).partition(".")[0]
    if not (major.isdecimal() and int(major) >= 6):  # SAELens takes it for an older file, and drops the metadata
        known["sae_lens_version"] = "6.0.0"
    config["metadata"] = known
    there = _complete(card.settings)
    if sae.kind == "matching_pursuit" and there.get("max_iterations") is None:
        there["max_iterations"] = inputs
    keys = (
        "architecture",
        "d_in",
        "d_out",
        "d_sae",
        "apply_b_dec_to_input",
        "k",
        "dtype",
        *sae.options,
        "max_iterations",
    )
    per_token = card.settings.get("normalize_activations") == _PER_TOKEN
    if not metadata and per_token == sae.per_token and all(there.get(key) == config.get(key) for key in keys):
        return dict(card.settings)  # the same model keeps its settings as they were written
    return config
