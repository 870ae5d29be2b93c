"""Recurrent and transformer encoders and decoders of sequences, which may end before their last time steps.

A sequence [time, channels] ends where all that follows is NaN. These encoders read no later time step, and the decoders
make each time step from the code and earlier ones: padding changes neither codes nor losses.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from aejax.errors import InputError, one_of
from aejax.models.layers import Dense, activate
from aejax.models.vit import Transformer, embed_positions

CELLS: dict[str, Callable[..., nn.RNNCellBase]] = {"gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}


def split_padding(x: Array) -> tuple[Array, Array]:
    """Returns x with 0 in the place of NaN, and which values are none, [batch, ...] bool."""
    there = ~jnp.isnan(x)
    return jnp.where(there, x, 0), there


def measure_lengths(there: Array) -> Array:
    """Returns the number of time steps of each sequence, int32 [batch], given which values [batch, time, c] are there.

    It is at least 1, so that examples that only fill a batch have a code.
    """
    steps = jnp.arange(1, there.shape[1] + 1)
    return jnp.maximum(jnp.where(there.any(-1), steps, 0).max(1), 1).astype(jnp.int32)


def _require_sequences(x: Array, reader: str) -> None:
    if x.ndim != 3:
        raise InputError(f"{reader} reads sequences [batch, time, channels], got {list(x.shape)}")


def _require_shape(shape: Sequence[int], z: Array, maker: str) -> tuple[int, int]:
    """Returns the time steps and channels of a decoder's output. Raises InputError if it makes no sequences from z."""
    if len(shape) != 2:
        raise InputError(f"{maker} makes sequences (time, channels), the input is {tuple(shape)}")
    if z.ndim != 2:
        raise InputError(f"{maker} reads flat codes [batch, d], got {list(z.shape)}; use bottleneck.name=dense")
    steps, channels = shape
    return steps, channels


def _run_cells(x: Array, cell: str, features: int, layers: int, lengths: Array | None = None) -> tuple[Array, Array]:
    """Returns the last layer's outputs [batch, time, features] and its output at the last time step of each sequence.

    Makes the cells as submodules of the module whose compact method runs. They compute in float32.
    """
    if cell not in CELLS:
        raise one_of("cell", cell, CELLS)
    last, x = x, x.astype(jnp.float32)
    for i in range(layers):
        run = nn.RNN(CELLS[cell](features, name=f"{cell}_{i}"), return_carry=True)
        carry, x = run(x, seq_lengths=lengths)
        last = carry[1] if cell == "lstm" else carry
    return x, last


class RNNEncoder(nn.Module):
    """Recurrent encoder (Cho et al. 2014): sequences [batch, time, c] to [batch, features], the state at their ends.

    Attributes:
      cell: "gru", or "lstm" (Hochreiter and Schmidhuber 1997).
      layers: number of cells, each of which reads the states of the one before.
    """

    reads_padding: ClassVar[bool] = True
    features: int = 64
    layers: int = 1
    cell: str = "gru"

    @nn.compact
    def __call__(self, x: Array, *, keys: Array | None = None, train: bool = False) -> Array:
        _require_sequences(x, "RNNEncoder")
        x, there = split_padding(x)
        return _run_cells(x, self.cell, self.features, self.layers, measure_lengths(there))[1]


class RNNDecoder(nn.Module):
    """Recurrent decoder: codes [batch, d] to sequences [batch, *shape]; the cells read the code at each time step.

    Attributes:
      shape: (time, channels).
      output: activation of the dense layer that makes the channels; "linear" gives logits.
    """

    shape: Sequence[int]
    features: int = 64
    layers: int = 1
    cell: str = "gru"
    output: str = "linear"

    @nn.compact
    def __call__(self, z: Array, *, train: bool = False) -> Array:
        steps, channels = _require_shape(self.shape, z, "RNNDecoder")
        repeated = jnp.broadcast_to(z[:, None], (z.shape[0], steps, z.shape[-1]))
        x, _ = _run_cells(repeated, self.cell, self.features, self.layers)
        return activate(self.output, Dense(channels, name="dense")(x))


class SequenceEncoder(nn.Module):
    """Transformer encoder of sequences: [batch, time, c] to [batch, features], the mean over their time steps.

    Attributes:
      features: width of a token, which stands for a time step; an even multiple of `heads`.
      layers: number of transformer blocks, see `Transformer`.
      normalisation: "layer" or "none": others would average over padding.
    """

    reads_padding: ClassVar[bool] = True
    features: int = 64
    layers: int = 2
    heads: int = 4
    activation: str = "gelu"
    normalisation: str = "layer"
    dtype: DTypeLike = "float32"
    remat: bool = False

    @nn.compact
    def __call__(self, x: Array, *, keys: Array | None = None, train: bool = False) -> Array:
        _require_sequences(x, "SequenceEncoder")
        x, there = split_padding(x)
        lengths = measure_lengths(there)
        x = _transform(self, x, lengths)
        inside = (jnp.arange(x.shape[1]) < lengths[:, None])[..., None]
        total = jnp.where(inside, x.astype(jnp.float32), 0).sum(1)
        return (total / lengths[:, None]).astype(self.dtype)


class SequenceDecoder(nn.Module):
    """Transformer decoder of sequences: codes [batch, d] to [batch, *shape].

    The code is added to the position of each time step, which attends to itself and to earlier ones, so that a sequence
    does not depend on how many time steps are made.

    Attributes:
      shape: (time, channels).
      output: activation of the dense layer that makes the channels; "linear" gives logits.
    """

    shape: Sequence[int]
    features: int = 64
    layers: int = 2
    heads: int = 4
    activation: str = "gelu"
    output: str = "linear"
    normalisation: str = "layer"
    dtype: DTypeLike = "float32"
    remat: bool = False

    @nn.compact
    def __call__(self, z: Array, *, train: bool = False) -> Array:
        steps, channels = _require_shape(self.shape, z, "SequenceDecoder")
        x = jnp.broadcast_to(z[:, None], (z.shape[0], steps, z.shape[-1]))
        x = _transform(self, x, causal=True)
        return activate(self.output, Dense(channels, dtype=self.dtype, name="dense")(x))


def _transform(
    module: SequenceEncoder | SequenceDecoder, x: Array, lengths: Array | None = None, causal: bool = False
) -> Array:
    """Embeds time steps and applies transformer blocks, as submodules of the module whose compact method runs."""
    if module.normalisation not in ("layer", "none"):
        raise InputError(f"normalisation={module.normalisation!r} averages over padding; choose 'layer' or 'none'")
    position = jnp.asarray(embed_positions((x.shape[1],), module.features), module.dtype)
    x = Dense(module.features, dtype=module.dtype, name="embed")(x) + position
    options = (module.layers, module.heads, module.activation, module.normalisation, module.dtype, None, module.remat)
    return Transformer(*options, causal, name="transformer")(x, lengths)
