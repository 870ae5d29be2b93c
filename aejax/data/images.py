"""Images as arrays: opened as PNG or JPEG and nothing else, decoded upright, resized."""

import contextlib
import io
import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from aejax.errors import InputError, kind_and_words

FORMATS = ("PNG", "JPEG")  # Pillow starts other programs for some of the others
_PIXELS = 2**26  # that threads decode at once; Pillow takes 4 bytes for each
_FINER = 2  # JPEGs are decoded at the smallest fraction that has this many pixels a side for each one asked for
_TURNS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def resize(image: np.ndarray, size: int, fit: str = "crop") -> np.ndarray:
    """Resizes an image [h, w, channels] uint8 to [size, size, channels], bicubic, each channel by itself.

    `fit` says what becomes of the longer side: "crop" cuts it off around the center, "pad" keeps all of the image and
    fills up with 0, "stretch" distorts.
    """
    if image.shape[:2] == (size, size):
        return image
    channels = image.shape[2]
    # As one picture, Pillow would take the last of 2 or 4 channels for transparency.
    parts = [image] if channels == 3 else [image[..., channel] for channel in range(channels)]
    return _stack([Image.fromarray(part) for part in parts], size, fit)


def inspect(file: Path) -> tuple[int, int, int]:
    """Returns (height, width, channels) of an image file from its header: 1 channel where it is gray, else 3."""
    with _open(file, str(file)) as picture:
        width, height = picture.size
        if _orientation(picture) >= 5:
            width, height = height, width
        return height, width, 1 if picture.mode.startswith(("1", "L", "I")) else 3


def decode(
    file: Path | io.BytesIO, name: str, channels: int | None = None, size: int = 0, fit: str = "crop"
) -> np.ndarray:
    """Decodes a PNG or JPEG image to [height, width, channels] uint8, upright, and resizes it if `size` is not 0.

    `channels`: 1 for gray, 2 for gray and alpha, 3 for RGB, 4 for RGBA; None keeps those of the file. 16 bits a channel
    are scaled to 8. Raises InputError, which calls the image `name`.
    """
    with _open(file, name) as picture:
        pixels = math.prod(picture.size)
        if size:
            picture.draft(None, (_FINER * size, _FINER * size))
        if not picture.info.get("progressive"):  # whose coefficients are all kept until the last scan
            pixels = math.prod(picture.size)
        with _decoding(pixels):
            picture.load()
            upright = _to_8_bits(picture)
            if (turn := _TURNS.get(_orientation(picture))) is not None:
                upright = upright.transpose(turn)
            mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels or len(upright.getbands())]
            if mode in ("L", "RGB"):
                upright.info.pop("transparency", None)  # it is dropped, and Pillow warns of some
            if upright.mode != mode:
                upright = upright.convert(mode)
            return _stack([upright] if mode in ("L", "RGB") else upright.split(), size, fit)


@contextlib.contextmanager
def _open(file: Path | io.BytesIO, name: str) -> Iterator[Image.Image]:
    try:
        with Image.open(file, formats=FORMATS) as picture:
            yield picture
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: a corrupt image, or no PNG or JPEG; remove, replace or convert it") from error
    except Exception as error:  # whatever a damaged file makes Pillow raise
        raise InputError(f"{name}: a corrupt image ({kind_and_words(error)}); remove or replace it") from error


def _orientation(picture: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8; 1, which is upright, where there is none that can be read."""
    try:
        # Not that of PngImageFile, which decodes the whole image where its header has no EXIF.
        found = Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1)
    except Exception:  # whatever damaged EXIF data make Pillow raise
        return 1
    return found if found in _TURNS else 1


def _to_8_bits(picture: Image.Image) -> Image.Image:
    """Scales 16-bit gray to 8 bits. Pillow itself does so with 16-bit color, but clips gray."""
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray(((np.asarray(picture).astype(np.uint32) + 128) // 257).astype(np.uint8))


def _stack(pictures: Sequence[Image.Image], size: int, fit: str) -> np.ndarray:
    return np.dstack([np.asarray(_resize(picture, size, fit) if size else picture) for picture in pictures])


def _resize(picture: Image.Image, size: int, fit: str) -> Image.Image:
    w, h = picture.size
    if fit == "pad":
        inner = picture.resize(
            (max(1, round(w * size / max(w, h))), max(1, round(h * size / max(w, h)))), Image.Resampling.BICUBIC
        )
        padded = Image.new(picture.mode, (size, size))
        padded.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
        return padded
    side = min(w, h)
    left, top = (w - side) // 2, (h - side) // 2
    box = (left, top, left + side, top + side) if fit == "crop" else None
    return picture.resize((size, size), Image.Resampling.BICUBIC, box)


_in_use, _changed = [0], threading.Condition()


@contextlib.contextmanager
def _decoding(pixels: int) -> Iterator[None]:
    """Waits until there is room in `_PIXELS`, or for an image larger than that until no other is decoded."""
    with _changed:
        _changed.wait_for(lambda: not _in_use[0] or _in_use[0] + pixels <= _PIXELS)
        _in_use[0] += pixels
    try:
        yield
    finally:
        with _changed:
            _in_use[0] -= pixels
            _changed.notify_all()
