"""Fidelity of reconstructions: their Fréchet distance to the inputs, in a feature space that the user names.

With the features of Inception this is the rFID that papers on tokenizers report. With any other features it has
another name, and is comparable only within one space.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from aejax.errors import InputError, shown
from aejax.evaluation.generation import WIDEST, gaussian_distance
from aejax.evaluation.subject import Measure, Measures, Skipped, Subject
from aejax.inference.trained import TrainedModel
from aejax.registry import resolve

INCEPTION = 2_048  # features of the last pooling layer, which the FID is defined on


class Moments:
    """Mean and unbiased covariance of feature vectors that come in batches, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self._first = self._sum = self._products = np.zeros(0)

    def add(self, features: np.ndarray) -> None:
        """Takes features [n, d]. The first batch's mean is subtracted, which keeps the digits of values far from 0."""
        x = features.astype(np.float64)
        if not self.count:
            self._first = x.mean(0)
            self._sum, self._products = np.zeros(x.shape[1]), np.zeros((x.shape[1], x.shape[1]))
        x = x - self._first
        self.count += len(x)
        self._sum, self._products = self._sum + x.sum(0), self._products + x.T @ x

    @property
    def mean(self) -> np.ndarray:
        """Returns the mean [d]."""
        return self._first + self._sum / self.count

    @property
    def covariance(self) -> np.ndarray:
        """Returns the covariance [d, d], with n - 1 in the denominator as in the usual definition of the FID."""
        return (self._products - np.outer(self._sum, self._sum) / self.count) / (self.count - 1)


def measure(subject: Subject, features: Any = "", num: int = 50_000, widest: int = WIDEST) -> Measures:
    """Compares reconstructions with their inputs by the squared Fréchet distance of their features.

    Args:
      subject: the run and its data.
      features: "package.module:function" or a function, which maps images [n, h, w, c] in [0, 1] to [n, d]; a run, for
        the latents of its encoder; "" skips the metric. A function with "inception" in its name and 2,048 features
        makes it `rfid`. What it does to images, e.g. resize them, belongs in its attribute `protocol`.
      num: number of examples; fewer if the test part is smaller.
      widest: most features that are measured. Time grows with their number to the third power: seconds for 2,048.
    """
    check(features, num)
    if not isinstance(widest, int) or widest < 1:
        raise InputError(f"widest must be at least 1 feature, got {shown(widest)}")
    if isinstance(features, str) and not features:
        return {"frechet_distance": Skipped("rFID needs features: name a function of images, or another run")}
    test = subject.test.take(num)
    if len(test) < 2:
        return {"frechet_distance": Skipped(f"{test} have no covariance")}
    function, name, how = _find(features)
    bounds = subject.run.spec.bounds
    real, copied = Moments(), Moments()
    for inputs, outputs in test.pair():
        for moments, images in ((real, inputs), (copied, np.clip(outputs, *bounds) if bounds else outputs)):
            found = _compute(function, name, images)
            if found.shape[1] > widest:
                reason = (
                    f"there are {found.shape[1]:,} features, more than widest={widest:,}; choose others, or raise it"
                )
                return {"frechet_distance": Skipped(reason)}
            moments.add(found)
    inception = "inception" in name.lower() and len(real.mean) == INCEPTION
    value = gaussian_distance(real.mean, real.covariance, copied.mean, copied.covariance)
    size = "x".join(map(str, test.x.shape[1:]))
    clipped = f", clipped to [{bounds[0]:g}, {bounds[1]:g}]" if bounds else ""
    protocol = [
        f"{len(test):,} reconstructions against their inputs, {test.name} of {subject.run.config.data.name}",
        f"{size}{_describe_resizing(subject)}; deterministic code{clipped}",
        f"features {name} ({len(real.mean):,}{how}{'' if inception else '; not the FID of Inception'})",
        "unbiased covariances",
    ]
    if len(test) <= len(real.mean):
        protocol.append("fewer examples than features: singular covariances, a rough value")
    measure = Measure(value, "squared feature units", "; ".join(protocol))
    return {"rfid" if inception else "frechet_distance": measure}


def check(features: Any, num: int) -> None:
    """Checks the arguments of `measure` before anything is computed. Raises InputError if one is wrong."""
    if isinstance(num, bool) or not isinstance(num, int) or num < 2:
        raise InputError(f"num must be at least 2 examples, got {shown(num)}")
    if not isinstance(features, TrainedModel) and features != "":
        resolve("features", features, {})


def _find(features: Any) -> tuple[Callable[[np.ndarray], Any], str, str]:
    """Returns the function of images, its name, and what it says of itself."""
    if isinstance(features, TrainedModel):
        run = features
        where = getattr(run, "workdir", None) or run.config.data.name or "a published model"
        name = f"latents of {where}, step {run.step:,}, parameters {run.fingerprint}"
        return (lambda x: run.encode(x).reshape(len(x), -1)), name, ""
    function: Any = resolve("features", features, {})
    name = f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', type(function).__name__)}"
    how = getattr(function, "protocol", "")
    return function, features if isinstance(features, str) else name, f", {how}" if how else ""


def _compute(function: Callable[[np.ndarray], Any], name: str, images: np.ndarray) -> np.ndarray:
    values = np.asarray(function(images))
    if values.ndim != 2 or len(values) != len(images) or values.dtype.kind not in "fiu":
        raise InputError(f"features {name} must be numbers [{len(images)}, d], got {values.shape} of {values.dtype}")
    if not np.isfinite(values).all():
        raise InputError(f"features {name} are NaN or infinite for some images; give finite numbers")
    return values


def _describe_resizing(subject: Subject) -> str:
    """Returns how the data section resizes images on their way, as part of a protocol."""
    section = subject.run.config.data
    image = subject.run.spec.kind == "image"
    if not image or not section.size:
        return " as in the data set" if image else ""
    return f", resized to {section.size} by Pillow's bicubic filter with fit={section.fit}"
