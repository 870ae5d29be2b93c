"""Omniglot as B. Lake publishes it: zip files of PNG images, or the folders in them (Lake et al. 2015).

`images_background.zip`, or its two small parts, are train, and `images_evaluation.zip` is test. The strokes, black on
white in the files, become white on black as in other data sets of letters.
"""

import contextlib
import dataclasses
import io
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from aejax.data.images import Size, decode, find_sides
from aejax.data.sources import Arrays, Rows, Source, as_crops
from aejax.errors import InputError, kind_and_words
from aejax.files import read_bytes

_NAME = re.compile(r"images_(background|evaluation)\w*")
_SPLIT = {"background": "train", "evaluation": "test"}
_SIDE = 28  # to which papers on density models resize the images, of 105x105 pixels
_LARGEST = 2**20  # bytes of an image, a thousand times as many as they have


@dataclasses.dataclass(frozen=True)
class _Image:
    """An image: the zip file or folder that holds it, its name there, and its alphabet."""

    within: Path
    name: str
    alphabet: str

    @property
    def zipped(self) -> bool:
        return self.within.suffix == ".zip"


def find_omniglot(path: Path) -> Callable[[Size, str], dict[str, Source]] | None:
    """Returns a function of `size` and `fit` that opens the splits below `path`, or None where it is not Omniglot.

    `path` is one of the zip files or folders, or a folder that holds some of them.
    """
    parts = [path] if _NAME.fullmatch(path.stem) and (path.is_dir() or path.is_file()) else []
    if not parts and path.is_dir():
        parts = [path / name for name in sorted(os.listdir(path)) if _NAME.fullmatch(name.removesuffix(".zip"))]
    parts = [part for part in parts if part.is_dir() or part.suffix == ".zip"]
    return (lambda size, fit: _open(path, parts, size, fit)) if parts else None


def _open(path: Path, parts: Sequence[Path], size: Size, fit: str) -> dict[str, Source]:
    found: dict[str, dict[str, _Image]] = {}
    for part in parts:
        match = _NAME.fullmatch(part.stem)
        assert match is not None
        images = _list_zip(part) if part.suffix == ".zip" else _list_folder(part)
        if not images:
            raise InputError(f"{part} holds no images as alphabet/character/number.png; copy it again")
        # The small parts share two alphabets, whose images have the same names in both.
        found.setdefault(_SPLIT[match[1]], {}).update({image.name.rpartition("/")[2]: image for image in images})
    kinds = tuple(sorted({image.alphabet for images in found.values() for image in images.values()}))
    return {
        split: _from_images(f"{path}[{split}]", [images[name] for name in sorted(images)], kinds, size or _SIDE, fit)
        for split, images in found.items()
    }


def _from_images(name: str, images: Sequence[_Image], kinds: tuple[str, ...], size: Size, fit: str) -> Source:
    """Returns the source of one split; the labels are the alphabets' numbers."""
    label = np.array([kinds.index(image.alphabet) for image in images], np.int32)

    def draw(rows: Rows, crops: np.ndarray | None) -> Arrays:
        chosen = [images[i] for i in rows]
        pixels = [
            255 - decode(io.BytesIO(content), f"{image.within}: {image.name}", 1, size, fit, crop)
            for image, content, crop in zip(chosen, _read(chosen), as_crops(crops), strict=False)
        ]
        return {"x": np.stack(pixels), "label": label[rows]}

    # A folder's images are its files; a zip file is one.
    files = tuple(sorted({i.within if i.zipped else i.within / i.name for i in images}))
    shape, dtype = (*find_sides(size), 1), np.dtype(np.uint8)
    drawn = draw if fit == "random" else None
    return Source(name, len(images), shape, dtype, lambda rows: draw(rows, None), files, kinds, draw=drawn)


def _read(images: Sequence[_Image]) -> Iterator[bytes]:
    """Yields the files of images. Each zip file is opened once."""
    with contextlib.ExitStack() as opened:
        archives = {
            within: opened.enter_context(_open_zip(within)) for within in {i.within for i in images if i.zipped}
        }
        for image in images:
            if not image.zipped:
                yield read_bytes(image.within / image.name, _LARGEST)
                continue
            try:
                with archives[image.within].open(image.name) as file:
                    content = file.read(_LARGEST)
            except Exception as error:  # of many types, for damaged files
                raise _damaged(image.within, error) from error
            yield content


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except Exception as error:  # of many types, for damaged files
        raise _damaged(path, error) from error


def _list_zip(path: Path) -> list[_Image]:
    with _open_zip(path) as archive:
        return _list(path, archive.namelist())


def _list_folder(path: Path) -> list[_Image]:
    return _list(path, [file.relative_to(path).as_posix() for file in path.glob("*/*/*.png")])


def _list(path: Path, names: Sequence[str]) -> list[_Image]:
    """Returns the images among the names of files, which end in alphabet/character/number.png."""
    images = []
    for name in names:
        parents, _, file = name.rpartition("/")
        if file.endswith(".png") and not file.startswith(".") and "/" in parents:
            images.append(_Image(path, name, parents.split("/")[-2]))
    return images


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is damaged or no zip file ({kind_and_words(error)}); copy it again")
