"""Pictures of the latent space: maps of codes, and what points of it decode to."""

import importlib
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from aejax.errors import InputError, not_installed, one_of
from aejax.evaluation.pictures.style import CLASSES, MUTED, gap_of, height_of, new, show, style

PROJECTIONS = ("pca", "tsne", "umap")


def check_projection(method: str) -> None:
    """Checks the method of a projection; InputError where it is unknown or not installed."""
    if method not in PROJECTIONS:
        raise one_of("projection", method, PROJECTIONS)
    if method == "umap":
        try:
            importlib.import_module("umap")
        except ImportError as error:
            raise not_installed("projection 'umap'", "umap-learn") from error


def project(latents: np.ndarray, method: str = "pca", seed: int = 0) -> tuple[np.ndarray, tuple[str, str]]:
    """Projects codes [n, d] to points [n, 2] of a plane; returns these and the names of its two axes.

    Codes of two numbers stay as they are; others are projected by PCA, t-SNE (van der Maaten and Hinton 2008) or
    UMAP (McInnes et al. 2018). Raises InputError where d is 1, or the method is unknown or not installed.
    """
    if latents.shape[1] < 2:
        raise InputError("a code of one number has no plane")
    if latents.shape[1] == 2:
        return latents, ("unit 1", "unit 2")
    check_projection(method)
    if method == "pca":
        pca = PCA(2, random_state=seed)
        points = pca.fit_transform(latents)
        ratios = np.nan_to_num(pca.explained_variance_ratio_)  # 0 / 0 where all codes are the same
        first, second = (f"component {k + 1} ({100 * r:.0f}% of the variance)" for k, r in enumerate(ratios))
        return points, (first, second)
    if (latents == latents[:1]).all():  # t-SNE divides by their spread, and scikit-learn's then ends the process
        raise InputError(f"all codes are the same: {method} has nothing to tell apart; choose pca")
    if method == "tsne":
        tsne = TSNE(perplexity=min(30, (len(latents) - 1) / 3), init="pca", random_state=seed)
        return tsne.fit_transform(latents), ("t-SNE 1", "t-SNE 2")
    umap = importlib.import_module("umap")
    return umap.UMAP(random_state=seed, n_jobs=1).fit_transform(latents), ("UMAP 1", "UMAP 2")


def classes(label: np.ndarray | None, number: int) -> tuple[np.ndarray, list[str]]:
    """Returns the class of each of `number` points, the index of a color, and the name of each class.

    The classes are the labels. Of more than ten labels the nine most frequent are classes; all others are -1.
    """
    if label is None:
        return np.zeros(number, int), [""]
    values, place, counts = np.unique(label, return_inverse=True, return_counts=True)
    if len(values) <= len(CLASSES):
        return place, [str(v) for v in values]
    kept = np.sort(np.argsort(-counts, kind="stable")[: len(CLASSES) - 1])
    rank = np.full(len(values), -1)
    rank[kept] = np.arange(len(kept))
    return rank[place], [str(v) for v in values[kept]]


def latent_map(points: np.ndarray, names: tuple[str, str], label: np.ndarray | None = None) -> Figure:
    """Draws points [n, 2] colored by label, with the label's name at the median of its points."""
    place, named = classes(label, len(points))
    with style():
        figure = new(4.8)
        axes = figure.subplots()
        colors = np.array([*CLASSES, MUTED])[place]
        axes.scatter(points[:, 0], points[:, 1], s=9, c=colors, lw=0, alpha=0.8, rasterized=True)
        for k, name in enumerate(named):
            if name:
                x, y = np.median(points[place == k], 0)
                halo = [withStroke(linewidth=3, foreground="white")]
                axes.text(x, y, name, size=13, weight="bold", ha="center", va="center", path_effects=halo)
        axes.set(xlabel=names[0], ylabel=names[1])
        axes.set_aspect("equal", "datalim")
    return figure


def grid(latents: np.ndarray, side: int = 20, margin: float = 0.01) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns a grid of codes between the quantiles `margin` and 1 - `margin` of each unit of codes [n, 2].

    The results are the codes [side * side, 2], top row first, and the values of unit 1 (rising) and 2 (falling).
    """
    low, high = np.quantile(latents, [margin, 1 - margin], axis=0)
    first, second = np.linspace(low[0], high[0], side), np.linspace(high[1], low[1], side)
    return np.stack(np.meshgrid(first, second), -1).reshape(-1, 2).astype(np.float32), first, second


def plane(images: np.ndarray, first: np.ndarray, second: np.ndarray) -> Figure:
    """Draws what the codes of `grid` decode to, [side * side, h, w, c], at their places in the plane."""
    side = len(first)
    tiles = images.reshape(side, side, *images.shape[1:])
    with style():
        figure = new(height_of(tiles, 4.5))
        axes = figure.subplots()
        show(axes, tiles)
        h, w = np.array(tiles.shape[2:4]) + gap_of(tiles)
        shown = np.linspace(0, side - 1, 5).round().astype(int)
        axes.set_xticks(shown * w + w / 2, [f"{first[k]:.1f}" for k in shown])
        axes.set_yticks(shown * h + h / 2, [f"{second[k]:.1f}" for k in shown])
        axes.set(xlabel="unit 1", ylabel="unit 2")
    return figure


def traversal(
    latents: np.ndarray, start: np.ndarray, quantiles: Sequence[float], rows: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Returns codes [units, quantiles, d] that differ from `start` [d] in one unit, and the units.

    The units are the `rows` that vary most over the codes [n, d]; each takes the values of its own quantiles.
    """
    units = np.argsort(-latents.std(0), kind="stable")[:rows]
    codes = np.broadcast_to(start, (len(units), len(quantiles), len(start))).astype(np.float32)
    for row, unit in enumerate(units):
        codes[row, :, unit] = np.quantile(latents[:, unit], quantiles)
    return codes, units


def lerp(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Interpolates linearly from a [d] to b [d] at the fractions t: [len(t), d]."""
    return (1 - t)[:, None] * a + t[:, None] * b


def slerp(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Interpolates from a [d] to b [d] at the fractions t: directions on a great circle, lengths linearly.

    The directions follow Shoemake 1985, "Animating rotation with quaternion curves", section 3.3. Where they are the
    same or opposite, or a length is 0, the interpolation is linear.
    """
    lengths = np.linalg.norm(a), np.linalg.norm(b)
    cosine = a @ b / (lengths[0] * lengths[1]) if all(lengths) else 1.0
    angle = np.arccos(np.clip(cosine, -1, 1))
    if np.sin(angle) < 1e-4:
        return lerp(a, b, t)
    first, second = np.sin((1 - t) * angle) / lengths[0], np.sin(t * angle) / lengths[1]
    direction = (first[:, None] * a + second[:, None] * b) / np.sin(angle)
    return ((1 - t) * lengths[0] + t * lengths[1])[:, None] * direction


PATHS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {"linear": lerp, "spherical": slerp}
