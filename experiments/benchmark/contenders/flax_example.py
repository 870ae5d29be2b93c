"""A VAE as flax's examples teach it: linen modules, a `TrainState`, a jitted step that is called for each batch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState
from flax.traverse_util import unflatten_dict

from experiments.benchmark.contenders import Contender, Given, training
from experiments.benchmark.works import Work


class VAE(nn.Module):
    hidden: int
    latents: int
    pixels: int

    @nn.compact
    def __call__(self, x, key):
        h = nn.relu(nn.Dense(self.hidden, name="encode")(x))
        mean, log_std = nn.Dense(self.latents, name="mean")(h), nn.Dense(self.latents, name="log_std")(h)
        z = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
        h = nn.relu(nn.Dense(self.hidden, name="decode")(z))
        return nn.Dense(self.pixels, name="logits")(h), mean, log_std


@jax.jit
def train_step(state, x, key):
    def loss_fn(params):
        logits, mean, log_std = state.apply_fn({"params": params}, x, key)
        error = optax.sigmoid_binary_cross_entropy(logits, x).sum(-1)
        kl = 0.5 * (mean**2 + jnp.exp(2 * log_std) - 1 - 2 * log_std).sum(-1)
        return (error + kl).mean()

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    return state.apply_gradients(grads=grads), loss


NAMES = {
    "encode": "encoder/dense_0",
    "mean": "bottleneck/mean",
    "log_std": "bottleneck/log_std",
    "decode": "decoder/dense_0",
    "logits": "decoder/dense_1",
}


def train(work: Work, given: Given, variant: str) -> Contender:
    params = unflatten_dict(
        {
            (name, leaf): given.weights[f"params/{path}/{leaf}"]
            for name, path in NAMES.items()
            for leaf in ("kernel", "bias")
        }
    )
    images = given.floats().reshape(len(given.images), -1)
    model = VAE(params["encode"]["bias"].size, params["mean"]["bias"].size, images.shape[1])
    state = TrainState.create(apply_fn=model.apply, params=params, tx=optax.adam(1e-3))
    key = jax.random.key(0)

    def steps(batches: np.ndarray) -> float:
        nonlocal state, key
        losses = []
        for rows in batches:
            key, drawn = jax.random.split(key)
            state, loss = train_step(state, images[rows], drawn)
            losses.append(loss)
        return float(jnp.stack(losses).mean())

    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return training(given, work.steps, count, lambda rows: rows, steps)
