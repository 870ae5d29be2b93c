"""The density of x under a trained model: bounds of log p(x) in nats, and the parts that they consist of.

Densities are those of x in the user's units. A sample's key is derived from the example's own bytes and the number
of the sample: the result for an example depends neither on the others nor on how many are computed at once.
"""

import dataclasses
import functools
import math
import warnings
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from aejax import arguments, losses
from aejax.data import Spec
from aejax.errors import InputError, one_of
from aejax.inference import annealing
from aejax.inference.batches import check_labels, limit_batch, map_batches
from aejax.models import Autoencoder, Output, abstract_output
from aejax.models.distributions import FlowPosterior, HierarchicalPrior
from aejax.models.layers import fold
from aejax.models.sequence import split_padding
from aejax.objectives import Context, Likelihood
from aejax.objectives.bounds import log_weights
from aejax.objectives.likelihoods import AbsoluteError, Gaussian, SquaredError

_ROWS = 4_096  # decoded at once at most
STARTS = ("prior", "posterior")  # of annealed chains
_MANY, _CHAINS = 50, 8  # importance samples, or annealed chains, from which an estimate is meant to be tight
_FEW = 2.0  # effective ones that are too few
_PILOTS = 4  # further chains of an example, on which step sizes are tuned


class Parts(NamedTuple):
    """An ELBO and its parts, each [n] in nats; a part is 0 if the run has no KL, or no density.

    Of several layers of latent units, `by_layer` is the rate of each, and `by_unit` that of each unit, if it is known.
    """

    elbo: Float[np.ndarray, " n"]
    rate: Float[np.ndarray, " n"]
    distortion: Float[np.ndarray, " n"]
    by_layer: Float[np.ndarray, "n layers"] | None = None
    by_unit: Float[np.ndarray, "n d"] | None = None


class Estimate(NamedTuple):
    """An estimate of log p(x) by importance samples or annealed chains, and how far it can be trusted.

    Attributes:
      log_likelihood: log p(x) in nats; in expectation a lower bound.
      effective_samples: number of samples with equal weights that would tell as much, from 1 to the number of samples
        or chains: (sum w)^2 / sum w^2 of the weights w (Kong 1992).
      standard_error: of `log_likelihood` as a result of sampling, in nats, by the delta method. It is too small where
        few samples are effective, because the weights that matter were then perhaps not drawn.
    """

    log_likelihood: Float[np.ndarray, " n"]
    effective_samples: Float[np.ndarray, " n"]
    standard_error: Float[np.ndarray, " n"]


def warn_of_few(found: Estimate, count: int, steps: int = 0) -> None:
    """Warns if estimates rest on few of their many importance samples or, with `steps`, annealed chains."""
    effective = float(np.median(found.effective_samples))
    if count < (_CHAINS if steps else _MANY) or effective >= _FEW:
        return
    name, what = ("annealed_log_likelihood", "chains") if steps else ("log_likelihood", "importance samples")
    more = f"more steps than {steps:,}" if steps else f"more samples than {count:,}"
    warnings.warn(
        f"{name}: half of the examples have fewer than {effective:.1f} effective of {count:,} {what}, so that it may "
        f"be nats too low; take {more}",
        stacklevel=3,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Density:
    """The density of x under a model, with estimates of its logarithm; see `Run.elbo` and `Run.log_likelihood`.

    The properties `no_...` are the reason why the model lacks something, or None if it has it.

    Attributes:
      config: the config of the run, whose names the reasons quote.
      variables: the model's variables, on device.
    """

    config: ConfigDict
    model: Autoencoder
    likelihood: Likelihood
    spec: Spec
    variables: Mapping[str, Any]

    @property
    def no_density(self) -> str | None:
        if isinstance(self.likelihood, SquaredError | AbsoluteError):
            name = self.config.likelihood.name
            return f"likelihood.name={name!r} is an error without a density; gaussian, laplace and others have one"
        return None

    @property
    def no_kl(self) -> str | None:
        if "kl" not in self._output.code.losses:
            name = self.config.bottleneck.name
            return f"bottleneck {name!r} has a deterministic code, without a KL to a prior"
        return None

    @property
    def no_elbo(self) -> str | None:
        return self.no_density or self.no_kl

    @property
    def no_posterior(self) -> str | None:
        if self._output.code.posterior is None:
            return f"bottleneck {self.config.bottleneck.name!r} has no posterior mean"
        return None

    @property
    def no_weights(self) -> str | None:
        code = self._output.code
        if reason := self.no_elbo:
            return reason
        if code.posterior is None or code.prior is None:
            return f"bottleneck {self.config.bottleneck.name!r} has no densities of its code for importance weights"
        return None

    @property
    def layers(self) -> tuple[int, ...]:
        """Returns the number of units of each layer of a hierarchy, from the data up; () for other codes."""
        prior = self._output.code.prior
        return prior.sizes if isinstance(prior, HierarchicalPrior) else ()

    @property
    def is_optimal(self) -> bool:
        """Returns whether the variance of the likelihood is fitted to the examples at hand."""
        return getattr(self.likelihood, "variance", None) == "optimal"

    def estimate(
        self,
        x: ArrayLike,
        samples: int = 200,
        seed: int = 0,
        label: ArrayLike | None = None,
        scale: float | None = None,
    ) -> Estimate:
        """Estimates log p(x) of each example, with its standard error; arguments as in `Run.log_likelihood`."""
        arguments.check_samples(samples)
        if reason := self.no_weights:
            raise InputError(reason)
        return self._average(self._programs.weigh, x, samples, seed, label, scale)

    def anneal(
        self,
        x: ArrayLike,
        steps: int = 1000,
        chains: int = 16,
        seed: int = 0,
        label: ArrayLike | None = None,
        scale: float | None = None,
        start: Literal["prior", "posterior"] = "prior",
    ) -> Estimate:
        """Estimates log p(x) of each example by annealed importance sampling (Neal 2001; Wu et al. 2017).

        Each chain starts at a sample of p(z), or of q(z|x), and passes through densities between it and p(x, z), from
        one to the next by Hamiltonian Monte Carlo. From the prior it knows nothing of q, whose errors it therefore
        shows where importance samples do not. The step sizes of an example are tuned on four further chains, so that
        the mean weight stays unbiased. An example takes about 11 * steps * (chains + 4) gradients of the decoder.

        Args:
          x: examples [n, ...], as `encode` takes them.
          steps: number of densities after the first one; with 1, chains are importance samples.
          chains: number of chains for each example.
          seed, label, scale: as in `Run.log_likelihood`.
          start: "prior", or "posterior" for any but a flow, whose density is only known at its own samples.

        Raises InputError if the run has no density of x, or no prior.
        """
        for name, value in (("steps", steps), ("chains", chains)):
            arguments.check_samples(value, name)
        if start not in STARTS:
            raise one_of("start", start, STARTS)
        if reason := self.no_weights:
            raise InputError(reason)
        if start == "posterior" and isinstance(self._output.code.posterior, FlowPosterior):
            raise InputError("start='posterior' needs the density of q at any z, which a flow has not; choose 'prior'")
        program = functools.partial(self._programs.anneal, betas=annealing.schedule(steps), start=start)
        return self._average(program, x, chains, seed, label, scale)

    def _average(
        self,
        weigh: Callable[..., Array],
        x: ArrayLike,
        samples: int,
        seed: int,
        label: ArrayLike | None,
        scale: float | None,
    ) -> Estimate:
        """Estimates log p(x) by the mean of the weights of `samples`, which `weigh` adds up in chunks."""
        log_scale, examples, more = self._prepare(x, seed, label, scale)
        rows = limit_batch(self.spec.shape, _ROWS)
        chunk = -(-samples // -(-samples // rows))  # chunks of nearly equal size

        def one(*batch: Any) -> Array:
            total = jnp.full((len(batch[0]), 2), -jnp.inf)
            for first in range(0, samples, chunk):
                total = weigh(self.variables, log_scale, total, first, samples, *batch, chunk=chunk)
            return total

        total, total_of_squares = map_batches(one, examples, more, max(rows // chunk, 1)).T
        effective = np.exp(np.minimum(2 * total - total_of_squares, math.log(samples)))
        variance = np.maximum(1 / effective - 1 / samples, 0) * samples / max(samples - 1, 1)
        return Estimate(total - math.log(samples), effective, np.sqrt(variance))

    def parts(self, x: ArrayLike, seed: int = 0, label: ArrayLike | None = None, scale: float | None = None) -> Parts:
        """Returns KL(q(z|x) || p(z)) and -log p(x|z) at one sample of each code; arguments as in `log_likelihood`."""
        log_scale, examples, more = self._prepare(x, seed, label, scale)
        draw = functools.partial(self._programs.draw, self.variables, log_scale)
        return Parts(**map_batches(draw, examples, more, limit_batch(self.spec.shape, _ROWS)))

    def optimal_scale(self, x: ArrayLike, seed: int = 0, label: ArrayLike | None = None) -> float | None:
        """Returns the scale that maximizes the likelihood of x at one sample of each code; None without optimal
        variance.

        It is a parameter of the model, fitted in closed form (Rybkin et al. 2021): to score test data, use the scale of
        the train data.
        """
        if not self.is_optimal:
            return None
        examples, *more = self.arrays(x, seed, label)
        deviate = functools.partial(self._programs.deviate, self.variables)
        found = map_batches(deviate, examples, tuple(more), limit_batch(self.spec.shape, _ROWS))
        mean = found.mean(dtype=np.float64) / math.prod(self.spec.shape)
        return float(max(mean, 1e-8) ** (1 / self._power))  # the floor that training has

    def arrays(self, x: ArrayLike, seed: int, label: ArrayLike | None) -> tuple[Any, ...]:
        """Returns x, a key for each example derived from its bytes and, if the run is conditional, the labels."""
        rows, seed = self.spec.check(x), arguments.check_seed(seed)
        numbers = np.array([zlib.crc32(np.ascontiguousarray(row)) for row in rows], np.uint32)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers)
        return rows, keys, *check_labels(label, len(rows), self.model.classes)

    def dequantize(self, x: ArrayLike, seed: int = 0) -> Float[np.ndarray, "n ..."]:
        """Returns (x + u) / 256 in [0, 1] for images x of levels 0 to 255, with u uniform in [0, 1).

        The mean of log p of these, minus log(256) for each value, is a lower bound of the log probability of x (Theis
        et al. 2016, section 3.1). The noise of an example depends on its own bytes and `seed`.
        """
        levels, seed = self.spec.check(x), arguments.check_seed(seed)
        if levels.dtype != np.uint8:
            raise InputError(f"dequantization is of images of uint8, from 0 to 255, got {levels.dtype}; leave it out")
        noise = [
            np.random.default_rng([seed, zlib.crc32(row)]).random(row.shape, np.float32)
            for row in np.ascontiguousarray(levels)
        ]
        return (levels + np.stack(noise)) / np.float32(256)

    def _prepare(self, x: ArrayLike, seed: int, label: ArrayLike | None, scale: float | None) -> tuple[Any, Any, Any]:
        """Returns a log scale or None; x, and what the model reads with it in batches: keys, and labels if any."""
        if scale is not None and not (self.is_optimal and scale > 0):
            raise InputError(f"scale is for likelihood.variance='optimal' and above 0, got {scale!r}; leave it out")
        scale = self.optimal_scale(x, seed, label) if scale is None else scale
        examples, *more = self.arrays(x, seed, label)
        return None if scale is None else jnp.float32(math.log(scale)), examples, tuple(more)

    @property
    def _power(self) -> int:
        """Returns the power of the absolute errors whose mean is the optimal scale to that power."""
        return 2 if isinstance(self.likelihood, Gaussian) else 1

    @functools.cached_property
    def _output(self) -> Output:
        """Returns the shapes of the model's output for a sampled code."""
        return abstract_output(self.model, self.spec.shape, drawn=True)

    @functools.cached_property
    def _programs(self) -> "_Programs":
        """Returns the programs of the model, each compiled once for each shape of its arguments."""
        model, spec, likelihood, power = self.model, self.spec, self.likelihood, self._power
        errors_only, layers = self.no_density is not None, len(self.layers)
        if hasattr(model.bottleneck, "samples"):  # samples differ by their keys instead
            model = model.clone(bottleneck=model.bottleneck.clone(samples=1))
        if self.is_optimal:
            likelihood = dataclasses.replace(likelihood, scale=1.0, variance="learned")  # type: ignore[type-var]
        # Of the change to the user's units; each standard deviation is that of a channel at all positions.
        jacobian = math.fsum(np.log(spec.deviation)) * math.prod(spec.shape[:-1])

        def context(variables: Any, log_scale: Any, x: Array, keys: Array, label: Any = None) -> Context:
            """Returns one sample for each of keys [samples, batch], as a batch of samples * batch examples."""
            x, count = spec.prepare(x), keys.shape[0]
            h = model.apply(variables, x, label=label, method="features")
            h, x, label = jax.tree.map(lambda a: jnp.tile(a, (count,) + (1,) * (a.ndim - 1)), (h, x, label))
            code: Any = model.apply(variables, h, label=label, keys=keys.ravel(), method="code")
            decoded: Any = model.apply(variables, code.z, label=label, method="decode")
            if log_scale is None:
                log_scale = model.apply(variables, label, method="scale")
            x, observed = split_padding(x) if spec.masked else (x, None)
            output = Output(code, decoded, log_scale)
            return Context(model.apply, variables, x, output, keys.ravel(), label=label, observed=observed)

        def log_p(c: Context, decoded: Array) -> Array:
            nll = c.count(likelihood.nll(decoded, c.x, c.output.log_scale)).reshape(len(c.x), -1)
            change = jnp.asarray(jacobian)
            if c.observed is not None and spec.deviation:
                change = jnp.where(c.observed, jnp.log(jnp.array(spec.deviation)), 0).reshape(len(c.x), -1).sum(1)
            # The sum, as a product: XLA:CPU takes ten times as long for logarithms and their sum in one loop.
            return -jnp.dot(nll, jnp.ones(nll.shape[1]), precision="highest") - change

        def numbered(keys: Array, numbers: Array) -> Array:
            """Returns keys [samples, batch] from a key for each example and the numbers of the samples."""
            fold = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (None, 0))
            return fold(keys, numbers)

        def draw(variables: Any, log_scale: Any, x: Array, keys: Array, label: Any = None) -> dict[str, Array]:
            c = context(variables, log_scale, x, numbered(keys, jnp.arange(1)), label)
            nothing = jnp.zeros(len(c.x))
            nll = nothing if errors_only else -log_p(c, c.output.decoded)
            kl = c.output.code.losses.get("kl", nothing) + c.output.code.losses.get("kl_library", 0.0)
            code, several = c.output.code, range(1, layers + 1 if layers > 1 else 1)
            rates = {"by_layer": jnp.stack([code.losses[f"kl_{i}"] for i in several], -1)} if several else {}
            units = {"by_unit": code.kl_by_unit} if code.kl_by_unit is not None else {}
            return {"elbo": -losses.elbo(nll, kl), "rate": kl, "distortion": nll, **rates, **units}

        def add(total: Array, log_w: Array, numbers: Array, samples: Array) -> Array:
            """Adds weights [chunk, batch] of the samples with these numbers to the logs of two sums, [batch, 2]: of the
            weights and of their squares. Numbers from `samples` on only fill the chunk.
            """
            log_w = jnp.where((numbers < samples)[:, None], log_w, -jnp.inf)
            return jnp.logaddexp(total, jax.nn.logsumexp(jnp.stack([log_w, 2 * log_w], -1), 0))

        def weigh(variables, log_scale, total, first, samples, x, keys, label=None, *, chunk):
            """Adds the weights of at most `chunk` importance samples, the first with the number `first`."""
            numbers = first + jnp.arange(chunk)
            c = context(variables, log_scale, x, numbered(keys, numbers), label)
            return add(total, log_weights(c, log_p, 1.0).reshape(chunk, -1), numbers, samples)

        def anneal(variables, log_scale, total, first, samples, x, keys, label=None, *, chunk, betas, start):
            """Adds the weights of annealed chains as `weigh` does."""

            def path(numbers: Array) -> tuple[annealing.Path, Array]:
                """Returns the path of chains with these numbers, and their keys."""
                c = context(variables, log_scale, x, numbered(keys, numbers), label)
                code: Any = c.output.code  # with both densities, or there is a reason for `no_weights`
                log_joint = lambda z: log_p(c, c.decode(z)) + code.prior.log_prob(z)  # noqa: E731
                first = code.z if start == "posterior" else code.prior.sample(c.keys)
                of = code.posterior if start == "posterior" else code.prior
                return annealing.Path(first, of.log_prob, log_joint), fold(c.keys, 2)  # keys that nothing has drawn by

            pilots = jnp.uint32(2**31) + jnp.arange(_PILOTS, dtype=jnp.uint32)  # far from the numbers of chains
            sizes = annealing.tune(*path(pilots), betas, len(x))
            numbers = first + jnp.arange(chunk)
            return add(total, annealing.weigh(*path(numbers), betas, sizes).reshape(chunk, -1), numbers, samples)

        def deviate(variables: Any, x: Array, keys: Array, label: Any = None) -> Array:
            c = context(variables, None, x, numbered(keys, jnp.arange(1)), label)
            return (jnp.abs(c.output.decoded - c.x) ** power).reshape(len(c.x), -1).sum(1)

        return _Programs(
            jax.jit(draw),
            jax.jit(weigh, static_argnames="chunk"),
            jax.jit(anneal, static_argnames=("chunk", "start")),
            jax.jit(deviate),
        )


class _Programs(NamedTuple):
    """Compiled functions, see `Density.parts`, `estimate`, `anneal` and `optimal_scale`."""

    draw: Callable[..., Any]
    weigh: Callable[..., Any]
    anneal: Callable[..., Any]
    deviate: Callable[..., Any]
