"""Decoding of PNG and JPEG images to upright arrays, and resizing."""

import contextlib
import io
import math
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin, UnidentifiedImageError

from aejax.errors import InputError, kind_and_words

FORMATS = ("PNG", "JPEG")  # and no others, because Pillow starts other programs for some of them
_PIXELS = 2**26  # largest number of pixels that threads decode at once; Pillow takes 4 bytes for each
_PLAIN = 2**16  # largest number of pixels that are decoded without a `_wait_for_memory`
_FINER = 2  # a JPEG is decoded at the smallest scale whose sides are at least this many times the size asked for
# The C library keeps freed memory for each thread unless it was taken in blocks as large as these.
Image.core.set_block_size(2**26)
_TURNS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


Size = int | tuple[int, int]  # the side of a square, or height and width; 0 leaves images as they are


class Crop(NamedTuple):
    """A rectangle within an image, of the shape that is asked for.

    Attributes:
      zoom: a side of the largest such rectangle over that of this one, at least 1.
      x, y: where the rectangle lies, from 0, at the left or the top, to 1.
    """

    zoom: float
    x: float
    y: float


def find_sides(size: Size) -> tuple[int, int]:
    """Returns the height and the width that `size` asks for."""
    return size if isinstance(size, tuple) else (size, size)


def find_size(config: Mapping[str, Any]) -> Size:
    """Returns the height and width that the data section asks for, its `size` where it names no width.

    Raises InputError for a width without a height.
    """
    size, width = config.get("size") or 0, config.get("width", 0)
    if width and not size:
        raise InputError(f"data.width={width} needs data.size, the height of the resized images, which is 0; set both")
    return (size, width) if width and width != size else size


def resize(image: np.ndarray, size: Size, fit: str = "crop", crop: Crop | None = None) -> np.ndarray:
    """Resizes an image, uint8 [h, w, channels], to [*find_sides(size), channels], bicubic, each channel by itself.

    `fit` says what happens to images whose sides have another ratio: "crop" and "random" keep the center of the side
    that is too long, "pad" keeps all of the image and fills the other side up with 0, half of it at each end, and
    "stretch" distorts. `crop` takes another rectangle.
    """
    if image.shape[:2] == find_sides(size) and (crop is None or crop.zoom == 1):
        return image
    channels = image.shape[2]
    # In one picture, Pillow would take the last of 2 or 4 channels for transparency.
    parts = [image] if channels == 3 else [image[..., channel] for channel in range(channels)]
    whole = (image.shape[1], image.shape[0])
    return _stack([Image.fromarray(part) for part in parts], size, fit, crop, whole)


def inspect(file: Path) -> tuple[int, int, int]:
    """Reads (height, width, channels) of an upright image from the file's header; 1 channel if it is gray, else 3."""
    with _open(file, str(file)) as picture:
        width, height = picture.size
        if _read_orientation(picture) >= 5:
            width, height = height, width
        return height, width, 1 if picture.mode.startswith(("1", "L", "I")) else 3


def decode(
    file: Path | io.BytesIO,
    name: str,
    channels: int | None = None,
    size: Size = 0,
    fit: str = "crop",
    crop: Crop | None = None,
) -> np.ndarray:
    """Decodes a PNG or JPEG image to uint8 [height, width, channels], upright, with 16 bits a channel scaled to 8.

    `channels` is 1 for gray, 2 for gray and alpha, 3 for RGB, 4 for RGBA; None keeps the file's. A `size` other than 0
    resizes the image, as `resize` says. Raises InputError, which calls the image `name`, if it is corrupt or neither
    PNG nor JPEG.
    """
    if isinstance(file, io.BytesIO) and (plain := _decode_plain_png(file.getvalue(), channels)):
        return _stack([plain], size, fit, crop, plain.size)
    with _open(file, name) as picture:
        whole, scale = picture.size, 1
        pixels = math.prod(whole)
        if size and isinstance(picture, JpegImagePlugin.JpegImageFile):
            scale = _reduce(picture, math.ceil(_FINER * max(find_sides(size)) * (crop.zoom if crop else 1)))
        if not picture.info.get("progressive"):  # a progressive JPEG takes memory for all pixels until its last scan
            pixels = math.prod(picture.size)
        with _wait_for_memory(pixels):
            picture.load()
            upright, orientation = _to_8_bits(picture), _read_orientation(picture)
            if orientation >= 5:
                whole = whole[::-1]
            if orientation in _TURNS:
                upright = upright.transpose(_TURNS[orientation])
            mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels or len(upright.getbands())]
            if mode in ("L", "RGB"):
                upright.info.pop("transparency", None)  # Pillow warns of some transparency, which is dropped anyway
            if upright.mode != mode:
                upright = upright.convert(mode)
            return _stack([upright] if mode in ("L", "RGB") else upright.split(), size, fit, crop, whole, scale)


def _decode_plain_png(file: bytes, channels: int | None) -> Image.Image | None:
    """Decodes a small PNG of 8-bit gray or RGB with no more than its pixels; returns None for any other file.

    It takes half the time of opening the file, most of which reads what such a file does not have: data sets like MNIST
    are tens of thousands of them.
    """
    if file[:16] != b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" or file[-12:] != b"\0\0\0\0IEND\xaeB`\x82":
        return None
    mode = {b"\x08\0\0\0\0": "L", b"\x08\2\0\0\0": "RGB"}.get(file[24:29])  # 8 bits, color, not interlaced
    width, height = int.from_bytes(file[16:20], "big"), int.from_bytes(file[20:24], "big")
    if not mode or (channels or len(mode)) != len(mode) or not 0 < width * height <= _PLAIN:
        return None
    place, pixels = 8, []
    while place < len(file) - 12:
        end = place + 8 + int.from_bytes(file[place : place + 4], "big")
        if zlib.crc32(file[place + 4 : end]) != int.from_bytes(file[end : end + 4], "big"):
            return None
        if place > 8:
            if file[place + 4 : place + 8] != b"IDAT":
                return None
            pixels.append(file[place + 8 : end])
        place = end + 4
    try:
        return Image.frombytes(mode, (width, height), b"".join(pixels), "zip", mode, 0)
    except ValueError:  # too few pixels, or damaged ones: opening the file says so
        return None


def _reduce(picture: JpegImagePlugin.JpegImageFile, least: int) -> int:
    """Has a JPEG decoded at 1/8, 1/4 or 1/2 of its size if its sides keep `least` pixels; returns the 8, 4, 2 or 1.

    The last pixel of a side may reach beyond the image, which `_resize` allows for. In an image that will be turned,
    it could come first, so that sides are reduced only by what divides them.
    """
    width, height = picture.size
    turned = _read_orientation(picture) != 1
    for scale in (8, 4, 2):
        whole = not (width % scale or height % scale)
        if min(width, height) // least >= scale and (whole or not turned):
            return scale if picture.draft(None, (width // scale, height // scale)) else 1
    return 1


@contextlib.contextmanager
def _open(file: Path | io.BytesIO, name: str) -> Iterator[Image.Image]:
    """Opens an image, turning whatever Pillow raises until it is closed into an InputError."""
    try:
        with Image.open(file, formats=FORMATS) as picture:
            yield picture
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: a corrupt image, or no PNG or JPEG; remove, replace or convert it") from error
    except Exception as error:
        raise InputError(f"{name}: a corrupt image ({kind_and_words(error)}); remove or replace it") from error


def _read_orientation(picture: Image.Image) -> int:
    """Returns the EXIF orientation from 1 to 8; 1, which is upright, if none can be read."""
    if not picture.info.keys() & {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}:
        return 1  # the usual case, found in a tenth of the time that getexif takes
    try:
        # PngImageFile.getexif would decode the whole image if its header has no EXIF data.
        found = Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1)
    except Exception:  # whatever Pillow raises for damaged EXIF data
        return 1
    return found if found in _TURNS else 1


def _to_8_bits(picture: Image.Image) -> Image.Image:
    """Scales 16-bit gray to 8 bits, as Pillow scales 16-bit color. Pillow itself clips gray."""
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray(((np.asarray(picture).astype(np.uint32) + 128) // 257).astype(np.uint8))


def _stack(
    pictures: Sequence[Image.Image], size: Size, fit: str, crop: Crop | None, whole: tuple[int, int], scale: int = 1
) -> np.ndarray:
    """Stacks the pictures as channels of one array, uint8 [height, width, channels], resized if `size` is not 0.

    `whole` is the width and height of the image, of which the pictures were decoded at 1/`scale`.
    """
    arrays = [np.asarray(_resize(picture, size, fit, crop, whole, scale) if size else picture) for picture in pictures]
    pixels = arrays[0] if len(arrays) == 1 else np.stack(arrays, -1)
    return pixels.reshape(*pixels.shape[:2], -1)


def _resize(
    picture: Image.Image, size: Size, fit: str, crop: Crop | None, whole: tuple[int, int], scale: int
) -> Image.Image:
    """Resizes the picture as `resize` says. All is computed from the whole image, whatever the scale."""
    (w, h), (height, width), box = whole, find_sides(size), (0.0, 0.0, *map(float, whole))
    shape, wide = (width, height), w * height > h * width  # wide: relative to what is asked for
    if fit == "pad":
        shape = (width, max(1, round(h * width / w))) if wide else (max(1, round(w * height / h)), height)
    elif crop is not None or fit != "stretch":
        across, down = (h * width / height, h) if wide else (w, w * height / width)
        if crop is not None:
            across, down = across / crop.zoom, down / crop.zoom
            left, top = (w - across) * crop.x, (h - down) * crop.y
        else:
            left, top = (w - across) // 2, (h - down) // 2
        box = (left, top, min(left + across, w), min(top + down, h))
    reduced = (box[0] / scale, box[1] / scale, box[2] / scale, box[3] / scale)
    resized = picture.resize(shape, Image.Resampling.BICUBIC, reduced)
    if shape == (width, height):
        return resized
    padded = Image.new(picture.mode, (width, height))
    padded.paste(resized, ((width - resized.width) // 2, (height - resized.height) // 2))
    return padded


_in_use, _changed = [0], threading.Condition()


@contextlib.contextmanager
def _wait_for_memory(pixels: int) -> Iterator[None]:
    """Waits until `pixels` more fit in `_PIXELS`; an image larger than that waits until no other is being decoded."""
    with _changed:
        _changed.wait_for(lambda: not _in_use[0] or _in_use[0] + pixels <= _PIXELS)
        _in_use[0] += pixels
    try:
        yield
    finally:
        with _changed:
            _in_use[0] -= pixels
            _changed.notify_all()
