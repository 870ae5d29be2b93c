"""Representation: labels that can be read from a code, and neighborhoods of the data that it keeps."""

import math
import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import trustworthiness
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from aejax.errors import InputError
from aejax.evaluation.subject import Measure, Measures, Skipped, Subject

NUMBERS = 20_000_000  # of all codes together that a probe reads: of larger codes it reads fewer examples
RANKED = 2_000  # examples at most whose distances are ranked
OF_LABELS = ("linear_probe_accuracy", "knn_accuracy", "adjusted_rand_index", "normalised_mutual_information")
OF_NEIGHBOURHOODS = ("trustworthiness", "continuity")


def measure(subject: Subject, neighbours: int = 5, examples: int = 10_000) -> Measures:
    """Returns all metrics of the deterministic code, flattened; skipped where there are too few examples.

    Args:
      neighbours: how many of an example's nearest neighbors count.
      examples: the most that are used of each split.

    Raises InputError where `neighbours` is below 1.
    """
    if neighbours < 1:
        raise InputError(f"neighbours must be at least 1, got {neighbours}")
    for part in (subject.train, subject.test):
        if neighbours >= min(len(part), examples):
            few = Skipped(f"neighbours={neighbours} is not below the {min(len(part), examples):,} examples; lower it")
            return dict.fromkeys((*OF_LABELS, *OF_NEIGHBOURHOODS), few)
    return _of_labels(subject, neighbours, examples) | _of_neighbourhoods(subject, neighbours, examples)


def _of_labels(subject: Subject, neighbours: int, examples: int) -> Measures:
    count = min(examples, max(NUMBERS // math.prod(subject.run.latents.shape[1:]), neighbours + 1))
    train, test = subject.train.take(count), subject.test.take(count)
    if subject.unseen:
        return dict.fromkeys(OF_LABELS, subject.unseen)
    if train.label is None or test.label is None:
        return dict.fromkeys(OF_LABELS, Skipped("the data has no labels"))
    if min(len(np.unique(label)) for label in (train.label, test.label)) < 2:
        return dict.fromkeys(OF_LABELS, Skipped("all examples have one label"))
    rand, information = clustering(test.flat_latents, test.label)
    fitted = f"fitted on {train}, scored on {test}; flattened deterministic code"
    clusters = f"k-means of {len(np.unique(test.label))} clusters, as many as labels, on {test}; flattened code"
    probe = linear_probe(train.flat_latents, train.label, test.flat_latents, test.label)
    nearest = nearest_neighbours(train.flat_latents, train.label, test.flat_latents, test.label, neighbours)
    values = (
        (probe, "fraction predicted correctly", f"multinomial logistic regression {fitted}, standardized"),
        (nearest, "fraction predicted correctly", f"vote of {neighbours} nearest neighbors {fitted}"),
        (rand, "0 by chance, 1 at best", clusters),
        (information, "from 0 to 1", clusters),
    )
    return {name: Measure(*value) for name, value in zip(OF_LABELS, values, strict=True)}


def _of_neighbourhoods(subject: Subject, neighbours: int, examples: int) -> Measures:
    test = subject.test.take(min(examples, RANKED))
    if 2 * neighbours >= len(test):
        reason = f"neighbours={neighbours} needs more than {2 * neighbours} examples, there are {test}"
        return dict.fromkeys(OF_NEIGHBOURHOODS, Skipped(reason))
    inputs, codes = np.nan_to_num(test.inputs).reshape(len(test), -1), test.flat_latents
    how = f"{neighbours} neighbors among {test}; Euclidean distances of flattened inputs and code"
    trust, kept = (trustworthiness(a, b, n_neighbors=neighbours) for a, b in ((inputs, codes), (codes, inputs)))
    of_codes = f"how far neighbors in the code are neighbors in the data; {how}"
    of_data = f"how far neighbors in the data are neighbors in the code; {how}"
    return {
        "trustworthiness": Measure(float(trust), "from 0 to 1", of_codes),
        "continuity": Measure(float(kept), "from 0 to 1", of_data),
    }


def linear_probe(codes: np.ndarray, label: np.ndarray, test_codes: np.ndarray, test_label: np.ndarray) -> float:
    """Returns the accuracy of a multinomial logistic regression on standardized codes (Alain and Bengio 2016)."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # for a probe, nearly the optimum suffices
        probe.fit(codes.astype(np.float64), label)
    return float(probe.score(test_codes.astype(np.float64), test_label))


def nearest_neighbours(
    codes: np.ndarray, label: np.ndarray, test_codes: np.ndarray, test_label: np.ndarray, neighbours: int = 5
) -> float:
    """Returns the accuracy of the vote of the nearest `codes` [n, d], by Euclidean distance."""
    return float(KNeighborsClassifier(neighbours).fit(codes, label).score(test_codes, test_label))


def clustering(codes: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Returns how well k-means, the best of five starts, agrees with the labels.

    The two figures are the adjusted Rand index (Hubert and Arabie 1985) and the mutual information, normalized by
    the mean of both entropies.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct codes than labels
        found = KMeans(len(np.unique(label)), n_init=5, random_state=0).fit_predict(codes)
    return float(adjusted_rand_score(label, found)), float(normalized_mutual_info_score(label, found))
