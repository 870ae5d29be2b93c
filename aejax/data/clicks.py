"""Synthetic clicks of users on items, with tastes that are known: implicit feedback for recommenders."""

import numpy as np

from aejax.data.sources import Source
from aejax.data.sparse_rows import from_sparse

USERS, ITEMS, TASTES = 4_000, 1_000, 20
HELD_OUT = 400  # users of validation and of test


def make_clicks(seed: int = 0) -> dict[str, Source]:
    """Returns train, validation and test users, x [1000] of 0 and 1 each, sparse.

    An item belongs to one of 20 tastes and has a popularity that follows a power law. A user has one to three tastes in
    random proportions, and clicks 20 to 80 different items, one after another: each by a taste, with a probability
    of 0.8, and then by popularity within it; otherwise by popularity alone.
    """
    x = sample_clicks(USERS + 2 * HELD_OUT, seed)
    parts = {
        "train": slice(0, USERS),
        "validation": slice(USERS, USERS + HELD_OUT),
        "test": slice(USERS + HELD_OUT, None),
    }
    return {name: from_sparse(x[rows], name=f"clicks[{name}]") for name, rows in parts.items()}


def sample_clicks(users: int, seed: int = 0):  # type: ignore[no-untyped-def]  # csr_array, which imports SciPy
    """Samples the clicks of `users` users, a sparse matrix [users, 1000] of 0 and 1."""
    from scipy.sparse import csr_array

    rng = np.random.default_rng(seed)
    popularity = 1 / np.arange(5, 5 + ITEMS) ** 0.8
    taste = rng.integers(TASTES, size=ITEMS)
    within = np.where(np.arange(TASTES)[:, None] == taste, popularity, 0.0)
    within /= within.sum(1, keepdims=True)
    popularity = popularity / popularity.sum()
    indices, offsets = [], [0]
    for _ in range(users):
        own = rng.choice(TASTES, rng.integers(1, 4), replace=False)
        p = 0.8 * rng.dirichlet(np.ones(len(own))) @ within[own] + 0.2 * popularity
        # The items with the smallest exponential times are items drawn one after another without replacement.
        times = rng.exponential(size=ITEMS) / p
        chosen = np.argpartition(times, count := int(rng.integers(20, 81)))[:count]
        indices.append(np.sort(chosen))
        offsets.append(offsets[-1] + count)
    columns = np.concatenate(indices).astype(np.int32)
    return csr_array((np.ones(len(columns), np.float32), columns, np.array(offsets)), (users, ITEMS))
