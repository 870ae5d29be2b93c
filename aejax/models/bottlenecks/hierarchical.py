"""The bottleneck of variational autoencoders with several stochastic layers, one above the other."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from aejax.errors import InputError, shown
from aejax.losses import gaussian_kl, monte_carlo_kl, normal_log_prob
from aejax.models.bottlenecks.code import Code
from aejax.models.distributions import HierarchicalPosterior, HierarchicalPrior
from aejax.models.layers import activate, flatten, get_axis, require_keys, split_sizes, stack_noise, whole_batch
from aejax.registry import check_type


class Conditional(nn.Module):
    """A diagonal Gaussian given x [..., d], whose mean and log standard deviation follow dense layers of x."""

    features: int
    hidden: Sequence[int] = ()
    activation: str = "tanh"

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Returns the mean and the log standard deviation, [..., features], which `GaussianBottleneck` has, too."""
        for i, width in enumerate(self.hidden):
            x = activate(self.activation, nn.Dense(width, name=f"dense_{i}")(x))
        log_std = nn.Dense(self.features, kernel_init=nn.initializers.zeros, name="log_std")(x)
        return nn.Dense(self.features, name="mean")(x), jnp.clip(log_std, -10.0, 10.0)


class HierarchicalGaussian(nn.Module):
    """Layers of latent units h_1, ..., h_L, inferred bottom-up (Burda et al. 2016, section 2 and 5).

    The posterior is q(h_1|x) q(h_2|h_1) ... q(h_L|h_{L-1}) and the prior p(h_L) p(h_{L-1}|h_L) ... p(h_1|h_2), where
    p(h_L) = N(0, I) and all others are diagonal Gaussians. z is h_1, ..., h_L one after another, [batch, d], of which
    the decoder reads h_1. With one layer, this is `GaussianBottleneck`.

    The loss `kl` is KL(q(z|x) || p(z)) in nats, the sum of the losses `kl_1` to `kl_L` of the layers. The top layer's
    is exact given the layer below; the others are log q(h_l|h_{l-1}) - log p(h_l|h_{l+1}) at the sampled z.

    Attributes:
      features: numbers of units of the layers, h_1 first.
      hidden: widths of the deterministic layers between each pair of neighboring layers, that between h_1 and h_2
        first and the widths from bottom to top. The prior has the same ones, from top to bottom.
      activation: of the deterministic layers.
      samples: number of importance samples; with 1, z has no axis for them.
    """

    features: Sequence[int]
    hidden: Sequence[Sequence[int]] = ()
    activation: str = "tanh"
    samples: int = 1
    axis_name: str | None = None

    def setup(self):
        check_type("bottleneck.features", self.features, Sequence[int])
        gaps = len(self.features) - 1
        if gaps < 0:
            raise InputError("bottleneck.features has no layer; give the units of each, e.g. (100, 50)")
        nested = isinstance(self.hidden, Sequence) and not any(isinstance(widths, int) for widths in self.hidden)
        if not nested or len(self.hidden) != gaps:
            raise InputError(
                f"bottleneck.hidden must hold the widths between each pair of the {gaps + 1} layers, {gaps} sequences, "
                f"e.g. {((100, 100),) * gaps}, got {shown(self.hidden)}"
            )
        for widths in self.hidden:
            check_type("bottleneck.hidden", widths, Sequence[int])
        above = list(zip(self.features[1:], self.hidden, strict=True))
        self.q = [Conditional(self.features[0]), *(Conditional(d, hidden, self.activation) for d, hidden in above)]
        below = zip(self.features, self.hidden, strict=False)
        self.p = [Conditional(d, hidden[::-1], self.activation) for d, hidden in below]

    def __call__(self, h: Array, *, keys: Array | None = None, train: bool = False) -> Code:
        """Samples z from the posterior, given `keys`, which training needs; otherwise each layer is its mean given the
        mean of the layer below.
        """
        require_keys(self, keys, train)
        h = flatten(h).astype(jnp.float32)
        size = sum(self.features)
        mean = self._infer(h, jnp.zeros((h.shape[0], size)))[0]
        noise = jnp.zeros_like(mean) if keys is None else stack_noise(keys, self.samples, size)
        z, layers = self._infer(h, noise)
        rates = [
            monte_carlo_kl(normal_log_prob(*q), normal_log_prob(q[0], *p(above[0])))
            for q, above, p in zip(layers, layers[1:], self.p, strict=False)
        ]
        exact = gaussian_kl(*layers[-1][1:])
        rates.append(exact if exact.ndim == 1 else exact.mean(0))
        losses = {"kl": _add(rates)} | ({f"kl_{i}": rate for i, rate in enumerate(rates, 1)} if len(rates) > 1 else {})
        # Burda et al. 2016, section 5.1: a unit is active if its mean varies over the inputs.
        active = whole_batch(mean, get_axis(self)).var(0) > 0.01
        counts = [group.sum().astype(jnp.float32) for group in split_sizes(active, self.features)]
        by_layer = {f"active_units_{i}": count for i, count in enumerate(counts, 1)} if len(counts) > 1 else {}
        module = self.clone(parent=None, name=None)
        return Code(
            z=z,
            losses=losses,
            metrics={"active_units": _add(counts), **by_layer},
            posterior=HierarchicalPosterior(module, self.variables, h, mean),
            prior=self.prior_of(),
            samples=self.samples if z.ndim == 3 else 0,
        )

    def prior_of(self) -> HierarchicalPrior:
        """Returns p(z)."""
        return HierarchicalPrior(self.clone(parent=None, name=None), self.variables, tuple(self.features))

    def read(self, z: Array) -> Array:
        """Returns what the decoder reads of z: h_1."""
        return z[..., : self.features[0]]

    def log_posterior(self, h: Array, z: Array) -> Array:
        """Returns log q(z|x), [...], of z [..., batch, d] given the features h [batch, ...] of x."""
        layers = split_sizes(z, self.features)
        given = [h, *layers[:-1]]
        return _add([normal_log_prob(z, *q(below)) for z, q, below in zip(layers, self.q, given, strict=True)])

    def log_prior(self, z: Array) -> Array:
        """Returns log p(z), [...], of z [..., d]."""
        layers = split_sizes(z, self.features)
        given = [normal_log_prob(z, *p(above)) for z, p, above in zip(layers, self.p, layers[1:], strict=False)]
        return _add([*given, normal_log_prob(layers[-1], jnp.zeros(()), jnp.zeros(()))])

    def generate(self, given: Array, made: int) -> Array:
        """Returns z [..., d] whose lowest `made` layers are made top-down from `given`, standard normal noise [..., d].

        All layers above are those of `given`.
        """
        layers = split_sizes(given, self.features)
        for i in reversed(range(min(made, len(self.p)))):  # noise at the top is z already
            mean, log_std = self.p[i](layers[i + 1])
            layers[i] = mean + jnp.exp(log_std) * layers[i]
        return jnp.concatenate(layers, -1)

    def _infer(self, h: Array, noise: Array) -> tuple[Array, list[tuple[Array, Array, Array]]]:
        """Returns z made bottom-up from `noise`, and of each layer z, mean and log standard deviation."""
        layers, below = [], h
        for q, each in zip(self.q, split_sizes(noise, self.features), strict=True):
            mean, log_std = q(below)
            below = mean + jnp.exp(log_std) * each
            layers.append((below, mean, log_std))
        return jnp.concatenate([layer[0] for layer in layers], -1), layers


def _add(terms: Sequence[Array]) -> Array:
    return functools.reduce(jnp.add, terms)
