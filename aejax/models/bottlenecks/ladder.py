"""The bottleneck of ladder VAEs: groups of latent units at several scales, sampled top-down."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from aejax.errors import InputError
from aejax.losses import gaussian_kl_by_unit, normal_log_prob
from aejax.models.bottlenecks.code import Code
from aejax.models.distributions import HierarchicalPosterior, HierarchicalPrior
from aejax.models.ladder import Blocks, spread_patches
from aejax.models.layers import Dense, flatten, get_axis, require_keys, split_sizes, stack_noise, whole_batch
from aejax.registry import Natural, check_type

Normal = tuple[Array, Array]  # the mean and the log standard deviation of each unit


class Sampled(NamedTuple):
    """A layer after the walk: its z, and its distributions given the layers above; q is None without features."""

    z: Array
    p: Normal
    q: Normal | None


class Start(nn.Module):
    """The state at which a scale starts: that of the scale above, spread to its shape, plus a learned constant."""

    dtype: DTypeLike = "float32"

    @nn.compact
    def __call__(self, above: Array | None, shape: Sequence[int], batch: int) -> Array:
        bias = self.param("bias", nn.initializers.zeros, tuple(shape))
        state = jnp.broadcast_to(bias, (batch, *shape))
        if above is None:
            return state
        side = shape[0] // above.shape[1]
        spread = Dense(side**2 * shape[-1], dtype=self.dtype, name="spread")(above)
        return state + spread_patches(spread.astype("float32"), side)


class Layer(nn.Module):
    """One layer of the ladder: p(z|state), q(z|state, h), and the state after z (Child 2021, figure 3)."""

    features: int
    is_top: bool
    residual: bool
    blocks: Natural
    dtype: DTypeLike = "float32"
    remat: bool = False

    @nn.compact
    def __call__(self, state: Array, h: Array | None, given: Array, is_noise: bool) -> tuple[Array, Sampled]:
        """Returns the state after the layer and the layer, for its z [b, h, w, features] or the noise that makes it."""
        c = state.shape[-1]
        blocks = lambda name: Blocks(self.blocks, dtype=self.dtype, remat=self.remat, name=name)  # noqa: E731
        p: Normal = (jnp.zeros_like(given), jnp.zeros_like(given))
        if not self.is_top:
            y = blocks("p_blocks")(state)
            p = self._heads(y, "p", nn.initializers.zeros)
            # A part of the state that does not depend on z.
            state = state + Dense(c, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="p_state")(y)
        q = None
        if h is not None:
            y = Dense(c, dtype=self.dtype, name="q_merge")(jnp.concatenate([state, h], -1)).astype("float32")
            q = self._heads(blocks("q_blocks")(y), "q", nn.initializers.lecun_normal())
            if self.residual:
                q = p[0] + q[0], p[1] + q[1]
        mean, log_std = p if q is None else q
        z = mean + jnp.exp(log_std) * given if is_noise else given
        state = state + Dense(c, dtype=self.dtype, name="z")(z).astype("float32")
        return blocks("blocks")(state), Sampled(z, p, q)

    def _heads(self, y: Array, name: str, init: nn.initializers.Initializer) -> Normal:
        y = y.astype("float32")
        log_std = nn.Dense(self.features, kernel_init=nn.initializers.zeros, name=f"{name}_log_std")(y)
        # Bounded smoothly: beyond a clip there is no gradient that would lead back.
        return nn.Dense(self.features, kernel_init=init, name=f"{name}_mean")(y), 5 * jnp.tanh(log_std / 5)


class LadderGaussian(nn.Module):
    """Layers of latent units z_1, ..., z_L at several scales, sampled from z_L down to z_1, in q as in p.

    q(z_l | z_{l+1} ... z_L, x) merges a deterministic state, which depends on the layers above, with the encoder's
    features at the layer's scale (Sønderby et al. 2016; Child 2021, "Very deep VAEs"). p(z_L) = N(0, I); all other
    distributions are diagonal Gaussians. z is z_1, ..., z_L one after another, [batch, d], and the decoder reads the
    state after z_1, [batch, h, w, c] with the channels of the finest scale.

    The loss `kl` is KL(q(z|x) || p(z)) in nats, the sum of the losses `kl_1` to `kl_L` of the layers, each of which is
    exact given the layers above. A unit is active if its KL is above 0.01 nats on average.

    Attributes:
      layers: number of layers at each scale of the encoder, the finest first.
      features: number of latent channels of each layer, by scale.
      residual: whether q is given relative to p: its mean is p's plus a difference, and its standard deviation p's
        times a factor (Vahdat and Kautz 2020, NVAE, section 3.2). The difference is in units of z. In units of p's
        standard deviation the KL would not depend on p, which could then shrink at no cost until z says nothing.
      blocks: number of residual blocks in each of p, q and the state after z.
      samples: number of importance samples; with 1, z has no axis for them.
    """

    layers: Sequence[int]
    features: Sequence[int]
    residual: bool = True
    blocks: Natural = 1
    samples: int = 1
    dtype: DTypeLike = "float32"
    axis_name: str | None = None
    remat: bool = False

    def setup(self):
        for name in ("layers", "features"):
            check_type(f"bottleneck.{name}", getattr(self, name), Sequence[int])
        if not len(self.layers) == len(self.features) > 0:
            raise InputError(
                f"bottleneck.layers={tuple(self.layers)} and bottleneck.features={tuple(self.features)} must have one "
                "entry for each scale"
            )
        number, top = sum(self.layers), sum(self.layers) - 1
        options: dict[str, Any] = {
            "residual": self.residual,
            "blocks": self.blocks,
            "dtype": self.dtype,
            "remat": self.remat,
        }
        self.starts = [Start(self.dtype) for _ in self.layers]
        self.parts = [Layer(self.features[self._scale(i)], is_top=i == top, **options) for i in range(number)]

    def __call__(self, h: Array | tuple[Array, ...], *, keys: Array | None = None, train: bool = False) -> Code:
        """Samples z from the posterior, given `keys`, which training needs; otherwise each layer is its mean given the
        means of the layers above.
        """
        require_keys(self, keys, train)
        scales = tuple(each.astype("float32") for each in (h if isinstance(h, tuple) else (h,)))
        shapes = [each.shape[1:] for each in scales]
        if any(len(shape) != 3 for shape in shapes):
            raise InputError(
                f"bottleneck.name=ladder reads features [batch, h, w, channels] at several scales, and the encoder has "
                f"{shapes} without the batch; use encoder.name=pyramid"
            )
        if len(scales) != len(self.layers):
            raise InputError(
                f"bottleneck.layers={tuple(self.layers)} has layers at {len(self.layers)} scales, and the encoder has "
                f"features at {len(scales)}: {shapes}; give each scale its entry"
            )
        for fine, coarse in itertools.pairwise(shapes):
            side = fine[0] // coarse[0]
            if fine[:2] != (side * coarse[0], side * coarse[1]):
                raise InputError(
                    f"bottleneck.name=ladder spreads the pixels of {coarse[0]}x{coarse[1]} to whole squares of "
                    f"{fine[0]}x{fine[1]}; give the scales from fine to coarse, with sides that are multiples"
                )
        batch, size = scales[0].shape[0], sum(self._sizes(shapes))
        noise = jnp.zeros((batch, size)) if keys is None else stack_noise(keys, self.samples, size)
        samples = noise.shape[0] if noise.ndim == 3 else 0
        state, walked = self._walk(self._tile(scales, samples), noise.reshape(-1, size), shapes, sum(self.layers))
        rates = [self._rate(layer) for layer in walked]
        if samples:
            rates = [rate.reshape(samples, batch, -1).mean(0) for rate in rates]
        by_layer = [rate.sum(-1) for rate in rates]
        means = [whole_batch(rate.mean(0)[None], get_axis(self)).mean(0) for rate in rates]
        active = [(mean > 0.01).sum().astype(jnp.float32) for mean in means]
        several = len(rates) > 1
        z = jnp.concatenate([flatten(layer.z) for layer in walked], -1)
        return Code(
            z=z.reshape(noise.shape),
            losses={"kl": jnp.stack(by_layer).sum(0)}
            | ({f"kl_{i}": rate for i, rate in enumerate(by_layer, 1)} if several else {}),
            metrics={"active_units": jnp.stack(active).sum()}
            | ({f"active_units_{i}": count for i, count in enumerate(active, 1)} if several else {}),
            posterior=HierarchicalPosterior(self._alone(), self.variables, scales, None),
            prior=self.prior_of(),
            samples=samples,
            read=state,
            kl_by_unit=jnp.concatenate(rates, -1),
        )

    def prior_of(self) -> HierarchicalPrior:
        """Returns p(z)."""
        return HierarchicalPrior(self._alone(), self.variables, self._sizes(self._shapes()))

    def read(self, z: Array) -> Array:
        """Returns what the decoder reads of z [batch, d]: the state after z_1."""
        return self._walk(None, z, self._shapes(), 0)[0]

    def log_posterior(self, h: tuple[Array, ...], z: Array) -> Array:
        """Returns log q(z|x), [...], of z [..., batch, d] given the features h of x."""
        flat = z.reshape(-1, z.shape[-1])
        scales = self._tile(h, flat.shape[0] // h[0].shape[0])
        return self._log_prob(self._walk(scales, flat, self._shapes(), 0)[1]).reshape(z.shape[:-1])

    def log_prior(self, z: Array) -> Array:
        """Returns log p(z), [...], of z [..., d]."""
        walked = self._walk(None, z.reshape(-1, z.shape[-1]), self._shapes(), 0)[1]
        return self._log_prob(walked).reshape(z.shape[:-1])

    def generate(self, given: Array, made: int) -> Array:
        """Returns z [batch, d] whose lowest `made` layers are made top-down from `given`, standard normal noise.

        All layers above are those of `given`.
        """
        walked = self._walk(None, given, self._shapes(), made)[1]
        return jnp.concatenate([flatten(layer.z) for layer in walked], -1)

    def _walk(
        self, scales: tuple[Array, ...] | None, given: Array, shapes: Sequence[Sequence[int]], made: int
    ) -> tuple[Array, list[Sampled]]:
        """Returns the last state and all layers, z_1 first, for z [batch, d].

        The lowest `made` layers are made from `given`, standard normal noise, and all others are those of `given`.
        """
        values = split_sizes(given, self._sizes(shapes))
        state: Array | None = None
        walked: list[Sampled] = []
        for number in reversed(range(len(self.parts))):
            i = self._scale(number)
            if state is None or self._scale(number + 1) != i:
                state = self.starts[i](state, shapes[i], given.shape[0])
            value = values[number].reshape(-1, *shapes[i][:2], self.features[i])
            state, layer = self.parts[number](state, None if scales is None else scales[i], value, number < made)
            walked.insert(0, layer)
        assert state is not None  # there is a layer
        return state, walked

    def _rate(self, layer: Sampled) -> Array:
        """Returns the KL of each unit of a layer, [batch, units]."""
        assert layer.q is not None  # it was inferred
        (mean, log_std), (prior_mean, prior_log_std) = layer.q, layer.p
        return flatten(gaussian_kl_by_unit((mean - prior_mean) * jnp.exp(-prior_log_std), log_std - prior_log_std))

    def _log_prob(self, walked: Sequence[Sampled]) -> Array:
        terms = []
        for layer in walked:
            mean, log_std = layer.p if layer.q is None else layer.q
            terms.append(normal_log_prob(flatten(layer.z), flatten(mean), flatten(log_std)))
        return jnp.stack(terms).sum(0)

    def _scale(self, number: int) -> int:
        """Returns the scale of a layer, which is counted from 0, z_1."""
        return sum(number >= end for end in (sum(self.layers[: i + 1]) for i in range(len(self.layers))))

    def _sizes(self, shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """Returns the number of units of each layer."""
        scales = [self._scale(number) for number in range(sum(self.layers))]
        return tuple(math.prod(shapes[i][:2]) * self.features[i] for i in scales)

    def _shapes(self) -> list[tuple[int, ...]]:
        """Returns the shape of the state at each scale, which its parameters have."""
        return [self.variables["params"][f"starts_{i}"]["bias"].shape for i in range(len(self.layers))]

    def _tile(self, scales: tuple[Array, ...], samples: int) -> tuple[Array, ...]:
        """Repeats the features of a batch for each of its samples."""
        return tuple(jnp.tile(each, (max(samples, 1), 1, 1, 1)) for each in scales)

    def _alone(self) -> nn.Module:
        return self.clone(parent=None, name=None)
