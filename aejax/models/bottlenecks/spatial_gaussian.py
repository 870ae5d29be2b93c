"""The Gaussian bottleneck of latent diffusion, whose code is an image."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from aejax.errors import InputError
from aejax.models.bottlenecks.code import Code
from aejax.models.distributions import DiagonalGaussian, StandardNormal
from aejax.models.layers import get_axis, normal, require_keys, whole_batch


class SpatialGaussian(nn.Module):
    """A diagonal Gaussian q(z|x) over images of latent units, [batch, h, w, features] (Rombach et al. 2022, section 3).

    Half of the channels that it reads are the mean, and half the log variance, clipped to [-30, 20]. The loss `kl` is
    KL(q(z|x) || N(0, I)) in nats, summed over all latent units.

    Attributes:
      features: number of latent channels.
      project: whether a 1x1 convolution first maps the features to 2 * `features` channels. Without it the encoder's
        channels must be as many.
    """

    features: int = 4
    project: bool = True
    axis_name: str | None = None

    @nn.compact
    def __call__(self, h: Array, *, keys: Array | None = None, train: bool = False) -> Code:
        """Samples z from the posterior, given `keys`, which training needs; otherwise z is the posterior's mean."""
        require_keys(self, keys, train)
        h = h.astype(jnp.float32)
        if self.project:
            h = nn.Dense(2 * self.features, name="dense")(h)
        if h.shape[-1] != 2 * self.features:
            raise InputError(
                f"bottleneck.features={self.features} needs {2 * self.features} channels, a mean and a log variance of "
                f"each, got {h.shape[-1]}; set encoder.channels={2 * self.features} or bottleneck.project=True"
            )
        mean, log_variance = jnp.split(h, 2, -1)
        posterior = DiagonalGaussian(mean, jnp.clip(log_variance, -30.0, 20.0) / 2)
        noise = jnp.zeros_like(mean) if keys is None else normal(keys, mean.shape[1:])
        # As in `GaussianBottleneck`: a unit is active if its mean varies over the inputs.
        active = whole_batch(mean, get_axis(self)).var(0) > 0.01
        return Code(
            z=posterior.sample(noise),
            losses={"kl": posterior.kl()},
            metrics={"active_units": active.sum().astype(jnp.float32)},
            posterior=posterior,
            prior=StandardNormal(self.features, mean.shape[1:-1]),
        )
