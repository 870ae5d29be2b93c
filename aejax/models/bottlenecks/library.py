"""A latent library size: the total of a cell's counts as one more latent unit, log-normal for each batch.

    encoder = {"name": "library", "features": (128,)}
    bottleneck = {"name": "library", "features": 10}
    decoder = {"name": "library", "code": 10, "features": (128,), "parameters": 2}

(Lopez et al. 2018, "Deep generative modeling for single-cell transcriptomics", equations 1 to 4.) The last unit of z is
the logarithm of the library size. The decoder adds it to the log fractions of the features, so that likelihoods of
counts, with library="none", read the log means.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from aejax.losses import normal_log_prob
from aejax.models.bottlenecks.code import Code
from aejax.models.bottlenecks.gaussian import GaussianBottleneck
from aejax.models.distributions import DiagonalGaussian
from aejax.models.layers import fold, normal

_NOISE = 2**21  # what the keys of its noise are folded with


class LibraryPrior(struct.PyTreeNode):
    """A Gaussian of mean and log standard deviation [batch, d], or [d] where no batch of cells is known."""

    mean: Array
    log_std: Array

    def log_prob(self, z: Array) -> Array:
        return normal_log_prob(z, self.mean, self.log_std)

    def sample(self, keys: Array) -> Array:
        return self.mean + jnp.exp(self.log_std) * normal(keys, self.mean.shape[-1:])


class LibraryGaussian(nn.Module):
    """A Gaussian code of `features` units, and the log library size: z [batch, features + 1].

    The losses are `kl` of the code, in nats under a standard normal prior, and `kl_library` of the log library size,
    under a Gaussian whose mean and standard deviation are those of the train split's batch of this label, or without
    labels of the whole split. They are parameters that nothing trains. Without a label, as in generation, both are
    averages over the batches.

    Attributes:
      classes: number of labels; `build` sets it.
    """

    features: int
    classes: int = 0
    axis_name: str | None = None

    reads_label = True

    def setup(self):
        self.code = GaussianBottleneck(self.features, axis_name=self.axis_name)
        self.mean = nn.Dense(1)
        self.log_std = nn.Dense(1, kernel_init=nn.initializers.zeros)
        shape = (max(self.classes, 1),)
        self.library_mean = self.param("library_mean", nn.initializers.zeros, shape)
        self.library_log_std = self.param("library_log_std", nn.initializers.zeros, shape)

    def __call__(self, h: Array, *, label: Array | None = None, keys: Array | None = None, train: bool = False) -> Code:
        of_code, of_library = jnp.split(h.astype(jnp.float32), 2, -1)
        code: Any = self.code(of_code, keys=keys, train=train)
        own = DiagonalGaussian(self.mean(of_library), jnp.clip(self.log_std(of_library), -10.0, 10.0))
        noise = jnp.zeros_like(own.mean) if keys is None else normal(fold(keys, _NOISE), (1,))
        prior, joined = self.prior_of(label), lambda a, b: jnp.concatenate([a, jnp.broadcast_to(b, own.mean.shape)], -1)
        mean, log_std = prior.mean[..., -1:], prior.log_std[..., -1:]
        # KL of two Gaussians, in nats.
        ratio = jnp.square(jnp.exp(own.log_std - log_std)) + jnp.square((own.mean - mean) / jnp.exp(log_std))
        kl = (log_std - own.log_std + (ratio - 1) / 2).sum(-1)
        q = code.posterior
        return code.replace(
            z=joined(code.z, own.sample(noise)),
            losses={**code.losses, "kl_library": kl},
            posterior=DiagonalGaussian(joined(q.mean, own.mean), joined(q.log_std, own.log_std)),
            prior=prior,
        )

    def prior_of(self, label: Array | None = None) -> LibraryPrior:
        """Returns p(z) of cells of these batches, [batch], or of an average batch."""
        pick = lambda a: jax.lax.stop_gradient(a.mean(keepdims=True) if label is None else a[label][:, None])  # noqa: E731
        mean, log_std = pick(self.library_mean), pick(self.library_log_std)
        zeros = jnp.zeros((*mean.shape[:-1], self.features))
        return LibraryPrior(jnp.concatenate([zeros, mean], -1), jnp.concatenate([zeros, log_std], -1))
