"""A normalising flow of affine coupling layers (Dinh et al. 2017, "Density estimation using Real NVP")."""

import dataclasses
import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aejax.errors import InputError
from aejax.losses import normal_log_prob
from aejax.samplers.likelihood import maximise

WIDEST = 2_048  # numbers of a latent: fitting more takes hours


class Coupling(nn.Module):
    """Units that are kept say how the others are scaled and shifted (ibid., equations 4 to 8).

    Which are kept follows the bits of their number, so that any two units are told apart by some layer
    (Gao et al. 2020, "i-flow", section 2.2). A single unit is kept by every other layer, and the flow of
    one number is a Gaussian.
    """

    width: int
    place: int

    @nn.compact
    def __call__(self, z: Array, inverse: bool = False) -> tuple[Array, Array]:
        """z [batch, d] to the new z and log |det dz'/dz| [batch]."""
        d = z.shape[-1]
        bit = self.place // 2 % max((d - 1).bit_length(), 1)
        kept = (np.arange(d) >> bit & 1) == self.place % 2
        h = nn.silu(nn.Dense(self.width)(jnp.where(kept, z, 0)))
        h = nn.silu(nn.Dense(self.width)(h))
        out = nn.Dense(2 * d, kernel_init=nn.initializers.zeros)(h)  # the whole begins as the identity
        shift, log_scale = jnp.split(jnp.where(np.tile(kept, 2), 0, out), 2, -1)
        log_scale = 2 * jnp.tanh(log_scale / 2)  # or one far example could blow a layer up
        if inverse:
            return (z - shift) * jnp.exp(-log_scale), -log_scale.sum(-1)
        return z * jnp.exp(log_scale) + shift, log_scale.sum(-1)


class CouplingFlow(nn.Module):
    """`depth` coupling layers from data to standard normal noise, or back where `inverse`."""

    width: int
    depth: int

    @nn.compact
    def __call__(self, z: Array, inverse: bool = False) -> tuple[Array, Array]:
        """z [batch, d] to the new z and log |det dz'/dz| [batch]."""
        log_det = jnp.zeros(z.shape[0])
        layers = [Coupling(self.width, place, name=f"coupling_{place}") for place in range(self.depth)]
        for layer in reversed(layers) if inverse else layers:
            z, change = layer(z, inverse)
            log_det += change
        return z, log_det


@dataclasses.dataclass(frozen=True)
class Flow:
    """A coupling flow of the latents, standardised unit by unit, by maximum likelihood.

    Attributes:
      width: of the two hidden layers of each coupling.
      depth: couplings.
    """

    width: int = 64
    depth: int = 8
    steps: int = 2_000
    batch_size: int = 256
    lr: float = 2e-3

    discrete: ClassVar[bool] = False

    def fit(self, x: np.ndarray, seed: int) -> dict[str, Any]:
        if x.shape[1] > WIDEST:
            raise InputError(
                f"the flow takes latents of up to {WIDEST:,} numbers, these have {x.shape[1]:,}; choose the gaussian"
            )
        mean, deviation = x.mean(0, np.float64), x.std(0, dtype=np.float64)
        deviation = np.where(deviation > 1e-6 * np.abs(mean), deviation, 1.0)
        params = {"mean": mean.astype(np.float32), "deviation": deviation.astype(np.float32)}
        u = (x - mean) / deviation
        model = self._model()
        layers = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, x.shape[1])))["params"]
        log_prob = functools.partial(_log_prob, model)
        return params | {
            "layers": maximise(log_prob, layers, u.astype(np.float32), seed, self.steps, self.batch_size, self.lr)
        }

    def sample(self, params: dict[str, Any], num: int, seed: int) -> np.ndarray:
        noise = np.random.default_rng(seed).normal(size=(num, len(params["mean"]))).astype(np.float32)
        u, _ = _apply(self._model(), params["layers"], noise, True)
        return params["mean"] + params["deviation"] * np.asarray(u)

    def log_prob(self, params: dict[str, Any], x: np.ndarray) -> np.ndarray:
        u = ((x - params["mean"]) / params["deviation"]).astype(np.float32)
        return np.asarray(_log_prob(self._model(), params["layers"], u)) - np.log(params["deviation"]).sum()

    def _model(self) -> CouplingFlow:
        return CouplingFlow(self.width, self.depth)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _apply(model: CouplingFlow, layers: Any, z: Array, inverse: bool = False) -> Any:
    return model.apply({"params": layers}, z, inverse)


def _log_prob(model: CouplingFlow, layers: Any, u: Array) -> Array:
    noise, log_det = _apply(model, layers, u)
    return normal_log_prob(noise, jnp.zeros(()), jnp.zeros(())) + log_det
