"""Examples by row number, from arrays and files of arrays."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from aejax.data.arrays import as_array, names_in_npz, plain, read_npy, read_npz, whole_numbers
from aejax.data.images import resize
from aejax.errors import InputError

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Of arrays in an .npz file.
_ROLES = {
    **dict.fromkeys(("x", "data", "image", "images", "imgs", "features", "inputs"), "x"),
    **dict.fromkeys(("label", "labels", "y", "target", "targets"), "label"),
    **dict.fromkeys(("factors", "latents_classes"), "factors"),
}
Rows = np.ndarray
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Source:
    """Examples by row number.

    Attributes:
      name: for messages.
      length: number of examples.
      shape: of one example, (height, width, channels) or (features,).
      dtype: uint8 for images of 0 to 255; float64 for vectors that float32 would round; else float32.
      files: what the examples are decoded from; empty where they are not.
      kinds: names of the labels, by number, where they come from names.
      binary: whether the images are stored as 0 and 1 in uint8; `take` gives 0 and 255.
      take: rows [n] to {"x": [n, *shape]} and, where the data has them, {"label": [n] int32} and the known
        factors of variation, {"factors": [n, factors] int32}, which evaluation reads and training leaves out.
    """

    name: str
    length: int
    shape: tuple[int, ...]
    dtype: np.dtype
    take: Callable[[Rows], Arrays]
    files: tuple[Path, ...] = ()
    kinds: tuple[str, ...] = ()
    binary: bool = False

    def __len__(self) -> int:
        return self.length

    @property
    def nbytes(self) -> int:
        return self.length * int(np.prod(self.shape)) * self.dtype.itemsize

    def drawn(self, count: int) -> "Source":
        """`count` examples drawn without replacement, always the same; all, where there are no more."""
        if count >= len(self):
            return self
        return self.subset(np.sort(np.random.default_rng(0).permutation(len(self))[:count]), self.name)

    def subset(self, rows: Rows, name: str) -> "Source":
        return dataclasses.replace(self, name=name, length=len(rows), take=lambda i: self.take(rows[i]))


def from_array(
    x: np.ndarray,
    label: np.ndarray | None = None,
    name: str = "array",
    size: int = 0,
    factors: np.ndarray | None = None,
    fit: str = "crop",
    binary: bool | None = None,
) -> Source:
    """A source over an array [n, features], [n, height, width] or [n, height, width, channels].

    uint8 images are 0 to 255 and are kept so, but for those that hold nothing beside 0 and 1, which become 0 and 255
    (`binary` says whether they do; by default it is looked up); float images must lie in [0, 1]; vectors are any
    finite numbers. `size` and `fit` as in `images.resize`, for uint8 images. `factors` [n, factors] are whole
    numbers, the value of each by its number.
    Raises InputError otherwise.
    """
    x = as_array(x, name)
    if x.ndim not in (2, 3, 4):
        raise InputError(
            f"{name}: shape {x.shape}; give [n, features], [n, height, width] or [n, height, width, channels]"
        )
    if x.size == 0:
        raise InputError(f"{name}: shape {x.shape} holds no numbers; give at least one example")
    if x.ndim == 3:
        x = x[..., None]
    image = x.ndim == 4
    if image and x.dtype.kind in "ui" and x.dtype != np.uint8:
        raise InputError(f"{name}: images of {x.dtype}; give uint8 of 0 to 255, or float in [0, 1]")
    more: Arrays = {}
    if label is not None:
        found = plain(label, f"{name}: labels")
        if found.ndim and len(found) != len(x):
            raise InputError(f"{name}: {len(x)} examples but {len(found)} labels")
        if found.shape not in ((len(x),), (len(x), 1)):
            raise InputError(f"{name}: labels of {found.dtype} and shape {found.shape}; give whole numbers [{len(x)}]")
        more["label"] = whole_numbers(found, f"{name}: labels").reshape(len(x))
    if factors is not None:
        factors = plain(factors, f"{name}: factors")
        if factors.ndim != 2 or len(factors) != len(x) or not factors.shape[1] or factors.dtype.kind not in "iu":
            raise InputError(
                f"{name}: factors of {factors.dtype} and shape {factors.shape}; give whole numbers [{len(x)}, factors]"
            )
        more["factors"] = whole_numbers(factors, f"{name}: factors")
    if x.dtype.kind == "f":
        for start in range(0, len(x), 4096):  # a memory-mapped file may not fit
            with np.errstate(over="ignore"):
                part = x[start : start + 4096].astype(np.float32)
            bad = ~np.isfinite(part)
            if bad.any():
                row = start + int(np.argwhere(bad)[0][0])
                raise InputError(f"{name}: example {row} holds NaN or infinity in float32; remove or fill such values")
            if image and (part.min() < 0 or part.max() > 1):
                raise InputError(
                    f"{name}: float images must lie in [0, 1], found {part.min()} to {part.max()}; "
                    "scale them or give uint8 of 0 to 255"
                )
    if size and not (image and x.dtype == np.uint8):
        raise InputError(f"{name}: data.size resizes uint8 images only; this is {x.dtype} of shape {x.shape[1:]}")
    if image:
        dtype = np.dtype(np.uint8 if x.dtype == np.uint8 else np.float32)
    else:
        dtype = np.dtype(np.float32 if np.can_cast(x.dtype, np.float32) else np.float64)
    if binary is None and (binary := is_binary(x)):
        warnings.warn(f"{name}: uint8 images of only 0 and 1 are read as 0 and 255, black and white", stacklevel=2)

    def take(rows: Rows) -> Arrays:
        part = x[rows].astype(dtype, copy=False)
        if binary:
            part = part * np.uint8(255)
        if size:
            part = np.stack([resize(image, size, fit) for image in part])
        return {"x": part} | {key: value[rows] for key, value in more.items()}

    shape = (size, size, x.shape[3]) if size else x.shape[1:]
    return Source(name, len(x), shape, dtype, take, binary=bool(binary))


def is_binary(x: np.ndarray) -> bool:
    """True for uint8 images [n, height, width, ...] of nothing but 0 and 1."""
    if x.dtype != np.uint8 or x.ndim < 3:
        return False
    most = 0
    for start in range(0, len(x), 4096):
        most = max(most, int(x[start : start + 4096].max(initial=0)))
        if most > 1:  # mostly in the first examples
            return False
    return most == 1


def from_file(path: Path, size: int, fit: str = "crop") -> dict[str, Source]:
    """The splits of a .npy file (all of it is `train`) or an .npz file.

    An .npz holds `x` (and `label`, `factors`), or one array by split: `train`, `validation`, `test` (and `train_label`,
    `train_factors`, ...). An only array may have any name, and usual names are understood: `images` or `data`,
    `labels`, `y` or `targets`, `val`, `valid` or `dev`, `x_train`. Warns of arrays that are left out.
    """
    if path.suffix.lower() == ".npy":
        return {"train": from_array(read_npy(path), name=str(path), size=size, fit=fit)}
    names = names_in_npz(path)
    chosen = _chosen(path, names)
    arrays = read_npz(path, list(chosen.values()))
    found = {place: arrays[name] for place, name in chosen.items()}
    for place, name in chosen.items():
        if place[1] != "x" and name != _canonical(place) and found[place].dtype.kind not in "biu":
            del found[place]  # e.g. targets of a regression
    left = [name for name in names if name not in {chosen[place] for place in found}]
    if left:
        read = ", ".join(chosen[place] for place in found)
        warnings.warn(
            f"{path}: {', '.join(left)} left out, {read} read; examples are called x, or train, validation and test, "
            "and their labels, whole numbers, label, or train_label and so on",
            stacklevel=2,
        )
    splits = [split for split, role in found if role == "x"]
    binary = all(is_binary(found[split, "x"]) for split in splits)
    if binary:
        warnings.warn(f"{path}: uint8 images of only 0 and 1 are read as 0 and 255, black and white", stacklevel=2)
    return {
        split or "train": from_array(
            found[split, "x"],
            found.get((split, "label")),
            f"{path}[{split}]" if split else str(path),
            size,
            found.get((split, "factors")),
            fit,
            binary,
        )
        for split in splits
    }


def _chosen(path: Path, names: Sequence[str]) -> dict[tuple[str, str], str]:
    """The array of an .npz file that is read for each (split, role); the split is "" where all examples are in one."""
    if len(names) == 1:
        return {("", "x"): names[0]}
    places: dict[tuple[str, str], list[str]] = {}
    for name in names:
        words = name.lower().split("_")
        # `train`, `train_label` and `y_train`, or a role alone, which may be of two words itself.
        first, last = SPLIT_NAMES.get(words[0]), SPLIT_NAMES.get(words[-1])
        split = first or last or ""
        rest = words[1:] if first else words[:-1] if last else words
        role = _ROLES.get("_".join(rest)) if rest else "x"
        if role:
            places.setdefault((split, role), []).append(name)
    split_up = ("train", "x") in places
    if not split_up and (("", "x") not in places or any(split and role == "x" for split, role in places)):
        raise InputError(f"{path}: holds {', '.join(names)}; name the examples 'x', or 'train' and 'test'")
    chosen = {}
    for place, found in places.items():
        if bool(place[0]) == split_up and (place[0], "x") in places:
            if len(found) > 1 and _canonical(place) not in found:
                raise InputError(
                    f"{path}: {' and '.join(found)} may both be {_canonical(place)!r}; rename the one that is meant"
                )
            chosen[place] = _canonical(place) if _canonical(place) in found else found[0]
    return chosen


def _canonical(place: tuple[str, str]) -> str:
    split, role = place
    return role if not split else split if role == "x" else f"{split}_{role}"
