"""The density of x under a trained model: bounds of log p(x) in nats, and the parts that they consist of.

Densities are those of x in the user's units. A sample's key is derived from the example's own bytes and the number
of the sample: the result for an example depends neither on the others nor on how many are computed at once.
"""

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from aejax import arguments, losses
from aejax.data import Spec
from aejax.errors import InputError
from aejax.inference.batches import check_labels, limit_batch, map_batches
from aejax.models import Autoencoder, Output, abstract_output
from aejax.objectives import Context, Likelihood
from aejax.objectives.bounds import log_weights
from aejax.objectives.likelihoods import AbsoluteError, Gaussian, SquaredError

_ROWS = 4_096  # decoded at once at most


class Parts(NamedTuple):
    """An ELBO and its parts, each [n] in nats; a part is 0 if the run has no KL, or no density."""

    elbo: Float[np.ndarray, " n"]
    rate: Float[np.ndarray, " n"]
    distortion: Float[np.ndarray, " n"]


class Estimate(NamedTuple):
    """An estimate of log p(x) by importance samples, and how far it can be trusted.

    Attributes:
      log_likelihood: log p(x) in nats; in expectation a lower bound.
      effective_samples: number of samples with equal weights that would tell as much, from 1 to the number of samples:
        (sum w)^2 / sum w^2 of the weights w (Kong 1992).
      standard_error: of `log_likelihood` as a result of sampling, in nats, by the delta method. It is too small where
        few samples are effective, because the weights that matter were then perhaps not drawn.
    """

    log_likelihood: Float[np.ndarray, " n"]
    effective_samples: Float[np.ndarray, " n"]
    standard_error: Float[np.ndarray, " n"]


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
        log_scale, examples, more = self._prepare(x, seed, label, scale)
        rows = limit_batch(self.spec.shape, _ROWS)
        chunk = -(-samples // -(-samples // rows))  # chunks of nearly equal size
        weigh = self._programs.weigh

        def one(*batch: Any) -> Array:
            total = jnp.full((len(batch[0]), 2), -jnp.inf)
            for start in range(0, samples, chunk):
                total = weigh(self.variables, log_scale, total, start, samples, *batch, chunk=chunk)
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
        rows = self.spec.check(x)
        numbers = np.array([zlib.crc32(np.ascontiguousarray(row)) for row in rows], np.uint32)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers)
        return rows, keys, *check_labels(label, len(rows), self.model.classes)

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
        errors_only = self.no_density is not None
        if hasattr(model.bottleneck, "samples"):  # samples differ by their keys instead
            model = model.clone(bottleneck=model.bottleneck.clone(samples=1))
        if self.is_optimal:
            likelihood = dataclasses.replace(likelihood, scale=1.0, variance="learned")  # type: ignore[type-var]
        jacobian = math.fsum(np.log(spec.deviation))  # of the change to the user's units

        def context(variables: Any, log_scale: Any, x: Array, keys: Array, label: Any = None) -> Context:
            """Returns one sample for each of keys [samples, batch], as a batch of samples * batch examples."""
            x, count = spec.prepare(x), keys.shape[0]
            h = model.apply(variables, x, label=label, method="features")
            h, x, label = jax.tree.map(lambda a: jnp.tile(a, (count,) + (1,) * (a.ndim - 1)), (h, x, label))
            code: Any = model.apply(variables, h, keys=keys.ravel(), method="code")
            decoded: Any = model.apply(variables, code.z, label=label, method="decode")
            if log_scale is None:
                log_scale = model.apply(variables, label, method="scale")
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
            kl = c.output.code.losses.get("kl", nothing)
            return {"elbo": -losses.elbo(nll, kl), "rate": kl, "distortion": nll}

        def weigh(variables, log_scale, total, start, samples, x, keys, label=None, *, chunk):
            """Adds at most `chunk` samples, the first with the number `start`, to the logs of two sums: of the weights
            and of their squares, [batch, 2].
            """
            numbers = start + jnp.arange(chunk)
            c = context(variables, log_scale, x, numbered(keys, numbers), label)
            log_w = log_weights(c, log_p, 1.0).reshape(chunk, -1)
            log_w = jnp.where((numbers < samples)[:, None], log_w, -jnp.inf)
            return jnp.logaddexp(total, jax.nn.logsumexp(jnp.stack([log_w, 2 * log_w], -1), 0))

        def deviate(variables: Any, x: Array, keys: Array, label: Any = None) -> Array:
            c = context(variables, None, x, numbered(keys, jnp.arange(1)), label)
            return (jnp.abs(c.output.decoded - c.x) ** power).reshape(len(c.x), -1).sum(1)

        return _Programs(jax.jit(draw), jax.jit(weigh, static_argnames="chunk"), jax.jit(deviate))


class _Programs(NamedTuple):
    """Compiled functions, see `Density.estimate`, `parts` and `optimal_scale`."""

    draw: Callable[..., Any]
    weigh: Callable[..., Any]
    deviate: Callable[..., Any]
