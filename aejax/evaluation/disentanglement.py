"""Disentanglement: how well the single units of a code separate the known factors of variation of the data.

Codes are [n, units], factors integers [n, factors], whose values are categories. Mutual information is computed
from histograms, as in Locatello et al. 2019, whose names for the metrics are used here.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import entropy
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import mutual_info_score
from sklearn.tree import DecisionTreeClassifier

from aejax.errors import InputError
from aejax.evaluation.subject import Measure, Measures, Skipped, Subject

METRICS = (
    "mig",
    "modularity",
    "sap",
    "factor_vae_score",
    "dci_disentanglement",
    "dci_completeness",
    "dci_informativeness",
)
LARGEST = 128  # units: with more, the forests take minutes
TREES = 30
UNIT = "from 0 to 1"


def measure(subject: Subject, bins: int = 20, examples: int = 10_000, group: int = 64, votes: int = 5_000) -> Measures:
    """Returns all metrics of the deterministic code; factors that do not vary in the data are left out.

    Args:
      bins: number of bins of equal width, from the smallest to the largest value of each unit.
      examples: the most that are used of each split.
      group: number of examples that share a factor's value, for each vote of the FactorVAE score.
      votes: number of votes that find the majorities, and of those that score them.

    Raises InputError where an argument is too small.
    """
    for name, value, least in (("bins", bins, 2), ("examples", examples, 2), ("group", group, 2), ("votes", votes, 1)):
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")
    train, test = subject.train.take(examples), subject.test.take(examples)
    units = math.prod(subject.run.latents.shape[1:])
    if train.factors is None or test.factors is None:
        return _skipped("the data has no known factors of variation")
    varying = _varying(train.factors, test.factors)
    if len(varying) < 2:
        return _skipped("fewer than two factors of variation take several values in the data")
    if not 2 <= units <= LARGEST:
        return _skipped(f"the number of units is {units:,}; they are compared where there are 2 to {LARGEST}")
    fit = (train.flat_latents, train.factors[:, varying])
    score = (test.flat_latents, test.factors[:, varying])
    information = mutual_information(*score, bins)
    sizes = f"{units} units of the flattened deterministic code, {len(varying)} factors"
    counted = f"{test}; {sizes}; mutual information of {bins} bins of equal width"
    measures: Measures = {
        "mig": Measure(mutual_information_gap(information, score[1]), UNIT, counted),
        "modularity": Measure(modularity(information), UNIT, f"{counted}; units without information are left out"),
    }
    if subject.unseen:
        return measures | dict.fromkeys(METRICS[2:], subject.unseen)
    found = dci(*fit, *score)
    fitted = f"fitted on {train}, scored on {test}; {sizes}"
    forests = f"random forests of {TREES} trees {fitted}"
    chance = np.mean([np.unique(values, return_counts=True)[1].max() / len(values) for values in score[1].T])
    values = (
        (separated_attribute_predictability(*fit, *score), f"balanced accuracy of thresholds {fitted}"),
        (
            factor_vae_score(*fit, *score, group, votes),
            f"majority {fitted}; {votes:,} votes each, of {group} examples drawn with replacement",
        ),
        (found.disentanglement, forests),
        (found.completeness, forests),
        (
            found.informativeness,
            f"mean accuracy over factors of {forests}; predicting the most frequent value: {chance:.3f}",
        ),
    )
    return measures | {n: Measure(v, UNIT, how) for n, (v, how) in zip(METRICS[2:], values, strict=True)}


def _skipped(reason: str) -> Measures:
    return dict.fromkeys(METRICS, Skipped(reason))


def _varying(*factors: np.ndarray) -> np.ndarray:
    """Returns the indices of the factors that take several values in each part."""
    if len({part.shape[1] for part in factors}) > 1:
        raise InputError(f"the splits have different numbers of factors: {[part.shape[1] for part in factors]}")
    return np.flatnonzero(np.all([(part != part[0]).any(0) for part in factors], 0))


def mutual_information(codes: np.ndarray, factors: np.ndarray, bins: int = 20) -> np.ndarray:
    """Returns the mutual information [units, factors], in nats, of units in `bins` bins of equal width and factors."""
    low, span = codes.min(0), np.ptp(codes, 0)
    place = (codes - low) / np.where(span > 0, span, 1)
    cells = np.minimum((place * bins).astype(int), bins - 1)
    return np.array([[mutual_info_score(cell, values) for values in factors.T] for cell in cells.T])


def mutual_information_gap(information: np.ndarray, factors: np.ndarray) -> float:
    """Returns MIG (Chen et al. 2018), the mean over factors.

    It is the difference of mutual information with a factor between the best and the second best unit, as a
    fraction of the factor's entropy.

    Args:
      information: [units, factors], at least two units, see `mutual_information`.
    """
    second, first = np.sort(information, axis=0)[-2:]
    return float(np.mean((first - second) / [mutual_info_score(values, values) for values in factors.T]))


def modularity(information: np.ndarray) -> float:
    """Returns the modularity (Ridgeway and Mozer 2018): 1 where each unit informs about one factor only.

    It is the mean over units. A unit without information is left out; the result is 0 where all units are.

    Args:
      information: [units, factors], at least two factors, see `mutual_information`.
    """
    squares = np.square(information)
    most = squares.max(1)
    informed = most > 1e-20  # rounding leaves a constant unit a little
    deviation = (squares.sum(1) - most)[informed] / (most[informed] * (information.shape[1] - 1))
    return float(np.mean(1 - deviation)) if informed.any() else 0.0


def separated_attribute_predictability(
    codes: np.ndarray, factors: np.ndarray, test_codes: np.ndarray, test_factors: np.ndarray
) -> float:
    """Returns SAP (Kumar et al. 2018), the mean over factors.

    It is the difference in balanced accuracy between the best and the second best unit, each alone predicting a
    factor by thresholds, one fewer than the factor has values. A perfect code has 1 - 1 / values, as its second
    best unit guesses.
    """
    gaps = []
    for values, test_values in zip(factors.T, test_factors.T, strict=True):
        thresholds = DecisionTreeClassifier(
            max_leaf_nodes=len(np.unique(values)), class_weight="balanced", random_state=0
        )
        _, which, counts = np.unique(test_values, return_inverse=True, return_counts=True)
        scores = [
            thresholds.fit(unit[:, None], values).score(test_unit[:, None], test_values, 1 / counts[which])
            for unit, test_unit in zip(codes.T, test_codes.T, strict=True)
        ]
        second, first = np.sort(scores)[-2:]
        gaps.append(first - second)
    return float(np.mean(gaps))


def factor_vae_score(
    codes: np.ndarray,
    factors: np.ndarray,
    test_codes: np.ndarray,
    test_factors: np.ndarray,
    group: int = 64,
    votes: int = 5_000,
) -> float:
    """Returns the FactorVAE score (Kim and Mnih 2018): the accuracy of the majority vote, by chance 1 / factors.

    In a group of examples that share a factor's value, the unit that varies least, relative to its standard
    deviation over all examples, votes for that factor. Collapsed units, whose standard deviation is below a
    twentieth of the largest, do not vote.
    """
    deviation = codes.std(0)
    active = deviation >= 0.05 * deviation.max()
    scale = np.where(deviation > 0, deviation, 1)[active]
    rng = np.random.default_rng(0)
    table = np.zeros((active.sum(), factors.shape[1]))
    np.add.at(table, _votes(codes[:, active] / scale, factors, group, votes, rng), 1)
    unit, factor = _votes(test_codes[:, active] / scale, test_factors, group, votes, rng)
    return float(np.mean(table.argmax(1)[unit] == factor))


def _votes(
    codes: np.ndarray, factors: np.ndarray, group: int, votes: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the unit that varies least and the factor whose value the group shares, for each vote."""
    factor = np.sort(rng.integers(factors.shape[1], size=votes))
    unit = []
    for k, count in enumerate(np.bincount(factor, minlength=factors.shape[1])):
        order = np.argsort(factors[:, k])
        ordered = factors[order, k]
        shared = rng.choice(ordered, count)
        first, end = np.searchsorted(ordered, shared), np.searchsorted(ordered, shared, side="right")
        rows = order[rng.integers(first, end, size=(group, count))]
        unit.append(codes[rows].var(0).argmin(1))
    return np.concatenate(unit), factor


class DCI(NamedTuple):
    """The three scores of `dci`."""

    disentanglement: float
    completeness: float
    informativeness: float


def dci(codes: np.ndarray, factors: np.ndarray, test_codes: np.ndarray, test_factors: np.ndarray) -> DCI:
    """Returns DCI (Eastwood and Williams 2018), from random forests that predict each factor from the code.

    Disentanglement says whether a unit matters for one factor only, weighted by how much it matters; completeness,
    whether one unit suffices for a factor; informativeness is the accuracy on the test examples (the paper reports
    the error).
    """
    importance, accuracy = [], []
    for values, test_values in zip(factors.T, test_factors.T, strict=True):
        # Each split chooses among all units; else units that do not matter would be used where no other is offered.
        forest = RandomForestClassifier(TREES, max_features=None, min_samples_leaf=5, n_jobs=-1, random_state=0)
        forest.fit(codes, values)
        importance.append(forest.feature_importances_)
        accuracy.append(forest.score(test_codes, test_values))
    matrix = np.stack(importance, 1)  # [units, factors]
    return DCI(concentration(matrix), concentration(matrix.T), float(np.mean(accuracy)))


def concentration(importance: np.ndarray) -> float:
    """Returns the mean over rows, weighted by their sums, of 1 - the entropy of the normalized row.

    The base of the entropy is the row's length: the result is 1 where each row has one entry, and 0 where all
    entries are equal or all are 0.
    """
    weights = importance.sum(1)
    used = weights > 0
    if not used.any():
        return 0.0
    spread = entropy(importance[used], base=importance.shape[1], axis=1)
    return float(np.average(1 - spread, weights=weights[used]))
