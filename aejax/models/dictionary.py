"""The decoder of sparse autoencoders: a dictionary with one row for each unit of the code."""

import math
from collections.abc import Sequence

import flax.linen as nn
from jax import Array
from jax.typing import DTypeLike

from aejax.errors import InputError, one_of
from aejax.models.bottlenecks.selection import Kept, combine, is_worthwhile
from aejax.models.layers import Dense, TiedDense, flatten

BIASES = ("mean", "geometric_median", "zeros")


class DictionaryDecoder(nn.Module):
    """One linear layer, [batch, features] to [batch, *shape], the decoder of a sparse autoencoder.

    The layer has the parameters of a linear `MLPDecoder`. A code of which few units are kept is multiplied by the rows
    of these units alone, in float32.

    Attributes:
      shape: shape of one output example.
      tied: whether the kernel is the transpose of the bottleneck's, e.g. for `matching_pursuit`.
      initial_norm: length of the rows in the beginning, which point in random directions, with the encoder as their
        transpose (Conerly et al. 2024, "Circuits updates, April"; Gao et al. 2024, appendix A.1); 0: both are random.
      unit_norm: whether each training step leaves rows of length 1, without the part of the gradient along the rows
        (Bricken et al. 2023, "Towards monosemanticity"), see `optimizers.keep_unit_norm`.
      initial_bias: "mean" or "geometric_median" of the train split, or "zeros".
    """

    shape: Sequence[int]
    tied: bool = False
    initial_norm: float = 0.1
    unit_norm: bool = False
    initial_bias: str = "mean"
    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(
        self, z: Array, kernels: Sequence[Array] = (), *, kept: Kept | None = None, train: bool = False
    ) -> Array:
        if self.initial_bias not in BIASES:
            raise one_of("decoder.initial_bias", self.initial_bias, BIASES)
        z, width = flatten(z), math.prod(self.shape)
        if self.tied and [kernel.shape for kernel in kernels] != [(width, z.shape[-1])]:
            raise InputError(
                f"decoder.tied needs a bottleneck with a kernel of {(width, z.shape[-1])}, and no encoder layers; "
                f"the kernels are {[tuple(kernel.shape) for kernel in kernels]}"
            )
        if kept is not None and not self.is_initializing() and is_worthwhile(z.shape[-1], kept.values.shape[-1]):
            layer = self.variables["params"]["dense_0"]
            kernel = kernels[0].T if self.tied else layer["kernel"]
            decoded = combine(kept, kernel) + layer["bias"]
        elif self.tied:
            decoded = TiedDense(self.dtype, name="dense_0")(z, kernels[0])
        else:
            decoded = Dense(width, dtype=self.dtype, name="dense_0")(z)
        return decoded.reshape(z.shape[0], *self.shape)
