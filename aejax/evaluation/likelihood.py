"""Likelihood: bounds of log p(x) in nats, and the parts that they consist of.

Densities are those of x in the user's units. A sample's key is derived from the example's own bytes and the number
of the sample: the result for an example depends neither on the others nor on how many are computed at once.
"""

import dataclasses
import functools
import math
import weakref
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aejax.errors import InputError
from aejax.evaluation.subject import Measure, Measures, Part, Skipped, Subject
from aejax.inference.run import Run, map_batches
from aejax.models import Output, abstract_output
from aejax.objectives import Context
from aejax.objectives.bounds import log_weights
from aejax.objectives.likelihoods import AbsoluteError, Bernoulli, DiscretizedLogistic, Gaussian, SquaredError

ACTIVE = 0.01  # variance of a unit's mean above which the unit is active (Burda et al. 2016, section 5.1)
_ROWS = 4_096  # decoded at once at most


def measure(subject: Subject, samples: int = 200) -> Measures:
    """Returns bounds of log p(x) of the test part, with one sample and with `samples`, and their parts."""
    check_samples(samples)
    run, test = subject.run, subject.test
    no_kl, no_density, unweighed = _no_kl(run), _no_density(run), no_weights(run)
    scale = subject.once(scale_of_train)
    how = f"mean over {test}; {_meaning(run, test)}"
    if scale is not None:
        how += f"; scale {scale:.4g}, the optimum for {len(subject.train):,} examples of train"
    draw = "one sample of each code" if no_kl is None else "deterministic code"
    measures: Measures = {}

    def add(name: str, reason: str | None, value: Callable[[], Any], unit: str, protocol: str) -> None:
        measures[name] = Measure(float(value()), unit, protocol) if reason is None else Skipped(reason)

    one_draw: Parts = subject.once(parts_of_test)
    add("elbo", no_elbo(run), lambda: one_draw.elbo.mean(), "nats per example", f"{how}; {draw}, KL of weight 1")
    weights = f"{how}; {samples:,} importance samples per example"
    many = None if unweighed else _of_part(log_likelihood, test, samples=samples, scale=scale)
    add("log_likelihood", unweighed, lambda: many.mean(), "nats per example", weights)  # type: ignore[union-attr]
    add("rate", no_kl, lambda: one_draw.rate.mean(), "nats per example", f"mean over {test}; KL(q(z|x) || p(z))")
    add("distortion", no_density, lambda: one_draw.distortion.mean(), "nats per example", f"{how}; {draw}")
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
        no_elbo(run),
        lambda: -best.mean() / math.prod(run.spec.shape) / math.log(2) + 8 * quantized,
        "bits per value",
        f"{how}; from {of}, over {math.prod(run.spec.shape):,} values{grid}",
    )
    add(
        "active_units",
        _no_posterior(run),
        lambda: (test.flat_latents.var(0, dtype=np.float64) > ACTIVE).sum(),
        f"of {math.prod(run.latents.shape[1:]):,} units",
        f"variance of the posterior mean over {test} above {ACTIVE}",
    )
    return measures


def log_likelihood(
    run: Run, x: Any, samples: int = 200, seed: int = 0, label: Any = None, scale: float | None = None
) -> np.ndarray:
    """Returns log p(x) of each example by importance sampling from q(z|x), [n] in nats.

    It is the logarithm of the mean of `samples` weights p(x, z) / q(z|x) (Burda et al. 2016, equation 8): in
    expectation a lower bound of log p(x), and tighter with more samples. Memory does not grow with their number.

    Args:
      x: as `run.encode` takes it, [n, ...].
      label: [n], where the run is conditional; the result is log p(x | label).
      scale: of a likelihood with optimal variance, in the units that the model reads; defaults to the
        `optimal_scale` of x itself.

    Raises InputError where the run has no density of x, or no posterior and prior for the weights.
    """
    check_samples(samples)
    if reason := no_weights(run):
        raise InputError(reason)
    given = _given(run, x, seed, label, scale)
    rows = run._limit_batch(_ROWS)
    chunk = -(-samples // -(-samples // rows))  # chunks of nearly equal size
    weigh = _compiled(run).weigh

    def one(*batch: Any) -> Array:
        total = jnp.full(len(batch[0]), -jnp.inf)
        for start in range(0, samples, chunk):
            total = weigh(run._on_device, given.log_scale, total, start, samples, *batch, chunk=chunk)
        return total

    return map_batches(one, given.x, given.more, max(rows // chunk, 1)) - math.log(samples)


def elbo(run: Run, x: Any, seed: int = 0, label: Any = None, scale: float | None = None) -> np.ndarray:
    """Returns the evidence lower bound of log p(x) of each example, [n] in nats, from one sample of its code.

    The KL has weight 1, whatever weight the run was trained with. The arguments are those of `log_likelihood`.
    Raises InputError where the run has no density of x or its code no KL.
    """
    if reason := no_elbo(run):
        raise InputError(reason)
    return parts(run, x, seed, label, scale).elbo


class Parts(NamedTuple):
    """The parts of an ELBO, each [n] in nats; 0 where the run has no KL, or no density."""

    rate: np.ndarray
    distortion: np.ndarray

    @property
    def elbo(self) -> np.ndarray:
        return -self.rate - self.distortion


def parts(run: Run, x: Any, seed: int = 0, label: Any = None, scale: float | None = None) -> Parts:
    """Returns KL(q(z|x) || p(z)) and -log p(x|z) at one sample of each code; arguments as in `log_likelihood`."""
    given = _given(run, x, seed, label, scale)
    draw = functools.partial(_compiled(run).draw, run._on_device, given.log_scale)
    found = map_batches(draw, given.x, given.more, run._limit_batch(_ROWS))
    return Parts(found["kl"], found["nll"])


def optimal_scale(run: Run, x: Any, seed: int = 0, label: Any = None) -> float | None:
    """Returns the scale that maximizes the likelihood of x at one sample of each code; None without optimal variance.

    It is a parameter of the model, fitted in closed form (Rybkin et al. 2021): to score test data, use the scale of
    the train data.
    """
    if not is_optimal(run):
        return None
    x, *more = _arrays(run, x, seed, label)
    found = map_batches(
        functools.partial(_compiled(run).deviate, run._on_device), x, tuple(more), run._limit_batch(_ROWS)
    )
    mean = found.mean(dtype=np.float64) / math.prod(run.spec.shape)
    return float(max(mean, 1e-8) ** (1 / _power(run)))  # the floor that training has


def scale_of_train(subject: Subject) -> float | None:
    """Returns the `optimal_scale` of the train part, for `subject.once`."""
    return _of_part(optimal_scale, subject.train)


def parts_of_test(subject: Subject) -> Parts:
    """Returns the `parts` of the test part, for `subject.once`."""
    return _of_part(parts, subject.test, scale=subject.once(scale_of_train))


def check_samples(samples: int) -> None:
    """Checks a number of importance samples; InputError where there is none."""
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise InputError(f"samples must be a whole number above 0, got {samples!r}")


def _of_part(function: Callable[..., Any], part: Part, **options: Any) -> Any:
    return function(part.run, part.x, label=part.condition, **options)


# Each returns why a run lacks something; None where the run has it.


def no_elbo(run: Run) -> str | None:
    return _no_density(run) or _no_kl(run)


def _no_density(run: Run) -> str | None:
    if isinstance(run.likelihood, SquaredError | AbsoluteError):
        name = run.config.likelihood.name
        return f"likelihood.name={name!r} is an error without a density; gaussian, laplace and others have one"
    return None


def _no_kl(run: Run) -> str | None:
    if "kl" not in _shapes(run).code.losses:
        return f"bottleneck {run.config.bottleneck.name!r} has a deterministic code, without a KL to a prior"
    return None


def _no_posterior(run: Run) -> str | None:
    if _shapes(run).code.posterior is None:
        return f"bottleneck {run.config.bottleneck.name!r} has no posterior mean"
    return None


def no_weights(run: Run) -> str | None:
    code = _shapes(run).code
    if reason := no_elbo(run):
        return reason
    if code.posterior is None or code.prior is None:
        return f"bottleneck {run.config.bottleneck.name!r} has no densities of its code for importance weights"
    return None


def _meaning(run: Run, part: Part) -> str:
    """Returns what the nats of the likelihood mean."""
    name = f"{run.config.likelihood.name} likelihood"
    if isinstance(run.likelihood, Bernoulli):
        if np.isin(part.x, (0, 255 if part.x.dtype == np.uint8 else 1)).all():
            return f"{name}, binary values"
        return f"{name} of gray values: a cross-entropy, not a probability of the data"
    if isinstance(run.likelihood, DiscretizedLogistic):
        return f"{name}, a probability of the levels 0 to 255"
    return (
        f"{name}, a density of values in [0, 1]"
        if len(run.spec.shape) == 3
        else f"{name}, a density in the data's units"
    )


def is_optimal(run: Run) -> bool:
    """Returns whether the variance of the likelihood is fitted to the examples at hand."""
    return getattr(run.likelihood, "variance", None) == "optimal"


def _power(run: Run) -> int:
    """Returns the power of the absolute errors whose mean is the optimal scale to that power."""
    return 2 if isinstance(run.likelihood, Gaussian) else 1


# The computation.


class _Given(NamedTuple):
    """A log scale or None; x, and what the model reads with it in batches: keys, and labels if any."""

    log_scale: Any
    x: np.ndarray
    more: tuple[Any, ...]


def _given(run: Run, x: Any, seed: int, label: Any, scale: float | None) -> _Given:
    if scale is not None and not (is_optimal(run) and scale > 0):
        raise InputError(f"scale is for likelihood.variance='optimal' and above 0, got {scale!r}; leave it out")
    scale = optimal_scale(run, x, seed, label) if scale is None else scale
    x, *more = _arrays(run, x, seed, label)
    return _Given(None if scale is None else jnp.float32(math.log(scale)), x, tuple(more))


def _arrays(run: Run, x: Any, seed: int, label: Any) -> tuple[Any, ...]:
    """Returns x, a key for each example derived from its bytes and, where the run is conditional, the labels."""
    x = run.spec.check(x)
    numbers = np.array([zlib.crc32(np.ascontiguousarray(row)) for row in x], np.uint32)
    return x, jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers), *run._check_labels(label, len(x))


class _Programs(NamedTuple):
    """Compiled functions of a run, see `_compiled`."""

    draw: Callable[..., Any]
    weigh: Callable[..., Any]
    deviate: Callable[..., Any]


def _once(function: Callable[[Run], Any]) -> Callable[[Run], Any]:
    """Returns `function` with its result kept for each run, for as long as the run lives."""
    found: weakref.WeakKeyDictionary[Run, Any] = weakref.WeakKeyDictionary()

    @functools.wraps(function)
    def of(run: Run) -> Any:
        if run not in found:
            found[run] = function(run)
        return found[run]

    return of


@_once
def _shapes(run: Run) -> Output:
    return abstract_output(run.model, run.spec.shape, drawn=True)


@_once
def _compiled(run: Run) -> _Programs:
    """Returns the programs of a run, each compiled once for each shape of its arguments."""
    # Nothing below refers to the run itself, or the run would live as long as its programs.
    model, spec, likelihood, power = run.model, run.spec, run.likelihood, _power(run)
    errors_only = _no_density(run) is not None
    if hasattr(model.bottleneck, "samples"):  # samples differ by their keys instead
        model = model.clone(bottleneck=model.bottleneck.clone(samples=1))
    if is_optimal(run):
        likelihood = dataclasses.replace(likelihood, scale=1.0, variance="learned")  # type: ignore[type-var]
    jacobian = math.fsum(np.log(spec.deviation))  # of the change to the user's units

    def context(variables: Any, log_scale: Any, x: Array, keys: Array, label: Any = None) -> Context:
        """Returns one sample for each of keys [samples, batch], as a batch of samples * batch examples."""
        x, count = spec.prepare(x), keys.shape[0]
        h = model.apply(variables, x, label=label, method="features")
        h, x, label = jax.tree.map(lambda a: jnp.tile(a, (count,) + (1,) * (a.ndim - 1)), (h, x, label))
        code: Any = model.apply(variables, h, keys=keys.ravel(), method="code")
        decoded: Any = model.apply(variables, code.z, label=label, method="decode")
        if log_scale is None and model.learned_scale:
            log_scale = variables["params"]["log_scale"]
        return Context(model.apply, variables, x, Output(code, decoded, log_scale), keys.ravel(), label=label)

    def log_p(c: Context, decoded: Array) -> Array:
        nll = likelihood.nll(decoded, c.x, c.output.log_scale).reshape(len(c.x), -1)
        # The sum, as a product: XLA:CPU takes ten times as long for logarithms and their sum in one loop.
        return -jnp.dot(nll, jnp.ones(nll.shape[1]), precision="highest") - jacobian

    def numbered(keys: Array, numbers: Array) -> Array:
        """Returns keys [samples, batch] from a key for each example and the numbers of the samples."""
        fold = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (None, 0))
        return fold(keys, numbers)

    def draw(variables: Any, log_scale: Any, x: Array, keys: Array, label: Any = None) -> dict[str, Array]:
        c = context(variables, log_scale, x, numbered(keys, jnp.arange(1)), label)
        nothing = jnp.zeros(len(c.x))
        nll = nothing if errors_only else -log_p(c, c.output.decoded)
        return {"kl": c.output.code.losses.get("kl", nothing), "nll": nll}

    def weigh(variables, log_scale, total, start, samples, x, keys, label=None, *, chunk):
        """Adds at most `chunk` samples, the first with the number `start`, to the log of the sum of the weights."""
        numbers = start + jnp.arange(chunk)
        c = context(variables, log_scale, x, numbered(keys, numbers), label)
        log_w = log_weights(c, log_p, 1.0).reshape(chunk, -1)
        log_w = jnp.where((numbers < samples)[:, None], log_w, -jnp.inf)
        return jnp.logaddexp(total, jax.nn.logsumexp(log_w, 0))

    def deviate(variables: Any, x: Array, keys: Array, label: Any = None) -> Array:
        c = context(variables, None, x, numbered(keys, jnp.arange(1)), label)
        return (jnp.abs(c.output.decoded - c.x) ** power).reshape(len(c.x), -1).sum(1)

    return _Programs(jax.jit(draw), jax.jit(weigh, static_argnames="chunk"), jax.jit(deviate))
