"""The Gaussian bottleneck of variational autoencoders."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from aejax.errors import InputError, one_of
from aejax.losses import monte_carlo_kl
from aejax.models.bottlenecks.code import Code
from aejax.models.distributions import (
    DiagonalGaussian,
    FlowPosterior,
    FullGaussian,
    GaussianMixture,
    Prior,
    StandardNormal,
)
from aejax.models.flows import InverseAutoregressive, Planar
from aejax.models.layers import flatten, get_axis, require_keys, stack_noise, whole_batch
from aejax.registry import Natural

POSTERIORS = ("diagonal", "full", "iaf", "planar")
PRIORS = ("standard", "mixture", "vamp")


class GaussianBottleneck(nn.Module):
    """A posterior q(z|x) over [batch, features] and a prior p(z) (Kingma and Welling 2014).

    The loss `kl` is KL(q(z|x) || p(z)) in nats. It is exact for diagonal and full posteriors under the standard normal
    prior; otherwise it is the estimate log q(z|x) - log p(z) at the sampled z.

    For any encoder, a posterior starts with standard deviation 1, as the standard normal prior has, and without
    correlations; a flow starts as the same function for every input, and each step of iaf scales by 0.88.

    Attributes:
      posterior: "diagonal"; "full" covariance; or a diagonal Gaussian transformed by `depth` steps of a flow, "iaf"
        (Kingma et al. 2016) or "planar" (Rezende and Mohamed 2015).
      prior: "standard" normal; "mixture" of learned Gaussians; or "vamp", a mixture of the posteriors of learned
        pseudo-inputs (Tomczak and Welling 2018), for diagonal posteriors only.
      samples: number of importance samples (Burda et al. 2016); with 1, z has no axis for them.
      components: number of Gaussians of the mixture, or of pseudo-inputs.
      hidden: width of iaf's hidden layer.
      shape: shape of one example, for the pseudo-inputs; `build` sets it.
    """

    features: int
    posterior: str = "diagonal"
    prior: str = "standard"
    samples: int = 1
    depth: Natural = 2
    components: int = 10
    hidden: int = 64
    shape: Sequence[int] = ()
    axis_name: str | None = None

    def setup(self):
        d = self.features
        if self.posterior not in POSTERIORS:
            raise one_of("bottleneck.posterior", self.posterior, POSTERIORS)
        if self.prior not in PRIORS:
            raise one_of("bottleneck.prior", self.prior, PRIORS)
        self.mean = nn.Dense(d)
        # Its kernel starts at 0, since for heavy-tailed inputs the exponential of a random layer is in the thousands.
        self.log_std = nn.Dense(d, kernel_init=nn.initializers.zeros)
        if self.posterior == "full":
            self.off_diagonal = nn.Dense(d * (d - 1) // 2, kernel_init=nn.initializers.zeros) if d > 1 else None
        depth = self.depth if self.posterior in ("iaf", "planar") else 0
        self.flow = [InverseAutoregressive(self.hidden) if self.posterior == "iaf" else Planar() for _ in range(depth)]
        if self.prior == "mixture":
            self.mixture_logits = self.param("mixture_logits", nn.initializers.zeros, (self.components,))
            self.mixture_mean = self.param("mixture_mean", nn.initializers.normal(1.0), (self.components, d))
            self.mixture_log_std = self.param("mixture_log_std", nn.initializers.zeros, (self.components, d))
        if self.prior == "vamp":
            if self.posterior != "diagonal":
                raise InputError("bottleneck.prior='vamp' needs bottleneck.posterior='diagonal'")
            self.pseudo = self.param("pseudo_inputs", nn.initializers.uniform(1.0), (self.components, *self.shape))

    def __call__(
        self, h: Array, pseudo: Array | None = None, *, keys: Array | None = None, train: bool = False
    ) -> Code:
        """Samples z from the posterior, given `keys`, which training needs; otherwise z is the posterior's mean.

        The VampPrior needs `pseudo`, the features of its pseudo-inputs.
        """
        require_keys(self, keys, train)
        h = flatten(h).astype(jnp.float32)
        base, prior = self._gaussian(h), self.prior_of(pseudo)
        noise = jnp.zeros_like(base.mean) if keys is None else stack_noise(keys, self.samples, self.features)
        z, posterior = self._sample(base, h, noise)
        if isinstance(prior, StandardNormal) and not isinstance(posterior, FlowPosterior):
            kl = posterior.kl()
        else:
            kl = monte_carlo_kl(posterior.log_prob(z), prior.log_prob(z))
        # Burda et al. 2016, section 5.1: a unit is active if its mean varies over the inputs.
        active = whole_batch(posterior.mean, get_axis(self)).var(0) > 0.01
        return Code(
            z=z,
            losses={"kl": kl},
            metrics={"active_units": active.sum().astype(jnp.float32)},
            posterior=posterior,
            prior=prior,
            samples=self.samples if z.ndim == 3 else 0,
        )

    def prior_of(self, pseudo: Array | None = None) -> Prior:
        """Returns p(z), which for the VampPrior is computed from the features of its pseudo-inputs."""
        if self.prior == "mixture":
            return GaussianMixture(self.mixture_logits, self.mixture_mean, self.mixture_log_std)
        if self.prior == "vamp":
            if pseudo is None:
                raise InputError("bottleneck.prior='vamp' needs the features of its pseudo-inputs")
            q = self._gaussian(flatten(pseudo).astype(jnp.float32))
            return GaussianMixture(jnp.zeros(self.components), q.mean, q.log_std)
        return StandardNormal(self.features)

    def pseudo_inputs(self) -> Array | None:
        """Returns the pseudo-inputs of the VampPrior, [components, *shape], or None under other priors."""
        return self.pseudo if self.prior == "vamp" else None

    def _gaussian(self, h: Array) -> DiagonalGaussian:
        # The clip keeps variances and their inverses finite in float32; trained posteriors stay far within it.
        return DiagonalGaussian(self.mean(h), jnp.clip(self.log_std(h), -10.0, 10.0))

    def _sample(
        self, base: DiagonalGaussian, h: Array, noise: Array
    ) -> tuple[Array, DiagonalGaussian | FullGaussian | FlowPosterior]:
        """Returns z, made from `noise`, and the posterior whose diagonal part is `base`."""
        if self.posterior == "full":
            d = self.features
            scale = jnp.exp(base.log_std)[..., None] * jnp.eye(d)
            if self.off_diagonal is not None:
                rows, columns = jnp.tril_indices(d, -1)
                scale = scale.at[:, rows, columns].set(self.off_diagonal(h))
            full = FullGaussian(base.mean, scale)
            return full.sample(noise), full
        z = base.sample(noise)
        if not self.flow:
            return z, base
        log_q, mean = base.log_prob(z), base.mean
        for i, step in enumerate(self.flow):
            if i and self.posterior == "iaf":  # reverses the units, so that each can depend on every other
                z, mean = z[..., ::-1], mean[..., ::-1]
            (z, log_det), (mean, _) = step(z, h), step(mean, h)
            log_q = log_q - log_det
        return z, FlowPosterior(mean, base, log_q)
