"""Files of published autoencoders, in folders as the Hugging Face hub lays them out: read and written, never unpickled.

config.json, diffusion_pytorch_model.safetensors                  one file
config.json, diffusion_pytorch_model.safetensors.index.json, ...  shards
config.json, diffusion_flax_model.msgpack                         of diffusers' Flax classes, deleted in 0.40
encoder.safetensors, decoder.safetensors                          TAESD and TAEF2 as their author names the tensors
"""

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import serialization
from flax.traverse_util import flatten_dict

from aejax.errors import InputError, StorageError, kind_and_words, not_installed, shown
from aejax.files import inside, read_bytes, read_json, writable, write_whole

DTYPES: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "bfloat16": jnp.bfloat16}
_NAME = "diffusion_pytorch_model"
_CONFIG, _WHOLE, _INDEX = "config.json", f"{_NAME}.safetensors", f"{_NAME}.safetensors.index.json"
_FLAX = "diffusion_flax_model.msgpack"
_PAIR = ("encoder.safetensors", "decoder.safetensors")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_LARGEST = 2**36  # bytes of a file of weights


class Stored(NamedTuple):
    """A published autoencoder as its files hold it.

    Attributes:
      config: the settings in config.json, with the class as `_class_name`.
      tensors: arrays by name, named and shaped as diffusers does.
      file: the file of the tensors, for messages.
    """

    config: dict[str, Any]
    tensors: dict[str, np.ndarray]
    file: Path


def is_published(folder: Path) -> bool:
    """Returns whether the folder holds a published autoencoder, and not a run of aejax.

    The config.json of a model names its class, that of a run does not.
    """
    with contextlib.suppress(StorageError):
        if (folder / _CONFIG).is_file() and "_class_name" in read_json(folder / _CONFIG):
            return True
    return _is_pair(folder) and not (folder / "checkpoints").is_dir()


def read(folder: Path, others: str = "") -> Stored:
    """Returns the config and the tensors in the folder.

    Raises InputError, with `others`, the files of other models, if the folder holds none, or only pickles, and
    StorageError for a file that is damaged.
    """
    if not folder.is_dir():
        if folder.suffix in _PICKLES and folder.is_file():
            raise _refuse(folder)
        what = "is a file" if folder.is_file() else "does not exist"
        raise InputError(f"{folder} {what}; name the folder of the model, which holds {_CONFIG} and {_WHOLE}{others}")
    if _is_pair(folder) and not (folder / _CONFIG).is_file():
        return _read_pair(folder)
    if not (folder / _CONFIG).is_file():
        if (folder / "model_index.json").is_file():
            raise InputError(f"{folder} holds a whole pipeline; name the folder of its autoencoder, {folder / 'vae'}")
        for file in sorted(folder.iterdir()):
            if file.suffix in _PICKLES:
                raise _refuse(file)
        raise InputError(f"{folder} holds no {_CONFIG}; name a folder that has it beside {_WHOLE}{others}")
    config = read_json(folder / _CONFIG)
    if not isinstance(config.get("_class_name"), str):
        hint = "; load a run of aejax by load_run" if (folder / "checkpoints").is_dir() else ""
        raise InputError(f"{folder / _CONFIG} names no class, got _class_name={shown(config.get('_class_name'))}{hint}")
    config["_class_name"] = config["_class_name"].removeprefix("Flax")
    if (folder / _INDEX).is_file():
        return Stored(config, read_shards(folder, _INDEX), folder / _INDEX)
    # Variants: diffusion_pytorch_model.fp16.safetensors.
    for file in (folder / _WHOLE, *sorted(folder.glob(f"{_NAME}.*.safetensors"))):
        if file.is_file():
            return Stored(config, read_safetensors(file), file)
    if (folder / _FLAX).is_file():
        return Stored(config, _read_flax(folder / _FLAX), folder / _FLAX)
    for file in sorted(folder.iterdir()):
        if file.suffix in _PICKLES:
            raise _refuse(file)
    raise InputError(f"{folder} holds no weights; put {_WHOLE} beside its {_CONFIG}")


def write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Path:
    """Writes the files from which `read` returns the config and the tensors, and returns the folder.

    The class and settings go to config.json, or, for TAEF2, of which diffusers has no class, into the names of two
    files. Raises StorageError if they cannot be written.
    """
    folder = writable(folder)
    if config.get("pooled"):
        for file, part in zip(_PAIR, ("encoder", "decoder"), strict=True):
            write_whole(folder / file, pack(_rename(part, tensors)))
    else:
        write_whole(folder / _WHOLE, pack(tensors))
        write_whole(folder / _CONFIG, json.dumps(dict(sorted(config.items())), indent=2) + "\n")
    return folder


def _is_pair(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _PAIR)


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """Returns the tensors in a file. Raises StorageError if it is damaged."""
    try:
        import safetensors  # an extra
    except ImportError as error:
        raise not_installed(f"reading {file.name}", "safetensors") from error
    try:
        with safetensors.safe_open(file, framework="numpy") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, TypeError, ValueError, AttributeError) as error:
        reason = kind_and_words(error)
        raise StorageError(f"{file} is damaged or cut short ({reason}); copy or download it again") from error


def pack(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Returns the content of a file with the tensors."""
    try:
        from safetensors.numpy import save  # an extra
    except ImportError as error:
        raise not_installed("writing safetensors", "safetensors") from error
    # Others than contiguous arrays would be written in the wrong order. `np.ascontiguousarray` adds an axis to scalars.
    return save({name: np.asarray(value, order="C") for name, value in tensors.items()}, metadata={"format": "pt"})


def read_shards(folder: Path, index: str) -> dict[str, np.ndarray]:
    """Returns the tensors of all files in the folder that its file `index` lists. Raises StorageError for damage."""
    shards = read_json(folder / index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise StorageError(f"{folder / index} holds no weight_map of file names; copy or download it again")
    tensors: dict[str, np.ndarray] = {}
    for name in sorted(set(shards.values())):
        file = inside(folder, name)
        if not file.is_file():
            raise StorageError(f"{file}, a shard that {index} lists, is missing; copy or download it again")
        tensors |= read_safetensors(file)
    return tensors


def _read_flax(file: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a msgpack file as PyTorch names and shapes them: convolutions [out, in, rows, columns]."""
    content = read_bytes(file, _LARGEST)
    try:
        tree = serialization.msgpack_restore(content)
        flat = {path: np.asarray(value) for path, value in flatten_dict(tree, sep=".").items()}
    except Exception as error:  # of several libraries, and of any kind for bytes that are no msgpack
        reason = kind_and_words(error)
        raise StorageError(f"{file} is damaged or cut short ({reason}); copy or download it again") from error
    tensors = {}
    for path, value in flat.items():
        name = re.sub(r"_(\d+)(?=\.|$)", r".\1", path)  # down_blocks_0 is down_blocks.0 in PyTorch
        if path.endswith(".kernel"):
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        tensors[re.sub(r"\.(kernel|scale)$", ".weight", name)] = value
    return tensors


def _read_pair(folder: Path) -> Stored:
    """Returns the tensors of TAESD or TAEF2 and the settings that their names and shapes imply."""
    parts = [read_safetensors(folder / name) for name in _PAIR]
    encoder, decoder = (_count_blocks(part) for part in parts)
    try:
        first, last = (parts[0][f"{n}.weight"].shape for n in (0, max(int(key.split(".")[0]) for key in parts[0])))
        width, latent, channels = first[0], last[0], first[1]
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(f"{folder} holds no TAESD: {_PAIR[0]} has no layers 0.weight, 1.conv.0.weight, ...") from error
    config = {
        "_class_name": "AutoencoderTiny",
        "in_channels": channels,
        "out_channels": channels,
        "latent_channels": latent,
        "encoder_block_out_channels": [width] * len(encoder),
        "decoder_block_out_channels": [width] * len(decoder),
        "num_encoder_blocks": encoder,
        "num_decoder_blocks": decoder,
    }
    if any(".pool." in key for key in parts[0]):
        config["pooled"] = True
    renamed = {f"encoder.layers.{key}": value for key, value in parts[0].items()}
    for key, value in parts[1].items():  # the squashing of the code is the decoder's layer 0 there
        number, dot, rest = key.partition(".")
        renamed[f"decoder.layers.{int(number) - 1 if number.isdecimal() else number}{dot}{rest}"] = value
    return Stored(config, renamed, folder)


def _rename(part: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors of one part with the names that `_read_pair` reads."""
    renamed = {}
    for key, value in tensors.items():
        if key.startswith(f"{part}.layers."):
            number, dot, rest = key.removeprefix(f"{part}.layers.").partition(".")
            renamed[f"{int(number) + (part == 'decoder')}{dot}{rest}"] = value
    return renamed


def _count_blocks(part: Mapping[str, np.ndarray]) -> list[int]:
    """Returns the number of blocks in each stage; stages are separated by convolutions without a bias."""
    numbers = sorted({int(key.split(".")[0]) for key in part if key.split(".")[0].isdecimal()})
    stages = [0]
    for number in numbers:
        if f"{number}.conv.0.weight" in part:
            stages[-1] += 1
        elif f"{number}.bias" not in part:
            stages.append(0)
    return stages


def _refuse(file: Path) -> InputError:
    """Returns the error for a pickle, which says how to convert it."""
    if file.suffix == ".ckpt":
        call = f"from diffusers import AutoencoderKL as A; A.from_single_file('{file}').save_pretrained('FOLDER')"
    else:
        source = f"torch.load('{file}', map_location='cpu', weights_only=True)"
        call = f"import torch, safetensors.torch as s; s.save_file({source}, '{file.with_name(_WHOLE)}')"
    return InputError(f'{file} is a pickle, which may run code when it is read; convert it once: python -c "{call}"')
