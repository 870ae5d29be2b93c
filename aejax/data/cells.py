"""Synthetic cells: counts of genes with cell types, batches and library sizes that are known."""

import dataclasses

import numpy as np

from aejax.data.sources import Rows, Source
from aejax.data.sparse_rows import from_sparse

TYPES, BATCHES = 6, 3


def make_cells(cells: int = 3_000, genes: int = 500, seed: int = 0) -> dict[str, Source]:
    """Returns a source of cells, counts x [genes], sparse, in random order.

    Labels are the cells' batches. Factors [cells, 2] are their types and batches.
    """
    x, kind, batch = sample_cells(cells, genes, seed)
    factors = np.stack([kind, batch], 1)
    source = from_sparse(x, batch, "cells")
    take = source.take

    def with_factors(rows: Rows) -> dict[str, np.ndarray]:
        return take(rows) | {"factors": factors[rows]}

    return {"train": dataclasses.replace(source, take=with_factors)}


def sample_cells(cells: int, genes: int, seed: int = 0):  # type: ignore[no-untyped-def]  # csr_array: imports SciPy
    """Samples counts, a sparse matrix [cells, genes], and the cells' types and batches, int32 [cells].

    The expected fractions of the genes follow a log-normal distribution. In each of six cell types a tenth of the genes
    is expressed more or less, by a log-normal factor of standard deviation 1.5, and in each of three batches every gene
    is, by one of 0.3. The library size is log-normal, with a mean that differs between the batches. Counts are negative
    binomial, with an inverse dispersion for each gene, as in Lopez et al. 2018.
    """
    from scipy.sparse import csr_array, vstack

    rng = np.random.default_rng(seed)
    base = rng.normal(0, 1.5, genes)
    of_type = rng.normal(0, 1.5, (TYPES, genes)) * (rng.random((TYPES, genes)) < 0.1)
    of_batch = rng.normal(0, 0.3, (BATCHES, genes))
    dispersion = rng.gamma(2.0, 1.0, genes) + 0.5
    kind = rng.choice(TYPES, cells, p=rng.dirichlet(np.full(TYPES, 5.0))).astype(np.int32)
    batch = rng.integers(BATCHES, size=cells).astype(np.int32)
    library = rng.lognormal(np.log(genes * np.array([1.0, 1.5, 0.7]))[batch], 0.4)
    parts = []
    for rows in np.array_split(np.arange(cells), max(cells // 1_000, 1)):
        fraction = np.exp(base + of_type[kind[rows]] + of_batch[batch[rows]])
        mean = library[rows, None] * fraction / fraction.sum(1, keepdims=True)
        parts.append(csr_array(rng.poisson(rng.gamma(dispersion, mean / dispersion)).astype(np.float32)))
    return vstack(parts, format="csr"), kind, batch
