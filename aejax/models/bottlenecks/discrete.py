"""Bottlenecks with discrete codes but no learned codebook, and functions that all discrete bottlenecks share.

Features become vectors [batch, *positions, features], each of which is replaced by one code. A position is a pixel of
an image [b, h, w, c], a token of [b, n, c], or one of the `positions` that flat features [b, d] are projected to.
Indices are int32 [batch, *positions], from 0 to `size` - 1; the caller of `lookup` checks that range.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aejax.errors import InputError
from aejax.losses import bernoulli_entropy, categorical_entropy, categorical_kl, commitment_loss
from aejax.models.bottlenecks.code import Code
from aejax.models.layers import flatten, get_axis, must_update, require_keys, whole_batch
from aejax.registry import Natural

_EXACT_BITS = 10  # above, a table of all codes of an LFQ would be too large for its entropy


def project(h: Array, dense: nn.Dense, positions: int) -> Array:
    """Projects features to vectors [batch, *positions, features], float32.

    `dense` has positions * features outputs; on the last axis of an image it acts as a 1x1 convolution.
    """
    x = dense(h.astype(jnp.float32))
    if h.ndim == 2:
        return x.reshape(h.shape[0], positions, -1)
    if positions != 1:
        raise InputError(f"bottleneck.positions is for flat features; these have {list(h.shape[1:-1])}: leave it at 1")
    return x


def straight_through(x: Array, z: Array) -> Array:
    """Returns exactly z, with the gradient of x: the straight-through estimator (Bengio et al. 2013)."""
    return jax.lax.stop_gradient(z) + (x - jax.lax.stop_gradient(x))


def measure_usage(indices: Array, size: int, axis_name: str | None) -> dict[str, Array]:
    """Returns metrics of how the whole batch uses the codes.

    `perplexity` is the exponential of the entropy of the codes' frequencies, from 1 to `size`; `dead_codes` is the
    fraction of the codes that do not occur.
    """
    # Sorts the indices, since implicit codebooks have too many codes for a histogram. `jnp.unique` would need a
    # constant batch size, which is symbolic in `Run.export`.
    ordered = jnp.sort(whole_batch(indices, axis_name).ravel())
    rank = jnp.cumsum(jnp.diff(ordered, prepend=-1) != 0) - 1  # of the code among the codes that occur
    counts = jnp.zeros_like(ordered).at[rank].add(1)
    frequencies = counts / ordered.size
    return {
        "perplexity": jnp.exp(jax.scipy.special.entr(frequencies).sum()),
        "dead_codes": 1 - (counts > 0).sum() / size,
    }


def check_positive(what: str, value: float) -> None:
    """Raises InputError if `value` is not above 0."""
    if not value > 0:
        raise InputError(f"{what} must be above 0, e.g. 1.0; got {value!r}")


class FSQ(nn.Module):
    """Finite scalar quantization: each latent unit is rounded to one of a few values in [-1, 1].

    Mentzer et al. 2023, appendix A.1, in the form of the library vector-quantize-pytorch. It uses atanh instead of the
    paper's tan, so that features of 0 give the code 0 also with an even number of levels, and makes the range slightly
    wider instead of narrower, so that 2 levels work. Indices are mixed-radix numbers whose first digit is the lowest.

    Attributes:
      levels: number of values of each latent unit, 2 to 1000.
    """

    levels: Sequence[int] = (8, 5, 5, 5)
    positions: int = 1
    axis_name: str | None = None

    def setup(self):
        if not self.levels or not all(2 <= n <= 1000 for n in self.levels):
            raise InputError(f"bottleneck.levels must be between 2 and 1000, e.g. (8, 5, 5, 5); got {self.levels}")
        if self.size > 2**31 - 1:
            raise InputError(f"bottleneck.levels make {self.size:,} codes; choose fewer than 2^31, or fewer levels")
        self.dense = nn.Dense(self.positions * len(self.levels))

    @property
    def size(self) -> int:
        return math.prod(self.levels)

    def __call__(self, h: Array, *, keys: Array | None = None, train: bool = False) -> Code:
        levels = np.asarray(self.levels)
        half, offset = (levels - 1) / 2 * 1.001, (levels % 2 == 0) / 2
        x = project(h, self.dense, self.positions)
        x = jnp.tanh(x + np.arctanh(offset / half).astype(np.float32)) * half - offset
        digits = jnp.round(x).astype(jnp.int32) + levels // 2
        indices = (digits * self._place_values()).sum(-1).astype(jnp.int32)
        z = straight_through(x / (levels // 2), self._scale(digits))
        return Code(z=z, metrics=measure_usage(indices, self.size, get_axis(self)), indices=indices)

    def lookup(self, indices: Array) -> Array:
        """Returns z [..., units] of indices [...]."""
        return self._scale(indices[..., None] // self._place_values() % np.asarray(self.levels, np.int32))

    def _place_values(self) -> np.ndarray:
        """Returns the weight of each digit in an index."""
        return np.cumprod([1, *self.levels[:-1]], dtype=np.int32)

    def _scale(self, digits: Array) -> Array:
        """Scales digits 0 ... levels - 1 to values in [-1, 1]."""
        width = np.asarray(self.levels) // 2
        return ((digits - width) / width).astype(jnp.float32)


class LFQ(nn.Module):
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
    def size(self) -> int:
        return 2**self.bits

    def __call__(self, h: Array, *, keys: Array | None = None, train: bool = False) -> Code:
        x = project(h, self.dense, self.positions)
        z = jnp.where(x > 0, 1.0, -1.0)
        indices = ((x > 0) << np.arange(self.bits)).sum(-1).astype(jnp.int32)
        logits = 4 * x / self.temperature
        entropy = self._codebook_entropy(logits)
        bound = {"codebook_entropy_upper_bound": entropy} if self.bits > _EXACT_BITS else {}
        return Code(
            z=straight_through(x, z),
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
        return (2 * _split_bits(indices, self.bits) - 1).astype(jnp.float32)

    def _codebook_entropy(self, logits: Array) -> Array:
        """Returns the entropy of the mean of p(c|x) in nats, or its upper bound above 10 bits."""
        logits = logits.reshape(-1, self.bits)
        one, zero = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
        if self.bits > _EXACT_BITS:
            log_p = jnp.stack([zero, one], -1)  # [vectors, bits, 2]
        else:
            table = _split_bits(jnp.arange(self.size), self.bits).T.astype(jnp.float32)  # [bits, codes]
            log_p = jnp.dot(one, table, precision="highest") + jnp.dot(zero, 1 - table, precision="highest")
        log_mean = _log_mean_exp(whole_batch(_log_mean_exp(log_p)[None], get_axis(self)))
        return categorical_entropy(log_mean).sum()


def _split_bits(indices: Array, bits: int) -> Array:
    """Splits integers [...] into bits [..., bits] in {0, 1}, lowest first."""
    return indices[..., None] >> np.arange(bits, dtype=np.int32) & 1


def _log_mean_exp(log_p: Array) -> Array:
    """Returns the logarithm of the mean of exp(log_p) over the first axis."""
    return jax.nn.logsumexp(log_p, 0) - jnp.log(log_p.shape[0])


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
        indices = scores.argmax(-1).astype(jnp.int32)
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
