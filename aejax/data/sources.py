"""Examples by row number, from arrays and files of arrays."""

import dataclasses
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from aejax.data.images import resize
from aejax.errors import InputError, kind_and_words

SPLITS = ("train", "validation", "test")
Rows = np.ndarray
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Source:
    """Examples by row number.

    Attributes:
      name: for messages.
      length: number of examples.
      shape: of one example, (height, width, channels) or (features,).
      dtype: uint8 for images of 0 to 255, else float32.
      files: what the examples are decoded from; empty where they are not.
      kinds: names of the labels, by number, where they come from names.
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
) -> Source:
    """A source over an array [n, features], [n, height, width] or [n, height, width, channels].

    uint8 images are 0 to 255 and are kept so; float images must lie in [0, 1]; vectors are any
    finite numbers. `factors` [n, factors] are whole numbers, the value of each by its number.
    Raises InputError otherwise.
    """
    try:
        x = np.asanyarray(x)
    except Exception as error:  # whatever another library's array raises: one that needs a gradient, say
        raise InputError(
            f"{name}: examples must be numbers, all of one shape, in a numpy array ({kind_and_words(error)})"
        ) from error
    if x.dtype == object or x.dtype.kind not in "buif":
        raise InputError(f"{name}: an array of {x.dtype}; examples must be numbers, all of one shape")
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
        label = np.asarray(label)
        if label.ndim and len(label) != len(x):
            raise InputError(f"{name}: {len(x)} examples but {len(label)} labels")
        if label.ndim != 1 or label.dtype.kind not in "biu":
            raise InputError(f"{name}: labels of {label.dtype} and shape {label.shape}; give whole numbers [{len(x)}]")
        more["label"] = label.astype(np.int32)
    if factors is not None:
        factors = np.asarray(factors)
        if factors.ndim != 2 or len(factors) != len(x) or not factors.shape[1] or factors.dtype.kind not in "iu":
            raise InputError(
                f"{name}: factors of {factors.dtype} and shape {factors.shape}; give whole numbers [{len(x)}, factors]"
            )
        more["factors"] = factors.astype(np.int32)
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
                    f"{name}: float images must lie in [0, 1], found {part.min():g} to {part.max():g}; "
                    "scale them or give uint8 of 0 to 255"
                )
    if size and not (image and x.dtype == np.uint8):
        raise InputError(f"{name}: data.size resizes uint8 images only; this is {x.dtype} of shape {x.shape[1:]}")
    dtype = np.dtype(np.uint8 if image and x.dtype == np.uint8 else np.float32)

    def take(rows: Rows) -> Arrays:
        part = x[rows].astype(dtype, copy=False)
        if size:
            part = np.stack([resize(image, size) for image in part])
        return {"x": part} | {key: value[rows] for key, value in more.items()}

    shape = (size, size, x.shape[3]) if size else x.shape[1:]
    return Source(name, len(x), shape, dtype, take)


def from_file(path: Path, size: int) -> dict[str, Source]:
    """The splits of a .npy file (all of it is `train`) or an .npz file.

    An .npz holds `x` (and `label`, `factors`), or one array by split: `train`, `validation`, `test`
    (and `train_label`, `train_factors`, ...). An only array may have any name.
    """
    try:
        if path.suffix == ".npy":
            return {"train": from_array(np.load(path, mmap_mode="r", allow_pickle=False), name=str(path), size=size)}
        with np.load(path, allow_pickle=False) as loaded:
            arrays = {key: loaded[key] for key in loaded.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a readable array of numbers of one shape ({error})") from error
    if len(arrays) == 1:
        arrays = {"x": next(iter(arrays.values()))}
    splits = [k for k in SPLITS if k in arrays]
    if "x" in arrays and not splits:
        return {"train": from_array(arrays["x"], arrays.get("label"), str(path), size, arrays.get("factors"))}
    if "train" in splits:
        more = {k: (arrays.get(f"{k}_label"), arrays.get(f"{k}_factors")) for k in splits}
        return {k: from_array(arrays[k], more[k][0], f"{path}[{k}]", size, more[k][1]) for k in splits}
    raise InputError(f"{path}: holds {', '.join(arrays)}; name the examples 'x', or 'train' and 'test'")
