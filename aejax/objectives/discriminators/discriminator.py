"""The interface of discriminators, and those of codes and of whole examples."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from aejax.errors import InputError
from aejax.models import Output
from aejax.models.conv import Conv
from aejax.models.layers import flatten, normal
from aejax.objectives.context import Context

stop = jax.lax.stop_gradient
Reduce = Callable[[PyTree, str], PyTree]  # over devices, see `Partition.compile`


class Network(nn.Module):
    """A classifier of stride-2 convolutions for images and of dense layers for all other arrays.

    Returns logits [batch] and the last hidden layer, flattened.
    """

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
class Discriminator:
    """A discriminator with its own Adam.

    Attributes:
      features: widths of the discriminator's hidden layers.
      lr, b1: learning rate and first decay of the discriminator's Adam.
    """

    features: Sequence[int] = (256, 256)
    lr: float = 1e-4
    b1: float = 0.5

    # Whether the weights of its terms are multiplied by the adaptive weight, see `PatchGAN`.
    adaptive = False

    def __post_init__(self):
        if not self.lr > 0:
            raise InputError(f"adversary.lr must be above 0, got {self.lr}")

    @property
    def optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.lr, self.b1)

    def init(self, key: Array, output: Output) -> PyTree:
        """Initializes the discriminator's parameters for the outputs of an autoencoder."""
        return Network(self.features).init(key, self.judged(output))["params"]

    def begin(self, key: Array, output: Output, trained: PyTree) -> dict[str, PyTree]:
        """Returns the state before the first step, which checkpoints hold; `trained` are the model's parameters."""
        params = self.init(key, output)
        return {"params": params, "opt_state": self.optimizer.init(params)}

    def view(self, state: PyTree) -> PyTree:
        """Returns what `terms` takes as `params`, from the state."""
        return state["params"]

    def update(self, state: PyTree, c: Context, reduce: Reduce) -> tuple[PyTree, dict[str, Array]]:
        """Updates the discriminator on one batch; returns its state and its metrics."""
        loss, grads = jax.value_and_grad(lambda params: self.loss(params, c).mean())(state["params"])
        loss, grads = reduce((loss, grads), "mean")
        updates, opt_state = self.optimizer.update(grads, state["opt_state"], state["params"])
        return {"params": optax.apply_updates(state["params"], updates), "opt_state": opt_state}, {"critic_loss": loss}

    def logit(self, params: PyTree, x: Array) -> Array:
        """Returns logits [batch], above 0 where the discriminator takes x for real."""
        return self.judge(params, x)[0]

    def judge(self, params: PyTree, x: Array) -> tuple[Array, Array]:
        """Returns the logits of x and the discriminator's last hidden layer."""
        judged: Any = Network(self.features).apply({"params": params}, x)
        return judged

    def judged(self, output: Output) -> Array:
        """Returns the part of an output that the discriminator reads: by default the code."""
        return output.code.z[0] if output.code.samples else output.code.z

    def terms(self, params: PyTree, c: Context) -> dict[str, Array]:
        """Returns the autoencoder's terms by name, per example [batch], without gradients for `params`."""
        raise NotImplementedError

    def loss(self, params: PyTree, c: Context) -> Array:
        """Returns the loss [batch] that `optimizer` minimizes over `params`, without gradients for the autoencoder."""
        raise NotImplementedError


def prior_samples(c: Context) -> Array:
    """Draws a sample of the prior for each example, of the code's shape; of N(0, I) where there is no prior."""
    prior = c.output.code.prior
    return stop(prior.sample(c.keys)) if prior else normal(c.keys, c.z.shape[1:])


class FactorVAE(Discriminator):
    """The discriminator of FactorVAE, which tells codes from codes whose units are shuffled over the batch.

    Term: `density_ratio`, the discriminator's estimate of the total correlation log q(z) - log prod_j q(z_j)
    (Kim and Mnih 2018, equations 2 and 3).
    """

    def terms(self, params, c):
        return {"density_ratio": self.logit(stop(params), c.z)}

    def loss(self, params, c):
        z = stop(c.whole(c.z))
        scores = c.whole(normal(c.keys, z.shape[1:]))  # their order is a random permutation for each unit
        shuffled = jnp.take_along_axis(z, jnp.argsort(scores, 0), 0)
        fake = nn.softplus(self.logit(params, shuffled)).mean()
        return 0.5 * (nn.softplus(-self.logit(params, stop(c.z))) + fake)


class AdversarialAutoencoder(Discriminator):
    """The discriminator of adversarial autoencoders, which tells codes from samples of the prior.

    Term: `adversarial`, -log D(z), which moves the codes towards the prior (Makhzani et al. 2016, section 2).
    """

    def terms(self, params, c):
        return {"adversarial": nn.softplus(-self.logit(stop(params), c.z))}

    def loss(self, params, c):
        return nn.softplus(-self.logit(params, prior_samples(c))) + nn.softplus(self.logit(params, stop(c.z)))


class VAEGAN(Discriminator):
    """The discriminator of VAE/GANs, which tells inputs from reconstructions and from decoded samples of the prior.

    Terms (Larsen et al. 2016, equations 7 to 9 and algorithm 1): `feature_error`, half the squared error in the
    discriminator's last hidden layer, for encoder and decoder; and `adversarial`, -log D of reconstructions and of
    decoded samples of the prior, for the decoder alone.
    """

    def judged(self, output):
        return output.decoded[0] if output.code.samples else output.decoded

    def terms(self, params, c):
        error = self.judge(stop(params), c.mean(self.judged(c.output)))[1] - self.judge(stop(params), c.x)[1]
        fakes = (self.logit(stop(params), c.mean(c.decode(stop(z)))) for z in (c.z, prior_samples(c)))
        return {
            "feature_error": 0.5 * jnp.square(error).sum(-1),
            "adversarial": sum((nn.softplus(-logit) for logit in fakes), jnp.zeros(())),
        }

    def loss(self, params, c):
        fakes = (stop(c.mean(x)) for x in (self.judged(c.output), c.decode(prior_samples(c))))
        loss = nn.softplus(-self.logit(params, c.x))
        return sum((nn.softplus(self.logit(params, x)) for x in fakes), loss)
