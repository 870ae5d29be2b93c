"""Images in tiles: those of the whole where no edge of a tile is within reach, and blended where tiles overlap."""

import numpy as np
import pytest
from conftest import conv, mlp, one_device, vectors

import aejax
from aejax import map_tiles


def sum_windows(x, reach):
    """Sums the pixels around each, zeros beyond the edges: [n, h, w, c] to the same shape, exact for small integers."""
    for axis in (1, 2):
        edges = [(reach, reach) if i == axis else (0, 0) for i in range(4)]
        padded, length = np.pad(x, edges), x.shape[axis]
        x = sum(np.take(padded, np.arange(k, k + length), axis) for k in range(2 * reach + 1))
    return x


def mark_edges(length, tile, overlap, reach):
    """Which pixels the edge of a tile within the image reaches."""
    marked = np.zeros(length, bool)
    for start in [*range(0, length - tile, tile - overlap), length - tile]:
        if start:
            marked[start : start + reach] = True
        if start + tile < length:
            marked[start + tile - reach : start + tile] = True
    return marked


@pytest.mark.parametrize(("tile", "overlap"), [(16, 0), (16, 4), ((16, 12), 8), ((64, 12), 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_what_no_edge_reaches_is_that_of_the_whole(tile, overlap, dtype):
    x = np.random.default_rng(0).integers(1, 9, (2, 40, 33, 3)).astype(dtype)
    shapes = set()

    def function(part):
        shapes.add(part.shape)
        return sum_windows(part, 2)

    whole, tiled = sum_windows(x, 2), map_tiles(function, x, tile, overlap)
    tall, wide = (min(side, most) for side, most in zip(np.broadcast_to(tile, 2), (40, 33), strict=True))
    assert shapes == {(2, tall, wide, 3)}  # the memory is that of a tile
    assert tiled.dtype == dtype
    rows, columns = (mark_edges(most, side, overlap, 2) for side, most in ((tall, 40), (wide, 33)))
    marked = rows[:, None] | columns
    np.testing.assert_array_equal(tiled[:, ~marked], whole[:, ~marked])
    if overlap < 4:  # otherwise a whole number may come from a tile that reaches far enough
        assert (tiled[:, marked] != whole[:, marked]).any()


def test_integers_are_those_of_the_tile_whose_edge_is_farther():
    """With an overlap of twice the reach, they are those of the whole everywhere."""
    x = np.random.default_rng(0).integers(1, 9, (1, 34, 22, 2))
    np.testing.assert_array_equal(map_tiles(lambda part: sum_windows(part, 3), x, 10, 6), sum_windows(x, 3))


@pytest.mark.parametrize("axis", [1, 2])
def test_overlaps_pass_linearly_from_tile_to_tile(axis):
    x = np.zeros((1, 14, 6, 1) if axis == 1 else (1, 6, 14, 1), np.float32)
    tile = (8, 6) if axis == 1 else (6, 8)
    for dtype, between in ((np.float32, [0.25, 0.75]), (np.int64, [0, 1])):
        numbers = iter(range(2))
        joined = map_tiles(lambda part, n=numbers, d=dtype: np.full(part.shape, next(n), d), x, tile, 2)
        expected = [0] * 6 + between + [1] * 6
        np.testing.assert_array_equal(np.moveaxis(joined, axis, 0)[:, 0, 0, 0], expected)
        assert joined.shape == x.shape


def test_the_result_may_be_smaller_or_larger():
    x = np.random.default_rng(0).normal(size=(3, 40, 24, 2))
    halve = lambda x: x.reshape(3, x.shape[1] // 4, 4, -1, 4, 2).mean((2, 4))  # noqa: E731
    small = map_tiles(halve, x, (16, 12), 4, 4)
    np.testing.assert_allclose(small, halve(x), rtol=1e-12)
    enlarge = lambda z: z.repeat(4, 1).repeat(4, 2)  # noqa: E731
    np.testing.assert_allclose(map_tiles(enlarge, small, (4, 3), 1), enlarge(small), rtol=1e-12)
    with pytest.raises(aejax.InputError, match=r"3 pixels are made of a tile of 12, .* give factor=, the downsampling"):
        map_tiles(lambda x: x[:, ::4, ::4], x, 12, 2)
    with pytest.raises(aejax.InputError, match=r"must return images \[n, height, width, ...\], got \(\)"):
        map_tiles(np.mean, x, 12, 2)


@pytest.mark.parametrize(
    ("shape", "tile", "overlap", "message"),
    [
        (
            (1, 64, 64, 3),
            16,
            16,
            "a tile of 16x16 is not larger than the overlap, 16; choose larger tiles or a smaller",
        ),
        ((1, 64, 64, 3), (32, 16), 24, "a tile of 32x16 is not larger than the overlap, 24"),
        ((1, 64, 64, 3), 20, 8, "tile=20 is not divisible by 8, the downsampling; choose 16 or 24"),
        ((1, 64, 64, 3), 4, 0, "tile=4 is not divisible by 8, the downsampling; choose 8"),
        ((1, 64, 64, 3), 32, 12, "overlap=12 is not divisible by 8, the downsampling; choose 8 or 16"),
        ((1, 64, 60, 3), 32, 8, "images of 64x60 are not divisible by 8, the downsampling; crop them to 64x56"),
        ((1, 64, 4, 3), 32, 8, "images of 64x4 are smaller than 8x8 pixels, the downsampling; enlarge them"),
        ((1, 64, 64, 3), 0, 8, r"tile must be a whole number above 0, or \(height, width\), got 0"),
        ((1, 64, 64, 3), (8, 8, 3), 0, r"tile must be a whole number above 0, .* got \(8, 8, 3\)"),
        ((1, 64, 64, 3), 32.0, 8, "tile must be a whole number above 0, .* got 32.0"),
        ((1, 64, 64, 3), 32, -8, "overlap must be 0 or a whole number above it, got -8"),
        ((64, 64), 32, 8, r"tiles are parts of images \[n, height, width, ...\], got \(64, 64\)"),
    ],
)
def test_what_does_not_go_together_is_one_line(shape, tile, overlap, message):
    with pytest.raises(aejax.InputError, match=message):
        map_tiles(lambda x: x, np.zeros(shape), tile, overlap, 8)


@pytest.fixture(scope="module")
def run():
    """Convolutions of 8x8 images to 4x4 codes."""
    x = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), np.uint8)
    return aejax.fit(conv(), x, devices=one_device())


def test_a_model_of_one_size_takes_larger_images_in_tiles(run):
    x = np.random.default_rng(1).integers(0, 256, (3, 8, 20, 1), np.uint8)
    z = run.encode(x, tile=8, overlap=2)
    assert z.shape == (3, 4, 10, 1)
    np.testing.assert_allclose(z[:, :, :3], run.encode(x[:, :, :8])[:, :, :3], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(z[:, :, 7:], run.encode(x[:, :, 12:])[:, :, 1:], rtol=1e-5, atol=1e-6)
    decoded = run.decode(z, tile=8, overlap=2)
    assert decoded.shape == x.shape
    np.testing.assert_allclose(decoded[:, :, :6], run.decode(z[:, :, :4])[:, :, :6], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(run.reconstruct(x, tile=8, overlap=2), decoded)
    own = x[:, :, :8]
    np.testing.assert_array_equal(run.reconstruct(own, tile=8), run.reconstruct(own))
    for images, options, message in (
        (x, {"tile": 16}, r"the model takes images of one size; give tile=\(8, 8\), got 16"),
        (x[:, :6], {"tile": 8}, "images of 6x20 are smaller than the 8x8 that the model takes"),
        (x, {"tile": 8, "overlap": 8}, "a tile of 8x8 is not larger than the overlap, 8"),
        (x, {"tile": 9}, "tile=9 is not divisible by 2, the downsampling; choose 8 or 10"),
        (x, {"overlap": 2}, "overlap=2 is that of tiles; give tile=, too"),
        (x, {}, r"the run reads examples of \(8, 8, 1\), the input holds examples of \(8, 20, 1\)"),
    ):
        with pytest.raises(aejax.InputError, match=message):
            run.encode(images, **options)
    with pytest.raises(aejax.InputError, match="images of 6x20 are smaller than the 8x8"):
        run.decode(z[:, :3], tile=8)


def test_vectors_have_no_tiles():
    run = aejax.fit(mlp(), vectors(60), devices=one_device())
    with pytest.raises(aejax.InputError, match=r"tiles need codes .* this model has \(2,\) for \(6,\)"):
        run.encode(vectors(3), tile=8)
