"""How well single numbers of a code, its units, separate the known factors of variation of the data.

Codes are [n, units], factors whole numbers [n, factors], whose values count as categories. Mutual
information is of histograms, as in Locatello et al. 2019, whose names for the metrics are used here.
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
LARGEST = 128  # units: of more, the forests take minutes
TREES = 30
UNIT = "from 0 to 1"


def measure(subject: Subject, bins: int = 20, examples: int = 10_000, group: int = 64, votes: int = 5_000) -> Measures:
    """All metrics of the deterministic code; factors that do not vary in the data at hand are left out.

    Args:
      bins: of equal width, from the least to the largest value of each unit.
      examples: at most, of each split.
      group: examples that share a factor's value, for each vote of the FactorVAE score.
      votes: to find the majorities, and as many to score them.
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
        return _skipped("fewer than two factors of variation take several values in the data at hand")
    if not 2 <= units <= LARGEST:
        return _skipped(f"a code of {units:,} numbers: its units are compared where it has 2 to {LARGEST}")
    fit = (train.flat_latents, train.factors[:, varying])
    score = (test.flat_latents, test.factors[:, varying])
    information = mutual_information(*score, bins)
    sizes = f"{units} units of the flattened deterministic code, {len(varying)} factors"
    counted = f"{test}; {sizes}; mutual information of {bins} bins of equal width"
    measures: Measures = {
        "mig": Measure(mutual_information_gap(information, score[1]), UNIT, counted),
        "modularity": Measure(modularity(information), UNIT, f"{counted}; units without information left out"),
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
            f"mean accuracy over factors of {forests}; always the most frequent value: {chance:.3f}",
        ),
    )
    return measures | {n: Measure(v, UNIT, how) for n, (v, how) in zip(METRICS[2:], values, strict=True)}


def _skipped(reason: str) -> Measures:
    return dict.fromkeys(METRICS, Skipped(reason))


def _varying(*factors: np.ndarray) -> np.ndarray:
    """The numbers of the factors that take several values in each part."""
    if len({part.shape[1] for part in factors}) > 1:
        raise InputError(f"the splits have different numbers of factors: {[part.shape[1] for part in factors]}")
    return np.flatnonzero(np.all([(part != part[0]).any(0) for part in factors], 0))


def mutual_information(codes: np.ndarray, factors: np.ndarray, bins: int = 20) -> np.ndarray:
    """Of each unit, in `bins` bins of equal width, with each factor, [units, factors], in nats."""
    low, span = codes.min(0), np.ptp(codes, 0)
    place = (codes - low) / np.where(span > 0, span, 1)
    cells = np.minimum((place * bins).astype(int), bins - 1)
    return np.array([[mutual_info_score(cell, values) for values in factors.T] for cell in cells.T])


def mutual_information_gap(information: np.ndarray, factors: np.ndarray) -> float:
    """MIG (Chen et al. 2018), mean over factors.

    How much more the first unit tells of a factor than the second, as a share of the factor's entropy.

    Args:
      information: [units, factors], at least two units, see `mutual_information`.
    """
    second, first = np.sort(information, axis=0)[-2:]
    return float(np.mean((first - second) / [mutual_info_score(values, values) for values in factors.T]))


def modularity(information: np.ndarray) -> float:
    """Ridgeway and Mozer 2018: 1 where each unit tells of one factor only; mean over units.

    A unit that tells of none is left out; 0 where all are so.

    Args:
      information: [units, factors], at least two factors, see `mutual_information`.
    """
    squares = np.square(information)
    most = squares.max(1)
    told = most > 1e-20  # rounding leaves a constant unit a little
    deviation = (squares.sum(1) - most)[told] / (most[told] * (information.shape[1] - 1))
    return float(np.mean(1 - deviation)) if told.any() else 0.0


def separated_attribute_predictability(
    codes: np.ndarray, factors: np.ndarray, test_codes: np.ndarray, test_factors: np.ndarray
) -> float:
    """SAP (Kumar et al. 2018), mean over factors.

    How much better the first unit alone predicts a factor than the second, in balanced accuracy of
    thresholds, one fewer than the factor has values. A perfect code has 1 - 1 / values, as the second
    unit guesses.
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
    """Kim and Mnih 2018: accuracy of the majority vote, chance 1 / factors.

    In a group of examples that share a factor's value, the unit that varies least, in proportion to its
    deviation over all, votes for that factor. Units whose deviation is below a twentieth of the
    largest, collapsed ones, do not vote.
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
    """For each vote the unit that varies least and the factor whose value the group shares."""
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
    disentanglement: float
    completeness: float
    informativeness: float


def dci(codes: np.ndarray, factors: np.ndarray, test_codes: np.ndarray, test_factors: np.ndarray) -> DCI:
    """Eastwood and Williams 2018, with random forests that predict each factor from the code.

    Disentanglement: whether a unit matters for one factor only, units weighted by how much they
    matter; completeness: whether one unit is enough for a factor; informativeness, here the accuracy
    on the test examples (the paper has the error).
    """
    importance, accuracy = [], []
    for values, test_values in zip(factors.T, test_factors.T, strict=True):
        # Each split chooses among all units, or units that do not matter would be used for want of others.
        forest = RandomForestClassifier(TREES, max_features=None, min_samples_leaf=5, n_jobs=-1, random_state=0)
        forest.fit(codes, values)
        importance.append(forest.feature_importances_)
        accuracy.append(forest.score(test_codes, test_values))
    matrix = np.stack(importance, 1)  # [units, factors]
    return DCI(concentration(matrix), concentration(matrix.T), float(np.mean(accuracy)))


def concentration(importance: np.ndarray) -> float:
    """1 - the entropy of each row's shares, by base its length; mean over rows, weighted by their sums.

    1 where each row has one entry, 0 where all entries are equal, or nothing matters.
    """
    weights = importance.sum(1)
    live = weights > 0
    if not live.any():
        return 0.0
    spread = entropy(importance[live], base=importance.shape[1], axis=1)
    return float(np.average(1 - spread, weights=weights[live]))
