"""Terms of crosscoders, which encode and decode the activations of several layers of a model together."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from aejax.errors import InputError
from aejax.models.layers import flatten
from aejax.objectives.context import Context


def crosscoder_l1(c: Context) -> Float[Array, " batch"]:
    """Returns the sum over units of |z_j| times the sum over layers of the length of the decoder's row j in that layer.

    A unit thus pays for each layer in which it is decoded (Lindsey et al. 2024, "Sparse crosscoders for cross-layer
    features and model diffing"). For x [batch, features], of one layer, it is the penalty of a sparse autoencoder
    whose rows are not of unit length. Raises InputError unless the decoder is one linear layer.
    """
    kernel = c.variables["params"]["decoder"].get("dense_0", {}).get("kernel")
    z = flatten(c.z)
    if kernel is None or kernel.shape != (z.shape[1], flatten(c.x).shape[1]):
        raise InputError("objective.weights.crosscoder_l1 needs a decoder of one linear layer: decoder.features=()")
    lengths = jnp.linalg.norm(kernel.reshape(len(kernel), -1, c.x.shape[-1]), axis=-1)
    return (jnp.abs(z) * lengths.sum(-1)).sum(-1)
