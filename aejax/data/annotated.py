"""AnnData objects and .h5ad files: counts of genes in cells, kept sparse, with the batch of each cell."""

import dataclasses
import itertools
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aejax.data.sources import Source
from aejax.data.sparse_rows import as_csr, from_sparse, is_sparse
from aejax.errors import InputError, kind_and_words, one_of, shown

RAW = "raw"  # the layer that stands for `adata.raw`
_ROWS = 4_096  # of a dense matrix, which are made sparse together
_KEEP = "give raw counts as X, or keep them in a layer and set data.layer"


class Cells(NamedTuple):
    """Counts of genes in cells.

    Attributes:
      x: sparse matrix [cells, genes], a csr_array or csr_matrix.
      genes: names of the genes.
      label: the number of each cell's batch, int32 [cells]; None without batches.
      batches: names of the batches, by number.
      cure: what to set if the values are no counts.
      categories: the number of categories of each column whose combinations are the batches; empty for one column.
    """

    x: Any
    genes: tuple[str, ...]
    label: np.ndarray | None
    batches: tuple[str, ...]
    cure: str
    categories: tuple[int, ...] = ()

    def source(self, name: str, label: Any = None) -> Source:
        """Returns a source of the cells, with their batches as labels unless labels are given."""
        source = from_sparse(self.x, self.label if label is None else label, name)
        return dataclasses.replace(
            source, genes=self.genes, kinds=self.batches, cure=self.cure, categories=self.categories
        )


def is_anndata(x: object) -> bool:
    """Returns whether x is an AnnData object, without importing anndata."""
    return all(hasattr(x, name) for name in ("obs", "obsm", "var_names", "layers"))


def read_anndata(adata: Any, layer: str = "", batch: str = "") -> Cells:
    """Reads the counts of an AnnData object, which may be backed by a file.

    Args:
      adata: the object, which stays as it is.
      layer: name of one of its layers, or "raw" for `adata.raw`; empty: its X.
      batch: name of the column of `adata.obs` that says the batch of each cell, or several names with commas, whose
        combination does; empty: cells have no batch.

    Raises InputError, one line, if a layer or column is missing, or values are not finite.
    """
    layers = [name for name in adata.layers if name is not None]  # by which anndata 0.13 calls X
    from_raw = _check_layer(layers, adata.raw is not None, layer, "the AnnData")
    x = adata.raw.X if from_raw else adata.layers[layer] if layer else adata.X
    names = adata.raw.var_names if from_raw else adata.var_names
    layers += [RAW] * (adata.raw is not None)
    return _make(x, names, adata.obs, layer, batch, layers, "the AnnData")


def read_h5ad(path: Path, layer: str = "", batch: str = "") -> Cells:
    """Reads the counts of a .h5ad file, and of its other arrays nothing, as `read_anndata` does."""
    try:
        import h5py
        from anndata.io import read_elem, sparse_dataset
    except ImportError as error:
        raise InputError(f"{path}: .h5ad files are read by anndata; pip install 'aejax[anndata]'") from error
    try:
        file = h5py.File(path)
    except OSError as error:
        raise InputError(f"{path}: no .h5ad file ({kind_and_words(error)}); write it again") from error
    with file:
        try:
            layers, raw = file.get("layers", {}), "raw" in file
            from_raw = _check_layer(layers, raw, layer, str(path))
            x = file["raw/X"] if from_raw else layers[layer] if layer else file.get("X")
            x = sparse_dataset(x) if isinstance(x, h5py.Group) else x
            genes: Any = read_elem(file["raw/var" if from_raw else "var"])
            cells: Any = read_elem(file["obs"])
            return _make(x, genes.index, cells, layer, batch, [*layers] + [RAW] * raw, str(path))
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:  # of a file of another kind
            raise InputError(f"{path}: no readable .h5ad file ({kind_and_words(error)}); write it again") from error


def align(cells: Cells, genes: Sequence[str], batches: Sequence[str]) -> Cells:
    """Returns cells with the genes and the numbers of batches that a run was trained on; genes are found by name.

    Batches of other names are an error, as nothing was learned of them. Empty `genes` and `batches` fit any cells.
    """
    x, label = cells.x, cells.label
    if genes and tuple(genes) != cells.genes:
        place = {name: i for i, name in enumerate(cells.genes)}
        if missing := [name for name in genes if name not in place]:
            raise InputError(
                f"the cells lack {len(missing):,} of the run's {len(genes):,} genes, e.g. {', '.join(missing[:3])}; "
                "give counts of all of them"
            )
        x = x[:, [place[name] for name in genes]]
    if label is not None and batches:
        known = {name: i for i, name in enumerate(batches)}
        if unseen := [name for name in cells.batches if name not in known]:
            raise InputError(
                f"the cells are of a batch {unseen[0]!r}, which the run was not trained on; its batches are "
                f"{', '.join(batches)}: set theirs to the most similar one, or train with them"
            )
        label = np.array([known[name] for name in cells.batches], np.int32)[label]
    return Cells(x, tuple(genes) or cells.genes, label, tuple(batches) or cells.batches, cells.cure, cells.categories)


def _check_layer(layers: Collection[str], raw: bool, layer: str, name: str) -> bool:
    """Returns whether `layer` is that of `adata.raw`. Raises InputError if there is no such layer."""
    if not layer or layer in layers:
        return False
    known = [*layers] + [RAW] * raw
    if layer not in known:
        raise one_of("data.layer", layer, known) if known else InputError(f"{name} has no layers; set data.layer=''")
    return True


def _make(x: Any, names: Any, obs: Any, layer: str, batch: str, layers: Sequence[str], name: str) -> Cells:
    """Returns the cells of a matrix, the names of its genes, and a data frame of the cells."""
    others = [each for each in layers if each != layer]
    cure = f"set data.layer to the one with raw counts, among: {', '.join(others)}" if others else _KEEP
    if x is None:
        raise InputError(f"{name} has no X; {cure}")
    label, batches, categories = _read_batches(obs, batch, name) if batch else (None, (), ())
    place = f"{name}, {f'layer {layer!r}' if layer else 'X'}"
    return Cells(_as_sparse(x, place), tuple(map(str, names)), label, batches, cure, categories)


def _as_sparse(x: Any, name: str) -> Any:
    """Returns a matrix in the format CSR, which may be dense, or in a file, of which parts become sparse in turn."""
    if hasattr(x, "to_memory"):  # a sparse matrix in a file
        x = x.to_memory()
    if is_sparse(x):
        return as_csr(x, name)
    if len(getattr(x, "shape", ())) != 2 or not all(x.shape):
        raise InputError(f"{name} is no matrix [cells, genes] of counts: {shown(x)}; give one")
    from scipy import sparse

    parts = [sparse.csr_array(np.asarray(x[i : i + _ROWS])) for i in range(0, x.shape[0], _ROWS)]
    return as_csr(sparse.vstack(parts, format="csr"), name)


def _read_batches(obs: Any, batch: str, name: str) -> tuple[np.ndarray, tuple[str, ...], tuple[int, ...]]:
    """Returns the number of each cell's batch, the names of the batches, and, of several columns, the number of
    categories of each. The batches are then all combinations of categories, in the order of `np.ravel_multi_index`.
    """
    columns = [batch] if batch in obs.columns else [part.strip() for part in batch.split(",")]
    codes, names = [], []
    for each in columns:
        if each not in obs.columns:
            raise one_of(f"data.batch: column of obs of {name}", each, obs.columns)
        column = obs[each].astype("category").cat.remove_unused_categories()
        codes.append(np.asarray(column.cat.codes, np.int32))
        names.append([str(category) for category in column.cat.categories])
        if (codes[-1] < 0).any():
            raise InputError(f"{name}: obs[{each!r}] of cell {int(np.argmin(codes[-1]))} is missing; fill it")
    sizes = tuple(map(len, names))
    label = np.ravel_multi_index(codes, sizes).astype(np.int32)
    return label, tuple(map(" & ".join, itertools.product(*names))), sizes if len(sizes) > 1 else ()
