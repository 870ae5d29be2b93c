"""Sparse codes: what they leave unexplained, how often latents fire, how alike their directions are.

Where the features are known that the data is made of, also how well the latents are these features.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from aejax.data.sources import Truth
from aejax.errors import InputError
from aejax.evaluation import truth
from aejax.evaluation.subject import Measure, Measures, Part, Skipped, Subject
from aejax.inference.trained import TrainedModel

OF_THE_CODE = (
    *("unexplained", "unexplained_per_token", "dead_latents", "dense_latents", "median_frequency"),
    *("nearest_cosine", "nearest_cosine_90", "nearest_cosine_99"),
)
OF_THE_TRUTH = (
    *("true_l0", "f1", "latent_f1", "precision", "recall", "mcc", "mean_max_cosine", "uniqueness"),
    *("splitting", "absorption"),
)
_CHUNK = 2_048  # directions that are compared or decoded at once


class Unexplained(NamedTuple):
    """The fraction of the variance that a reconstruction leaves unexplained, see `unexplained`."""

    overall: float
    per_token: float


def unexplained(x: np.ndarray, reconstructed: np.ndarray) -> Unexplained:
    """Returns the fraction of the variance about the mean of the batch that is left, 0 at best.

    Overall, it is sum |x - x'|^2 / sum |x - mean|^2 over all examples; per token, the mean over examples of
    |x - x'|^2 / |x - mean|^2, in which those near the mean weigh more.
    """
    left = np.square(x - reconstructed, dtype=np.float64).reshape(len(x), -1).sum(1)
    whole = np.square(x - x.mean(0, dtype=np.float64)).reshape(len(x), -1).sum(1)
    if not whole.min() > 0:
        per_token = float(np.mean(left[whole > 0] / whole[whole > 0])) if whole.any() else math.nan
    else:
        per_token = float(np.mean(left / whole))
    return Unexplained(float(left.sum() / whole.sum()) if whole.any() else math.nan, per_token)


def frequencies(z: np.ndarray) -> np.ndarray:
    """Returns the fraction of the examples for which each latent is not 0, [latents]."""
    return np.asarray((z != 0).mean(0))


def frequency_histogram(frequency: np.ndarray, examples: int, bins: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Returns the number of latents in each bin of log10 of the frequency, and the edges; dead ones are in no bin.

    The bins, `bins` to a decade, reach from 1 / examples or below to 1.
    """
    low = -math.ceil(math.log10(max(examples, 10)))
    alive = np.log10(frequency[frequency > 0])
    return np.histogram(np.minimum(alive, 0), np.linspace(low, 0, -low * bins + 1))


def nearest(directions: np.ndarray, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns the `count` largest cosines of each direction with another one, and whose they are: [latents, count]."""
    found, which = [], []
    for start in range(0, len(directions), _CHUNK):
        similarity = truth.cosines(directions[start : start + _CHUNK], directions)
        similarity[np.arange(len(similarity)), np.arange(start, start + len(similarity))] = -np.inf
        order = np.argsort(-similarity, axis=1)[:, :count]
        found.append(np.take_along_axis(similarity, order, 1))
        which.append(order)
    return np.concatenate(found), np.concatenate(which)


class LossRecovered(NamedTuple):
    """The loss of a model on its own activations, on reconstructions, and on activations that are ablated.

    Attributes:
      clean, reconstructed, zero, mean: the loss with the activations x, with their reconstructions, with zeros, and
        with the mean of x over the batch for all of them.
      from_zero, from_mean: the fraction (ablated - reconstructed) / (ablated - clean) of what an ablation costs that
        reconstructions recover: 1 at best, 0 if they are no better than the ablation. NaN if it costs nothing.
    """

    clean: float
    reconstructed: float
    zero: float
    mean: float
    from_zero: float
    from_mean: float


def loss_recovered(
    loss_function: Callable[[np.ndarray], ArrayLike], x: ArrayLike, reconstruct: Callable[[np.ndarray], ArrayLike]
) -> LossRecovered:
    """Measures what reconstructions of activations cost the model that the activations come from.

    Args:
      loss_function: returns the mean loss of that model when activations [n, ...] stand in the place of its own.
      x: its own activations, [n, ...].
      reconstruct: of a run, e.g. `run.reconstruct`.
    """
    x = np.asarray(x)
    replaced = (x, np.asarray(reconstruct(x)), np.zeros_like(x), np.broadcast_to(x.mean(0), x.shape).astype(x.dtype))
    if replaced[1].shape != x.shape:
        raise InputError(f"reconstruct returned {replaced[1].shape} for activations of {x.shape}; they must be alike")
    clean, reconstructed, zero, mean = (float(np.asarray(loss_function(each))) for each in replaced)
    recovered = [(a - reconstructed) / (a - clean) if a != clean else math.nan for a in (zero, mean)]
    return LossRecovered(clean, reconstructed, zero, mean, *recovered)


def find_directions(run: TrainedModel, z: np.ndarray) -> np.ndarray | Skipped:
    """Returns what each latent adds to the reconstruction, [latents, values], in the user's units.

    Skipped if the decoder is not linear in the codes z [n, latents].
    """
    if z.ndim != 2 or run.config.classes:
        return Skipped("the code is no vector of latents, or is decoded with a label")
    origin = run.decode(np.zeros_like(z[:1])).reshape(-1)
    eye = (np.eye(z.shape[1], dtype=np.float32)[i : i + _CHUNK] for i in range(0, z.shape[1], _CHUNK))
    directions = np.concatenate([run.decode(part).reshape(len(part), -1) - origin for part in eye])
    some = z[:16]
    decoded = run.decode(some).reshape(len(some), -1)
    scale = np.abs(decoded - origin).max(initial=1e-6)
    if np.abs(some @ directions + origin - decoded).max(initial=0) > 1e-2 * scale:
        return Skipped("the decoder is not linear: a latent has no direction of its own")
    return directions


def measure(
    subject: Subject,
    dead_below: float = 0.0,
    dense_above: float = 0.1,
    examples: int = 20_000,
    split_cosine: float = 0.8,
    absorption_cosine: float = 0.1,
) -> Measures:
    """Returns the metrics of a sparse code with a linear decoder.

    Args:
      dead_below: a latent is dead if it fires at this frequency or below.
      dense_above: a latent is dense if it fires at a higher frequency.
      examples: the most that are used.
      split_cosine, absorption_cosine: see `truth.splitting` and `truth.absorption`.
    """
    for name, value in (("dead_below", dead_below), ("dense_above", dense_above)):
        if not 0 <= value <= 1:
            raise InputError(f"{name} must be a frequency from 0 to 1, got {value}")
    test = subject.test.take(examples)
    if subject.run.codebook_size is not None or (test.flat_latents != 0).all():
        return dict.fromkeys((*OF_THE_CODE, *OF_THE_TRUTH), Skipped("the code is not sparse: no latent is ever 0"))
    directions = subject.once(_directions)
    if isinstance(directions, Skipped):
        return dict.fromkeys((*OF_THE_CODE, *OF_THE_TRUTH), directions)
    left = unexplained(test.wanted, test.reconstructions)
    often = frequencies(test.latents)
    alive = directions[often > dead_below]
    cosine = nearest(alive)[0][:, 0] if len(alive) > 1 else np.array([math.nan])
    unit, total = f"fraction of {len(often):,} latents", f"{test}; deterministic code"
    of_nearest = f"largest cosine with another direction of the decoder, over the {len(alive):,} latents not dead"
    variance = "fraction of the variance, 0 at best"
    values = (
        (left.overall, variance, f"sum of squared errors over that about the mean of {total}"),
        (left.per_token, variance, f"mean over examples of squared error over that about the mean of {total}"),
        (float((often <= dead_below).mean()), unit, f"that fire for at most {dead_below:.4g} of {total}"),
        (float((often > dense_above).mean()), unit, f"that fire for more than {dense_above:.4g} of {total}"),
        (float(np.median(often)), "fraction of the examples", f"for which the median latent fires, of {total}"),
        (float(cosine.mean()), "cosine", f"mean of the {of_nearest}"),
        *((float(np.quantile(cosine, q)), "cosine", f"{q:.0%} quantile of the {of_nearest}") for q in (0.9, 0.99)),
    )
    found: Measures = {name: Measure(*value) for name, value in zip(OF_THE_CODE, values, strict=True)}
    if test.truth is None or test.target is not None:
        what = "data" if test.target is None else "target"
        return found | dict.fromkeys(OF_THE_TRUTH, Skipped(f"the {what} has no known features"))
    return found | _compare(test, test.truth, directions, split_cosine, absorption_cosine)


def _directions(subject: Subject) -> np.ndarray | Skipped:
    return find_directions(subject.run, subject.test.take(16).latents)


def _compare(
    test: Part, known: Truth, directions: np.ndarray, split_cosine: float, absorption_cosine: float
) -> Measures:
    """Returns the metrics against the known features."""
    active = known.activations(np.asarray(test.rows))
    scores = score(test.latents, directions, active, known, split_cosine, absorption_cosine)
    sizes = f"{len(directions):,} latents, {len(known.directions):,} features; {test}"
    pairs = f"optimal pairs of latents and features by cosine; {sizes}"
    units = dict.fromkeys(OF_THE_TRUTH, "from 0 to 1") | {"true_l0": f"of {len(known.directions):,} features"}
    protocols = {
        "true_l0": f"features that fire, mean over {test}",
        "f1": f"of a latent's firing for its feature's, mean over the {pairs} whose feature fires",
        "latent_f1": f"the same, mean over all latents, each for the feature of the largest cosine; {sizes}",
        "precision": f"mean over the {pairs} whose feature fires",
        "recall": f"mean over the {pairs} whose feature fires",
        "mcc": f"mean absolute cosine of the {pairs}",
        "mean_max_cosine": f"mean over features of the largest cosine of a latent; {sizes}",
        "uniqueness": f"features that are the most similar one of some latent, per latent; {sizes}",
        "splitting": f"features that several latents have a cosine of {split_cosine:g} with; {sizes}",
        "absorption": f"firings of a child whose latent stands for its parent, too; {sizes}",
    }
    return {
        name: Skipped("no child of a feature fires that has a latent, as its parent has")
        if math.isnan(value)
        else Measure(value, units[name], protocols[name])
        for name, value in scores.items()
    }


def score(
    z: np.ndarray,
    directions: np.ndarray,
    active: truth.csr_array,
    known: Truth,
    split_cosine: float = 0.8,
    absorption_cosine: float = 0.1,
) -> dict[str, float]:
    """Returns all scores against known features, by name.

    Args:
      z: codes of examples, [n, latents].
      directions: of the decoder, [latents, dims].
      active: what `known.activations` returned for these examples.
    """
    similarity = truth.cosines(directions, known.directions)
    pairs = truth.match(similarity)
    detected = truth.detection(z, active, *truth.fire(active, pairs))
    best = np.abs(similarity).argmax(1)
    values = (
        float(active.count_nonzero() / max(active.shape[0], 1)),
        detected.f1,
        truth.detection(z, active, np.arange(len(directions)), best).f1,
        detected.precision,
        detected.recall,
        truth.mean_correlation_coefficient(similarity, pairs),
        truth.mean_max_cosine(similarity),
        truth.uniqueness(similarity),
        truth.splitting(similarity, split_cosine),
        truth.absorption(z, active, similarity, pairs, known.parents, absorption_cosine),
    )
    return dict(zip(OF_THE_TRUTH, values, strict=True))
