"""Data sets as random-access sources: embedded ones, arrays, folders of images, TFDS."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from aejax.data import drawings
from aejax.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
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
      take: rows [n] to {"x": [n, *shape]} and, where the data has them, {"label": [n] int32} and the known
        factors of variation, {"factors": [n, factors] int32}, which evaluation reads and training leaves out.
    """

    name: str
    length: int
    shape: tuple[int, ...]
    dtype: np.dtype
    take: Callable[[Rows], Arrays]

    def __len__(self) -> int:
        return self.length

    @property
    def nbytes(self) -> int:
        return self.length * int(np.prod(self.shape)) * self.dtype.itemsize

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
    except ValueError as error:
        raise InputError(f"{name}: examples must be numbers, all of one shape ({error})") from error
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
    if label is not None and len(label) != len(x):
        raise InputError(f"{name}: {len(x)} examples but {len(label)} labels")
    more = {} if label is None else {"label": np.asarray(label, np.int32)}
    if factors is not None:
        factors = np.asarray(factors)
        if factors.ndim != 2 or len(factors) != len(x) or not factors.shape[1] or factors.dtype.kind not in "iu":
            raise InputError(
                f"{name}: factors of {factors.dtype} and shape {factors.shape}; give whole numbers [{len(x)}, factors]"
            )
        more["factors"] = factors.astype(np.int32)
    if x.dtype.kind == "f":
        for start in range(0, len(x), 4096):  # a memory-mapped file may not fit
            part = x[start : start + 4096]
            bad = ~np.isfinite(part)
            if bad.any():
                row = start + int(np.argwhere(bad)[0][0])
                raise InputError(f"{name}: example {row} holds NaN or infinity; remove or fill such values")
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
            part = np.stack([_resize(image, size) for image in part])
        return {"x": part} | {key: value[rows] for key, value in more.items()}

    shape = (size, size, x.shape[3]) if size else x.shape[1:]
    return Source(name, len(x), shape, dtype, take)


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    if image.shape[:2] == (size, size):
        return image
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    resized = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))
    return resized.reshape(size, size, -1)


def digits(size: int) -> Source:
    """1,797 handwritten digits of 8x8 (E. Alpaydin and C. Kaynak, UCI), as scikit-learn carries them."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return from_array(np.round(bunch.images * (255 / 16)).astype(np.uint8), bunch.target, "digits", size)


def plane(size: int) -> Source:
    """2,000 points near a plane through the origin of 3-D space: deviation 1 within it, 0.05 off it."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return from_array(rng.normal(size=(2000, 3)) * (1.0, 0.7, 0.05) @ axes, name="plane", size=size)


def sheet(size: int) -> Source:
    """2,000 points on a curved two-dimensional sheet in 5-D space."""
    u, v = np.random.default_rng(0).uniform(-1, 1, size=(2, 2000))
    return from_array(np.stack([u, v, u * v, np.sin(2 * u), np.cos(2 * v)], 1), name="sheet", size=size)


def shapes(size: int) -> Source:
    """3,072 drawings of 16x16, or of `size`, by known factors: all combinations of their values, once each.

    | factor     | values                                  |
    | ---------- | --------------------------------------- |
    | shape      | 3: disc, square, triangle; also `label` |
    | size       | 4                                       |
    | x          | 8                                       |
    | y          | 8                                       |
    | brightness | 4                                       |

    Any config trains on it, and evaluation then tells how well single units of the code separate the factors:

        python -m experiments.train --config=configs/beta_vae.py --config.data.name=shapes --workdir=runs/shapes
    """
    factors = drawings.combinations()
    return from_array(drawings.draw(factors, size or drawings.SIDE), factors[:, 0], "shapes", factors=factors)


EMBEDDED: dict[str, Callable[[int], Source]] = {"digits": digits, "plane": plane, "sheet": sheet, "shapes": shapes}


def from_file(path: Path, size: int) -> dict[str, Source]:
    """The splits of a .npy file (all of it is `train`) or an .npz file.

    An .npz holds `x` (and `label`, `factors`), or one array by split: `train`, `validation`, `test`
    (and `train_label`, `train_factors`, ...). An only array may have any name.
    """
    try:
        loaded: Any = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
        if path.suffix == ".npy":
            return {"train": from_array(loaded, name=str(path), size=size)}
        arrays = {key: loaded[key] for key in loaded.files}
    except (ValueError, OSError, EOFError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a readable array of numbers of one shape ({error})") from error
    if len(arrays) == 1:
        arrays = {"x": next(iter(arrays.values()))}
    splits = [k for k in ("train", "validation", "test") if k in arrays]
    if "x" in arrays and not splits:
        return {"train": from_array(arrays["x"], arrays.get("label"), str(path), size, arrays.get("factors"))}
    if "train" in splits:
        more = {k: (arrays.get(f"{k}_label"), arrays.get(f"{k}_factors")) for k in splits}
        return {k: from_array(arrays[k], more[k][0], f"{path}[{k}]", size, more[k][1]) for k in splits}
    raise InputError(f"{path}: holds {', '.join(arrays)}; name the examples 'x', or 'train' and 'test'")


def from_folder(path: Path, size: int) -> Source:
    """All PNG and JPEG images below a folder, in the order of their paths; subfolders are the labels.

    8 bits a channel; all become grey where all are, else RGB. Transparency is dropped.
    """
    files = sorted(p for p in path.rglob("[!.]*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise InputError(f"{path}: no {', '.join(IMAGE_SUFFIXES)} images in this folder")
    shapes = [_shape(file) for file in files]
    channels = max(c for _, _, c in shapes)
    if not size:
        for file, found in zip(files, shapes, strict=True):
            if found[:2] != shapes[0][:2]:
                raise InputError(
                    f"{file}: {found[0]}x{found[1]} pixels, but {files[0].name} has {shapes[0][0]}x{shapes[0][1]}; "
                    "resize all with data.size=..."
                )
    folders = sorted({file.parent for file in files})
    label = np.array([folders.index(file.parent) for file in files], np.int32)

    def read(file: Path) -> np.ndarray:
        try:
            with Image.open(file) as picture:
                pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{file}: a corrupt image ({error}); remove or replace it") from error
        pixels = pixels.reshape(*pixels.shape[:2], channels)
        return _resize(pixels, size) if size else pixels

    shape = (size, size, channels) if size else (*shapes[0][:2], channels)
    return Source(
        str(path),
        len(files),
        shape,
        np.dtype(np.uint8),
        lambda rows: {"x": np.stack([read(files[i]) for i in rows]), "label": label[rows]},
    )


def _shape(file: Path) -> tuple[int, int, int]:
    try:
        with Image.open(file) as picture:
            width, height = picture.size
            mode = picture.mode
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{file}: a corrupt image ({error}); remove or replace it") from error
    if mode.startswith(("I", "F")):
        raise InputError(f"{file}: more than 8 bits a pixel (mode {mode}); convert it to 8 bits")
    return height, width, 1 if mode in ("1", "L", "LA") else 3


def from_tfds(name: str, data_dir: str, size: int) -> dict[str, Source]:
    """Every split of a TFDS data set, prepared first if it is not yet (see `prepare`)."""
    from aejax.data.prepare import prepared

    builder = prepared(name, data_dir or os.environ.get("TFDS_DATA_DIR"))
    splits = builder.info.splits
    return {str(split): _tfds_split(builder, str(split), size) for split in splits if splits[split].num_examples}


def _tfds_split(builder: Any, split: str, size: int) -> Source:
    """A split; whole numbers called `label_...`, as in dsprites, shapes3d and smallnorb, are its factors."""
    data = builder.as_data_source(split=split)
    features = builder.info.features
    key = "image" if "image" in features else next((k for k, f in features.items() if len(f.shape) in (1, 3)), None)
    if key is None:
        raise InputError(f"TFDS {builder.name!r}: no feature is an image or a vector; it has {', '.join(features)}")
    labelled = "label" in features and features["label"].shape == ()
    scalars = {k: f.np_dtype for k, f in features.items() if f.shape == () and k.startswith("label_")}
    factors = [k for k, dtype in scalars.items() if np.issubdtype(dtype, np.integer)]
    name = f"{builder.name}[{split}]"
    stored = np.asarray(data[0][key])
    first = from_array(stored[None], name=name, size=size)

    def take(rows: Rows) -> Arrays:
        examples = data.__getitems__([int(i) for i in rows])
        images = [np.asarray(example[key]) for example in examples]
        if not size and any(image.shape != stored.shape for image in images):
            raise InputError(f"{name}: images of several sizes; resize all with data.size=...")
        stacked = np.stack([_resize(image, size) for image in images] if size else images)
        arrays = {"x": stacked.astype(first.dtype, copy=False)}
        if labelled:
            arrays["label"] = np.array([e["label"] for e in examples], np.int32)
        if factors:
            arrays["factors"] = np.array([[e[key] for key in factors] for e in examples], np.int32)
        return arrays

    return Source(name, len(data), first.shape, first.dtype, take)


class Splits(NamedTuple):
    train: Source
    validation: Source
    test: Source


def load(config: Mapping[str, Any]) -> Splits:
    """The three splits that `config.data` asks for."""
    return split(find(config), config)


def find(config: Mapping[str, Any]) -> dict[str, Source]:
    """The whole splits that the data set `config.name` has, by name."""
    name, size = config["name"], config["size"]
    path = Path(name).expanduser()
    if not name:
        raise InputError("data.name is empty; give a data set, a file or a folder")
    if name.startswith("array-"):
        raise InputError(f"{name}: the run was trained by aejax.fit on an array that it does not keep")
    if name in EMBEDDED:
        return {"train": EMBEDDED[name](size)}
    if path.suffix in (".npy", ".npz"):
        if not path.is_file():
            raise InputError(f"{path}: no such file; check data.name")
        return from_file(path, size)
    if path.is_dir():
        return {"train": from_folder(path, size)}
    if name.startswith((".", "~", "/")) or name.endswith("/"):
        raise InputError(f"{path}: no such folder; check data.name")
    return from_tfds(name, config["data_dir"], size)


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
        if part not in parts and part in wholes:
            parts[part] = wholes[part].subset(np.flatnonzero(~used[part]), part)
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
    if (held_out := config.get("held_out", -1)) >= 0:
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
    labels = {part: _labels(source) for part, source in parts.items()}
    if label not in labels["test"]:
        known = ", ".join(map(str, np.unique(labels["test"])[:30]))
        raise InputError(f"data.held_out={label}: the test split has no such label; choose one of: {known}")
    for part in ("train", "validation"):
        kept = np.flatnonzero(labels[part] != label)
        parts[part] = parts[part].subset(kept, f"{parts[part].name} without label {label}")


def _labels(source: Source, chunk: int = 512) -> np.ndarray:
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
