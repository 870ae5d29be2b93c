"""Any folder of files named .png and .jpg: damaged, of odd modes and sizes, or no images."""

import io
import itertools
import struct
import zlib

import numpy as np
from door import cases, damaged, try_all
from hypothesis import strategies as st
from PIL import Image

import aejax
from aejax import data


def encoded(mode="RGB", size=(8, 8), kind="PNG", **options):
    """An image of a gradient as a file's bytes."""
    width, height = size
    ramp = (np.arange(width * height) % 251).astype(np.uint8).reshape(height, width)
    file = io.BytesIO()
    Image.fromarray(ramp).convert("L" if mode.startswith("I;") else mode).convert(mode).save(file, kind, **options)
    return file.getvalue()


def claiming(width, height, depth, kind, interlace):
    """A PNG whose header, with its right sum, claims what the data behind it do not hold."""
    chunk = lambda name, body: struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))  # noqa: E731
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlace)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


PNG = [encoded(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")]
JPEG = [encoded(mode, kind="JPEG", **more) for mode in ("L", "RGB", "CMYK") for more in ({}, {"progressive": True})]
SIDEWAYS = [
    encoded(kind=kind, exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0")
    for kind in ("PNG", "JPEG")
]
OTHER = [encoded(kind=kind) for kind in ("BMP", "GIF", "TIFF")]
SIDES = st.sampled_from([0, 1, 2, 7, 8, 300, 2**15, 2**31 - 1, 2**31, 2**32 - 1])
BYTES = st.one_of(
    st.sampled_from([*PNG, *JPEG, *SIDEWAYS]),
    st.sampled_from([*PNG, *JPEG, *SIDEWAYS]),
    damaged([*PNG, *JPEG, *SIDEWAYS]),
    st.builds(
        encoded, mode=st.sampled_from(["L", "RGB", "I;16"]), size=st.sampled_from([(1, 1), (1, 300), (300, 1), (9, 4)])
    ),
    st.builds(claiming, SIDES, SIDES, st.sampled_from([1, 8, 16, 3]), st.integers(0, 7), st.integers(0, 2)),
    st.sampled_from(OTHER),
    st.binary(),
)
NAMES = ("a.png", "b.jpg", "c/a.JPEG", "c/b.png", ".hidden.png", "d\ne.png", "f.txt")


@cases
def test_folders_of_images(tmp_path, cases):
    fresh = itertools.count()

    def door(files, size, cache):
        folder = tmp_path / str(next(fresh))
        folder.mkdir()
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        config = aejax.config.default()
        whole = {"train": "train", "validation": "train", "test": "train"}
        config.data.update({"name": str(folder), "size": size, "cache": cache, **whole})
        source = data.load(config.data).train
        taken = source.take(np.arange(len(source)))
        assert 0 < len(source) <= len(files)
        assert taken["x"].shape == (len(source), *source.shape)
        assert taken["x"].dtype == np.uint8
        if size:
            assert source.shape[:2] == (size, size)
        assert set(taken["label"]) <= set(range(len(source.kinds)))

    some = st.dictionaries(st.sampled_from(NAMES), BYTES, min_size=1, max_size=3)
    same = st.sampled_from([PNG, JPEG]).flatmap(
        lambda kind: st.dictionaries(st.sampled_from(NAMES), st.sampled_from(kind), min_size=1)
    )
    try_all(cases, door, files=st.one_of(some, some, same), size=st.sampled_from([0, 4, 8]), cache=st.booleans())
