"""Folders of images as sources."""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from aejax.data.images import resize
from aejax.data.sources import SPLITS, Source
from aejax.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def from_folder(path: Path, size: int) -> dict[str, Source]:
    """Returns the splits of a folder: its subfolders `train`, `validation` and `test`, or all of it as `train`.

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
