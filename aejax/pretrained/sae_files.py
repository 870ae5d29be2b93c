"""Files of published sparse autoencoders, in the layouts of three projects: read and written, never unpickled.

cfg.json, sae_weights.safetensors, sparsity.safetensors  SAELens
params.npz                                               Gemma Scope (Lieberum et al. 2024)
cfg.json, sae.safetensors                                sparsify of EleutherAI
config.json, ae.safetensors                              dictionary_learning, once converted; it is not written

Safetensors may be in shards, which the file's name with .index.json lists.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from aejax.data.arrays import list_npz, read_npz
from aejax.errors import InputError, one_of, shown
from aejax.files import read_json, replacing, writable, write_whole
from aejax.pretrained.hub import DTYPES, pack, read_safetensors, read_shards
from aejax.pretrained.sae_checks import check_tensors, fold_norm, require_whole
from aejax.pretrained.sae_dictionary import parse_dictionary

SAELENS, GEMMA_SCOPE, SPARSIFY = LAYOUTS = ("saelens", "gemma_scope", "sparsify")
DICTIONARY = "dictionary_learning"
_WEIGHTS = {SAELENS: "sae_weights.safetensors", GEMMA_SCOPE: "params.npz", SPARSIFY: "sae.safetensors"}
_WEIGHTS |= {DICTIONARY: "ae.safetensors"}
_CONFIG, _SPARSITY, _INDEX = "cfg.json", "sparsity.safetensors", ".index.json"
_PICKLE = "ae.pt"  # of dictionary_learning

# The tensors of each kind and their axes: d_in, d_sae.
_SHARED = {"W_enc": ("d_in", "d_sae"), "W_dec": ("d_sae", "d_in"), "b_dec": ("d_in",)}
TENSORS: dict[str, dict[str, tuple[str, ...]]] = {
    "standard": {**_SHARED, "b_enc": ("d_sae",)},
    "topk": {**_SHARED, "b_enc": ("d_sae",)},
    "jumprelu": {**_SHARED, "b_enc": ("d_sae",), "threshold": ("d_sae",)},
    "batchtopk": {**_SHARED, "b_enc": ("d_sae",), "topk_threshold": ()},  # in training alone
    "gated": {**_SHARED, "b_gate": ("d_sae",), "b_mag": ("d_sae",), "r_mag": ("d_sae",)},
}


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
        return dict(metadata) if isinstance(metadata, Mapping) else {k: self.settings[k] for k in _rest(self.settings)}


@dataclasses.dataclass(frozen=True)
class SAE:
    """A sparse autoencoder with the names and shapes of SAELens.

    Attributes:
      kind: a key of TENSORS.
      tensors: by name, float32: W_enc [inputs, latents], W_dec [latents, inputs], biases and thresholds.
      pre_bias: whether b_dec is subtracted from the input (`apply_b_dec_to_input`).
      k: number of active latents of "topk" and "batchtopk", else 0.
      widths: of nested prefixes that are trained to reconstruct, too, without the whole (`matryoshka_widths`).
      trained_as: architecture of the training if it is another one, e.g. "batchtopk" of thresholds.
      details: settings of the training, e.g. `l1_coefficient`.
    """

    kind: str
    tensors: dict[str, np.ndarray]
    pre_bias: bool
    k: int = 0
    widths: tuple[int, ...] = ()
    trained_as: str = ""
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def find_layout(folder: Path) -> str | None:
    """Returns the layout of a sparse autoencoder in the folder, or None if it holds none.

    Raises InputError for a pickle of dictionary_learning, which it says how to convert.
    """
    for layout, name in _WEIGHTS.items():
        if any((folder / each).is_file() for each in (name, f"{name}{_INDEX}")):
            return layout
    if (folder / _PICKLE).is_file() or (folder.name == _PICKLE and folder.is_file()):
        raise _refuse(folder if folder.is_file() else folder / _PICKLE)
    if (folder / _CONFIG).is_file():
        raise InputError(
            f"{folder} holds {_CONFIG} and no weights; put {_WEIGHTS[SAELENS]} or {_WEIGHTS[SPARSIFY]} beside it"
        )
    return None


def read_sae(folder: Path, layout: str) -> tuple[SAE, SAECard]:
    """Returns the sparse autoencoder in the folder, and what its files say beside its parameters.

    Raises InputError for a config or tensors that are not supported or do not fit, and StorageError for damaged files.
    """
    file = folder / _WEIGHTS[layout]
    if layout == GEMMA_SCOPE:
        # Some files of Gemma Scope write w_enc and w_dec.
        tensors = {f"W{n[1:]}" if n.startswith("w_") else n: a for n, a in read_npz(file, list_npz(file)).items()}
        shape = tensors["W_enc"].shape if "W_enc" in tensors else ()
        sizes = {"d_in": shape[0], "d_sae": shape[1]} if len(shape) == 2 else {}
        settings: dict[str, Any] = {}
        sae = SAE("jumprelu", check_tensors(file, tensors, TENSORS["jumprelu"], sizes), pre_bias=False)
        return sae, SAECard(layout, settings)
    config = folder / ("config.json" if layout == DICTIONARY else _CONFIG)
    if not config.is_file():
        raise InputError(f"{folder} holds no {config.name} beside {file.name}; copy it there, too")
    settings, where = read_json(config), str(config)
    tensors = read_safetensors(file) if file.is_file() else read_shards(folder, f"{file.name}{_INDEX}")
    if layout == DICTIONARY:
        kind, named, pre_bias, k, metadata = parse_dictionary(settings, tensors, file, where)
        widths = tuple(np.cumsum(metadata.get("group_sizes", ()), dtype=int)[:-1].tolist())
        return SAE(kind, named, pre_bias, k, widths), SAECard(SAELENS, {"metadata": metadata})
    sae = (_parse_saelens if layout == SAELENS else _parse_sparsify)(settings, tensors, file, where)
    sparsity = None
    if layout == SAELENS and (folder / _SPARSITY).is_file():
        found = read_safetensors(folder / _SPARSITY)
        sizes = {"d_sae": sae.tensors["W_enc"].shape[1]}
        sparsity = check_tensors(folder / _SPARSITY, found, {"sparsity": ("d_sae",)}, sizes)["sparsity"]
    return sae, SAECard(layout, settings, sparsity)


def convert_card(card: SAECard | None, layout: str) -> SAECard:
    """Returns the card for files of `layout`; of another layout's settings only the metadata remains."""
    if card is None or card.layout == layout:
        return card or SAECard(layout, {})
    settings = {SAELENS: {"metadata": card.metadata}, SPARSIFY: card.metadata, GEMMA_SCOPE: {}}[layout]
    return SAECard(layout, settings, card.sparsity)


def write_sae(folder: Path, sae: SAE, card: SAECard, dtype: str, metadata: Mapping[str, Any]) -> Path:
    """Writes the files of `card.layout` from which `read_sae` returns `sae`, and returns the folder.

    Args:
      folder: is created if it is missing.
      sae: the parameters, which must be of a kind that the layout has.
      card: the settings that are kept where they describe the same model; and the sparsity.
      dtype: of the tensors in the files.
      metadata: what cfg.json shall say besides, e.g. `model_name` and `hook_name`.

    Raises InputError if the layout or `dtype` cannot hold the model, and StorageError if a file cannot be written.
    """
    layout = card.layout
    kinds = {SAELENS: ("standard", "topk", "jumprelu", "gated"), GEMMA_SCOPE: ("jumprelu",), SPARSIFY: ("topk",)}[
        layout
    ]
    if sae.kind not in kinds:
        raise InputError(f"the layout {layout} has no {sae.kind} autoencoders, only {', '.join(kinds)}; choose another")
    if layout == GEMMA_SCOPE and (metadata or dtype != "float32"):
        raise InputError(f"the layout {layout} has no metadata, and float32 alone; leave metadata and dtype out")
    sae = dataclasses.replace(sae, tensors={k: _convert(k, v, dtype) for k, v in sae.tensors.items()})
    describe = {SAELENS: _describe_saelens, SPARSIFY: _describe_sparsify, GEMMA_SCOPE: lambda *_: {}}[layout]
    config = describe(sae, card, dtype, metadata)
    tensors = _to_linear(sae.tensors) if layout == SPARSIFY else sae.tensors
    folder = writable(folder)
    if layout == GEMMA_SCOPE:
        with replacing(folder / _WEIGHTS[layout]) as file:
            np.savez(file, **tensors)  # type: ignore[arg-type]
        return folder
    write_whole(folder / _WEIGHTS[layout], pack(tensors))
    if layout == SAELENS and card.sparsity is not None:
        write_whole(folder / _SPARSITY, pack({"sparsity": card.sparsity}))
    write_whole(folder / _CONFIG, json.dumps(config, indent=2) + "\n")
    return folder


_KINDS = {name: name for name in TENSORS} | {"matryoshka_batchtopk": "batchtopk"}
# The settings of SAELens that decide what is computed; all others, of its older versions, are metadata.
_DECISIVE = (
    *("architecture", "d_in", "d_sae", "dtype", "device", "apply_b_dec_to_input", "normalize_activations", "k"),
    *("reshape_activations", "rescale_acts_by_decoder_norm", "activation_fn", "activation_fn_str"),
    *("activation_fn_kwargs", "finetuning_scaling_factor"),
)


def _rest(settings: Mapping[str, Any]) -> list[str]:
    return [key for key in settings if key not in (*_DECISIVE, *_SPARSIFY_KEYS)]


def _complete(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings of SAELens with those that older versions leave out or call otherwise."""
    config = {"architecture": "standard", "apply_b_dec_to_input": True, "dtype": "float32", **settings}
    activation = settings.get("activation_fn", settings.get("activation_fn_str", "relu"))
    options = settings.get("activation_fn_kwargs")
    if activation == "topk":
        config |= {"architecture": "topk", **(options if isinstance(options, Mapping) else {})}
    return {**config, "activation_fn": activation, "dtype": str(config["dtype"]).removeprefix("torch.")}


def _parse_saelens(settings: Mapping[str, Any], tensors: dict[str, np.ndarray], file: Path, where: str) -> SAE:
    config = _complete(settings)
    if config["activation_fn"] not in ("relu", "topk"):
        unknown = shown(config["activation_fn"])
        raise InputError(f"{where}: activation_fn={unknown} is not supported; only 'relu' and 'topk' are")
    name = config["architecture"]
    if name not in _KINDS:
        raise InputError(f"{where}: {one_of('architecture', name, _KINDS)}")
    kind = _KINDS[name]
    sizes = {key: require_whole(config, key, where) for key in ("d_in", "d_sae")}
    # The scale of "expected_average_only_in" and the whitening are folded into the weights when SAELens saves them.
    normalization = settings.get("normalize_activations")
    if normalization in ("layer_norm", "constant_norm_rescale"):
        raise InputError(
            f"{where}: normalize_activations={normalization!r} is not supported, as decoding needs the norm of the "
            "input; normalize the activations yourself and set it to 'none'"
        )
    if normalization not in (None, False, True, "none", "expected_average_only_in", "covariance_whitening"):
        raise InputError(f"{where}: normalize_activations={shown(normalization)} is unknown; set it to 'none'")
    if type(config["apply_b_dec_to_input"]) is not bool:
        raise InputError(
            f"{where}: apply_b_dec_to_input must be true or false, got {shown(config['apply_b_dec_to_input'])}"
        )
    if kind == "jumprelu" and "log_threshold" in tensors:  # of older versions
        tensors = {**tensors, "threshold": np.exp(tensors["log_threshold"])}
        del tensors["log_threshold"]
    scale = tensors.get("scaling_factor")
    if scale is not None and (np.asarray(scale, np.float32) == 1).all():  # older versions wrote it unused
        tensors = {name: value for name, value in tensors.items() if name != "scaling_factor"}
    tensors = check_tensors(file, tensors, TENSORS[kind], sizes)
    if config.get("rescale_acts_by_decoder_norm", kind == "batchtopk"):
        tensors = fold_norm(tensors)
    metadata = settings.get("metadata")
    details = metadata.get("training_architecture_details") if isinstance(metadata, Mapping) else None
    k = require_whole(config, "k", where) if kind in ("topk", "batchtopk") else 0
    details = details if isinstance(details, Mapping) else settings  # of older versions and of training
    widths = _read_widths(settings, sizes["d_sae"], where) if name == "matryoshka_batchtopk" else ()
    return SAE(kind, tensors, config["apply_b_dec_to_input"], k, widths, details=details)


def _read_widths(settings: Mapping[str, Any], latents: int, where: str) -> tuple[int, ...]:
    """Returns the widths of nested prefixes below the whole."""
    widths = settings.get("matryoshka_widths")
    given: list[Any] = widths if isinstance(widths, list) else [None]
    if not all(type(n) is int for n in given) or [0, *given] != sorted({0, *given}) or given[-1] > latents:
        raise InputError(f"{where}: matryoshka_widths must rise from above 0 to d_sae={latents}, got {shown(widths)}")
    return tuple(n for n in given if n < latents)


def _describe_saelens(sae: SAE, card: SAECard, dtype: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    inputs, latents = sae.tensors["W_enc"].shape
    config: dict[str, Any] = {
        "architecture": sae.kind,
        "d_in": inputs,
        "d_sae": latents,
        "dtype": dtype,
        "device": "cpu",
        "apply_b_dec_to_input": sae.pre_bias,
        "normalize_activations": "none",
        "reshape_activations": card.settings.get("reshape_activations", "none"),
    }
    if sae.kind == "topk":
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    described = {"training_architecture": sae.trained_as, "training_architecture_details": dict(sae.details)}
    known = {**card.metadata, **(described if sae.trained_as else {}), **metadata}
    major = str(known.get("sae_lens_version")).partition(".")[0]
    if not (major.isdecimal() and int(major) >= 6):  # SAELens takes it for an older file, and drops the metadata
        known["sae_lens_version"] = "6.0.0"
    config["metadata"] = known
    there = _complete(card.settings)
    keys = ("architecture", "d_in", "d_sae", "apply_b_dec_to_input", "k", "dtype")
    if not metadata and all(there.get(key) == config.get(key) for key in keys):
        return dict(card.settings)  # the same model keeps its settings as they were written
    return config


_SPARSIFY_KEYS = ("d_in", "num_latents", "expansion_factor", "k", "activation", "normalize_decoder", "signed")


def _parse_sparsify(settings: Mapping[str, Any], tensors: dict[str, np.ndarray], file: Path, where: str) -> SAE:
    config = {"activation": "topk", "signed": False, "transcode": False, "skip_connection": False, **settings}
    for key, value in {"activation": "topk", "signed": False, "transcode": False, "skip_connection": False}.items():
        if config[key] != value:
            raise InputError(f"{where}: {key}={shown(config[key])} is not supported; only {value!r} is")
    inputs = require_whole(config, "d_in", where)
    if config.get("num_latents"):
        latents = require_whole(config, "num_latents", where)
    else:
        latents = inputs * require_whole({"expansion_factor": 32, **config}, "expansion_factor", where)
    names = {"encoder.weight": ("d_sae", "d_in"), "encoder.bias": ("d_sae",)}
    names |= {"W_dec": ("d_sae", "d_in"), "b_dec": ("d_in",)}
    found = check_tensors(file, tensors, names, {"d_in": inputs, "d_sae": latents})
    named = {"W_enc": found["encoder.weight"].T, "b_enc": found["encoder.bias"]}
    named |= {name: found[name] for name in ("W_dec", "b_dec")}
    return SAE("topk", named, True, require_whole({"k": 32, **config}, "k", where))


def _describe_sparsify(sae: SAE, card: SAECard, dtype: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    inputs, latents = sae.tensors["W_enc"].shape
    config = {"activation": "topk", "expansion_factor": 32, "num_latents": latents, "k": sae.k, "d_in": inputs}
    if card.settings and card.layout == SPARSIFY:
        there = {"k": 32, "expansion_factor": 32, **card.settings}
        size = there.get("num_latents") or inputs * there["expansion_factor"]
        same = (there.get("d_in"), there["k"], size) == (inputs, sae.k, latents)
        config = dict(card.settings) if same else {**card.settings, **config}
    return {**config, **metadata}


def _to_linear(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors with the names and shapes of sparsify, whose encoder is a linear layer of PyTorch."""
    rest = {name: tensors[name] for name in ("W_dec", "b_dec")}
    return {"encoder.weight": tensors["W_enc"].T, "encoder.bias": tensors["b_enc"], **rest}


def _convert(name: str, value: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        converted = value.astype(DTYPES[dtype])
    if not np.isfinite(converted.astype(np.float32)).all():
        raise InputError(f"{name} does not fit into {dtype}: its largest value is {abs(value).max():.3g}")
    return converted


def _refuse(file: Path) -> InputError:
    """Returns the error for a pickle of dictionary_learning, which says how to convert it."""
    load = f"torch.load('{file}', map_location='cpu', weights_only=True)"
    save = f"s.save_file({{k: v.contiguous() for k, v in {load}.items()}}, '{file.with_suffix('.safetensors')}')"
    return InputError(
        f"{file} is a pickle of dictionary_learning, which may run code when it is read; convert it once: "
        f'python -c "import torch, safetensors.torch as s; {save}"'
    )
