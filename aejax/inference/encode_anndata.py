"""AnnData objects for the use of a run: what its methods read, and the latents of all cells in `obsm`."""

from typing import TYPE_CHECKING, Any

import numpy as np

from aejax import data
from aejax.errors import InputError, shown

if TYPE_CHECKING:
    from aejax.inference.trained import TrainedModel


def read_anndata(run: "TrainedModel", adata: Any) -> dict[str, Any]:
    """Returns the arguments that the methods of a run read of cells, e.g. `run.elbo(**read_anndata(run, adata))`.

    They are the counts `x`, sparse, of the layer that the run was trained on, with its genes in their order, and
    `label`, if the run is conditional, of the same column of `adata.obs`. A batch that the run was not trained on is an
    error, as the decoder has learned nothing of it.

    Raises InputError if `adata` is no AnnData object, or genes or batches do not fit.
    """
    _check(adata)
    config = run.config.data
    cells = data.align(data.read_anndata(adata, config.layer, config.batch), run.spec.genes, run.spec.batches)
    return {"x": cells.x} | ({} if cells.label is None else {"label": cells.label})


def encode_anndata(run: "TrainedModel", adata: Any, key: str = "X_aejax") -> np.ndarray:
    """Writes the latents of all cells into `adata.obsm[key]`, [cells, *latent], and returns them.

    Batches may be others than those of the training if the encoder reads none (`condition.encoder=False`).
    """
    _check(adata)
    config = run.config.data
    reads_batch = bool(run.config.classes) and run.model.label_to_encoder
    found = data.read_anndata(adata, config.layer, config.batch if reads_batch else "")
    cells = data.align(found, run.spec.genes, run.spec.batches)
    z = run.encode(cells.x, cells.label)
    adata.obsm[key] = z
    return z


def _check(adata: Any) -> None:
    if not data.is_anndata(adata):
        raise InputError(f"cells are read from an AnnData object, got {shown(adata)}; give x and label to the method")
