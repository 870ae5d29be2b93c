"""The bottleneck of the hierarchical VAE with a VampPrior."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from aejax.errors import InputError
from aejax.losses import gaussian_kl_by_unit, monte_carlo_kl, normal_log_prob
from aejax.models.bottlenecks.code import Code
from aejax.models.bottlenecks.hierarchical import Conditional
from aejax.models.distributions import GaussianMixture, HierarchicalPosterior, HierarchicalPrior
from aejax.models.layers import flatten, get_axis, make_units, require_keys, split_sizes, stack_noise, whole_batch
from aejax.registry import Natural, check_type

Normal = tuple[Array, Array]  # the mean and the log standard deviation of each unit


class GatedLayers(nn.Module):
    """Dense layers of gated units, one after another: [..., d] to [..., widths[-1]]; without any, the identity."""

    widths: Sequence[int]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, width in enumerate(self.widths):
            x = make_units("gated", width, "float32", i, x)
        return x


class TwoLevelVamp(nn.Module):
    """Two layers of latent units with a VampPrior over the upper one (Tomczak and Welling 2018, section 4).

    q(z_2|x) q(z_1|x, z_2) and p(z_2) p(z_1|z_2) are diagonal Gaussians, except p(z_2), the mixture of q(z_2|u_k) of
    learned pseudo-inputs u_k. z is z_1 and z_2 one after another, [batch, d]. The decoder reads the features of both
    layers, [batch, 2 * hidden].

    The loss `kl` is KL(q(z|x) || p(z)) in nats, the sum of `kl_1`, which is exact given z_2, and `kl_2`, the estimate
    log q(z_2|x) - log p(z_2) at the sampled z_2.

    Attributes:
      features: numbers of units of z_1 and z_2.
      hidden: width of all gated layers: two of them in q(z_2|x) and in p(z_1|z_2); in q(z_1|x, z_2) one of x, one of
        z_2 and one of both; and one of each of z_1 and z_2 before the decoder. With 0 all these are linear.
      components: number of pseudo-inputs.
      samples: number of importance samples; with 1, z has no axis for them.
      shape: shape of one example, for the pseudo-inputs; `build` sets it.
    """

    features: Sequence[int]
    hidden: Natural = 300
    components: int = 500
    samples: int = 1
    shape: Sequence[int] = ()
    axis_name: str | None = None

    def setup(self):
        check_type("bottleneck.features", self.features, Sequence[int])
        if len(self.features) != 2:
            raise InputError(f"bottleneck.features must be the units of z_1 and z_2, got {tuple(self.features)}")
        width = (self.hidden,) if self.hidden else ()
        self.q_2_layers, self.q_2 = GatedLayers(width * 2), Conditional(self.features[1])
        self.q_1_of_x, self.q_1_of_z, self.q_1_layers = (GatedLayers(width) for _ in range(3))
        self.q_1 = Conditional(self.features[0])
        self.p_1_layers, self.p_1 = GatedLayers(width * 2), Conditional(self.features[0])
        self.read_1, self.read_2 = GatedLayers(width), GatedLayers(width)
        self.pseudo = self.param("pseudo_inputs", nn.initializers.uniform(1.0), (self.components, *self.shape))

    def __call__(
        self, h: Array, pseudo: Array | None = None, *, keys: Array | None = None, train: bool = False
    ) -> Code:
        """Samples z from the posterior, given `keys`, which training needs; otherwise z_2 is its mean and z_1 its mean
        given that. `pseudo` holds the features of the pseudo-inputs.
        """
        require_keys(self, keys, train)
        h = flatten(h).astype(jnp.float32)
        size = sum(self.features)
        mean, prior = self._infer(h, jnp.zeros((h.shape[0], size)))[0], self.prior_of(pseudo)
        noise = jnp.zeros_like(mean) if keys is None else stack_noise(keys, self.samples, size)
        z, q_1, q_2 = self._infer(h, noise)
        z_2 = split_sizes(z, self.features)[1]
        (mean_1, log_std_1), (prior_mean, prior_log_std) = q_1, self._p_1(z_2)
        units = gaussian_kl_by_unit((mean_1 - prior_mean) * jnp.exp(-prior_log_std), log_std_1 - prior_log_std)
        kl_1 = units.sum(-1) if z.ndim == 2 else units.sum(-1).mean(0)
        assert prior.top is not None  # it is the VampPrior
        kl_2 = monte_carlo_kl(normal_log_prob(z_2, *q_2), prior.top.log_prob(z_2))
        # Burda et al. 2016, section 5.1: a unit is active if its mean varies over the inputs.
        active = whole_batch(mean, get_axis(self)).var(0) > 0.01
        count_1, count_2 = (group.sum().astype(jnp.float32) for group in split_sizes(active, self.features))
        return Code(
            z=z,
            losses={"kl": kl_1 + kl_2, "kl_1": kl_1, "kl_2": kl_2},
            metrics={"active_units": count_1 + count_2, "active_units_1": count_1, "active_units_2": count_2},
            posterior=HierarchicalPosterior(self._alone(), self.variables, h, mean),
            prior=prior,
            samples=self.samples if z.ndim == 3 else 0,
            read=self.read(z.reshape(-1, size)),
        )

    def prior_of(self, pseudo: Array | None = None) -> HierarchicalPrior:
        """Returns p(z), given the features of the pseudo-inputs."""
        if pseudo is None:
            raise InputError("TwoLevelVamp needs the features of its pseudo-inputs; call the Autoencoder around it")
        top = GaussianMixture(jnp.zeros(self.components), *self._q_2(flatten(pseudo).astype(jnp.float32)))
        return HierarchicalPrior(self._alone(), self.variables, tuple(self.features), top)

    def pseudo_inputs(self) -> Array:
        """Returns the pseudo-inputs, [components, *shape]."""
        return self.pseudo

    def read(self, z: Array) -> Array:
        """Returns what the decoder reads of z [batch, d]: the features of z_1 and z_2."""
        z_1, z_2 = split_sizes(z, self.features)
        return jnp.concatenate([self.read_1(z_1), self.read_2(z_2)], -1)

    def log_posterior(self, h: Array, z: Array) -> Array:
        """Returns log q(z|x), [...], of z [..., batch, d] given the features h of x."""
        z_1, z_2 = split_sizes(z, self.features)
        return normal_log_prob(z_2, *self._q_2(h)) + normal_log_prob(z_1, *self._q_1(h, z_2))

    def log_prior(self, z: Array) -> Array:
        """Returns log p(z_1|z_2), [...], of z [..., d], to which `HierarchicalPrior` adds log p(z_2)."""
        z_1, z_2 = split_sizes(z, self.features)
        return normal_log_prob(z_1, *self._p_1(z_2))

    def generate(self, given: Array, made: int) -> Array:
        """Returns z [batch, d] of `given`, whose z_1, if `made` is 1, is standard normal noise that becomes z_1."""
        z_1, z_2 = split_sizes(given, self.features)
        if made:
            mean, log_std = self._p_1(z_2)
            z_1 = mean + jnp.exp(log_std) * z_1
        return jnp.concatenate([z_1, z_2], -1)

    def _infer(self, h: Array, noise: Array) -> tuple[Array, Normal, Normal]:
        """Returns z made top-down from `noise`, q(z_1|x, z_2) and q(z_2|x)."""
        noise_1, noise_2 = split_sizes(noise, self.features)
        q_2 = self._q_2(h)
        z_2 = q_2[0] + jnp.exp(q_2[1]) * noise_2
        q_1 = self._q_1(h, z_2)
        return jnp.concatenate([q_1[0] + jnp.exp(q_1[1]) * noise_1, z_2], -1), q_1, q_2

    def _q_2(self, h: Array) -> Normal:
        return self.q_2(self.q_2_layers(h))

    def _q_1(self, h: Array, z_2: Array) -> Normal:
        of_x, of_z = self.q_1_of_x(h), self.q_1_of_z(z_2)
        of_x = jnp.broadcast_to(of_x, (*of_z.shape[:-1], of_x.shape[-1]))
        return self.q_1(self.q_1_layers(jnp.concatenate([of_x, of_z], -1)))

    def _p_1(self, z_2: Array) -> Normal:
        return self.p_1(self.p_1_layers(z_2))

    def _alone(self) -> nn.Module:
        return self.clone(parent=None, name=None)
