"""Likelihood: bounds of log p(x) in nats, and the parts that they consist of; see `aejax.inference.density`."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from aejax import arguments
from aejax.errors import InputError
from aejax.evaluation.subject import Measure, Measures, Part, Skipped, Subject
from aejax.inference.density import Estimate, Parts, warn_of_few
from aejax.inference.trained import TrainedModel
from aejax.objectives.likelihoods import Bernoulli, DiscretizedLogistic, LogisticMixture

PROBABILITIES = (Bernoulli, DiscretizedLogistic, LogisticMixture)  # of values, as those with `levels` are
ACTIVE = 0.01  # variance of a unit's mean above which the unit is active (Burda et al. 2016, section 5.1)


def measure(
    subject: Subject,
    samples: int = 200,
    anneal: int | None = None,
    chains: int = 16,
    dequantize: int = 1,
    binary_draws: int = 1,
) -> Measures:
    """Returns bounds of log p(x) of the test part, with one sample and with `samples`, and their parts.

    With `anneal` steps, log p(x) is also estimated by annealed importance sampling with `chains`. Bits per dimension of
    images of 8 bits under a density are averaged over `dequantize` draws of uniform noise. With several `binary_draws`,
    log p(x) is also averaged over so many binarizations of the test part, which the run draws from gray values.
    """
    check(samples, anneal, chains, dequantize, binary_draws)
    if binary_draws > 1 and (reason := subject.no_redraw):
        raise InputError(f"{reason}; leave binary_draws={binary_draws} out")
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

    def add_estimate(name: str, found: Estimate, count: int, what: str, protocol: str) -> None:
        values, effective, error = found
        add(name, None, values.mean, "nats per example", protocol)
        of = f"standard error of {name} by sampling, over {len(test):,} examples; {count:,} {what} each"
        add(f"{name}_error", None, lambda: np.linalg.norm(error) / len(test), "nats per example", of)
        of = f"median over {test}; (sum w)^2 / sum w^2 of the weights w"
        add(f"effective_{what}", None, lambda: np.median(effective), f"of {count:,} {what}", of)

    if unweighed is not None:
        measures["log_likelihood"] = Skipped(unweighed)
    else:
        found = density.estimate(test.x, samples, label=test.condition, scale=scale)
        many = found.log_likelihood
        warn_of_few(found, samples)
        add_estimate("log_likelihood", found, samples, "samples", weights)
    if anneal is not None and unweighed is not None:
        measures["annealed_log_likelihood"] = Skipped(unweighed)
    elif anneal is not None:
        found = density.anneal(test.x, anneal, chains, label=test.condition, scale=scale)
        warn_of_few(found, chains, anneal)
        protocol = f"{how}; {chains:,} chains of annealed importance sampling, {anneal:,} steps from the prior"
        add_estimate("annealed_log_likelihood", found, chains, "chains", protocol)
    if binary_draws > 1:
        drawn: list[float] = (
            [] if density.no_elbo else _redraw(subject, samples if many is not None else 0, binary_draws)
        )
        of = f"over {binary_draws:,} binarizations of {test}, by the seeds 0 to {binary_draws - 1:,}"
        protocol = f"{of}; {'the ELBO' if many is None else f'{samples:,} importance samples per example'}"
        add("redrawn_log_likelihood", density.no_elbo, lambda: np.mean(drawn), "nats per example", f"mean {protocol}")
        add(
            "redrawn_log_likelihood_spread",
            density.no_elbo,
            lambda: np.std(drawn, ddof=1),
            "nats per example",
            f"standard deviation of the mean over examples, {protocol}",
        )
    add("rate", no_kl, lambda: one_draw.rate.mean(), "nats per example", f"mean over {test}; KL(q(z|x) || p(z))")
    add("distortion", density.no_density, lambda: one_draw.distortion.mean(), "nats per example", f"{how}; {draw}")
    best = one_draw.elbo if many is None else many
    of = "the ELBO" if many is None else f"the log-likelihood of {samples:,} importance samples"
    values, levels = math.prod(run.spec.shape), ""
    if test.x.dtype == np.uint8 and not (run.likelihood.levels or isinstance(run.likelihood, PROBABILITIES)):
        levels = f"; uniform dequantization, {dequantize:,} draws of (x + u) / 256, a bound of the bits of levels"

    def bits() -> float:
        if levels:
            return _dequantized_bits(subject, samples if many is not None else 0, dequantize) / values
        return float(-best.mean()) / math.log(2) / values

    protocol = f"{how}; from {of}, over {values:,} values{levels}"
    add("bits_per_dimension", density.no_elbo, bits, "bits per value", protocol)
    add(
        "active_units",
        density.no_posterior,
        lambda: (test.flat_latents.var(0, dtype=np.float64) > ACTIVE).sum(),
        f"of {math.prod(run.latents.shape[1:]):,} units",
        f"variance of the posterior mean over {test} above {ACTIVE}",
    )
    if one_draw.by_layer is not None:
        measures |= _measure_layers(subject, one_draw)
    return measures


def _measure_layers(subject: Subject, parts: Parts) -> Measures:
    """Returns the rate and the active units of each layer of a hierarchy, from the data up."""
    test, sizes, measures = subject.test, subject.run.density.layers, Measures()
    assert parts.by_layer is not None  # there are layers
    if parts.by_unit is None:
        active = test.flat_latents.var(0, dtype=np.float64) > ACTIVE
        how = f"variance of the posterior mean over {test} above {ACTIVE}"
    else:
        active = parts.by_unit.mean(0, dtype=np.float64) > ACTIVE
        how = f"mean KL of the unit over {test} above {ACTIVE} nats"
    of_layer = np.split(active, np.cumsum(sizes)[:-1])
    for i, (size, units) in enumerate(zip(sizes, of_layer, strict=True), 1):
        of = f"mean over {test}; layer {i}, counted from the data up; KL given the layers that it depends on"
        measures[f"rate_{i}"] = Measure(float(parts.by_layer[:, i - 1].mean()), "nats per example", of)
        measures[f"active_units_{i}"] = Measure(float(units.sum()), f"of {size:,} units", f"layer {i}; {how}")
    return measures


def _dequantized_bits(subject: Subject, samples: int, draws: int) -> float:
    """Returns the bits of an example of levels 0 to 255, the mean over the test part.

    The probability of levels is the integral of the density over their cells of width 1/256, whose logarithm is at
    least the mean of the density's (Theis et al. 2016, section 3.1). Without `samples` the density's bound is the ELBO.
    """
    draws_of_test = (subject.run.density.dequantize(subject.test.x, draw) for draw in range(draws))
    nats = [_bound(subject, x, subject.test.condition, samples) for x in draws_of_test]
    return -float(np.mean(nats)) / math.log(2) + 8 * math.prod(subject.run.spec.shape)


def _redraw(subject: Subject, samples: int, draws: int) -> list[float]:
    """Returns the mean of log p(x) over the test part for each of several binarizations."""
    parts = (subject.redraw(seed) for seed in range(draws))
    return [_bound(subject, part.x, part.condition, samples) for part in parts]


def _bound(subject: Subject, x: np.ndarray, label: np.ndarray | None, samples: int) -> float:
    """Returns the mean over x of log p(x) by importance samples or, without `samples`, of the ELBO."""
    density, scale = subject.run.density, subject.once(scale_of_train)
    if samples:
        found = density.estimate(x, samples, label=label, scale=scale).log_likelihood
    else:
        found = density.parts(x, label=label, scale=scale).elbo
    return float(found.mean(dtype=np.float64))


def check(samples: int, anneal: int | None, chains: int, dequantize: int, binary_draws: int) -> None:
    """Raises InputError for numbers of samples, steps, chains or draws that are not above 0."""
    arguments.check_samples(samples)
    arguments.check_samples(chains, "chains")
    arguments.check_samples(dequantize, "dequantize, the number of draws,")
    arguments.check_samples(binary_draws, "binary_draws")
    if anneal is not None:
        arguments.check_samples(anneal, "anneal, the number of steps,")


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
    if isinstance(run.likelihood, DiscretizedLogistic | LogisticMixture):
        return f"{name}, a probability of the levels 0 to 255"
    if run.likelihood.levels:
        return f"{name}, a probability of whole numbers"
    unit = run.spec.bounds and not run.spec.limits
    return f"{name}, a density of values in [0, 1]" if unit else f"{name}, a density in the data's units"
