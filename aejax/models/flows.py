"""Normalizing flows for a posterior: from z [..., batch, d] to z' of that shape and log |det dz'/dz| [..., batch]."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array


class MaskedDense(nn.Module):
    """A dense layer whose kernel is multiplied by a constant mask [inputs, outputs]."""

    mask: Array
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, self.mask.shape)
        bias = self.param("bias", nn.initializers.zeros, self.mask.shape[1:])
        return x @ (kernel * self.mask) + bias


class InverseAutoregressive(nn.Module):
    """One step of inverse autoregressive flow (Kingma et al. 2016, equations 10 to 14).

    z'_i = s_i z_i + (1 - s_i) m_i, where m_i and the gate s_i are functions of z_1 ... z_{i-1} and the encoder's
    features, with one masked hidden layer of width `hidden` (MADE, Germain et al. 2015).
    """

    hidden: int = 64

    @nn.compact
    def __call__(self, z: Array, h: Array) -> tuple[Array, Array]:
        d = z.shape[-1]
        # Hidden unit j reads z_0 ... z_{degree[j]}, and output i only hidden units of degree below i.
        unit, degree = jnp.arange(d), jnp.arange(self.hidden) % max(d - 1, 1)
        input_mask = unit[:, None] <= degree
        output_mask = degree[:, None] < unit
        context = nn.Dense(self.hidden, name="context")(h)
        x = nn.elu(MaskedDense(input_mask, name="masked_0")(z) + context)
        zeros = nn.initializers.zeros  # with the 2: each step starts near the identity for any h, as the paper advises
        mean = MaskedDense(output_mask, zeros, name="mean")(x)
        gate = MaskedDense(output_mask, zeros, name="gate")(x) + 2.0
        s = nn.sigmoid(gate)
        return s * z + (1 - s) * mean, jax.nn.log_sigmoid(gate).sum(-1)


class Planar(nn.Module):
    """One planar step z' = z + u tanh(w.z + b), where u, w and b are computed from the encoder's features.

    Rezende and Mohamed 2015, "Variational inference with normalizing flows", equations 10 to 12 and appendix A.1.
    """

    @nn.compact
    def __call__(self, z: Array, h: Array) -> tuple[Array, Array]:
        d = z.shape[-1]
        # w starts with a length of about 1 for any h: at w = 0 the gradient would be unbounded.
        bias = nn.initializers.normal(d**-0.5)
        dense = nn.Dense(2 * d + 1, kernel_init=nn.initializers.zeros, bias_init=bias, name="parameters")
        u, w, b = jnp.split(dense(h), (d, 2 * d), axis=-1)
        wu = (w * u).sum(-1, keepdims=True)
        # Moves u so that w.u is above -1, which makes the step invertible.
        u = u + (nn.softplus(wu) - 1 - wu) * w / (jnp.square(w).sum(-1, keepdims=True) + 1e-8)
        inner = jnp.tanh((w * z).sum(-1, keepdims=True) + b)
        slope = (1 - jnp.square(inner)) * (w * u).sum(-1, keepdims=True)
        return z + u * inner, jnp.log1p(jnp.maximum(slope[..., 0], -1 + 1e-6))
