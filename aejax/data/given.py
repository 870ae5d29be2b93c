"""Sources of what the caller of `aejax.fit` holds: an array, a matrix, a table, cells, or a stream."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from aejax.data.activations import from_stream, join_target
from aejax.data.annotated import is_anndata, read_anndata
from aejax.data.columns import from_frame, is_frame
from aejax.data.images import find_size
from aejax.data.sources import Source, from_array
from aejax.data.sparse_rows import checksum, from_sparse, is_sparse
from aejax.errors import InputError


def from_given(
    x: Any,
    config: Mapping[str, Any],
    label: ArrayLike | None = None,
    target: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    as_table: bool = False,
) -> tuple[dict[str, Source], str]:
    """Returns the source of `x`, and a name that tells its values from others, by which a workdir knows its data.

    Args:
      x: an array, a sparse matrix of SciPy, a DataFrame, an AnnData object, or a function that yields activations.
      config: the section `data`.
      label: [n]; those of an AnnData object are by default its batches.
      target: [n, ...], of a transcoder.
      weights: [n], of the examples in losses.
      as_table: whether a DataFrame is a table, whose dtypes count, or else an array.
    """
    options: dict[str, Any]
    if callable(x):
        if label is not None or target is not None:
            raise InputError("fit takes no label or target with a stream; leave it out, or write a store of both")
        if weights is not None:
            raise InputError("fit takes no weights with a stream; leave them out, or give an array")
        return from_stream(x), "array-stream"
    if is_anndata(x):
        cells = read_anndata(x, config.get("layer", ""), config.get("batch", ""))
        source, crc = cells.source("the AnnData", label), checksum(cells.x)
        label = cells.label if label is None else label
    elif as_table and is_frame(x):
        options = {"missing": config["missing"], "choices": config["columns"], "weights": config.get("weights", "")}
        source = from_frame(x, label, "the DataFrame", **options)
        crc = zlib.crc32(repr(source.columns).encode(), zlib.crc32(source.take(np.arange(len(source)))["x"]))
    elif is_sparse(x):
        source, crc = from_sparse(x, label, "the array"), checksum(x)
    else:
        options = {key: config.get(key) for key in ("fit", "layers", "kind", "missing")} | {"size": find_size(config)}
        source, crc = from_array(x, label, name="the array", **options), zlib.crc32(np.ascontiguousarray(x))
    sources = {"train": source}
    if label is not None:
        crc = zlib.crc32(np.asarray(label, np.int32, order="C"), crc)
    if target is not None:
        sources = join_target(sources, {"train": from_array(target, name="target")})
        crc = zlib.crc32(np.ascontiguousarray(target), crc)
    if weights is not None:
        sources = {"train": sources["train"].weigh(weights)}
    if (found := sources["train"].weights) is not None:
        crc = zlib.crc32(np.ascontiguousarray(found), crc)
    return sources, f"array-{crc:08x}"
