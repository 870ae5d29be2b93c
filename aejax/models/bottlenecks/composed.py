"""Quantizers made of other quantizers: residual levels, and groups or heads of features."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aejax.errors import InputError
from aejax.losses import commitment_loss
from aejax.models.bottlenecks.code import Code
from aejax.models.bottlenecks.quantizer import Quantizer, VectorModule
from aejax.models.layers import fold


class ResidualCodes(VectorModule):
    """Residual quantization by any quantizer: each level quantizes what the levels before it leave of x.

    Zeghidour et al. 2021, "SoundStream", algorithm 1. z is the sum of the levels' codes, with the gradient that
    `quantizer` has for one. Codes that are learned have one scale at all levels. Fixed ones shrink with each level: by
    2 for lfq and bsq, and by the number of values of a unit for fsq, so that L levels of n values are n^L evenly spaced
    values. Indices are [batch, *positions, levels]. Losses are summed over levels, and metrics averaged.

    Attributes:
      quantizer: quantizer of each level, e.g. FSQ; `positions` is an attribute of this module instead.
      levels: number of levels, each with its own copy of the quantizer.
      positions: number of codes per example, for flat features; images and tokens have one at each pixel or token.
    """

    quantizer: nn.Module
    levels: int = 4
    positions: int = 1
    axis_name: str | None = None

    def setup(self):
        self.copies = _copy(self.quantizer, self.levels, self.axis_name)
        self.scales = [self.copies[0].get_step() ** np.float32(level) for level in range(self.levels)]
        self.dense = nn.Dense(self.positions * self.width)

    @property
    def width(self) -> int:
        return self.quantizer.width

    @property
    def size(self) -> int:
        return self.quantizer.size

    @property
    def codebooks(self) -> int:
        return self.levels * max(self.quantizer.codebooks, 1)

    def get_step(self) -> float | np.ndarray:
        return self.quantizer.get_step() ** self.levels

    def bound(self, x: Array) -> Array:
        return self.copies[0].bound(x)

    def quantize(self, x: Array, keys: Array | None, train: bool) -> Code:
        """Returns the code of the vectors x [..., width], before `pass_gradient`."""
        codes = []
        for level, (quantizer, scale) in enumerate(zip(self.copies, self.scales, strict=True)):
            code = quantizer.quantize(x / scale, None if keys is None else fold(keys, level), train)
            z = code.z * scale
            # In the units of x, not of the level.
            losses = {"commitment": commitment_loss(x, z)} if "commitment" in code.losses else {}
            codes.append(code.replace(z=z, losses={**code.losses, **losses}))
            x = x - jax.lax.stop_gradient(z)
        z = functools.reduce(jnp.add, [code.z for code in codes])
        return _join(codes, z, self.quantizer.codebooks)

    def pass_gradient(self, x: Array, z: Array) -> Array:
        return self.copies[0].pass_gradient(x, z)

    def lookup(self, indices: Array) -> Array:
        """Returns z [..., width] of indices [..., levels]."""
        levels = _split(indices, self.copies)
        codes = [q.lookup(i) * scale for q, i, scale in zip(self.copies, levels, self.scales, strict=True)]
        return functools.reduce(jnp.add, codes)


class GroupedCodes(VectorModule):
    """Product quantization by any quantizer: each of `groups` parts of the features has its own code.

    Jégou et al. 2011, section II.C; with `shared`, the codes of all parts are from one codebook, as heads of attention
    have one input. z is the concatenation of the codes. Indices are [batch, *positions, groups]. Losses are summed over
    groups. Metrics are averaged over groups, or are those of all groups together with `shared`. With a residual
    quantizer, the codes of a group are the sums of its levels.

    Attributes:
      quantizer: quantizer of each group, e.g. VectorQuantizer, whose features are those of one group; `positions` is an
        attribute of this module instead.
      groups: number of groups.
      shared: whether all groups use the same quantizer, otherwise each has its own copy.
      positions: number of codes per example, for flat features; images and tokens have one at each pixel or token.
    """

    quantizer: nn.Module
    groups: int = 2
    shared: bool = False
    positions: int = 1
    axis_name: str | None = None

    def setup(self):
        self.copies = _copy(self.quantizer, 1 if self.shared else self.groups, self.axis_name)
        self.dense = nn.Dense(self.positions * self.width)

    @property
    def width(self) -> int:
        return self.groups * self.quantizer.width

    @property
    def size(self) -> int:
        return self.quantizer.size

    @property
    def codebooks(self) -> int:
        return self.quantizer.codebooks if self.shared else self.groups * max(self.quantizer.codebooks, 1)

    def get_step(self) -> float | np.ndarray:
        step = self.quantizer.get_step()
        return step if np.ndim(step) == 0 else np.tile(step, self.groups)

    def bound(self, x: Array) -> Array:
        return self.copies[0].bound(self._divide(x)).reshape(x.shape)

    def quantize(self, x: Array, keys: Array | None, train: bool) -> Code:
        """Returns the code of the vectors x [..., width], before `pass_gradient`."""
        parts = self._divide(x)
        if self.shared:
            code = self.copies[0].quantize(parts, keys, train)
            return code.replace(z=code.z.reshape(x.shape))
        codes = [
            quantizer.quantize(parts[..., group, :], None if keys is None else fold(keys, group), train)
            for group, quantizer in enumerate(self.copies)
        ]
        return _join(codes, jnp.concatenate([code.z for code in codes], -1), self.quantizer.codebooks)

    def pass_gradient(self, x: Array, z: Array) -> Array:
        return self.copies[0].pass_gradient(self._divide(x), self._divide(z)).reshape(z.shape)

    def lookup(self, indices: Array) -> Array:
        """Returns z [..., width] of indices [..., groups]."""
        if self.shared:
            z = self.copies[0].lookup(indices)
            return z.reshape(*z.shape[:-2], self.width)
        parts = _split(indices, self.copies)
        return jnp.concatenate([q.lookup(i) for q, i in zip(self.copies, parts, strict=True)], -1)

    def _divide(self, x: Array) -> Array:
        """Reshapes [..., width] to [..., groups, width of a group]."""
        return x.reshape(*x.shape[:-1], self.groups, self.quantizer.width)


def _copy(quantizer: nn.Module, count: int, axis_name: str | None) -> list[Quantizer]:
    """Returns unbound copies of a quantizer. Raises InputError for a bottleneck that is none."""
    if not isinstance(quantizer, Quantizer):
        name = type(quantizer).__name__
        raise InputError(f"bottleneck.quantizer must be a quantizer of vectors, e.g. vq, fsq or lfq; got {name}")
    if quantizer.positions != 1:
        raise InputError(
            f"bottleneck.quantizer.positions must be 1, got {quantizer.positions}; set bottleneck.positions"
        )
    return [quantizer.clone(name=None, axis_name=axis_name) for _ in range(count)]


def _join(codes: Sequence[Code], z: Array, codebooks: int) -> Code:
    """Returns the code z that several codes make together, with their indices side by side on the last axis."""
    join = jnp.concatenate if codebooks else jnp.stack
    return Code(
        z=z,
        losses=jax.tree.map(lambda *each: sum(each), *(code.losses for code in codes)),
        metrics=jax.tree.map(lambda *each: sum(each) / len(codes), *(code.metrics for code in codes)),
        indices=join([code.indices for code in codes], -1),  # type: ignore[misc]
    )


def _split(indices: Array, quantizers: Sequence[Quantizer]) -> list[Array]:
    """Returns the indices of each quantizer, whose codes `_join` joined."""
    parts = jnp.split(indices, len(quantizers), -1)
    return parts if quantizers[0].codebooks else [part[..., 0] for part in parts]
