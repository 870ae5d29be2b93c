"""Bottlenecks with discrete codes but no learned codebook."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aejax.errors import InputError
from aejax.losses import bernoulli_entropy, categorical_kl, commitment_loss
from aejax.models.bottlenecks.code import Code
from aejax.models.bottlenecks.quantizer import (
    VectorModule,
    find_least,
    measure_mean_entropy,
    measure_usage,
    project,
    straight_through,
)
from aejax.models.layers import flatten, get_axis, must_update, require_keys
from aejax.registry import Natural

_EXACT_BITS = 10  # above, a table of all codes of an LFQ would be too large for its entropy


def check_positive(what: str, value: float) -> None:
    """Raises InputError if `value` is not above 0."""
    if not value > 0:
        raise InputError(f"{what} must be above 0, e.g. 1.0; got {value!r}")


class FSQ(VectorModule):
    """Finite scalar quantization: each latent unit is rounded to one of a few values in [-1, 1].

    Mentzer et al. 2023, appendix A.1, in the form of the library vector-quantize-pytorch. It uses atanh instead of the
    paper's tan, so that features of 0 give the code 0 also with an even number of levels, and makes the range slightly
    wider instead of narrower, so that 2 levels work. Indices are mixed-radix numbers whose first digit is the lowest.

    Attributes:
      levels: number of values of each latent unit, 2 to 1000.
      symmetric: whether the values are spread evenly from -1 to 1 (Parker et al. 2024, section 3.2): tanh(x) is rounded
        to one of them. Otherwise they are multiples of 1 / (levels // 2), 0 among them, and an even number of levels
        leaves out 1.
    """

    levels: Sequence[int] = (8, 5, 5, 5)
    positions: int = 1
    axis_name: str | None = None
    symmetric: bool = False

    def setup(self):
        if not self.levels or not all(2 <= n <= 1000 for n in self.levels):
            raise InputError(f"bottleneck.levels must be between 2 and 1000, e.g. (8, 5, 5, 5); got {self.levels}")
        if self.size > 2**31 - 1:
            raise InputError(f"bottleneck.levels make {self.size:,} codes; choose fewer than 2^31, or fewer levels")
        self.dense = nn.Dense(self.positions * len(self.levels))

    @property
    def width(self) -> int:
        return len(self.levels)

    @property
    def size(self) -> int:
        return math.prod(self.levels)

    def get_step(self) -> np.ndarray:
        """Returns the scale with which the next level's values divide the space around a value evenly."""
        if not self.symmetric and any(n % 2 == 0 for n in self.levels):
            raise InputError(f"residual levels of fsq need odd levels or symmetric=True; got levels={self.levels}")
        return 1 / np.asarray(self.levels, np.float32)

    def bound(self, x: Array) -> Array:
        """Returns x [..., units] in about [-1, 1]."""
        if self.symmetric:
            return jnp.tanh(x)
        levels = np.asarray(self.levels)
        half, offset = (levels - 1) / 2 * 1.001, (levels % 2 == 0) / 2
        return (jnp.tanh(x + np.arctanh(offset / half).astype(np.float32)) * half - offset) / (levels // 2)

    def quantize(self, x: Array, keys: Array | None, train: bool) -> Code:
        """Returns the code nearest to each x [..., units]. Its z is a constant."""
        levels = np.asarray(self.levels)
        width, offset = self._spread()
        digits = jnp.clip(jnp.round(x * width - offset).astype(jnp.int32) + levels // 2, 0, levels - 1)
        indices = (digits * self._place_values()).sum(-1).astype(jnp.int32)
        return Code(z=self._scale(digits), metrics=measure_usage(indices, self.size, get_axis(self)), indices=indices)

    def lookup(self, indices: Array) -> Array:
        """Returns z [..., units] of indices [...]."""
        return self._scale(indices[..., None] // self._place_values() % np.asarray(self.levels, np.int32))

    def _place_values(self) -> np.ndarray:
        """Returns the weight of each digit in an index."""
        return np.cumprod([1, *self.levels[:-1]], dtype=np.int32)

    def _spread(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the number of steps from 0 to 1 and the value of digit levels // 2 in steps, for each unit."""
        levels = np.asarray(self.levels)
        if not self.symmetric:
            return levels // 2, np.zeros_like(levels)
        return (levels - 1) / 2, (levels % 2 == 0) / 2

    def _scale(self, digits: Array) -> Array:
        """Scales digits 0 ... levels - 1 to values in [-1, 1]."""
        width, offset = self._spread()
        return ((digits - np.asarray(self.levels) // 2 + offset) / width).astype(jnp.float32)


class LFQ(VectorModule):
    """Lookup-free quantization: the signs of `bits` features (Yu et al. 2023, MAGVIT-2, section 3).

    p(c|x) is the softmax over all codes c in {-1, 1}^bits of -|x - c|^2 / temperature. It factorizes over bits: a bit
    is 1 with probability sigmoid(4 x / temperature). The first bit is the lowest of the index.

    Losses, each with its own weight (equations 4 and 5):
      commitment: |x - z|^2.
      sample_entropy: entropy of p(c|x) in nats, summed over positions; low if each choice is certain.
      codebook_entropy: minus the entropy in nats of p(c|x) averaged over positions and the whole batch, the same for
        each example; low if all codes are used equally. Above 10 bits it is minus the sum of the entropies of the bits,
        which ignores their dependence and so is a loose upper bound of the entropy: for 300 equally frequent codes of
        12 bits it may be 8.3 nats where the entropy is 5.7. The bound is then logged by its name, too, as the metric
        `codebook_entropy_upper_bound`; the logarithm of `perplexity` is the better measure.
    """

    bits: int = 8
    positions: int = 1
    temperature: float = 1.0
    axis_name: str | None = None

    def setup(self):
        check_positive("bottleneck.temperature", self.temperature)
        if self.bits > 30:
            raise InputError(f"bottleneck.bits must be at most 30, indices are int32; got {self.bits}")
        self.dense = nn.Dense(self.positions * self.bits)

    @property
    def width(self) -> int:
        return self.bits

    @property
    def size(self) -> int:
        return 2**self.bits

    def get_step(self) -> float:
        return 0.5

    def quantize(self, x: Array, keys: Array | None, train: bool) -> Code:
        """Returns the signs of x [..., bits] as a code. Its z is a constant."""
        z = jnp.where(x > 0, 1.0, -1.0)
        indices = join_bits(x > 0)
        logits = 4 * x / self.temperature
        entropy = self._codebook_entropy(logits)
        bound = {"codebook_entropy_upper_bound": entropy} if self.bits > _EXACT_BITS else {}
        return Code(
            z=z,
            losses={
                "commitment": commitment_loss(x, z),
                "sample_entropy": flatten(bernoulli_entropy(logits)).sum(-1),
                "codebook_entropy": jnp.broadcast_to(-entropy, x.shape[:1]),
            },
            metrics=measure_usage(indices, self.size, get_axis(self)) | bound,
            indices=indices,
        )

    def lookup(self, indices: Array) -> Array:
        """Returns z [..., bits] in {-1, 1} of indices [...]."""
        return (2 * split_bits(indices, self.bits) - 1).astype(jnp.float32)

    def _codebook_entropy(self, logits: Array) -> Array:
        """Returns the entropy of the mean of p(c|x) in nats, or its upper bound above 10 bits."""
        logits = logits.reshape(-1, self.bits)
        one, zero = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
        if self.bits > _EXACT_BITS:
            log_p = jnp.stack([zero, one], -1)  # [vectors, bits, 2]
        else:
            table = split_bits(jnp.arange(self.size), self.bits).T.astype(jnp.float32)  # [bits, codes]
            log_p = jnp.dot(one, table, precision="highest") + jnp.dot(zero, 1 - table, precision="highest")
        return measure_mean_entropy(log_p, get_axis(self))


def join_bits(bits: Array) -> Array:
    """Returns integers [...] of bits [..., bits], lowest first."""
    return (bits << np.arange(bits.shape[-1])).sum(-1).astype(jnp.int32)


def split_bits(indices: Array, bits: int) -> Array:
    """Splits integers [...] into bits [..., bits] in {0, 1}, lowest first."""
    return indices[..., None] >> np.arange(bits, dtype=np.int32) & 1


class GumbelSoftmax(nn.Module):
    """Categorical codes by Gumbel-softmax: z [batch, *positions, codes] is one-hot, or relaxed in training.

    In training z is the relaxed sample softmax((logits + Gumbel noise) / temperature), in evaluation the one-hot
    argmax; the noise needs keys (Jang et al. 2017; Maddison et al. 2017). With `anneal_steps`, training counts its
    steps in the collection "codebook".

    Loss `kl`: KL(softmax(logits) || uniform) in nats, summed over positions.

    Attributes:
      temperature: initial temperature of the relaxation.
      anneal_to: temperature after `anneal_steps` training steps, approached exponentially.
      anneal_steps: number of steps over which the temperature changes; 0: it is constant.
      hard: whether z is the one-hot argmax in training, too, with the relaxed sample's gradient (straight-through).
    """

    codes: int
    positions: int = 1
    temperature: float = 1.0
    anneal_to: float = 0.5
    anneal_steps: Natural = 0
    hard: bool = False
    axis_name: str | None = None

    def setup(self):
        check_positive("bottleneck.temperature", self.temperature)
        check_positive("bottleneck.anneal_to", self.anneal_to)
        self.dense = nn.Dense(self.positions * self.codes)
        if self.anneal_steps:
            self.steps = self.variable("codebook", "steps", jnp.zeros, (), jnp.int32)

    @property
    def size(self) -> int:
        return self.codes

    def __call__(self, h: Array, *, keys: Array | None = None, train: bool = False) -> Code:
        require_keys(self, keys, train)
        logits = project(h, self.dense, self.positions)
        scores = logits
        if keys is not None:
            scores = logits + jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
        temperature = self._anneal(train)
        soft = jax.nn.softmax(scores / temperature)
        indices = find_least(-scores)
        return Code(
            z=soft if train and not self.hard else straight_through(soft, self.lookup(indices)),
            losses={"kl": flatten(categorical_kl(logits)).sum(-1)},
            metrics={**measure_usage(indices, self.codes, get_axis(self)), "temperature": temperature},
            indices=indices,
        )

    def lookup(self, indices: Array) -> Array:
        """Returns one-hot z [..., codes] of indices [...]."""
        return jax.nn.one_hot(indices, self.codes)

    def _anneal(self, train: bool) -> Array:
        """Returns the temperature of this step, and counts the step in training."""
        if not self.anneal_steps:
            return jnp.float32(self.temperature)
        step = self.steps.value
        if must_update(self, "codebook", train):
            self.steps.value = step + 1
        progress = jnp.minimum(step / self.anneal_steps, 1.0)
        return self.temperature * (self.anneal_to / self.temperature) ** progress
