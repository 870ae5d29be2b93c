"""The bottleneck of masked autoencoders."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from aejax.models.bottlenecks.code import Code
from aejax.models.vit import Tokens


class MaskToken(nn.Module):
    """A learned token that takes the place of every masked patch: [batch, visible, c] to [batch, all, c]."""

    @nn.compact
    def __call__(self, x: Array, order: Array | None) -> Array:
        """Returns the tokens of all patches, row by row, from those of the visible ones and `Tokens.order`."""
        batch, visible, c = x.shape
        token = self.param("token", nn.initializers.normal(0.02), (c,))
        if order is None:
            return x
        masked = jnp.broadcast_to(token, (batch, order.shape[1] - visible, c))
        return jnp.take_along_axis(jnp.concatenate([x, masked], 1), order[:, :, None], 1)


class MaskedBottleneck(nn.Module):
    """One dense layer on each token, and a learned token in the place of each masked patch.

    Reads `Tokens` or, if no patch is ever masked, tokens [batch, n, c]. Returns z [batch, n, features], one token per
    patch, row by row, and the mask of the masked patches, None if there are none. He et al. 2022, "Masked autoencoders
    are scalable vision learners", section 3.
    """

    features: int

    @nn.compact
    def __call__(self, h: Array | Tokens, *, keys: Array | None = None, train: bool = False) -> Code:
        dense = nn.Dense(self.features, name="dense")
        if not isinstance(h, Tokens):
            return Code(z=dense(h.astype(jnp.float32)))
        z = MaskToken(name="mask")(dense(h.tokens.astype(jnp.float32)), h.order)
        if h.order is None:
            return Code(z=z)
        mask = h.order >= h.tokens.shape[1]
        return Code(z=z, mask=mask.astype(jnp.float32).reshape(-1, *h.grid))
