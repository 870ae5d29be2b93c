"""Any .npy or .npz file as a data set: damaged, of odd members, or none at all."""

import io
import warnings
import zipfile

import numpy as np
from door import WORDS, cases, damaged, mostly, try_all
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import aejax
from aejax import data

X = np.linspace(0, 1, 60, dtype=np.float32).reshape(20, 3)
IMAGES = (np.arange(320) % 251).astype(np.uint8).reshape(20, 4, 4)


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npz(*members, method=zipfile.ZIP_STORED):
    """A zip file of (name, content), in which a name may stand twice."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive, warnings.catch_warnings(action="ignore"):
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return file.getvalue()


# What is pickled is harmless, and must not be read all the same.
ODD = [
    X,
    IMAGES,
    X[:0],
    X[0],
    X[0, 0],
    X.astype(object),
    X > 0,
    X + 1j,
    X.astype("S3"),
    X.astype("M8[s]"),
    X.view("f4,f4,f4"),
]
ARRAYS = st.one_of(st.sampled_from(ODD), hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(max_dims=4, max_side=4)))
NAMES = st.one_of(
    st.sampled_from(["x", "train", "test", "validation", "label", "train_label", "y", "factors", "../x", "/x", "x/y"]),
    WORDS.filter(lambda word: word.isprintable()),
)
MEMBERS = st.tuples(NAMES.map(lambda name: f"{name}.npy"), st.one_of(ARRAYS.map(npy), damaged([npy(X)]), st.binary()))
LABELS = npy(np.arange(20) % 3)
GOOD = [npz(("x.npy", npy(X)), ("label.npy", LABELS), method=m) for m in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]


@st.composite
def headers(draw):
    """A .npy file whose header claims another type, order or shape than what follows."""
    sizes = st.one_of(st.integers(-1, 30), st.sampled_from([2**20, 2**31, 2**40, 2**62, 2**63, 10**30]))
    kind = draw(st.sampled_from(["<f4", ">f8", "|u1", "|O", "<U9", "|V0", "<f3", "", "f4,f4", None, 4, [("a", "<f4")]]))
    shape = draw(st.one_of(st.lists(sizes, max_size=4).map(tuple), st.none(), sizes))
    header = draw(
        st.sampled_from([{"descr": kind, "fortran_order": False, "shape": shape}, {"descr": kind}, [shape], kind])
    )
    text = repr(header).encode().ljust(117) + b"\n"
    version, width = draw(st.sampled_from([(1, 2), (2, 4), (3, 4), (9, 2)]))
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(width, "little") + text + X.tobytes()


@st.composite
def flagged(draw):
    """A zip file whose entries claim to be encrypted, or of another method, size or version."""
    content = bytearray(draw(st.sampled_from(GOOD)))
    at = content.find(b"PK\x01\x02") + draw(st.sampled_from([6, 8, 10, 16, 20, 21, 22, 23, 24, 26, 27, 28, 42]))
    content[at] = draw(st.integers(0, 255))
    return bytes(content)


def read(tmp_path, suffix, content, size, standardize):
    file = tmp_path / f"data{suffix}"
    file.write_bytes(content)
    config = aejax.config.default()
    config.data.update({"name": str(file), "size": size, "standardize": standardize})
    splits = data.load(config.data)
    data.Spec.of(splits.train, standardize)
    for part in splits:
        taken = part.take(np.arange(len(part)))
        assert taken["x"].shape == (len(part), *part.shape)
        assert np.all(np.isfinite(taken["x"]))
        assert len(taken.get("label", taken["x"])) == len(part)


SIZES = mostly(st.just(0), st.just(3))


@cases
def test_npy(tmp_path, cases):
    def door(content, size, standardize):
        read(tmp_path, ".npy", content, size, standardize)

    odd = st.one_of(damaged([npy(X), npy(IMAGES), *GOOD]), headers(), ARRAYS.map(npy), st.binary())
    content = mostly(odd, st.sampled_from([npy(X), npy(IMAGES)]))
    try_all(cases, door, content=content, size=SIZES, standardize=st.booleans())


@cases
def test_npz(tmp_path, cases):
    def door(content, size, standardize):
        read(tmp_path, ".npz", content, size, standardize)

    members = st.lists(MEMBERS, max_size=4).map(lambda members: npz(*members))
    claimed = headers().map(lambda header: npz(("x.npy", header), ("label.npy", LABELS)))
    odd = st.one_of(damaged([*GOOD, npy(X)]), flagged(), claimed, members, st.binary())
    content = mostly(odd, st.sampled_from(GOOD))
    try_all(cases, door, content=content, size=SIZES, standardize=st.booleans())
