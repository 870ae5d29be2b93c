"""Anomaly detection: how well a run separates a held-out class from the classes that it was trained on."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score

from aejax.evaluation import likelihood
from aejax.evaluation.reconstruction import squared_errors
from aejax.evaluation.subject import Measure, Measures, Skipped, Subject
from aejax.inference.trained import TrainedModel

SCORES = ("squared_error", "negative_elbo")


def measure(subject: Subject) -> Measures:
    """Returns the AUROC of the held-out class of the test part against the others, for each score."""
    if reason := _no_classes(subject):
        return {f"auroc_{name}": Skipped(reason) for name in SCORES}
    held_out, test = subject.run.config.data.held_out, subject.test
    anomalous = test.label == held_out
    measures: Measures = {}
    found = {"squared_error": squared_errors(test.wanted, test.reconstructions)}
    if reason := subject.run.density.no_elbo:
        measures["auroc_negative_elbo"] = Skipped(reason)
    else:
        found["negative_elbo"] = -subject.once(likelihood.parts_of_test).elbo
    how = f"label {held_out} of {test} ({anomalous.sum():,}) against the others; train and validation hold none of it"
    for name, score in found.items():
        measures[f"auroc_{name}"] = Measure(float(roc_auc_score(anomalous, score)), "0.5 by chance, 1 at best", how)
    return measures


def scores(
    run: TrainedModel, x: ArrayLike, label: ArrayLike | None = None, scale: float | None = None
) -> dict[str, np.ndarray]:
    """Returns anomaly scores [n] by name; higher means more unusual.

    `squared_error` is that of the deterministic reconstruction, in the user's units and summed over values.
    `negative_elbo`, in nats, is there where the run has an ELBO. The arguments are those of
    `Run.log_likelihood`.
    """
    found = {"squared_error": squared_errors(run.in_users_units(x), run.reconstruct(x, label))}
    if not run.density.no_elbo:
        found["negative_elbo"] = -run.elbo(x, label=label, scale=scale)
    return found


def auroc(
    run: TrainedModel,
    normal: ArrayLike,
    anomalous: ArrayLike,
    labels: tuple[ArrayLike | None, ArrayLike | None] = (None, None),
) -> dict[str, float]:
    """Returns the area under the ROC curve of each of the run's `scores`.

    It is the probability that the score is higher for an example of `anomalous` than for one of `normal`. A
    likelihood with optimal variance uses the variance of `normal`.

    Args:
      labels: of `normal` and of `anomalous`, where the run is conditional.
    """
    scale = run.density.optimal_scale(normal, label=labels[0])
    known, strange = (scores(run, x, y, scale) for x, y in zip((normal, anomalous), labels, strict=True))
    truth = np.repeat([0, 1], [len(known["squared_error"]), len(strange["squared_error"])])
    return {name: float(roc_auc_score(truth, np.concatenate([known[name], strange[name]]))) for name in known}


def _no_classes(subject: Subject) -> str | None:
    """Returns why the subject lacks normal or anomalous examples; None where it has both."""
    held_out, label = subject.run.config.data.held_out, subject.test.label
    if held_out < 0:
        return "no class was held out: train with data.held_out=<label>, or give anomaly.auroc your own arrays"
    if subject.run.config.classes:
        return "a conditional run would be given the label that it was never trained on: train with classes=0"
    if label is None or len(np.unique(label == held_out)) < 2:
        return f"the {subject.test.name} part lacks examples of label {held_out} or of the others"
    return None
