"""Files of arrays, .npy and .npz: which of their arrays are examples, labels and factors, and of which split."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from aejax.data.arrays import list_npz, read_npy, read_npz
from aejax.data.images import Size
from aejax.data.sources import SPLIT_NAMES, Source, from_array, is_binary
from aejax.errors import InputError

# What the arrays of an .npz file hold, by their names.
_ROLES = {
    **dict.fromkeys(("x", "data", "image", "images", "imgs", "features", "inputs"), "x"),
    **dict.fromkeys(("label", "labels", "y", "target", "targets"), "label"),
    **dict.fromkeys(("factors", "latents_classes"), "factors"),
    **dict.fromkeys(("length", "lengths"), "length"),
}


def from_file(
    path: Path, size: Size, fit: str = "crop", kind: str = "", missing: bool = False, weights: str = ""
) -> dict[str, Source]:
    """Returns the splits of an .npy or .npz file by name; an .npy file is all `train`.

    An .npz file holds `x` (and `label`, `factors`, `length`), or an array for each split: `train`, `validation`, `test`
    (and `train_label`, `train_factors`, ...). Other usual names are understood: `images` or `data`; `labels`, `y` or
    `targets`; `val`, `valid` or `dev`; `x_train`. A single array may have any name. Warns of arrays that are left out.
    `size` and `fit` are those of `images.resize`, and `kind` and `missing` those of `from_array`. `weights` is the name
    of the examples' weights in an .npz file, after the name of the split and an underscore where there are several.
    """
    if weights and path.suffix.lower() == ".npy":
        raise InputError(f"{path} holds one array, and data.weights={weights} names another; give an .npz file")
    if path.suffix.lower() == ".npy":
        return {"train": from_array(read_npy(path), name=str(path), size=size, fit=fit, kind=kind, missing=missing)}
    names = list_npz(path)
    weighing = [each for each in names if weights and each in (weights, *(f"{s}_{weights}" for s in SPLIT_NAMES))]
    if weights and not weighing:
        raise InputError(f"{path} holds {', '.join(names)}, and data.weights={weights}; name one of them")
    names = [each for each in names if each not in weighing]
    chosen = _choose_arrays(path, names)
    arrays = read_npz(path, list(chosen.values()))
    found = {place: arrays[name] for place, name in chosen.items()}
    for place, name in chosen.items():
        if place[1] != "x" and name != _canonical_name(*place) and found[place].dtype.kind not in "biu":
            del found[place]  # e.g. the targets of a regression
    left = [name for name in names if name not in {chosen[place] for place in found}]
    if left:
        read = ", ".join(chosen[place] for place in found)
        warnings.warn(
            f"{path}: {', '.join(left)} left out, {read} read; call examples x, or train, validation and test, and "
            "their labels, which are whole numbers, label, or train_label and so on",
            stacklevel=2,
        )
    splits = [split for split, role in found if role == "x"]
    binary = kind in ("", "image", "volume") and all(is_binary(found[split, "x"]) for split in splits)
    if binary:
        warnings.warn(f"{path}: uint8 images of only 0 and 1 are read as 0 and 255, black and white", stacklevel=2)
    sources = {
        split or "train": from_array(
            found[split, "x"],
            found.get((split, "label")),
            f"{path}[{split}]" if split else str(path),
            size,
            found.get((split, "factors")),
            fit,
            binary,
            kind=kind,
            length=found.get((split, "length")),
            missing=missing,
        )
        for split in splits
    }
    for array, values in (read_npz(path, weighing) if weighing else {}).items():
        split = SPLIT_NAMES.get(array.removesuffix(f"_{weights}"), "train")
        sources |= {split: sources[split].weigh(values)} if split in sources else {}
    return sources


def _choose_arrays(path: Path, names: Sequence[str]) -> dict[tuple[str, str], str]:
    """Returns the name of the array to read for each (split, role); the split is "" if there is only one."""
    if len(names) == 1:
        return {("", "x"): names[0]}
    candidates: dict[tuple[str, str], list[str]] = {}
    for name in names:
        if place := _parse_name(name):
            candidates.setdefault(place, []).append(name)
    by_split = ("train", "x") in candidates
    if not by_split and (("", "x") not in candidates or any(split and role == "x" for split, role in candidates)):
        raise InputError(f"{path} holds {', '.join(names)}; name the examples 'x', or 'train' and 'test'")
    chosen = {}
    for (split, role), found in candidates.items():
        if bool(split) != by_split or (split, "x") not in candidates:
            continue
        name = _canonical_name(split, role)
        if len(found) > 1 and name not in found:
            raise InputError(f"{path}: {' and '.join(found)} may both be {name!r}; rename the one that is meant")
        chosen[split, role] = name if name in found else found[0]
    return chosen


def _parse_name(name: str) -> tuple[str, str] | None:
    """Returns the (split, role) of an array called `train`, `train_label`, `y_train`, `labels`, ..., if it is known."""
    words = name.lower().split("_")
    split = ""
    if words[0] in SPLIT_NAMES:
        split = SPLIT_NAMES[words.pop(0)]
    elif words[-1] in SPLIT_NAMES:
        split = SPLIT_NAMES[words.pop()]
    role = _ROLES.get("_".join(words)) if words else "x"
    return (split, role) if role else None


def _canonical_name(split: str, role: str) -> str:
    if role == "x":
        return split or role
    return f"{split}_{role}" if split else role
