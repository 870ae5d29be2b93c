"""Metrics of generation: how close generated examples are to real ones, in a feature space that the user chooses."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from aejax.errors import InputError
from aejax.evaluation.subject import Measure, Measures, Skipped, Subject
from aejax.registry import resolve

NEIGHBOURS = 3
WIDEST = 2_048  # most features, as of Inception: a larger covariance takes minutes and far more examples
_HIDDEN, _EXAMPLES, _EPOCHS = 128, 10_000, 20  # of the classifier, trained in about ten seconds on 28x28 images

Features = Callable[[np.ndarray, np.ndarray | None], np.ndarray]  # maps x, in the user's units, and labels to [n, d]


class Space(NamedTuple):
    """A feature space: the function that maps examples to features, and what the features mean, in words."""

    features: Features
    meaning: str


def measure(subject: Subject, features: str = "encoder", num: int = 5_000) -> Measures:
    """Compares generated examples with as many examples of the test part.

    For a conditional run, also measures its `conditional_accuracy`.

    Args:
      subject: the run and its data.
      features: "encoder", the run's flat latents; "classifier", the last hidden layer of a network trained on the
        train labels; or "package.module:function", which maps x in the user's units to [n, d].
      num: number of generated examples; fewer if the test part is smaller.
    """
    check(features, num)
    names = ("frechet_distance", "frechet_distance_of_train", "precision", "recall")
    if subject.test.target is not None:
        return dict.fromkeys(names, Skipped("a transcoder generates targets, and features are those of inputs"))
    if subject.run.spec.padded or subject.run.spec.missing:
        lacking = "missing values" if subject.run.spec.missing else "sequences that end"
        return dict.fromkeys(names, Skipped(f"what is generated has all values, and the data has {lacking}"))
    space = _find_space(subject, features)
    if isinstance(space, Skipped):
        return dict.fromkeys(names, space)
    test = subject.test.take(num)
    count = len(test)
    real = _compute_features(space, test.inputs, test.condition)
    if count < 2 or real.shape[1] > WIDEST:
        reason = f"there are {real.shape[1]:,} features, more than {WIDEST:,}; choose others"
        return dict.fromkeys(names, Skipped(reason if count > 1 else f"{test} have no covariance"))
    try:
        samples = subject.run.generate(count, seed=0, label=test.condition)
    except InputError as error:  # too few saved latents
        return dict.fromkeys(names, Skipped(str(error)))
    if bounds := subject.run.spec.bounds:
        samples = np.clip(samples, *bounds)
    generated = _compute_features(space, samples, test.condition)
    train = subject.train.take(count)
    how = f"{space.meaning} ({real.shape[1]:,} features; not the FID of Inception)"
    origin = "its prior"
    if not hasattr(subject.run.model.bottleneck, "prior_of"):
        origin = f"a fit to its {len(subject.run.latents):,} saved latents, as it has no prior"
    against = f"{count:,} generated from {origin}, seed 0, against {test}"
    if subject.run.config.classes:
        against += ", with their labels"
    biased = "" if count > real.shape[1] else "; fewer examples than features: singular covariances, a rough value"
    unit, distance = "squared feature units", frechet_distance(real, generated)
    measures: Measures = {"frechet_distance": Measure(distance, unit, f"{against}; {how}{biased}")}
    if subject.unseen:
        measures["frechet_distance_of_train"] = subject.unseen
    else:
        distance = frechet_distance(real, _compute_features(space, train.inputs, train.condition))
        protocol = f"{train} against {test}, for comparison; {how}{biased}"
        measures["frechet_distance_of_train"] = Measure(distance, unit, protocol)
    if count <= NEIGHBOURS:
        return measures | dict.fromkeys(names[2:], Skipped(f"{test} do not have {NEIGHBOURS} neighbors each"))
    protocol = f"{against}; {NEIGHBOURS} nearest neighbors; {how}"
    for name, value in zip(names[2:], precision_and_recall(real, generated), strict=True):
        measures[name] = Measure(value, "fraction", protocol)
    if test.condition is not None:
        measures["conditional_accuracy"] = conditional_accuracy(subject, samples, test.condition)
    return measures


def conditional_accuracy(subject: Subject, generated: np.ndarray, asked: np.ndarray) -> Measure | Skipped:
    """Returns the fraction of `generated` [n, ...] that a classifier assigns to the label in `asked` [n].

    The classifier is a small network trained on the train labels. Its accuracy on the test part is the most that one
    can expect.
    """
    model = subject.once(_fit_classifier)
    if isinstance(model, Skipped):
        return model
    accuracy, labels = model.score(generated.reshape(len(generated), -1), asked), f"the labels of {subject.test.name}"
    protocol = f"{len(generated):,} generated, seed 0, with {labels}; {_describe_classifier(subject, model)}"
    return Measure(float(accuracy), "fraction", protocol)


def check(features: str, num: int) -> None:
    """Checks the arguments of `measure` before anything is computed. Raises InputError if one is wrong."""
    if isinstance(num, bool) or not isinstance(num, int) or num < 2:
        raise InputError(f"num must be at least 2 examples, got {num!r}")
    resolve("features", features, SPACES)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the squared Fréchet distance between the Gaussians fitted to a [n, d] and b [m, d].

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) (Dowson and Landau 1982; Heusel et al. 2017, equation 6).
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    return gaussian_distance(
        a.mean(0), np.cov(a.T).reshape(a.shape[1], -1), b.mean(0), np.cov(b.T).reshape(b.shape[1], -1)
    )


def gaussian_distance(mean_a: np.ndarray, a: np.ndarray, mean_b: np.ndarray, b: np.ndarray) -> float:
    """Returns the squared Fréchet distance between Gaussians of means [d] and covariances [d, d], even if singular."""
    # A B has the eigenvalues of the symmetric A^(1/2) B A^(1/2), whose square roots are real.
    values, vectors = np.linalg.eigh(a)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ b @ root), 0)).sum()
    return float(max(np.square(mean_a - mean_b).sum() + np.trace(a) + np.trace(b) - 2 * cross, 0.0))


def precision_and_recall(real: np.ndarray, generated: np.ndarray, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Returns precision and recall (Kynkäänniemi et al. 2019, equations 1 and 2).

    Precision is the fraction of the generated features [m, d] near the real ones [n, d], and recall the fraction of the
    real features near the generated ones. A point is near a set if it is within the ball around some point of the set
    whose radius is the distance of that point to its k-th nearest neighbor in the set.
    """
    return _compute_coverage(generated, real, k), _compute_coverage(real, generated, k)


def _compute_coverage(x: np.ndarray, manifold: np.ndarray, k: int) -> float:
    """Returns the fraction of x [n, d] within the balls around the points of `manifold` [m, d]."""
    kth = lambda distances, start: np.partition(distances, k, 1)[:, k]  # noqa: E731  the 0th is the example itself
    radii = np.concatenate(list(pairwise_distances_chunked(manifold, reduce_func=kth, working_memory=128)))
    inside = lambda distances, start: (distances <= radii).any(1)  # noqa: E731
    covered = np.concatenate(list(pairwise_distances_chunked(x, manifold, reduce_func=inside, working_memory=128)))
    return float(covered.mean())


def _use_encoder(subject: Subject) -> Space:
    run = subject.run
    return Space(lambda x, label: run.encode(x, label).reshape(len(x), -1), "the run's own flat latents")


def _fit_classifier(subject: Subject) -> Pipeline | Skipped:
    """Fits a small network to the train labels, in bounded time: on _EXAMPLES examples at most, for _EPOCHS epochs."""
    train = subject.train.take(_EXAMPLES)
    if train.label is None or len(np.unique(train.label)) < 2:
        return Skipped("a classifier needs train data of several labels; choose features='encoder'")
    network = MLPClassifier(_HIDDEN, max_iter=_EPOCHS, random_state=0)
    # Standardizing images would amplify the noise of their nearly constant pixels at the borders.
    scaler = "passthrough" if subject.run.spec.bounds else StandardScaler()
    model = make_pipeline(scaler, network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the epochs are few on purpose
        return model.fit(train.inputs.reshape(len(train), -1), train.label)


def _describe_classifier(subject: Subject, model: Pipeline) -> str:
    meaning, test = f"a classifier of {_HIDDEN} units trained on {subject.train.take(_EXAMPLES)}", subject.test
    if test.label is None:
        return meaning
    return f"{meaning}, {model.score(test.inputs.reshape(len(test), -1), test.label):.1%} correct on {test}"


def _use_classifier(subject: Subject) -> Space | Skipped:
    model = subject.once(_fit_classifier)
    if isinstance(model, Skipped):
        return model
    features = lambda x, label: hidden(model[-1], model[:-1].transform(x.reshape(len(x), -1)))  # noqa: E731
    return Space(features, f"the hidden layer of {_describe_classifier(subject, model)}")


def hidden(network: MLPClassifier, x: np.ndarray) -> np.ndarray:
    """Returns the hidden layer [n, units] of a fitted network with a single one."""
    return np.maximum(x @ network.coefs_[0] + network.intercepts_[0], 0)


SPACES: dict[str, Callable[[Subject], Space | Skipped]] = {"encoder": _use_encoder, "classifier": _use_classifier}


def _find_space(subject: Subject, name: str) -> Space | Skipped:
    if name in SPACES:
        return subject.once(SPACES[name])
    function: Any = resolve("features", name, SPACES)
    return Space(lambda x, label: function(x), f"features {name}")


def _compute_features(space: Space, x: np.ndarray, label: np.ndarray | None) -> np.ndarray:
    values = np.asarray(space.features(x, label))
    if values.ndim != 2 or len(values) != len(x) or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        raise InputError(f"{space.meaning}: must be finite numbers [{len(x)}, d], got {values.shape} of {values.dtype}")
    return values.astype(np.float64)
