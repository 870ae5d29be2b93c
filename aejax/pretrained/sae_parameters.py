"""Sparse autoencoders as published files hold them: names and shapes of their tensors, their settings, and checks."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from aejax.errors import InputError, shown
from aejax.pretrained.hub import DTYPES

Axes = Mapping[str, tuple[str, ...]]

# The tensors of each kind, and their axes. For all but transcoders d_out is d_in.
_SHARED = {"W_enc": ("d_in", "d_sae"), "W_dec": ("d_sae", "d_out"), "b_dec": ("d_out",)}
TENSORS: dict[str, Axes] = {
    "standard": {**_SHARED, "b_enc": ("d_sae",)},
    "topk": {**_SHARED, "b_enc": ("d_sae",)},
    "jumprelu": {**_SHARED, "b_enc": ("d_sae",), "threshold": ("d_sae",)},
    "batchtopk": {**_SHARED, "b_enc": ("d_sae",), "topk_threshold": ()},  # in training alone
    # Its encoder is the decoder's transpose.
    "matching_pursuit": {name: _SHARED[name] for name in ("W_dec", "b_dec")},
    "gated": {**_SHARED, "b_gate": ("d_sae",), "b_mag": ("d_sae",), "r_mag": ("d_sae",)},
}
SKIP: Axes = {"W_skip": ("d_out", "d_in")}  # of skip transcoders

# The settings of SAELens and sparsify that decide what is computed. On one level with others these are metadata.
DECISIVE = (
    *("architecture", "d_in", "d_out", "d_sae", "dtype", "device"),
    *("apply_b_dec_to_input", "normalize_activations", "k"),
    *("reshape_activations", "rescale_acts_by_decoder_norm", "activation_fn", "activation_fn_str"),
    *("activation_fn_kwargs", "finetuning_scaling_factor"),
    *("residual_threshold", "max_iterations", "stop_on_duplicate_support"),
    *("num_latents", "expansion_factor", "activation", "normalize_decoder", "signed", "transcode", "skip_connection"),
)


@dataclasses.dataclass(frozen=True)
class SAECard:
    """What the files of a published sparse autoencoder say beside its parameters.

    Attributes:
      layout: "saelens", "gemma_scope" or "sparsify", in which `save_pretrained` writes it.
      settings: cfg.json; empty for Gemma Scope.
      sparsity: base-10 logarithm of the frequency of each latent, [latents], of sparsity.safetensors if there is one.
    """

    layout: str
    settings: Mapping[str, Any]
    sparsity: Float[np.ndarray, " latents"] | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """Returns what cfg.json says of the language model and the training, e.g. `model_name` and `hook_name`."""
        metadata = self.settings.get("metadata")
        if isinstance(metadata, Mapping):
            return dict(metadata)
        return {key: value for key, value in self.settings.items() if key not in DECISIVE}


@dataclasses.dataclass(frozen=True)
class SAE:
    """A sparse autoencoder or a transcoder with the names and shapes of SAELens.

    Attributes:
      kind: a key of TENSORS.
      tensors: by name, float32: W_enc [inputs, latents], W_dec [latents, outputs], biases and thresholds, and, if it is
        a skip transcoder, W_skip [outputs, inputs].
      pre_bias: whether b_dec is subtracted from the input (`apply_b_dec_to_input`).
      k: number of active latents of "topk" and "batchtopk", and of steps of "matching_pursuit", else 0.
      transcoder: whether it decodes to other activations than it encodes.
      per_token: whether each input is scaled to length sqrt(inputs) (`constant_norm_rescale`).
      options: `residual_threshold` and `stop_on_duplicate_support` of "matching_pursuit".
      widths: of nested prefixes that are trained to reconstruct, too, without the whole (`matryoshka_widths`).
      trained_as: architecture of the training if it is another one, e.g. "batchtopk" of thresholds.
      details: settings of the training, e.g. `l1_coefficient`.
    """

    kind: str
    tensors: dict[str, np.ndarray]
    pre_bias: bool
    k: int = 0
    transcoder: bool = False
    per_token: bool = False
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    widths: tuple[int, ...] = ()
    trained_as: str = ""
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Returns the numbers of inputs, latents and outputs."""
        latents, outputs = self.tensors["W_dec"].shape
        return self.tensors["W_enc"].shape[0] if "W_enc" in self.tensors else outputs, latents, outputs


def require_whole(config: Mapping[str, Any], key: str, where: str) -> int:
    """Returns a whole number above 0 in a config. Raises InputError for anything else."""
    if key not in config:
        raise InputError(f"{where} has no {key}; add it")
    value = config[key]
    if type(value) not in (int, float) or not math.isfinite(value) or value != int(value) or value < 1:
        raise InputError(f"{where}: {key} must be a whole number above 0, got {shown(value)}")
    return int(value)


def check_tensors(
    file: Path, tensors: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[str, ...]], sizes: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Returns the tensors, float32. Raises InputError if names, shapes or dtypes differ, or a value is not finite."""
    problems = [
        f"{what}: {', '.join(sorted(differ)[:4])}{', ...' if len(differ) > 4 else ''}"
        for what, differ in (("missing", wanted.keys() - tensors.keys()), ("superfluous", tensors.keys() - wanted))
        if differ
    ]
    if problems:
        raise InputError(f"{file} must hold the tensors {', '.join(wanted)}; {'; '.join(problems)}")
    found = {}
    for name, axes in wanted.items():
        value = tensors[name]
        shape = tuple(sizes.get(axis, -1) for axis in axes)
        if value.shape != shape or not value.size:
            described = ", ".join(f"{axis}={sizes[axis]}" for axis in axes if axis in sizes) or "numbers above 0"
            raise InputError(f"{file}: {name} has the shape {value.shape}, not [{', '.join(axes)}] with {described}")
        if value.dtype.name not in DTYPES and not (axes == () and value.dtype == np.float64):
            raise InputError(f"{file}: {name} is {value.dtype.name}; convert it to float16, bfloat16 or float32")
        found[name] = np.ascontiguousarray(value, np.float32).reshape(shape)
        if not np.isfinite(found[name]).all():
            at = np.argwhere(~np.isfinite(found[name]))[0].tolist()
            raise InputError(f"{file}: {name} holds {found[name][tuple(at)]} at {at}; copy or download it again")
    return found


def fold_norm(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns tensors with unit-norm decoder rows that give the activations of `rescale_acts_by_decoder_norm`.

    Where the norms are 1 up to rounding, as in all models that SAELens saves for inference, the tensors are as given.
    """
    norm = np.linalg.norm(tensors["W_dec"].astype(np.float64), axis=1)
    if abs(norm - 1).max() < 1e-6:
        return tensors
    if not norm.all():
        raise InputError(f"W_dec has a row of zeros, number {int(norm.argmin())}, which cannot be scaled to norm 1")
    folded = {
        "W_enc": tensors["W_enc"] * norm,
        "b_enc": tensors["b_enc"] * norm,
        "W_dec": tensors["W_dec"] / norm[:, None],
    }
    return tensors | {name: value.astype(np.float32) for name, value in folded.items()}
