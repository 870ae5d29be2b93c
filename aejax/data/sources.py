"""Data as random-access sources: arrays, files of them, folders of images, TFDS."""

import dataclasses
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from aejax.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
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


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """An image [h, w, channels] uint8 to [size, size, channels], bicubic."""
    if image.shape[:2] == (size, size):
        return image
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    resized = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))
    return resized.reshape(size, size, -1)


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


def from_folder(path: Path, size: int) -> dict[str, Source]:
    """The splits of a folder: its subfolders `train`, `validation` and `test`, or all of it as `train`.

    All PNG and JPEG images below, in the order of their paths; the folders within a split are the labels. 8 bits
    a channel; all become grey where all are, else RGB. Transparency and hidden files are dropped.
    """
    below = {p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")}
    splits = {name: path / name for name in sorted(below)} if "train" in below <= set(SPLITS) else {"train": path}
    files = {name: _images(folder) for name, folder in splits.items()}
    kinds = sorted({file.parent.relative_to(splits[name]) for name, found in files.items() for file in found})
    sources = {}
    for name, found in files.items():
        label = np.array([kinds.index(file.parent.relative_to(splits[name])) for file in found], np.int32)
        source = _from_images(splits[name], found, label, size)
        sources[name] = dataclasses.replace(source, kinds=tuple(map(str, kinds)))
    return sources


def _images(path: Path) -> list[Path]:
    hidden = lambda file: any(part.startswith(".") for part in file.relative_to(path).parts)  # noqa: E731
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and not hidden(p))
    if not files:
        raise InputError(f"{path}: no {', '.join(IMAGE_SUFFIXES)} images in this folder")
    return files


def _from_images(path: Path, files: list[Path], label: np.ndarray, size: int) -> Source:
    shapes = [_shape(file) for file in files]
    channels = max(c for _, _, c in shapes)
    if not size:
        for file, found in zip(files, shapes, strict=True):
            if found[:2] != shapes[0][:2]:
                raise InputError(
                    f"{file}: {found[0]}x{found[1]} pixels, but {files[0].name} has {shapes[0][0]}x{shapes[0][1]}; "
                    "resize all with data.size=..."
                )

    def read(file: Path) -> np.ndarray:
        try:
            with Image.open(file) as picture:
                pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InputError(f"{file}: a corrupt image ({error}); remove or replace it") from error
        pixels = pixels.reshape(*pixels.shape[:2], channels)
        return resize(pixels, size) if size else pixels

    shape = (size, size, channels) if size else (*shapes[0][:2], channels)
    return Source(
        str(path),
        len(files),
        shape,
        np.dtype(np.uint8),
        lambda rows: {"x": np.stack([read(files[i]) for i in rows]), "label": label[rows]},
        tuple(files),
    )


def _shape(file: Path) -> tuple[int, int, int]:
    try:
        with Image.open(file) as picture:
            width, height = picture.size
            mode = picture.mode
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
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
    """A split; whole numbers called `label_...`, as in dsprites, shapes3d and smallnorb, are its factors.

    Images that are stored as 0 and 1, as dsprites' are, become 0 and 255.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.proto import tf_example_pb2

    features = builder.info.features
    key = "image" if "image" in features else next((k for k, f in features.items() if len(f.shape) in (1, 3)), None)
    if key is None:
        raise InputError(f"TFDS {builder.name!r}: no feature is an image or a vector; it has {', '.join(features)}")
    scalars = {k: np.dtype(f.np_dtype).kind for k, f in features.items() if f.shape == ()}
    numbers = [k for k, kind in scalars.items() if kind in "biu" and (k == "label" or k.startswith("label_"))]
    factors = [k for k in numbers if k != "label"]
    encoded = isinstance(features[key], tfds.features.Image) and features[key].np_dtype == np.uint8
    # Pillow and protobuf by themselves take half the time that TFDS takes with both, for the same values.
    method = "RAW_BYTES" if encoded else "DESERIALIZE_AND_DECODE"
    data = builder.as_data_source(split=split, deserialize_method=tfds.decode.DeserializeMethod[method])

    def examples(rows: list[int]) -> list[dict[str, Any]]:
        found = data.__getitems__(rows)
        if not encoded:
            return found
        parsed = (tf_example_pb2.Example.FromString(record).features.feature for record in found)
        return [_decoded(example, key, numbers) for example in parsed]

    name = f"{builder.name}[{split}]"
    stored = np.asarray(examples([0])[0][key])
    first = from_array(stored[None], name=name, size=size)
    binary = first.dtype == np.uint8 and all(np.max(examples([i])[0][key]) <= 1 for i in range(min(len(data), 64)))

    def take(rows: Rows) -> Arrays:
        found = examples([int(i) for i in rows])
        images = [np.asarray(example[key]) for example in found]
        if binary:
            images = [image * np.uint8(255) for image in images]
        if not size and any(image.shape != stored.shape for image in images):
            raise InputError(f"{name}: images of several sizes; resize all with data.size=...")
        stacked = np.stack([resize(image, size) for image in images] if size else images)
        arrays = {"x": stacked.astype(first.dtype, copy=False)}
        if "label" in numbers:
            arrays["label"] = np.array([e["label"] for e in found], np.int32)
        if factors:
            arrays["factors"] = np.array([[e[key] for key in factors] for e in found], np.int32)
        return arrays

    files = tuple(Path(file) for file in builder.info.splits[split].filepaths)
    return Source(name, len(data), first.shape, first.dtype, take, files)


def _decoded(features: Mapping[str, Any], image: str, numbers: Sequence[str]) -> dict[str, Any]:
    """Of the features of a tf.train.Example the PNG or JPEG image, as [h, w, channels] uint8, and whole numbers."""
    with Image.open(io.BytesIO(features[image].bytes_list.value[0])) as picture:
        pixels = np.asarray(picture, np.uint8)
    whole = {name: features[name].int64_list.value[0] for name in numbers}
    return {image: pixels.reshape(*pixels.shape[:2], -1), **whole}
