"""Measures of recommended items, ranked by scores of which those of clicked items should be the highest.

They are those of Liang et al. 2018, "Variational autoencoders for collaborative filtering", section 4.2.
"""

import numpy as np
from jaxtyping import Bool, Float

from aejax.errors import InputError


def recall(
    scores: Float[np.ndarray, "users items"], clicked: Bool[np.ndarray, "users items"], k: int
) -> Float[np.ndarray, " users"]:
    """Returns the number of `clicked` items among the k items of each user with the highest scores, divided by the
    smaller one of k and the number of clicked items.
    """
    hits = _find_hits(scores, clicked, k)
    return hits.sum(1) / np.minimum(k, clicked.sum(1))


def ndcg(
    scores: Float[np.ndarray, "users items"], clicked: Bool[np.ndarray, "users items"], k: int
) -> Float[np.ndarray, " users"]:
    """Returns the normalized discounted cumulative gain of the k items of each user with the highest scores.

    A clicked item at rank r gains 1 / log2(r + 1), and the sum is divided by that of the best ranking.
    """
    hits = _find_hits(scores, clicked, k)
    gains = 1 / np.log2(np.arange(2, hits.shape[1] + 2))
    best = np.concatenate([[0], np.cumsum(gains)])[np.minimum(hits.shape[1], clicked.sum(1))]
    return hits @ gains / best


def _find_hits(scores: np.ndarray, clicked: np.ndarray, k: int) -> np.ndarray:
    """Returns whether each of the k items with the highest scores, from the highest on, is clicked: [users, k]."""
    if scores.shape != clicked.shape:
        raise InputError(f"scores are {scores.shape} and clicked is {clicked.shape}; give both [users, items]")
    if k < 1:
        raise InputError(f"k must be at least 1 item, got {k}")
    if not clicked.any(1).all():
        raise InputError(f"user {int(np.argmin(clicked.any(1)))} has no clicked item to be found; leave such users out")
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(clicked, best, 1)
