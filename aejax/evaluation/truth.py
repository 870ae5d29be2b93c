"""Scores of a sparse autoencoder against the features that the data is known to be made of.

Directions are [latents, dims] and [features, dims], activations [n, latents] and [n, features]; a latent or a feature
fires where it is not 0. The scores are those of SynthSAEBench (Chanin and Garriga-Alonso 2026, arXiv 2602.14687), and
absorption after Chanin et al. 2024, "A is for absorption".
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

_CHUNK = 1_024  # examples that are compared at once


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the cosine of each row of `a` with each row of `b`, float32 [rows of a, rows of b]; 0 for a zero row."""
    a, b = (np.asarray(each, np.float32) for each in (a, b))
    lengths = [np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b)]
    a, b = (each / np.where(length > 0, length, 1) for each, length in zip((a, b), lengths, strict=True))
    return np.asarray(a @ b.T)


class Match(NamedTuple):
    """Pairs of a latent and a feature, each in one pair at most: as many as the smaller number of both."""

    latents: np.ndarray
    features: np.ndarray


def match(similarity: np.ndarray) -> Match:
    """Returns the pairs whose absolute cosines have the largest sum (the Hungarian algorithm).

    Args:
      similarity: cosines [latents, features].
    """
    return Match(*linear_sum_assignment(np.abs(similarity), maximize=True))


def mean_correlation_coefficient(similarity: np.ndarray, pairs: Match | None = None) -> float:
    """Returns the MCC: the mean absolute cosine of the optimal pairs."""
    return float(np.abs(similarity[pairs or match(similarity)]).mean())


def mean_max_cosine(similarity: np.ndarray) -> float:
    """Returns the mean over features of the largest cosine of a latent with it (MMCS, Sharkey et al. 2022)."""
    return float(similarity.max(0).mean())


def uniqueness(similarity: np.ndarray) -> float:
    """Returns the number of features that are the most similar one of some latent, as a fraction of the latents."""
    return len(np.unique(np.abs(similarity).argmax(1))) / len(similarity)


def splitting(similarity: np.ndarray, cosine: float = 0.8) -> float:
    """Returns the fraction of the features that two or more latents have a cosine of at least `cosine` with."""
    return float(((similarity >= cosine).sum(0) >= 2).mean())


class Detection(NamedTuple):
    """Means over pairs of how well a latent's firing tells a feature's firing; 0 where a ratio is undefined."""

    f1: float
    precision: float
    recall: float


def detection(z: np.ndarray, active: csr_array, latents: np.ndarray, features: np.ndarray) -> Detection:
    """Returns how well each of the `latents` detects the feature beside it in `features`.

    A feature that never fires in the examples counts with 0, as in SynthSAEBench; `fire` picks those that do.
    """
    both, fired, present = np.zeros((3, len(latents)))
    for rows in _chunks(len(z)):
        on, is_there = z[rows][:, latents] != 0, active[rows].toarray()[:, features] != 0
        both += (on & is_there).sum(0)
        fired += on.sum(0)
        present += is_there.sum(0)
    precision, recall = (both / np.maximum(count, 1) for count in (fired, present))
    return Detection(*(float(each.mean()) for each in (2 * both / np.maximum(fired + present, 1), precision, recall)))


def fire(active: csr_array, pairs: Match) -> Match:
    """Returns the pairs whose feature fires in some example."""
    there = np.bincount(active.indices[active.data != 0], minlength=active.shape[1])[pairs.features] > 0
    return Match(pairs.latents[there], pairs.features[there])


def absorption(
    z: np.ndarray,
    active: csr_array,
    similarity: np.ndarray,
    pairs: Match,
    parents: np.ndarray,
    cosine: float = 0.1,
) -> float:
    """Returns the fraction of a child's firings in which the child's latent has absorbed its parent.

    There, the parent fires and its latent does not, while the child's latent does and its direction has a cosine of at
    least `cosine` with the parent's. All children are counted together whose own feature and whose parent have a
    latent; NaN if there are none that fire.

    Args:
      parents: the number of each feature's parent, or -1: [features].
    """
    latent = np.full(len(parents), -1)
    latent[pairs.features] = pairs.latents
    children = np.flatnonzero((parents >= 0) & (latent >= 0) & (latent[parents] >= 0))
    above = parents[children]
    points = similarity[latent[children], above] >= cosine
    absorbed = fired = 0
    for rows in _chunks(len(z)):
        on, is_there = z[rows] != 0, active[rows].toarray() != 0
        together = is_there[:, children] & is_there[:, above]
        fired += together.sum()
        absorbed += (together & ~on[:, latent[above]] & on[:, latent[children]] & points).sum()
    return float(absorbed / fired) if fired else float("nan")


def _chunks(length: int) -> list[slice]:
    return [slice(start, start + _CHUNK) for start in range(0, length, _CHUNK)]
