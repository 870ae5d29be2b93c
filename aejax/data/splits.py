"""From the data section of a config to its train, validation and test parts."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from aejax.data.cache import kept
from aejax.data.folders import from_folder
from aejax.data.identity import check_identity
from aejax.data.sources import SPLIT_NAMES, Arrays, Rows, Source, from_file
from aejax.data.synthetic import EMBEDDED
from aejax.data.tfds import from_tfds
from aejax.errors import InputError
from aejax.storage import local


class Splits(NamedTuple):
    train: Source
    validation: Source
    test: Source


def load(config: Mapping[str, Any], trained_on: Mapping[str, Any] | None = None) -> Splits:
    """The three splits that `config.data` asks for.

    With `trained_on`, see `Run`, InputError where they are not what that run was trained on.
    """
    splits = split(find(config), config)
    check_same(trained_on, splits, config["name"])
    return splits


def check_same(trained_on: Mapping[str, Any] | None, splits: Splits, name: str) -> None:
    """Raises InputError where the splits of the data set `name` are not what a run was trained on."""
    cure = "its test part may now hold what was trained on: restore the data, or name the splits (Subject.of, --split)"
    check_identity(trained_on, splits._asdict(), f"the run on {name}", cure)


def find(config: Mapping[str, Any]) -> dict[str, Source]:
    """The whole splits that the data set `config.name` has, by name, decoded once where `config.cache` says so."""
    sources = _found(config)
    if not config.get("cache", True):
        return sources
    budget = config["memory_mb"] * 2**20
    return {k: kept(v, config["fit"]) if v.files and v.nbytes <= budget else v for k, v in sources.items()}


def _found(config: Mapping[str, Any]) -> dict[str, Source]:
    name, size, how = config["name"], config["size"], config["fit"]
    if not name:
        raise InputError("data.name is empty; give a data set, a file or a folder")
    try:
        path = local(name)
    except InputError as error:
        raise InputError(f"data.name: {error}") from error
    is_file, is_folder = path.is_file(), path.is_dir()
    if name.startswith("array-"):
        raise InputError(f"{name}: the run was trained by aejax.fit on an array that it does not keep")
    if name in EMBEDDED:
        return {"train": EMBEDDED[name](size)}
    if path.suffix.lower() in (".npy", ".npz") and not is_folder:
        if not is_file:
            raise InputError(f"{path}: {'no regular file' if path.exists() else 'no such file'}; check data.name")
        return from_file(path, size, how)
    if is_folder:
        return from_folder(path, size, how)
    if is_file and (path.suffix or "/" in name):
        raise InputError(f"{path}: a file of another kind; give a .npy or .npz file, or a folder of images")
    if name.startswith((".", "~", "/")) or name.endswith("/"):
        raise InputError(f"{path}: no such folder; check data.name")
    return from_tfds(name, config["data_dir"], size, how)


def split(wholes: Mapping[str, Source], config: Mapping[str, Any]) -> Splits:
    """Train, validation and test, as `config` says in TFDS syntax.

    Those left empty are the data set's own, else cut from the rows of `train` that no other part
    takes: a tenth of them all for validation and for test, or what is left in equal parts where
    train is given. That cut is drawn once, the same for every run, and is fair where examples are
    sorted by class. Train and validation then lose the examples of the label `held_out`, if one is.
    """
    parts = {part: select(wholes, config[part]) for part in Splits._fields if config[part]}
    used = {key: np.zeros(len(source), bool) for key, source in wholes.items()}
    for part in parts:
        for key, rows in _rows(wholes, config[part]):
            used[key][rows] = True
    for part in ("validation", "test"):
        own = [name for name in wholes if SPLIT_NAMES.get(name) == part and not used[name].all()]
        if part in wholes:
            own = [part]
        if part not in parts and len(own) > 1:
            raise InputError(f"{' and '.join(own)} may both be the {part} split; set data.{part} to one of them")
        if part not in parts and own:
            parts[part] = wholes[own[0]].subset(np.flatnonzero(~used[own[0]]), part)
    missing = [part for part in Splits._fields if part not in parts]
    if missing:
        if "train" not in wholes:
            raise InputError(f"data.{missing[0]} is not set and cannot be cut; splits here: {', '.join(wholes)}")
        order = np.random.default_rng(0).permutation(len(wholes["train"]))
        order = order[~used["train"][order]]
        tenth = len(wholes["train"]) // 10
        ends = np.maximum(len(order) - tenth * np.arange(len(missing) - 1, 0, -1), 0)
        cuts = ends if "train" in missing else len(missing)
        for part, rows in zip(missing, np.array_split(order, cuts), strict=True):
            parts[part] = wholes["train"].subset(np.sort(rows), f"train, {len(rows)} rows drawn for {part}")
    if (held_out := config["held_out"]) >= 0:
        _hold_out(parts, held_out)
    for part, source in parts.items():
        if source.shape != parts["train"].shape:
            raise InputError(f"the {part} split holds examples of {source.shape}, train of {parts['train'].shape}")
        if not len(source):
            sizes = ", ".join(f"{k} {len(v)}" for k, v in wholes.items())
            raise InputError(f"the {part} split is empty; set data.{part}; the data set has {sizes} examples")
    return Splits(**parts)


def _hold_out(parts: dict[str, Source], label: int) -> None:
    """Takes the examples of a label out of train and validation; test must have some."""
    found = {part: labels(source) for part, source in parts.items()}
    if label not in found["test"]:
        known = ", ".join(map(str, np.unique(found["test"])[:30]))
        raise InputError(f"data.held_out={label}: the test split has no such label; choose one of: {known}")
    for part in ("train", "validation"):
        kept = np.flatnonzero(found[part] != label)
        parts[part] = parts[part].subset(kept, f"{parts[part].name} without label {label}")


def labels(source: Source, chunk: int = 512) -> np.ndarray:
    """Those of a whole source, whose examples are decoded for them, but not kept."""
    parts = [source.take(np.arange(i, min(i + chunk, len(source)))) for i in range(0, len(source), chunk)]
    if not all("label" in part for part in parts):
        raise InputError(f"data.held_out needs labels and {source.name} has none; set it to -1, or give labels")
    return np.concatenate([part["label"] for part in parts]) if parts else np.zeros(0, np.int32)


def select(wholes: Mapping[str, Source], spec: str) -> Source:
    """The rows of a split in TFDS syntax, e.g. `train[:90%]` or `train[10%:]+test`, in their order."""
    parts = [wholes[key].subset(rows, spec) for key, rows in _rows(wholes, spec)]
    if not sum(map(len, parts)):
        sizes = ", ".join(f"{k} {len(v)}" for k, v in wholes.items())
        raise InputError(f"split {spec!r} is empty; the data set has {sizes} examples")
    return parts[0] if len(parts) == 1 else _join(parts, spec)


def _rows(wholes: Mapping[str, Source], spec: str) -> list[tuple[str, Rows]]:
    import tensorflow_datasets as tfds

    infos = {
        key: tfds.core.SplitInfo(name=key, shard_lengths=[len(source)], num_bytes=0) for key, source in wholes.items()
    }
    try:
        ranges = tfds.core.ReadInstruction.from_spec(spec).to_absolute(infos)
    except (ValueError, AssertionError, KeyError) as error:
        raise InputError(f"split {spec!r}: {' '.join(str(error).split())}; splits here: {', '.join(wholes)}") from error
    return [(r.splitname, np.arange(len(wholes[r.splitname]))[r.from_ : r.to]) for r in ranges]


def _join(parts: list[Source], name: str) -> Source:
    """One part after the other, with what all of them have: labels of some would leave the others without."""
    ends = np.cumsum([len(part) for part in parts])
    common = set.intersection(*(set(part.take(np.arange(1))) for part in parts if len(part)))

    def take(rows: Rows) -> Arrays:
        which = np.searchsorted(ends, rows, side="right")
        taken: Arrays = {}
        for k, part in enumerate(parts):
            mine = np.flatnonzero(which == k)
            if len(mine):
                found = part.take(rows[mine] - (ends[k] - len(part)))
                for key in common:
                    shape = (len(rows), *found[key].shape[1:])
                    taken.setdefault(key, np.empty(shape, found[key].dtype))[mine] = found[key]
        return taken

    return dataclasses.replace(parts[0], name=name, length=int(ends[-1]), take=take)
