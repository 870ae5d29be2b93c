"""Likelihood: bounds of log p(x) in nats, and the parts that they consist of; see `aejax.inference.density`."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from aejax import arguments
from aejax.evaluation.subject import Measure, Measures, Part, Skipped, Subject
from aejax.inference.density import Parts
from aejax.inference.trained import TrainedModel
from aejax.objectives.likelihoods import Bernoulli, DiscretizedLogistic

_MANY, _FEW = 50, 2.0  # importance samples from which an estimate is meant to be tight; effective ones that are too few
ACTIVE = 0.01  # variance of a unit's mean above which the unit is active (Burda et al. 2016, section 5.1)


def measure(subject: Subject, samples: int = 200) -> Measures:
    """Returns bounds of log p(x) of the test part, with one sample and with `samples`, and their parts."""
    arguments.check_samples(samples)
    run, test = subject.run, subject.test
    density = run.density
    no_kl, unweighed = density.no_kl, density.no_weights
    scale = subject.once(scale_of_train)
    how = f"mean over {test}; {_meaning(run, test)}"
    if scale is not None:
        how += f"; scale {scale:.4g}, the optimum for {len(subject.train):,} examples of train"
    draw = "one sample of each code" if no_kl is None else "deterministic code"
    measures: Measures = {}

    def add(name: str, reason: str | None, value: Callable[[], Any], unit: str, protocol: str) -> None:
        measures[name] = Measure(float(value()), unit, protocol) if reason is None else Skipped(reason)

    one_draw: Parts = subject.once(parts_of_test)
    add("elbo", density.no_elbo, lambda: one_draw.elbo.mean(), "nats per example", f"{how}; {draw}, KL of weight 1")
    weights = f"{how}; {samples:,} importance samples per example"
    many = None
    if unweighed is not None:
        measures["log_likelihood"] = Skipped(unweighed)
    else:
        many, effective, error = density.estimate(test.x, samples, label=test.condition, scale=scale)
        _warn_of_few(float(np.median(effective)), samples)
        add("log_likelihood", None, many.mean, "nats per example", weights)
        of = f"standard error of log_likelihood by sampling, over {len(test):,} examples; {samples:,} samples each"
        add("log_likelihood_error", None, lambda: np.linalg.norm(error) / len(test), "nats per example", of)
        of = f"median over {test}; (sum w)^2 / sum w^2 of the importance weights w"
        add("effective_samples", None, lambda: np.median(effective), f"of {samples:,} samples", of)
    add("rate", no_kl, lambda: one_draw.rate.mean(), "nats per example", f"mean over {test}; KL(q(z|x) || p(z))")
    add("distortion", density.no_density, lambda: one_draw.distortion.mean(), "nats per example", f"{how}; {draw}")
    best = one_draw.elbo if many is None else many
    of = "the ELBO" if many is None else f"the log-likelihood of {samples:,} importance samples"
    quantized = test.x.dtype == np.uint8 and not isinstance(run.likelihood, Bernoulli | DiscretizedLogistic)
    grid = (
        "; log2(256) added: a density at the levels 0 to 255, not dequantized, and so no code length"
        if quantized
        else ""
    )
    add(
        "bits_per_dimension",
        density.no_elbo,
        lambda: -best.mean() / math.prod(run.spec.shape) / math.log(2) + 8 * quantized,
        "bits per value",
        f"{how}; from {of}, over {math.prod(run.spec.shape):,} values{grid}",
    )
    add(
        "active_units",
        density.no_posterior,
        lambda: (test.flat_latents.var(0, dtype=np.float64) > ACTIVE).sum(),
        f"of {math.prod(run.latents.shape[1:]):,} units",
        f"variance of the posterior mean over {test} above {ACTIVE}",
    )
    return measures


def _warn_of_few(effective: float, samples: int) -> None:
    """Warns if the estimate rests on few of its many samples."""
    if samples >= _MANY and effective < _FEW:
        warnings.warn(
            f"log_likelihood: half of the examples have fewer than {effective:.1f} effective of {samples:,} importance "
            "samples, so that it may be nats too low; take more: --samples",
            stacklevel=3,
        )


def scale_of_train(subject: Subject) -> float | None:
    """Returns the `optimal_scale` of the train part, for `subject.once`."""
    train = subject.train
    return subject.run.density.optimal_scale(train.x, label=train.condition)


def parts_of_test(subject: Subject) -> Parts:
    """Returns the `parts` of the test part, for `subject.once`."""
    test, scale = subject.test, subject.once(scale_of_train)
    return subject.run.density.parts(test.x, label=test.condition, scale=scale)


def _meaning(run: TrainedModel, part: Part) -> str:
    """Returns what the nats of the likelihood mean."""
    name = f"{run.config.likelihood.name} likelihood"
    if isinstance(run.likelihood, Bernoulli):
        if np.isin(part.x, (0, 255 if part.x.dtype == np.uint8 else 1)).all():
            return f"{name}, binary values"
        return f"{name} of gray values: a cross-entropy, not a probability of the data"
    if isinstance(run.likelihood, DiscretizedLogistic):
        return f"{name}, a probability of the levels 0 to 255"
    unit = run.spec.bounds and not run.spec.limits
    return f"{name}, a density of values in [0, 1]" if unit else f"{name}, a density in the data's units"
