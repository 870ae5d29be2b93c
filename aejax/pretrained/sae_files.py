"""Files of published sparse autoencoders, in the layouts of four projects: read, written, and never unpickled.

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

from aejax.data.arrays import list_npz, read_npz
from aejax.errors import InputError, shown
from aejax.files import read_json, replacing, writable, write_whole
from aejax.pretrained.hub import DTYPES, pack, read_safetensors, read_shards
from aejax.pretrained.sae_dictionary import parse_dictionary
from aejax.pretrained.sae_parameters import SAE, TENSORS, SAECard, check_tensors
from aejax.pretrained.sae_saelens import describe_saelens, parse_saelens
from aejax.pretrained.sae_sparsify import describe_sparsify, parse_sparsify, to_linear

SAELENS, GEMMA_SCOPE, SPARSIFY = LAYOUTS = ("saelens", "gemma_scope", "sparsify")
DICTIONARY = "dictionary_learning"
_WEIGHTS = {SAELENS: "sae_weights.safetensors", GEMMA_SCOPE: "params.npz", SPARSIFY: "sae.safetensors"}
_WEIGHTS |= {DICTIONARY: "ae.safetensors"}
_CONFIG, _SPARSITY, _INDEX = "cfg.json", "sparsity.safetensors", ".index.json"
_SCALER = "activation_scaler.json"  # beside checkpoints of a training of SAELens
_WHITENING = "activation_whitening.safetensors"  # likewise
_PICKLE = "ae.pt"  # of dictionary_learning


def list_layouts() -> str:
    """Returns the names of the files of sparse autoencoders, for messages."""
    configs = dict.fromkeys((SAELENS, SPARSIFY), _CONFIG) | {DICTIONARY: "config.json"}
    return ", ".join(f"{name} with {configs[each]}" if each in configs else name for each, name in _WEIGHTS.items())


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
        sizes: dict[str, int] = {}
        for name, axes in (("W_enc", ("d_in", "d_sae")), ("W_dec", ("d_sae", "d_out"))):
            if name in tensors and tensors[name].ndim == 2:
                sizes = {**dict(zip(axes, tensors[name].shape, strict=True)), **sizes}
        tensors = check_tensors(file, tensors, TENSORS["jumprelu"], sizes)
        # Nothing in the file tells a transcoder with as many outputs as inputs from an autoencoder.
        sae = SAE("jumprelu", tensors, pre_bias=False, transcoder=sizes["d_in"] != sizes["d_out"])
        return sae, SAECard(layout, {})
    config = folder / ("config.json" if layout == DICTIONARY else _CONFIG)
    if not config.is_file():
        raise InputError(f"{folder} holds no {config.name} beside {file.name}; copy it there, too")
    settings, where = read_json(config), str(config)
    tensors = read_safetensors(file) if file.is_file() else read_shards(folder, f"{file.name}{_INDEX}")
    if layout == DICTIONARY:
        kind, named, pre_bias, k, metadata = parse_dictionary(settings, tensors, file, where)
        widths = tuple(np.cumsum(metadata.get("group_sizes", ()), dtype=int)[:-1].tolist())
        return SAE(kind, named, pre_bias, k, widths=widths), SAECard(SAELENS, {"metadata": metadata})
    sae = (parse_saelens if layout == SAELENS else parse_sparsify)(settings, tensors, file, where)
    sparsity = None
    if layout == SAELENS and (folder / _SPARSITY).is_file():
        found = read_safetensors(folder / _SPARSITY)
        sizes = {"d_sae": sae.sizes[1]}
        sparsity = check_tensors(folder / _SPARSITY, found, {"sparsity": ("d_sae",)}, sizes)["sparsity"]
    if layout == SAELENS and (folder / _WHITENING).is_file():
        raise InputError(
            f"{folder / _WHITENING} whitens the input, and is not folded into the weights; load what SAELens saved at "
            "the end of the training"
        )
    if layout == SAELENS and (folder / _SCALER).is_file():
        sae = _fold_scaler(sae, folder / _SCALER)
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
    kinds = {
        SAELENS: ("standard", "topk", "jumprelu", "gated", "matching_pursuit"),
        GEMMA_SCOPE: ("jumprelu",),
        SPARSIFY: ("topk",),
    }[layout]
    if sae.kind not in kinds:
        raise InputError(f"the layout {layout} has no {sae.kind} autoencoders, only {', '.join(kinds)}; choose another")
    if sae.transcoder and layout == SAELENS and sae.kind not in ("standard", "jumprelu"):
        # Of SAELens's classes, `Transcoder` and `JumpReLUTranscoder` and those with a skip are all.
        alike = sae.kind == "topk" and sae.sizes[0] == sae.sizes[2]
        hint = "choose format='sparsify'" if alike else "train one with bottleneck.name=batch_topk, jumprelu or relu"
        raise InputError(f"the layout {layout} has no {sae.kind} transcoders, only standard, jumprelu; {hint}")
    if "W_skip" in sae.tensors and layout == GEMMA_SCOPE:
        raise InputError(f"the layout {layout} has no skip transcoders; choose another")
    if layout == GEMMA_SCOPE and (metadata or dtype != "float32"):
        raise InputError(f"the layout {layout} has no metadata, and float32 alone; leave metadata and dtype out")
    sae = dataclasses.replace(sae, tensors={k: _convert(k, v, dtype) for k, v in sae.tensors.items()})
    describe = {SAELENS: describe_saelens, SPARSIFY: describe_sparsify, GEMMA_SCOPE: lambda *_: {}}[layout]
    config = describe(sae, card, dtype, metadata)
    tensors = to_linear(sae.tensors) if layout == SPARSIFY else sae.tensors
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


def _fold_scaler(sae: SAE, file: Path) -> SAE:
    """Returns the sparse autoencoder that reads activations without the factor by which its training scaled them."""
    factor = read_json(file).get("scaling_factor")
    if factor is None:
        return sae
    if type(factor) not in (int, float) or not 0 < factor < 1e30 or "W_enc" not in sae.tensors or sae.transcoder:
        raise InputError(
            f"{file}: scaling_factor={shown(factor)} cannot be folded into the weights of this {sae.kind} model"
        )
    t = sae.tensors
    folded = {"W_enc": t["W_enc"] * factor, "W_dec": t["W_dec"] / factor, "b_dec": t["b_dec"] / factor}
    return dataclasses.replace(sae, tensors={**t, **{name: a.astype(np.float32) for name, a in folded.items()}})


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
