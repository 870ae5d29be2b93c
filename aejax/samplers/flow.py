"""A normalizing flow of affine coupling layers (Dinh et al. 2017, "Density estimation using Real NVP")."""

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
from aejax.samplers.likelihood import maximize

WIDEST = 2_048  # latent units: fitting more takes hours


class Coupling(nn.Module):
    """An affine coupling: some units are kept and determine scale and shift of the others (ibid., equations 4 to 8).

    Layer `place` keeps the units whose index has a certain bit set or unset, so that any two units are separated by
    some layer (Gao et al. 2020, "i-flow", section 2.2). A single unit is kept by every second layer, so that its flow
    is a Gaussian.
    """

    width: int
    place: int

    @nn.compact
    def __call__(self, z: Array, inverse: bool = False) -> tuple[Array, Array]:
        """Returns z' [batch, d] and log |det dz'/dz| [batch] for z [batch, d]."""
        d = z.shape[-1]
        bit = self.place // 2 % max((d - 1).bit_length(), 1)
        kept = (np.arange(d) >> bit & 1) == self.place % 2
        h = nn.silu(nn.Dense(self.width)(jnp.where(kept, z, 0)))
        h = nn.silu(nn.Dense(self.width)(h))
        out = nn.Dense(2 * d, kernel_init=nn.initializers.zeros)(h)  # so that the flow starts as the identity
        shift, log_scale = jnp.split(jnp.where(np.tile(kept, 2), 0, out), 2, -1)
        log_scale = 2 * jnp.tanh(log_scale / 2)  # bounded, so that an outlier cannot make a layer diverge
        if inverse:
            return (z - shift) * jnp.exp(-log_scale), -log_scale.sum(-1)
        return z * jnp.exp(log_scale) + shift, log_scale.sum(-1)


class CouplingFlow(nn.Module):
    """A flow of `depth` coupling layers from data to standard normal noise, or back if `inverse`."""

    width: int
    depth: int

    @nn.compact
    def __call__(self, z: Array, inverse: bool = False) -> tuple[Array, Array]:
        """Returns z' [batch, d] and log |det dz'/dz| [batch] for z [batch, d]."""
        log_det = jnp.zeros(z.shape[0])
        layers = [Coupling(self.width, place, name=f"coupling_{place}") for place in range(self.depth)]
        for layer in reversed(layers) if inverse else layers:
            z, layer_log_det = layer(z, inverse)
            log_det += layer_log_det
        return z, log_det


@dataclasses.dataclass(frozen=True)
class Flow:
    """A coupling flow fitted by maximum likelihood to the latents, standardized per unit.

    Attributes:
      width: width of the two hidden layers of each coupling.
      depth: number of couplings.
      steps, batch_size, lr: number of training steps, examples per step and highest learning rate, see `maximize`.
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
                f"the flow takes latents of up to {WIDEST:,} units, these have {x.shape[1]:,}; choose the gaussian"
            )
        mean, std = x.mean(0, np.float64), x.std(0, dtype=np.float64)
        std = np.where(std > 1e-6 * np.abs(mean), std, 1.0)
        standardized = ((x - mean) / std).astype(np.float32)
        model = self._build_model()
        layers = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, x.shape[1])))["params"]
        log_prob = functools.partial(_log_prob, model)
        layers = maximize(log_prob, layers, standardized, seed, self.steps, self.batch_size, self.lr)
        return {"mean": mean.astype(np.float32), "deviation": std.astype(np.float32), "layers": layers}

    def sample(self, params: dict[str, Any], num: int, seed: int) -> np.ndarray:
        noise = np.random.default_rng(seed).normal(size=(num, len(params["mean"]))).astype(np.float32)
        standardized, _ = _apply(self._build_model(), params["layers"], noise, True)
        return params["mean"] + params["deviation"] * np.asarray(standardized)

    def log_prob(self, params: dict[str, Any], x: np.ndarray) -> np.ndarray:
        standardized = ((x - params["mean"]) / params["deviation"]).astype(np.float32)
        log_prob = np.asarray(_log_prob(self._build_model(), params["layers"], standardized))
        return log_prob - np.log(params["deviation"]).sum()

    def _build_model(self) -> CouplingFlow:
        return CouplingFlow(self.width, self.depth)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _apply(model: CouplingFlow, layers: Any, z: Array, inverse: bool = False) -> Any:
    return model.apply({"params": layers}, z, inverse)


def _log_prob(model: CouplingFlow, layers: Any, standardized: Array) -> Array:
    noise, log_det = _apply(model, layers, standardized)
    return normal_log_prob(noise, jnp.zeros(()), jnp.zeros(())) + log_det
