"""Mixing of labels among neighbors, e.g. of the batches of cells in the latent space."""

import numpy as np
from jaxtyping import Float, Int
from sklearn.neighbors import NearestNeighbors

from aejax.errors import InputError


def lisi(
    z: Float[np.ndarray, "n d"], label: Int[np.ndarray, " n"], perplexity: float = 30.0
) -> Float[np.ndarray, " n"]:
    """Returns the local inverse Simpson index of each example: the effective number of labels among its neighbors.

    It is 1 where all neighbors have one label, and the number of labels where all are equally frequent (Korsunsky et
    al. 2019, "Fast, sensitive and accurate integration of single-cell data with Harmony"). The three times `perplexity`
    nearest examples are weighted by a Gaussian kernel of that perplexity. For batches it is called iLISI, and cLISI for
    types of cells.

    Raises InputError for fewer than 3 * perplexity + 1 examples.
    """
    count = int(3 * perplexity)
    if len(z) <= count:
        raise InputError(f"perplexity={perplexity:g} reads {count} neighbors of {len(z)} examples; lower it")
    distance, neighbor = NearestNeighbors(n_neighbors=count).fit(z).kneighbors()  # without the example itself
    p = _weigh(distance, np.log(perplexity))
    of_label = np.asarray(label)[neighbor][..., None] == np.unique(label)
    return 1 / np.square((p[..., None] * of_label).sum(1)).sum(-1)


def _weigh(distance: np.ndarray, entropy: float) -> np.ndarray:
    """Returns weights exp(-beta * distance) that sum to 1, [n, neighbors], with the beta of each row that gives them
    the entropy, found by bisection of its logarithm.
    """
    distance = distance - distance.min(1, keepdims=True)
    scale = np.maximum(distance.mean(1, keepdims=True), np.finfo(float).tiny)
    low, high = np.full((len(distance), 1), -20.0), np.full((len(distance), 1), 20.0)
    for _ in range(50):
        middle = (low + high) / 2
        p = np.exp(-np.exp(middle) * distance / scale)
        p /= p.sum(1, keepdims=True)
        flat = -(p * np.log(np.maximum(p, 1e-300))).sum(1, keepdims=True) > entropy
        low, high = np.where(flat, middle, low), np.where(flat, high, middle)
    return p
