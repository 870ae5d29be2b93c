"""Sources of folders of PNG and JPEG images."""

import dataclasses
import functools
import os
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aejax.data.headers import inspect_all
from aejax.data.images import Crop, Size, decode, find_sides
from aejax.data.sources import SPLIT_NAMES, Arrays, Rows, Source, as_crops
from aejax.errors import InputError, printable

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
# Suffixes of files that are named where they are left out, because they may hold images or arrays.
_OTHER_SUFFIXES = (
    *(".avif", ".bmp", ".dcm", ".dng", ".exr", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jxl", ".npy"),
    *(".npz", ".pbm", ".pgm", ".pnm", ".ppm", ".raw", ".svg", ".tga", ".tif", ".tiff", ".webp"),
)


def from_folder(path: Path, size: Size, fit: str = "crop", cache: bool = False) -> dict[str, Source]:
    """Returns the splits of a folder: its folders `train`, `validation` (`val`, ...) and `test`, or all as `train`.

    A split holds all PNG and JPEG images below its folder, in the order of their paths; the folders within it are the
    labels. Links to folders are followed, and hidden files are not read. Images have 8 bits a channel and no
    transparency; they are gray if all images are, and RGB otherwise. `size` and `fit` are those of `images.resize`;
    with `cache`, the sizes of many images are remembered in the user's cache folder. Warns of folders and images that
    are left out. Raises InputError for what cannot be read.
    """
    found, kinds = list_folder(path)
    return {
        name: dataclasses.replace(_from_files(each.folder, each.files, each.label, size, fit, cache), kinds=kinds)
        for name, each in found.items()
    }


class Files(NamedTuple):
    """The images of a split: its folder, their paths and their labels, int32 [n]."""

    folder: Path
    files: list[str]
    label: np.ndarray


def list_folder(path: Path) -> tuple[dict[str, Files], tuple[str, ...]]:
    """Returns the images of each split of a folder, see `from_folder`, and the names of the labels."""
    splits = _find_splits(path)
    files = {name: _find_images(folder) for name, folder in splits.items()}
    # Objects of Path for each of 100,000 files would take seconds.
    parents = {name: list(map(os.path.dirname, found)) for name, found in files.items()}
    kind_of = {name: {p: Path(p).relative_to(splits[name]) for p in set(found)} for name, found in parents.items()}
    kinds = sorted({kind for found in kind_of.values() for kind in found.values()})
    if list(splits.values()) == [path]:
        _check_kinds(path, kinds)
    number = {kind: i for i, kind in enumerate(kinds)}
    listed = {}
    for name, found in files.items():
        label_of = {parent: number[kind] for parent, kind in kind_of[name].items()}
        label = np.array([label_of[parent] for parent in parents[name]], np.int32)
        listed[name] = Files(splits[name], found, label)
    return listed, tuple(map(str, kinds))


def _find_splits(path: Path) -> dict[str, Path]:
    """Returns the folder of each split. A folder `train` next to folders with images, not splits, is a class."""
    with os.scandir(path) as entries:
        folders = sorted(path / e.name for e in entries if not e.name.startswith(".") and _is_folder(e))
    named = [p for p in folders if p.name.lower() in SPLIT_NAMES]
    others = [p for p in folders if p not in named]
    splits: dict[str, Path] = {}
    for folder in named:
        if (other := splits.setdefault(SPLIT_NAMES[folder.name.lower()], folder)) is not folder:
            raise InputError(
                f"{path}: {other.name} and {folder.name} both name the {SPLIT_NAMES[folder.name.lower()]} split; "
                "merge or rename one of them"
            )
    if "train" not in splits or (len(splits) == 1 and any(_walk(folder)[0] for folder in others)):
        return {"train": path}
    beside = sum(p.suffix.lower() in IMAGE_SUFFIXES and os.path.isfile(p) for p in path.iterdir())
    if others or beside:
        left = [p.name for p in others[:8]]
        if len(others) > 8:
            left.append("...")
        if beside:
            left.append(f"{beside} images beside them")
        _warn(f"{path}: the splits are the folders {', '.join(p.name for p in named)}; left out: {', '.join(left)}")
    return dict(sorted(splits.items()))


def _check_kinds(path: Path, kinds: Sequence[Path]) -> None:
    """Raises InputError if folders taken for classes look like splits, lest test images are trained on."""
    named = {SPLIT_NAMES[part.lower()]: kind for kind in kinds for part in kind.parts if part.lower() in SPLIT_NAMES}
    if "test" in named or {"train", "validation"} <= named.keys():
        found = ", ".join(map(str, named.values()))
        raise InputError(
            f"{path}: {found} look like splits, but {path.name} has not both a folder train and others of these names; "
            "set data.name to the folder that holds train, validation and test, or rename folders that are classes"
        )
    if named:
        _warn(
            f"{path}: {', '.join(map(str, named.values()))} is taken for a class like the folders beside it; if it is "
            "a split, move the others elsewhere"
        )


def _find_images(path: Path) -> list[str]:
    """Returns the image files below `path`, sorted. Warns of what is left out; raises InputError if there are none."""
    files, left = _walk(path)
    listed = "; ".join(f"{len(found)} {what} ({min(found).name})" for what, found in sorted(left.items()))
    if not files:
        raise InputError(f"{path}: no {', '.join(IMAGE_SUFFIXES)} images in this folder{listed and f', but {listed}'}")
    if left:
        _warn(f"{path}: the {len(files)} PNG and JPEG images are taken; left out: {listed}")
    return sorted(files, key=lambda file: file.replace(os.sep, "\0"))  # as paths are ordered, part by part


def _walk(root: Path) -> tuple[list[str], Mapping[str, list[Path]]]:
    """Returns the PNG and JPEG files below `root`, and by kind the files and folders that are left out.

    Each folder is visited once, by its own path if it lies below `root`, or else by the first link to it.
    """
    files: list[str] = []
    left = defaultdict(list)
    folders, links, seen = [root], list[Path](), set[str]()
    while folders or links:
        # Links come last, so that a folder is found by its own path first.
        folder = folders.pop() if folders else links.pop(links.index(min(links)))
        real = os.path.realpath(folder)
        if real in seen or (folder != root and Path(os.path.realpath(root)).is_relative_to(real)):
            left["links to folders that are read already"].append(folder)
            continue
        seen.add(real)
        try:
            with os.scandir(folder) as opened:
                entries = [entry for entry in opened if not entry.name.startswith(".")]
        except PermissionError:
            left["folders without permission to read"].append(folder)
            continue
        prefix = str(folder / "_")[:-1]
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()
            if _is_folder(entry):
                (links if entry.is_symlink() else folders).append(folder / entry.name)
            elif suffix in _OTHER_SUFFIXES:
                left[suffix].append(folder / entry.name)
            elif suffix in IMAGE_SUFFIXES and _is_file(entry):
                files.append(prefix + entry.name)
            elif suffix in IMAGE_SUFFIXES:  # reading a pipe or device may hang, and a link may lead nowhere
                left["that are no regular files"].append(folder / entry.name)
    return files, left


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Returns whether the entry is a folder or a link to one. Asks the file system only for links."""
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Returns whether the entry is a regular file or a link to one. Asks the file system only for links."""
    return entry.is_file(follow_symlinks=False) or (entry.is_symlink() and os.path.isfile(entry.path))


def _from_files(path: Path, files: list[str], label: np.ndarray, size: Size, fit: str, cache: bool) -> Source:
    """Returns the source of one split. Raises InputError if its images differ in size and `size` is 0."""
    shapes = inspect_all(path, files, cache)
    channels = max(c for _, _, c in shapes)
    if not size:
        for file, found in zip(files, shapes, strict=True):
            _check_size(file, found, files[0], shapes[0])

    def read(file: str, crop: Crop | None) -> np.ndarray:
        pixels = decode(Path(file), file, channels, size, fit, crop)
        if not size:
            _check_size(file, pixels.shape, files[0], shapes[0])  # the file may have been replaced since
        return pixels

    def draw(rows: Rows, crops: np.ndarray | None) -> Arrays:
        pixels = [read(files[i], crop) for i, crop in zip(rows, as_crops(crops), strict=False)]
        return {"x": np.stack(pixels), "label": label[rows]}

    shape = (*find_sides(size), channels) if size else (*shapes[0][:2], channels)
    take, drawn = functools.partial(draw, crops=None), draw if fit == "random" else None
    return Source(str(path), len(files), shape, np.dtype(np.uint8), take, tuple(files), draw=drawn)


def _check_size(file: str, found: Sequence[int], first: str, expected: Sequence[int]) -> None:
    if tuple(found[:2]) != tuple(expected[:2]):
        raise InputError(
            f"{file} has {found[0]}x{found[1]} pixels, but {os.path.basename(first)} has {expected[0]}x{expected[1]}; "
            "resize all with data.size=..."
        )


def _warn(text: str) -> None:
    warnings.warn(printable(text), stacklevel=4)
