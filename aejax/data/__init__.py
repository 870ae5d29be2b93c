"""Data: sources of examples by row number, their splits, and batches as a pure function of (seed, step)."""

from aejax.data.activation_files import write_activations
from aejax.data.activations import from_stream, join_target
from aejax.data.annotated import Cells, align, is_anndata, read_anndata
from aejax.data.arrays import as_array
from aejax.data.binarize import binarize_parts, draw_binary
from aejax.data.column import Column
from aejax.data.columns import decode_frame, encode_frame, from_frame, is_frame, read_table
from aejax.data.given import from_given
from aejax.data.identity import check_identity, identify
from aejax.data.loader import Feed, draw_crops, pad_rows, read, shuffle_rows, stream
from aejax.data.mixing import Order, stream_mixed
from aejax.data.scale import (
    compute_geometric_median,
    compute_mean,
    compute_mean_target,
    measure_columns,
    needs_standardizing,
    warn_of_penalty,
    warn_of_scale,
)
from aejax.data.shards import write_shards
from aejax.data.sources import SAMPLED, Source, fill_masked, from_array, pad_sequences
from aejax.data.sparse_rows import checksum, from_sparse, is_sparse
from aejax.data.spec import Spec, read_chunks
from aejax.data.splits import Splits, check_same, find, load, read_labels, select, split

__all__ = [
    "SAMPLED",
    "Cells",
    "Column",
    "Feed",
    "Order",
    "Source",
    "Spec",
    "Splits",
    "align",
    "as_array",
    "binarize_parts",
    "check_identity",
    "check_same",
    "checksum",
    "compute_geometric_median",
    "compute_mean",
    "compute_mean_target",
    "decode_frame",
    "draw_binary",
    "draw_crops",
    "encode_frame",
    "fill_masked",
    "find",
    "from_array",
    "from_frame",
    "from_given",
    "from_sparse",
    "from_stream",
    "identify",
    "is_anndata",
    "is_frame",
    "is_sparse",
    "join_target",
    "load",
    "measure_columns",
    "needs_standardizing",
    "pad_rows",
    "pad_sequences",
    "read",
    "read_anndata",
    "read_chunks",
    "read_labels",
    "read_table",
    "select",
    "shuffle_rows",
    "split",
    "stream",
    "stream_mixed",
    "warn_of_penalty",
    "warn_of_scale",
    "write_activations",
    "write_shards",
]
