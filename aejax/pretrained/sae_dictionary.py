"""Sparse autoencoders of dictionary_learning, from ae.safetensors, to which `find_layout` says how to convert ae.pt."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aejax.errors import InputError, one_of
from aejax.pretrained.sae_parameters import check_tensors, fold_norm, require_whole

# The tensors of each class, with the axes of `sae_files.TENSORS`, and their names there; a linear layer is transposed.
_ENCODER = {"encoder.weight": ("d_sae", "d_in"), "encoder.bias": ("d_sae",)}
_DECODER = {"decoder.weight": ("d_in", "d_sae")}
_THRESHOLD: dict[str, tuple[str, ...]] = {"threshold": ()}
_PLAIN = {"W_enc": ("d_in", "d_sae"), "b_enc": ("d_sae",), "W_dec": ("d_sae", "d_in"), "b_dec": ("d_in",)}
_CLASSES: dict[str, tuple[str, bool, dict[str, tuple[str, ...]]]] = {
    "AutoEncoder": ("standard", True, {**_ENCODER, **_DECODER, "bias": ("d_in",)}),
    "AutoEncoderNew": ("standard", False, {**_ENCODER, **_DECODER, "decoder.bias": ("d_in",)}),
    "AutoEncoderTopK": ("topk", True, {**_ENCODER, **_DECODER, "b_dec": ("d_in",), **_THRESHOLD}),
    "BatchTopKSAE": ("batchtopk", True, {**_ENCODER, **_DECODER, "b_dec": ("d_in",), **_THRESHOLD}),
    "MatryoshkaBatchTopKSAE": ("batchtopk", True, {**_PLAIN, **_THRESHOLD}),
    "GatedAutoEncoder": (
        "gated",
        True,
        {"encoder.weight": ("d_sae", "d_in"), **_DECODER, "decoder_bias": ("d_in",)}
        | {"r_mag": ("d_sae",), "gate_bias": ("d_sae",), "mag_bias": ("d_sae",)},
    ),
    "JumpReluAutoEncoder": ("jumprelu", False, {**_PLAIN, "threshold": ("d_sae",)}),
}
_NAMES = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}
_NAMES |= dict.fromkeys(("bias", "decoder.bias", "decoder_bias"), "b_dec")
_NAMES |= {"gate_bias": "b_gate", "mag_bias": "b_mag"}


def parse_dictionary(
    config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], file: Path, where: str
) -> tuple[str, dict[str, np.ndarray], bool, int, dict[str, Any]]:
    """Returns the kind, the tensors, whether b_dec is subtracted from the input, k, and the metadata.

    Rows of the decoder of a standard autoencoder are scaled to length 1, as dictionary_learning does when it loads one.
    Raises InputError for a class or tensors that are not supported.
    """
    trainer = config.get("trainer")
    name = trainer.get("dict_class") if isinstance(trainer, Mapping) else None
    if not isinstance(trainer, Mapping) or name not in _CLASSES:
        raise InputError(f"{where}: {one_of('trainer.dict_class', str(name), _CLASSES)}")
    kind, pre_bias, axes = _CLASSES[name]
    groups = np.asarray(tensors.get("group_sizes", ())).tolist()
    k = require_whole(trainer, "k", where) if kind in ("topk", "batchtopk") else 0
    held = {key: value for key, value in tensors.items() if key not in ("k", "group_sizes")}
    if "threshold" not in held and kind == "topk":  # of older versions, and not used
        held["threshold"] = np.zeros((), np.float32)
    inputs, latents = (require_whole(trainer, key, where) for key in ("activation_dim", "dict_size"))
    found = check_tensors(file, held, axes, {"d_in": inputs, "d_sae": latents})
    named = {_NAMES.get(key, key): value.T if key.endswith(".weight") else value for key, value in found.items()}
    if kind == "topk":
        del named["threshold"]
    if kind == "batchtopk":
        # A unit equal to the threshold is kept here, and only one above it there. Before training it is -1.
        above = np.nextafter(named.pop("threshold"), np.float32(np.inf))
        named["topk_threshold"] = np.maximum(above, np.float32(0))
    metadata = {**trainer, **({"model_name": trainer["lm_name"]} if "lm_name" in trainer else {})}
    metadata |= {"group_sizes": groups} if groups else {}
    return kind, fold_norm(named) if name == "AutoEncoder" else named, pre_bias, k, metadata
