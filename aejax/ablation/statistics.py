"""Statistics over seeds: means, standard deviations, and confidence intervals of differences."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy import stats

CONFIDENCE = 0.95
# Last parts of metrics' names. A metric in neither has no better direction, e.g. a rate or a KL.
LOWER = {
    *("loss", "squared_error", "squared_error_per_value", "squared_error_standardized", "bound", "bits_per_dimension"),
    *("dead_codes", "dead_units", "denoised_squared_error", "rfid"),
    *("unexplained", "unexplained_per_token", "dead_latents", "splitting", "absorption"),
}
HIGHER = {
    *("psnr", "ssim", "elbo", "log_likelihood", "variance_explained", "linear_probe_accuracy", "knn_accuracy"),
    *("adjusted_rand_index", "normalised_mutual_information", "trustworthiness", "continuity", "mig", "modularity"),
    *("sap", "factor_vae_score", "dci_disentanglement", "dci_completeness", "dci_informativeness"),
    *("f1", "latent_f1", "mcc", "mean_max_cosine", "uniqueness"),
}
_DENSITIES = {"elbo", "log_likelihood", "distortion", "bits_per_dimension"}
# Prefixes of keys that redefine a metric, so that its values cannot be compared: other data redefine all metrics,
# another likelihood those of densities, and another objective, likelihood or unit the losses.
_OF_ALL = (
    *("data.name", "data.options", "data.size", "data.width", "data.binarize"),
    *("data.held_out", "data.validation", "data.test"),
)
_OF_DENSITIES = ("likelihood.",)
_OF_LOSSES = ("objective.", "likelihood.", "adversary.", "data.standardize", "encoder.mask_ratio")


class Difference(NamedTuple):
    """The difference of two means.

    Attributes:
      value: the first mean minus the second.
      low, high: ends of the confidence interval; None where there are too few seeds for one.
      how: "paired" or "Welch", and over how many seeds.
    """

    value: float
    low: float | None
    high: float | None
    how: str


def direction(metric: str, axes: Sequence[str] = ()) -> int:
    """Returns -1 where lower is better, 1 where higher is, 0 where neither is or the axes redefine the metric."""
    name = metric.rsplit("/", 1)[-1]
    if redefined(metric, axes):
        return 0
    if name in HIGHER or name.startswith("auroc") or name.endswith("accuracy"):
        return 1
    return -1 if name in LOWER else 0


def better(metric: str, axes: Sequence[str]) -> str:
    """Returns the direction in words."""
    return {-1: "lower is better", 0: "", 1: "higher is better"}[direction(metric, axes)]


def redefined(metric: str, axes: Sequence[str]) -> list[str]:
    """Returns the axes that redefine the metric."""
    by: tuple[str, ...] = _OF_ALL
    if metric in ("validation/loss", "train/loss", "validation/bound", "train/bound"):
        by += _OF_LOSSES
    if metric.rsplit("/", 1)[-1] in _DENSITIES:
        by += _OF_DENSITIES
    return [a for a in axes if a.startswith(by)]


def deviation(values: Sequence[float]) -> float | None:
    """Returns the standard deviation over seeds (n - 1 in the denominator); None for one seed."""
    return statistics.stdev(values) if len(values) > 1 else None


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Returns Student's confidence interval of the mean over seeds; None for one seed."""
    if len(values) < 2:
        return None
    error = statistics.stdev(values) / math.sqrt(len(values))
    _, low, high, _ = _interval(statistics.fmean(values), error, len(values) - 1, "")
    assert low is not None
    assert high is not None
    return low, high


def difference(a: Mapping[int, float], b: Mapping[int, float]) -> Difference | None:
    """Returns the mean of a minus the mean of b, both by seed; None where either is empty.

    If a and b have at least two seeds in common, these are paired, and the interval is Student's of their
    differences. Otherwise it is Welch's of all values (Welch 1947), which needs two of each.
    """
    if not (a and b):
        return None
    common = sorted(a.keys() & b.keys())
    if len(common) > 1:
        each = [a[seed] - b[seed] for seed in common]
        error, degrees = statistics.stdev(each) / math.sqrt(len(each)), float(len(each) - 1)
        return _interval(statistics.fmean(each), error, degrees, f"paired, {len(common)} seeds")
    value = statistics.fmean(a.values()) - statistics.fmean(b.values())
    if min(len(a), len(b)) < 2:
        return Difference(value, None, None, "one seed, no interval")
    u, v = (statistics.variance(x.values()) / len(x) for x in (a, b))
    degrees = (u + v) ** 2 / (u**2 / (len(a) - 1) + v**2 / (len(b) - 1)) if u + v else math.inf
    return _interval(value, math.sqrt(u + v), degrees, f"Welch, {len(a)} and {len(b)} seeds")


def _interval(value: float, error: float, degrees: float, how: str) -> Difference:
    """Returns the difference with its interval, from its standard error and degrees of freedom."""
    half = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees))
    return Difference(value, value - half, value + half, how)
