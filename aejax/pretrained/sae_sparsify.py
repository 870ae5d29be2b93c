"""cfg.json and tensors of sparsify, whose encoder is a linear layer of PyTorch, as a sparse autoencoder, and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aejax.errors import InputError, shown
from aejax.pretrained.sae_parameters import SAE, Axes, SAECard, check_tensors, require_whole

_DEFAULTS = {"activation": "topk", "signed": False, "transcode": False, "skip_connection": False}


def parse_sparsify(settings: Mapping[str, Any], tensors: dict[str, np.ndarray], file: Path, where: str) -> SAE:
    """Returns the sparse autoencoder. Raises InputError, with `where`, for settings or tensors that do not fit."""
    config = {**_DEFAULTS, "k": 32, "expansion_factor": 32, **settings}
    for key in ("activation", "signed"):
        if config[key] != _DEFAULTS[key]:
            raise InputError(f"{where}: {key}={shown(config[key])} is not supported; only {_DEFAULTS[key]!r} is")
    for key in ("transcode", "skip_connection"):
        if type(config[key]) is not bool:
            raise InputError(f"{where}: {key} must be true or false, got {shown(config[key])}")
    if config["skip_connection"] and not config["transcode"]:
        raise InputError(f"{where}: skip_connection=True is supported with transcode=True alone")
    inputs = require_whole(config, "d_in", where)
    if config.get("num_latents"):
        latents = require_whole(config, "num_latents", where)
    else:
        latents = inputs * require_whole(config, "expansion_factor", where)
    axes: Axes = {"encoder.weight": ("d_sae", "d_in"), "encoder.bias": ("d_sae",)}
    axes = {**axes, "W_dec": ("d_sae", "d_in"), "b_dec": ("d_in",)}
    if config["skip_connection"]:
        axes = {**axes, "W_skip": ("d_in", "d_in")}
    found = check_tensors(file, tensors, axes, {"d_in": inputs, "d_sae": latents})
    named = {"W_enc": found.pop("encoder.weight").T, "b_enc": found.pop("encoder.bias"), **found}
    return SAE("topk", named, not config["transcode"], require_whole(config, "k", where), config["transcode"])


def describe_sparsify(sae: SAE, card: SAECard, dtype: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of cfg.json."""
    inputs, latents, outputs = sae.sizes
    if outputs != inputs:
        raise InputError(
            f"sparsify has transcoders with as many outputs as inputs, and this one has {inputs}, {outputs}"
        )
    config = {"activation": "topk", "expansion_factor": 32, "num_latents": latents, "k": sae.k, "d_in": inputs}
    config |= {"transcode": sae.transcoder, "skip_connection": "W_skip" in sae.tensors}
    there = {**_DEFAULTS, "k": 32, "expansion_factor": 32, **card.settings}
    there["num_latents"] = there.get("num_latents") or inputs * there["expansion_factor"]
    same = all(there.get(key) == value for key, value in config.items() if key != "expansion_factor")
    return {**card.settings, **({} if same else config), **metadata}


def to_linear(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors with the names and shapes of sparsify, whose encoder is a linear layer of PyTorch."""
    rest = {name: value for name, value in tensors.items() if name not in ("W_enc", "b_enc")}
    return {"encoder.weight": tensors["W_enc"].T, "encoder.bias": tensors["b_enc"], **rest}
