"""Posteriors and priors of a stochastic code.

z is [batch, d] or [samples, batch, d]. `log_prob(z)` returns the log density in nats, summed over the latent units:
[batch] or [samples, batch]. The code of an image may be one, too: a `DiagonalGaussian` and a `StandardNormal` can be
over [batch, h, w, c].
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Key, PyTree

from aejax.losses import full_gaussian_kl, gaussian_kl, gaussian_kl_by_unit, normal_log_prob
from aejax.models.layers import fold, normal


def _merge(z: Array, axes: int) -> Array:
    """Merges the last `axes` axes of z into one."""
    return z.reshape(*z.shape[: z.ndim - axes], -1)


class DiagonalGaussian(struct.PyTreeNode):
    """A Gaussian q(z|x) = N(mean, diag(exp(log_std))^2), both [batch, ...] (Kingma and Welling 2014).

    The methods that return values for each latent unit number all units of an example, d.
    """

    mean: Float[Array, "batch ..."]
    log_std: Float[Array, "batch ..."]

    def sample(self, noise: Float[Array, "*samples_batch_latent"]) -> Float[Array, "*samples_batch_latent"]:
        """Returns z for standard normal noise of z's shape."""
        return self.mean + jnp.exp(self.log_std) * noise

    def log_prob(self, z: Float[Array, "*samples_batch_latent"]) -> Float[Array, "..."]:
        mean, log_std = self._units()
        return normal_log_prob(_merge(z, self.mean.ndim - 1), mean, log_std)

    def kl_by_unit(self) -> Float[Array, "batch d"]:
        """Returns KL(q || N(0, 1)) of each latent unit in nats, [batch, d] (ibid., appendix B)."""
        return gaussian_kl_by_unit(*self._units())

    def kl(self) -> Float[Array, " batch"]:
        """Returns KL(q || N(0, I)) in nats, [batch]."""
        return gaussian_kl(*self._units())

    def covariance(self) -> Float[Array, "batch d d"]:
        """Returns the covariance matrices, [batch, d, d]."""
        log_std = self._units()[1]
        return jnp.exp(2 * log_std)[..., None] * jnp.eye(log_std.shape[-1])

    def _units(self) -> tuple[Float[Array, "batch d"], Float[Array, "batch d"]]:
        """Returns mean and log standard deviation with one axis of latent units."""
        return _merge(self.mean, self.mean.ndim - 1), _merge(self.log_std, self.mean.ndim - 1)


class FullGaussian(struct.PyTreeNode):
    """A Gaussian q(z|x) = N(mean, L L^T) with full covariance (Kingma and Welling 2019, section 2.5.1).

    `mean` is [batch, d] and `scale` is L, [batch, d, d], lower triangular with a positive diagonal.
    """

    mean: Float[Array, "batch d"]
    scale: Float[Array, "batch d d"]

    def sample(self, noise: Float[Array, "*samples_batch d"]) -> Float[Array, "*samples_batch d"]:
        return self.mean + jnp.einsum("bij,...bj->...bi", self.scale, noise)

    def log_prob(self, z: Float[Array, "*samples_batch d"]) -> Float[Array, "*samples_batch"]:
        scale = jnp.broadcast_to(self.scale, (*z.shape, z.shape[-1]))
        noise = jax.scipy.linalg.solve_triangular(scale, (z - self.mean)[..., None], lower=True)[..., 0]
        log_det = jnp.log(jnp.diagonal(self.scale, axis1=-2, axis2=-1)).sum(-1)
        return normal_log_prob(noise, jnp.zeros(()), jnp.zeros(())) - log_det

    def kl(self) -> Float[Array, " batch"]:
        return full_gaussian_kl(self.mean, self.scale)

    def covariance(self) -> Float[Array, "batch d d"]:
        return self.scale @ self.scale.swapaxes(-2, -1)


class FlowPosterior(struct.PyTreeNode):
    """A diagonal Gaussian transformed by a flow (Rezende and Mohamed 2015).

    Attributes:
      mean: the base's mean after the flow, [batch, d].
      base: the Gaussian before the flow.
      log_q: log density of the sampled z in nats. `log_prob` returns it for any z, since the flow is not inverted.
    """

    mean: Float[Array, "batch d"]
    base: DiagonalGaussian
    log_q: Float[Array, "*samples_batch"]

    def log_prob(self, z: Float[Array, "*samples_batch d"]) -> Float[Array, "*samples_batch"]:
        return self.log_q


class StandardNormal(struct.PyTreeNode):
    """The prior p(z) = N(0, I) of `features` latent units, or of as many at each of `positions`, e.g. (h, w)."""

    features: int = struct.field(pytree_node=False)
    positions: tuple[int, ...] = struct.field(pytree_node=False, default=())

    def log_prob(self, z: Float[Array, "*samples_batch_latent"]) -> Float[Array, "..."]:
        return normal_log_prob(_merge(z, 1 + len(self.positions)), jnp.zeros(()), jnp.zeros(()))

    def sample(self, keys: Key[Array, " batch"]) -> Float[Array, "batch ..."]:
        """Samples one z per key, [batch, *positions, features]."""
        return normal(keys, (*self.positions, self.features))


class GaussianMixture(struct.PyTreeNode):
    """The prior p(z) = sum_k softmax(logits)_k N(mean_k, diag(exp(log_std_k))^2); mean and log_std are [k, d]."""

    logits: Float[Array, " k"]
    mean: Float[Array, "k d"]
    log_std: Float[Array, "k d"]

    def log_prob(self, z: Float[Array, "*samples_batch d"]) -> Float[Array, "*samples_batch"]:
        components = normal_log_prob(z[..., None, :], self.mean, self.log_std)
        return jax.nn.logsumexp(components + jax.nn.log_softmax(self.logits), -1)

    def sample(
        self, keys: Key[Array, " batch"], temperature: float | Float[Array, ""] = 1.0
    ) -> Float[Array, "batch d"]:
        """Samples one z per key. `temperature` multiplies the standard deviations."""
        k = jax.vmap(jax.random.categorical, (0, None))(fold(keys, 0), self.logits)
        return self.mean[k] + temperature * jnp.exp(self.log_std[k]) * normal(fold(keys, 1), self.mean.shape[1:])


class HierarchicalPosterior(struct.PyTreeNode):
    """The posterior q(z|x) of a bottleneck with several layers of latent units, which are one after another in z.

    Attributes:
      module: the bottleneck, whose method `log_posterior(features, z)` is the density.
      variables: those of the bottleneck.
      features: those of x, which the bottleneck reads.
      mean: z where each layer is at its mean given the layers that it depends on, [batch, d], if it is known.
    """

    module: nn.Module = struct.field(pytree_node=False)
    variables: PyTree
    features: PyTree
    mean: Float[Array, "batch d"] | None

    def log_prob(self, z: Float[Array, "*samples_batch d"]) -> Float[Array, "*samples_batch"]:
        return self.module.apply(self.variables, self.features, z, method="log_posterior")  # type: ignore[return-value]


class HierarchicalPrior(struct.PyTreeNode):
    """The prior p(z) of a bottleneck with several layers of latent units, which are one after another in z.

    Attributes:
      module: the bottleneck, whose method `log_prior(z)` is the density, and `generate(noise, layers)` makes z.
      variables: those of the bottleneck.
      sizes: numbers of units of the layers, that which is nearest to the data first.
      top: the prior of the top layer, if the bottleneck's own density and samples leave it out.
    """

    module: nn.Module = struct.field(pytree_node=False)
    variables: PyTree
    sizes: tuple[int, ...] = struct.field(pytree_node=False)
    top: GaussianMixture | None = None

    def log_prob(self, z: Float[Array, "*samples_batch d"]) -> Float[Array, "*samples_batch"]:
        log_p: Array = self.module.apply(self.variables, z, method="log_prior")  # type: ignore[assignment]
        return log_p if self.top is None else log_p + self.top.log_prob(z[..., -self.sizes[-1] :])

    def sample(
        self, keys: Key[Array, " batch"], temperature: Float[Array, " layers"] | None = None
    ) -> Float[Array, "batch d"]:
        """Samples one z per key. `temperature` multiplies the standard deviations of each layer."""
        noise = normal(keys, (sum(self.sizes),))
        if temperature is not None:
            noise = noise * jnp.repeat(temperature, np.array(self.sizes), total_repeat_length=sum(self.sizes))
        if self.top is None:
            return self.generate(noise, len(self.sizes))
        above = self.top.sample(fold(keys, 1), 1.0 if temperature is None else temperature[-1])
        return self.generate(jnp.concatenate([noise[:, : -self.sizes[-1]], above], -1), len(self.sizes) - 1)

    def generate(self, given: Float[Array, "batch d"], made: int) -> Float[Array, "batch d"]:
        """Returns z whose lowest `made` layers are made top-down from `given`, standard normal noise.

        All layers above are those of `given`.
        """
        return self.module.apply(self.variables, given, made, method="generate")  # type: ignore[return-value]


Posterior = DiagonalGaussian | FullGaussian | FlowPosterior | HierarchicalPosterior
Prior = StandardNormal | GaussianMixture | HierarchicalPrior
