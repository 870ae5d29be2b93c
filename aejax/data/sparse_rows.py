"""Sparse matrices of SciPy as examples: rows become dense when a batch asks for them."""

import dataclasses
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from aejax.data.arrays import read_npz
from aejax.data.sources import Arrays, Rows, Source, check_label
from aejax.errors import InputError

_COLUMNS = ("data", "indices", "indptr", "shape", "format")  # the arrays of `scipy.sparse.save_npz`


def is_sparse(x: object) -> bool:
    """Returns whether x is a sparse matrix or array of SciPy, without importing SciPy."""
    return hasattr(x, "tocsr") and hasattr(x, "nnz")


def as_csr(x: Any, name: str) -> Any:  # csr_array; SciPy is imported only by what makes one
    """Returns a sparse matrix in the format CSR, without duplicates. Raises InputError unless it is [n, features] of
    finite real numbers.
    """
    if len(x.shape) != 2 or not all(x.shape):
        raise InputError(f"{name} is a sparse array of shape {x.shape}; give [n, features]")
    if x.dtype.kind not in "buif":
        raise InputError(f"{name} is a sparse array of {x.dtype}; give real numbers")
    rows = x.tocsr()
    if not rows.has_canonical_format:
        rows = rows.copy()  # what follows works in place
        rows.sum_duplicates()
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(rows.data.astype(np.float32))
    if bad.any():
        place = int(np.argmax(bad))
        row = int(np.searchsorted(rows.indptr, place, side="right")) - 1
        where = f"{name}: example {row}, value {rows.indices[place]}"
        raise InputError(f"{where} is NaN or infinity in float32; remove or fill such values")
    return rows


def from_sparse(x: Any, label: ArrayLike | None = None, name: str = "array") -> Source:
    """Returns a source of the rows of a sparse matrix [n, features], float32, which `take` makes dense.

    Raises InputError if it holds other than finite numbers, or labels [n] do not fit.
    """
    rows = as_csr(x, name)
    more = {} if label is None else {"label": check_label(label, x.shape[0], name)}

    def take(chosen: Rows) -> Arrays:
        return {"x": _densify(rows[chosen])} | {key: value[chosen] for key, value in more.items()}

    return Source(name, x.shape[0], (x.shape[1],), np.dtype(np.float32), take)


def is_sparse_file(names: list[str]) -> bool:
    """Returns whether the arrays called `names` in an .npz file are those of a sparse matrix."""
    return set(names) >= {*_COLUMNS}


def read_sparse_file(path: Path) -> Any:
    """Returns the matrix that `scipy.sparse.save_npz` wrote in the format CSR."""
    from scipy.sparse import csr_array

    arrays = read_npz(path, _COLUMNS)
    if arrays["format"].item() != b"csr":
        raise InputError(f"{path} holds a sparse matrix in the format {arrays['format'].item()!r}; save x.tocsr()")
    try:
        return csr_array((arrays["data"], arrays["indices"], arrays["indptr"]), tuple(arrays["shape"].tolist()))
    except ValueError as error:
        raise InputError(f"{path}: no sparse matrix ({error}); write it again") from error


def checksum(x: Any) -> int:
    """Returns the CRC-32 of a sparse matrix, by which the data of a run is known."""
    rows, crc = as_csr(x, "the array"), zlib.crc32(np.asarray(x.shape, np.int64))
    for part, dtype in ((rows.indptr, np.int64), (rows.indices, np.int64), (rows.data, rows.dtype)):
        crc = zlib.crc32(np.ascontiguousarray(part, dtype), crc)
    return crc


@dataclasses.dataclass(frozen=True)
class DenseRows:
    """The rows of a sparse matrix as arrays read them: `rows[i:j]` and `rows[[2, 5]]` are dense, after `convert`."""

    rows: Any
    convert: Callable[[np.ndarray], np.ndarray]

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.shape

    @property
    def ndim(self) -> int:
        return 2

    def __len__(self) -> int:
        return int(self.rows.shape[0])

    def __getitem__(self, chosen: Any) -> np.ndarray:
        return self.convert(_densify(self.rows[chosen]))

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i : i + 1][0] for i in range(len(self)))


def _densify(rows: Any) -> np.ndarray:
    return np.asarray(rows.toarray(), np.float32)
