"""Large images in tiles: a function of images is applied to overlapping tiles, whose results are joined."""

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Num

from aejax.errors import InputError, shown

Tile = int | tuple[int, int] | None
Images = Num[np.ndarray, "n h w ..."]


def map_tiles(
    function: Callable[[np.ndarray], Any], x: Images, tile: int | tuple[int, int], overlap: int = 0, factor: int = 1
) -> Images:
    """Applies `function` to tiles of images and joins the results, so that its memory does not grow with the images.

    Where tiles overlap, the result passes linearly from the earlier tile to the later one, so that no seam shows.
    Whole numbers, such as codes, are those of the earlier tile up to the middle of the overlap, and then those of the
    later one. The result is that of whole images wherever the receptive field of `function` lies within each tile that
    holds the pixel; that of attention and of normalization over pixels is the whole image.

    All tiles are of the same size, for which a jitted function is compiled once: the last ones in a row or column begin
    earlier, and images that are smaller than a tile are one tile.

    Args:
      function: maps [n, h, w, ...] to [n, h * s, w * s, ...] for one scale s, such as an encoder, or a decoder.
      x: images, or codes [n, h, w, ...].
      tile: the side of a tile in pixels of x, or (height, width).
      overlap: smallest number of pixels that neighbors share. With twice the radius of the receptive field, whole
        numbers are those of whole images everywhere.
      factor: number that must divide the sides of images and tiles, and the overlap: the downsampling of an encoder.

    Raises InputError if the images, the tiles and the overlap do not go together.
    """
    sides, overlap = check_tiles(tile, overlap, factor)
    if x.ndim < 3:
        raise InputError(f"tiles are parts of images [n, height, width, ...], got {x.shape}")
    h, w = check_images(x.shape[1], x.shape[2], factor)
    tall, wide = min(sides[0], h), min(sides[1], w)
    rows, columns = (_place(length, side, overlap) for length, side in ((h, tall), (w, wide)))

    def join_row(i: int) -> np.ndarray:
        tiles = ((j, np.asarray(function(x[:, i : i + tall, j : j + wide]))) for j in columns)
        return _join(tiles, w, wide, axis=2)

    return _join(((i, join_row(i)) for i in rows), h, tall, axis=1)


def check_tiles(tile: Any, overlap: Any, factor: int) -> tuple[tuple[int, int], int]:
    """Returns the sides (height, width) of tiles, and the overlap, which defaults to about a quarter of a side."""
    sides = tuple(tile) if isinstance(tile, list | tuple) else (tile, tile)
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise InputError(f"tile must be a whole number above 0, or (height, width), got {shown(tile)}")
    if overlap is None:
        overlap = min(sides) // 4 // factor * factor
    if type(overlap) is not int or overlap < 0:
        raise InputError(f"overlap must be 0 or a whole number above it, got {shown(overlap)}")
    for name, value in (("tile", sides[0]), ("tile", sides[1]), ("overlap", overlap)):
        if value % factor:
            low = value // factor * factor
            choice = f"{low} or {low + factor}" if low else low + factor
            raise InputError(f"{name}={value} is not divisible by {factor}, the downsampling; choose {choice}")
    if overlap >= min(sides):
        raise InputError(
            f"a tile of {sides[0]}x{sides[1]} is not larger than the overlap, {overlap}; choose larger tiles or a "
            "smaller overlap"
        )
    return (sides[0], sides[1]), overlap


def check_images(h: int, w: int, factor: int) -> tuple[int, int]:
    """Returns the sides of images. Raises InputError if the downsampling `factor` does not divide them."""
    if min(h, w) < factor:
        raise InputError(f"images of {h}x{w} are smaller than {factor}x{factor} pixels, the downsampling; enlarge them")
    if h % factor or w % factor:
        fits = f"{h // factor * factor}x{w // factor * factor}"
        raise InputError(f"images of {h}x{w} are not divisible by {factor}, the downsampling; crop them to {fits}")
    return h, w


class Tiles(NamedTuple):
    """Tiles in which a model encodes and decodes.

    Attributes:
      sides: height and width of a tile, in pixels of the image.
      overlap: in pixels of the image.
      factor: how many times as long the sides of images are as those of codes.
      any_size: whether the model takes images that are smaller than a tile.
    """

    sides: tuple[int, int]
    overlap: int
    factor: int
    any_size: bool

    def encode(self, function: Callable[[np.ndarray], Any], x: Images) -> Images:
        """Returns the codes of images."""
        self._check(x.shape[1:3])
        return map_tiles(function, x, self.sides, self.overlap, self.factor)

    def decode(self, function: Callable[[np.ndarray], Any], z: Images) -> Images:
        """Returns the images of codes."""
        self._check([self.factor * side for side in z.shape[1:3]])
        tall, wide = (side // self.factor for side in self.sides)
        return map_tiles(function, z, (tall, wide), self.overlap // self.factor)

    def _check(self, sides: Sequence[int]) -> None:
        if not self.any_size and any(map(operator.lt, sides, self.sides)):
            least = "x".join(map(str, self.sides))
            raise InputError(f"images of {sides[0]}x{sides[1]} are smaller than the {least} that the model takes")


def plan_tiles(
    tile: Tile, overlap: int | None, shape: Sequence[int], code: Sequence[int], any_size: bool
) -> Tiles | None:
    """Returns the tiles of a model, or None if no tile is given.

    Args:
      tile, overlap: what the user gives, in pixels of the image.
      shape, code: shapes of an example and its code.
      any_size: whether the model takes images of other sides; otherwise tiles have the sides of its examples.

    Raises InputError if tiles do not suit the model.
    """
    if tile is None:
        if overlap is not None:
            raise InputError(f"overlap={shown(overlap)} is that of tiles; give tile=, too")
        return None
    if len(shape) != 3 or len(code) != 3 or any(map(operator.mod, shape[:2], code[:2])):
        raise InputError(f"tiles need codes that are smaller images; this model has {tuple(code)} for {tuple(shape)}")
    factor, across = map(operator.floordiv, shape[:2], code[:2])
    if factor != across:
        raise InputError(f"tiles need codes of the same proportions as images, got {tuple(code)} for {tuple(shape)}")
    sides, overlap = check_tiles(tile, overlap, factor)
    if not any_size and sides != tuple(shape[:2]):
        raise InputError(f"the model takes images of one size; give tile={tuple(shape[:2])}, got {shown(tile)}")
    return Tiles(sides, overlap, factor, any_size)


def _place(length: int, side: int, overlap: int) -> list[int]:
    """Returns where tiles of a side begin that cover the length and share `overlap` pixels or more."""
    return [*range(0, length - side, side - overlap), length - side]


def _join(parts: Iterator[tuple[int, np.ndarray]], length: int, side: int, axis: int) -> np.ndarray:
    """Joins what was made of tiles along an axis, in order.

    Args:
      parts: where each tile begins, in pixels of the input, and what was made of it.
      length, side: of the images and of the tiles along the axis, in pixels of the input.
    """
    whole, end = np.empty(0), 0
    for start, part in parts:
        if part.ndim < 3:
            raise InputError(f"the function of tiles must return images [n, height, width, ...], got {part.shape}")
        size = part.shape[axis]
        if size * start % side or size * length % side:
            raise InputError(
                f"{size} pixels are made of a tile of {side}, which leaves no whole number for the {start} before it "
                f"or the {length} in all; give factor=, the downsampling"
            )
        begin = size * start // side
        if not start:
            whole = np.empty((*part.shape[:axis], size * length // side, *part.shape[axis + 1 :]), part.dtype)
        common = end - begin
        later = ((np.arange(common) + 0.5) / max(common, 1)).reshape(-1, *(1,) * (part.ndim - axis - 1))
        old, new = _slice(whole, begin, end, axis), _slice(part, 0, common, axis)
        if np.issubdtype(part.dtype, np.integer):
            old[...] = np.where(later < 0.5, old, new)
        else:
            old += later.astype(part.dtype) * (new - old)
        end = begin + size
        _slice(whole, begin + common, end, axis)[...] = _slice(part, common, size, axis)
    return whole


def _slice(array: np.ndarray, start: int, stop: int, axis: int) -> np.ndarray:
    return array[(slice(None),) * axis + (slice(start, stop),)]
