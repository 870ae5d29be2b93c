"""Splits: the train, validation and test parts that the data section of a config asks for."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from aejax.data.activations import find_shards, from_store, join_target
from aejax.data.annotated import read_h5ad
from aejax.data.array_files import from_file
from aejax.data.arrays import list_npz, require_file
from aejax.data.binarize import binarize_parts
from aejax.data.cache import cache_decoded
from aejax.data.columns import FILES, from_frame, read_table
from aejax.data.folders import from_folder
from aejax.data.identity import check_identity
from aejax.data.images import find_size
from aejax.data.omniglot import find_omniglot
from aejax.data.people import make_people
from aejax.data.published import find_published
from aejax.data.shards import from_shards, has_shards
from aejax.data.sounds import RATE, from_sounds, has_sounds
from aejax.data.sources import SPLIT_NAMES, Arrays, Rows, Source
from aejax.data.sparse_rows import from_sparse, is_sparse_file, read_sparse_file
from aejax.data.synthetic import BUILT_IN
from aejax.data.tfds import from_tfds
from aejax.data.voices import make_voices
from aejax.data.waves import make_waves
from aejax.errors import InputError
from aejax.files import local

SIGNALS = {"waves": make_waves, "voices": make_voices}


class Splits(NamedTuple):
    """The train, validation and test parts of a data set."""

    train: Source
    validation: Source
    test: Source


def load(config: Mapping[str, Any], trained_on: Mapping[str, Any] | None = None) -> Splits:
    """Returns the three parts that the data section `config` asks for.

    Given a run's `trained_on`, raises InputError if the parts are not what that run was trained on.
    """
    splits = split(find(config), config)
    check_same(trained_on, splits, config["name"])
    return splits


def check_same(trained_on: Mapping[str, Any] | None, splits: Splits, name: str) -> None:
    """Raises InputError if the splits of the data set `name` differ from those that a run was trained on."""
    cure = "its test part may now hold what was trained on: restore the data, or name the splits (Subject.of, --split)"
    check_identity(trained_on, splits._asdict(), f"the run on {name}", cure)


def find(config: Mapping[str, Any]) -> dict[str, Source]:
    """Returns the data set's own splits by name, before `split` divides them into parts.

    With `config.cache`, splits that are decoded from files and fit in `config.memory_mb` are read through the cache.
    """
    sources = _open_splits(config)
    if target := config.get("target", ""):
        sources = join_target(sources, _open_splits({**config, "name": target}))
    layers, kind = config.get("layers", 0), config.get("kind", "")
    for source in sources.values():
        if layers and (source.kind != "vector" or len(source.shape) != 2 or source.shape[0] != layers):
            raise InputError(f"{source.name} holds examples of {source.shape}, and data.layers={layers}; set it")
        if kind and source.kind != kind:
            raise InputError(f"{source.name} holds {source.kind}s of {source.shape}, and data.kind={kind}; change it")
    if not config.get("cache", True) or config["fit"] == "random":  # whose training images are decoded each time
        return sources
    budget = config["memory_mb"] * 2**20
    for name, source in sources.items():
        if source.files and source.nbytes <= budget:
            sources[name] = cache_decoded(source, config["fit"])
    return sources


def _open_splits(config: Mapping[str, Any]) -> dict[str, Source]:
    name, fit, width = config["name"], config["fit"], config.get("width", 0)
    if not name:
        raise InputError("data.name is empty; give a data set, a file or a folder")
    if width and (name in SIGNALS or name in ("shapes", "volumes")):
        raise InputError(f"data.width={width} resizes images, and {name} is made of data.size alone; set it to 0")
    size = find_size(config)
    try:
        path = local(name)
    except InputError as error:
        raise InputError(f"data.name: {error}") from error
    is_file, is_folder = path.is_file(), path.is_dir()
    if name.startswith("array-"):
        raise InputError(
            f"{name}: the run was trained by aejax.fit on an array that it does not keep; give it in Python, e.g. "
            "run.evaluate(x)"
        )
    if name == "sparse_features":
        from aejax.data.features import SparseFeatures  # here, because it imports SciPy

        return SparseFeatures.parse(config.get("options", "")).splits()
    if name == "clicks":
        from aejax.data.clicks import make_clicks  # likewise

        return make_clicks()
    if name == "cells":
        from aejax.data.cells import make_cells  # likewise

        return make_cells()
    if name == "people":
        return {"train": make_people()}
    if name in SIGNALS:
        return SIGNALS[name](config["size"])
    if shards := find_shards(name):
        if size:
            raise InputError(
                f"{name}: data.size={size} resizes images, and this is a store of activations; set it to 0"
            )
        return from_store(name, shards)
    if name in BUILT_IN:
        make: Callable[[Any], Source] = BUILT_IN[name]
        return {"train": make(size)}  # that of shapes and volumes is one number, as checked above
    if path.suffix.lower() in (".npy", ".npz") and not is_folder:
        require_file(path)
        if path.suffix.lower() == ".npz" and is_sparse_file(list_npz(path)):
            return {"train": from_sparse(read_sparse_file(path), name=str(path))}
        kind, missing, weights = config.get("kind", ""), config.get("missing", False), config.get("weights", "")
        return from_file(path, size, fit, kind, missing, weights)
    if path.suffix.lower() == ".h5ad" and not is_folder:
        require_file(path)
        return {"train": read_h5ad(path, config.get("layer", ""), config.get("batch", "")).source(str(path))}
    if path.suffix.lower() in FILES and not is_folder:
        frame = read_table(path)
        options = [config.get(key, value) for key, value in (("missing", False), ("columns", ()), ("weights", ""))]
        return {"train": from_frame(frame, None, str(path), *options)}
    if published := find_published(path) or find_omniglot(path):
        return published(size, fit)
    if is_folder and has_sounds(path):
        if width:
            raise InputError(f"{path}: data.width={width} resizes images, and this folder holds sounds; set it to 0")
        return from_sounds(path, config["size"], config.get("rate", RATE))
    if is_folder and has_shards(path):
        return from_shards(path, size, fit)
    if is_folder:
        return from_folder(path, size, fit, config.get("cache", True))
    if is_file and (path.suffix or "/" in name):
        raise InputError(
            f"{path}: a file of another kind; give a .npy, .npz, .h5ad, .parquet or .csv file, or a folder of images"
        )
    if name.startswith((".", "~", "/")) or name.endswith("/"):
        raise InputError(f"{path}: no such folder; check data.name")
    return from_tfds(name, config["data_dir"], size, fit)


def split(wholes: Mapping[str, Source], config: Mapping[str, Any]) -> Splits:
    """Returns the train, validation and test parts that `config` names in TFDS syntax.

    A part that `config` leaves empty is the data set's own split of that name or, without one, rows of its `train`
    split. Either way it gets no rows that another part names. If `held_out` is set, the examples with this label are
    removed from train and validation.
    """
    parts = {part: select(wholes, config[part]) for part in Splits._fields if config[part]}
    used = {name: np.zeros(len(source), bool) for name, source in wholes.items()}
    for part in parts:
        for name, rows in _parse_split(wholes, config[part]):
            used[name][rows.start : rows.stop] = True
    for part in ("validation", "test"):
        if part not in parts and (own := _find_own(wholes, part, used)):
            parts[part] = wholes[own].subset(np.flatnonzero(~used[own]), part)
    if missing := [part for part in Splits._fields if part not in parts]:
        parts |= _cut(wholes, missing, used)
    parts |= {part: dataclasses.replace(parts[part], draw=None) for part in ("validation", "test")}
    if (held_out := config["held_out"]) >= 0:
        _hold_out(parts, held_out)
    parts = binarize_parts(parts, config.get("binarize", "none"), config.get("binarize_seed", 0))
    for part, source in parts.items():
        if config.get("missing", False) and not source.missing:
            raise InputError(
                f"data.missing=True is for arrays of numbers, of which NaN are missing, and {source.name} holds "
                f"{source.kind}s of {source.dtype} without any; set it to False"
            )
        if source.kind != parts["train"].kind:
            raise InputError(
                f"the {part} split holds {source.kind}s and train {parts['train'].kind}s; set data.kind to what all are"
            )
        if source.shape != parts["train"].shape:
            raise InputError(f"the {part} split holds examples of {source.shape}, train of {parts['train'].shape}")
        if not len(source):
            raise InputError(f"the {part} split is empty; set data.{part}; the data set has {_list_sizes(wholes)}")
    return Splits(**_scale_weights(parts, config.get("weights", "")))


def _scale_weights(parts: Mapping[str, Source], name: str) -> dict[str, Source]:
    """Returns the parts with weights whose mean in the train split is 1. Raises InputError if a part has only zeros."""
    train = parts["train"].weights
    if name and train is None:
        raise InputError(f"data.weights={name} is for .npz, .parquet and .csv files; leave it out")
    for part, source in parts.items():
        if source.weights is not None and not source.weights.sum() > 0:
            raise InputError(f"all examples of the {part} split have the weight 0; give some a weight above 0")
    if train is None:
        return dict(parts)
    return {
        part: source if source.weights is None else dataclasses.replace(source, weights=source.weights / train.mean())
        for part, source in parts.items()
    }


def _find_own(wholes: Mapping[str, Source], part: str, used: Mapping[str, np.ndarray]) -> str | None:
    """Returns the name of the data set's own validation or test split, e.g. `val`, or None if it has none."""
    if part in wholes:
        return part
    own = [name for name in wholes if SPLIT_NAMES.get(name) == part and not used[name].all()]
    if len(own) > 1:
        raise InputError(f"{' and '.join(own)} may both be the {part} split; set data.{part} to one of them")
    return own[0] if own else None


def _cut(wholes: Mapping[str, Source], missing: Sequence[str], used: Mapping[str, np.ndarray]) -> dict[str, Source]:
    """Cuts the missing parts from the unused rows of `train`, at random but always in the same way.

    If train is missing, each other missing part gets a tenth of all rows, and train gets the rest. Otherwise the
    missing parts share the unused rows equally.
    """
    if "train" not in wholes:
        raise InputError(f"data.{missing[0]} is not set and cannot be cut; splits here: {', '.join(wholes)}")
    train = wholes["train"]
    if missing == ["train"] and not used["train"].any():
        return {"train": train}
    rows = np.random.default_rng(0).permutation(len(train))
    rows = rows[~used["train"][rows]]
    cuts: Any = len(missing)  # the number of equal parts, or else the rows where parts begin
    if "train" in missing:
        cuts = np.maximum(len(rows) - len(train) // 10 * np.arange(len(missing) - 1, 0, -1), 0)
    return {
        part: train.subset(np.sort(chosen), f"train, {len(chosen)} rows sampled for {part}")
        for part, chosen in zip(missing, np.array_split(rows, cuts), strict=True)
    }


def _list_sizes(wholes: Mapping[str, Source]) -> str:
    return f"{', '.join(f'{name} {len(source)}' for name, source in wholes.items())} examples"


def _hold_out(parts: dict[str, Source], label: int) -> None:
    """Removes the examples with `label` from train and validation. Raises InputError if test has none."""
    found = {part: read_labels(source) for part, source in parts.items()}
    if label not in found["test"]:
        known = ", ".join(map(str, np.unique(found["test"])[:30]))
        raise InputError(f"data.held_out={label}: the test split has no such label; choose one of: {known}")
    for part in ("train", "validation"):
        rows = np.flatnonzero(found[part] != label)
        parts[part] = parts[part].subset(rows, f"{parts[part].name} without label {label}")


def read_labels(source: Source, chunk: int = 512) -> np.ndarray:
    """Returns all labels of `source`, int32 [examples]. Decodes `chunk` examples at a time and keeps only labels."""
    parts = [source.take(np.arange(i, min(i + chunk, len(source)))) for i in range(0, len(source), chunk)]
    if not all("label" in part for part in parts):
        raise InputError(f"data.held_out needs labels and {source.name} has none; set it to -1, or give labels")
    return np.concatenate([part["label"] for part in parts]) if parts else np.zeros(0, np.int32)


def select(wholes: Mapping[str, Source], spec: str) -> Source:
    """Returns the rows that `spec` names in TFDS syntax, e.g. `train[:90%]` or `train[10%:]+test`, in that order."""
    parts = [
        dataclasses.replace(wholes[name], name=spec)
        if len(rows) == len(wholes[name])
        else wholes[name].subset(rows, spec)
        for name, rows in _parse_split(wholes, spec)
    ]
    if not sum(map(len, parts)):
        raise InputError(f"split {spec!r} is empty; the data set has {_list_sizes(wholes)}")
    return parts[0] if len(parts) == 1 else _join(parts, spec)


def _parse_split(wholes: Mapping[str, Source], spec: str) -> list[tuple[str, range]]:
    """Returns (split, row numbers) for each term of `spec`."""
    import tensorflow_datasets as tfds

    infos = {k: tfds.core.SplitInfo(name=k, shard_lengths=[len(v)], num_bytes=0) for k, v in wholes.items()}
    try:
        ranges = tfds.core.ReadInstruction.from_spec(spec).to_absolute(infos)
    except (ValueError, AssertionError, KeyError) as error:
        raise InputError(
            f"split {spec!r}: {' '.join(str(error).split()).rstrip('.')}; splits here: {', '.join(wholes)}"
        ) from error
    return [(r.splitname, range(len(wholes[r.splitname]))[r.from_ : r.to]) for r in ranges]


def _join(parts: list[Source], name: str) -> Source:
    """Concatenates the parts. An array that some part lacks, e.g. the labels, is left out."""
    ends = np.cumsum([len(part) for part in parts])
    common = set.intersection(*(set(part.take(np.arange(1))) for part in parts if len(part)))

    def draw(rows: Rows, crops: np.ndarray | None) -> Arrays:
        part_of_row = np.searchsorted(ends, rows, side="right")
        taken: Arrays = {}
        for k, part in enumerate(parts):
            places = np.flatnonzero(part_of_row == k)
            if len(places):
                own = rows[places] - (ends[k] - len(part))
                found = part.take(own) if crops is None or part.draw is None else part.draw(own, crops[places])
                for key in common:
                    shape = (len(rows), *found[key].shape[1:])
                    taken.setdefault(key, np.empty(shape, found[key].dtype))[places] = found[key]
        return taken

    take, drawn = functools.partial(draw, crops=None), draw if any(part.draw for part in parts) else None
    weights = [part.weights for part in parts if part.weights is not None]
    joined = np.concatenate(weights) if len(weights) == len(parts) else None
    return dataclasses.replace(parts[0], name=name, length=int(ends[-1]), take=take, draw=drawn, weights=joined)
