"""Discriminators that are trained beside the autoencoder, and the terms that they give it.

An adversary has `terms(critic, context)`, per example [batch], for `objective.weights`, and
`loss(critic, context)`, which its own optimizer minimises over `critic`, the discriminator's parameters.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from aejax.errors import InputError
from aejax.models import Output
from aejax.models.conv import Conv
from aejax.models.layers import flatten, normal
from aejax.objectives.context import Context

stop = jax.lax.stop_gradient


class Discriminator(nn.Module):
    """Logits [batch], and the last hidden layer. Images pass stride-2 convolutions, all else dense layers."""

    features: Sequence[int]

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        for i, width in enumerate(self.features):
            if x.ndim == 4:
                x = Conv(width, (4, 4), strides=2, name=f"conv_{i}")(x)
            else:
                x = nn.Dense(width, name=f"dense_{i}")(flatten(x))
            x = nn.leaky_relu(x, 0.2)
        return nn.Dense(1, name="logit")(flatten(x))[:, 0], flatten(x)


@dataclasses.dataclass(frozen=True)
class Adversary:
    """A discriminator with its own Adam.

    Attributes:
      features: widths of the discriminator's hidden layers.
      lr, b1: of its Adam.
    """

    features: Sequence[int] = (256, 256)
    lr: float = 1e-4
    b1: float = 0.5

    def __post_init__(self):
        if not self.lr > 0:
            raise InputError(f"adversary.lr must be above 0, got {self.lr}")

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.lr, self.b1)

    def init(self, key: Array, output: Output) -> Any:
        """Parameters of the discriminator, from an output of the autoencoder."""
        return Discriminator(self.features).init(key, self.judged(output))["params"]

    def logit(self, critic: Any, x: Array) -> Array:
        """[batch]; above 0 where the discriminator takes x for what it should accept."""
        return self.judge(critic, x)[0]

    def judge(self, critic: Any, x: Array) -> tuple[Array, Array]:
        """The logit of x and the discriminator's last hidden layer."""
        judged: Any = Discriminator(self.features).apply({"params": critic}, x)
        return judged

    def judged(self, output: Output) -> Array:
        """What the discriminator reads of an output."""
        return output.code.z[0] if output.code.samples else output.code.z

    def terms(self, critic: Any, c: Context) -> dict[str, Array]:
        """By name, per example, for the autoencoder; `critic` is held fixed."""
        raise NotImplementedError

    def loss(self, critic: Any, c: Context) -> Array:
        """Of the discriminator, per example [batch]; the autoencoder is held fixed."""
        raise NotImplementedError


def draws(c: Context) -> Array:
    """As many draws of the prior as there are examples, of the code's shape; N(0, I) where there is no prior."""
    prior = c.output.code.prior
    return stop(prior.sample(c.keys)) if prior else normal(c.keys, c.z.shape[1:])


class FactorVAE(Adversary):
    """`density_ratio`, the discriminator's estimate of the total correlation log q(z) - log prod_j q(z_j)
    (Kim and Mnih 2018, equations 2 and 3). It tells codes from codes whose units are shuffled over the batch."""

    def terms(self, critic, c):
        return {"density_ratio": self.logit(stop(critic), c.z)}

    def loss(self, critic, c):
        z = stop(c.whole(c.z))
        scores = c.whole(normal(c.keys, z.shape[1:]))  # their order is a random permutation for each unit
        shuffled = jnp.take_along_axis(z, jnp.argsort(scores, 0), 0)
        fake = nn.softplus(self.logit(critic, shuffled)).mean()
        return 0.5 * (nn.softplus(-self.logit(critic, stop(c.z))) + fake)


class AdversarialAutoencoder(Adversary):
    """`adversarial`, -log D(z), which draws the codes to the prior (Makhzani et al. 2016, section 2)."""

    def terms(self, critic, c):
        return {"adversarial": nn.softplus(-self.logit(stop(critic), c.z))}

    def loss(self, critic, c):
        return nn.softplus(-self.logit(critic, draws(c))) + nn.softplus(self.logit(critic, stop(c.z)))


class VAEGAN(Adversary):
    """`feature_error`, half the squared error in the discriminator's last hidden layer, for encoder and decoder;
    `adversarial`, -log D of reconstructions and of decoded draws of the prior, for the decoder alone
    (Larsen et al. 2016, equations 7 to 9 and algorithm 1)."""

    def judged(self, output):
        return output.decoded[0] if output.code.samples else output.decoded

    def terms(self, critic, c):
        error = self.judge(stop(critic), c.mean(self.judged(c.output)))[1] - self.judge(stop(critic), c.x)[1]
        fakes = (self.logit(stop(critic), c.mean(c.decode(stop(z)))) for z in (c.z, draws(c)))
        return {
            "feature_error": 0.5 * jnp.square(error).sum(-1),
            "adversarial": sum((nn.softplus(-logit) for logit in fakes), jnp.zeros(())),
        }

    def loss(self, critic, c):
        fakes = (stop(c.mean(x)) for x in (self.judged(c.output), c.decode(draws(c))))
        loss = nn.softplus(-self.logit(critic, c.x))
        return sum((nn.softplus(self.logit(critic, x)) for x in fakes), loss)


ADVERSARIES: dict[str, type[Adversary]] = {
    "factor_vae": FactorVAE,
    "aae": AdversarialAutoencoder,
    "vae_gan": VAEGAN,
}
