"""Sparse codes: of many units, few are active at a time."""

import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from aejax.errors import InputError
from aejax.models.bottlenecks.code import Code
from aejax.models.layers import axis, flatten, learns, whole_batch
from aejax.registry import Natural


class TopK(nn.Module):
    """The `k` largest of the units, after relu: [batch, ...] to [batch, features].

    Exactly k units are kept, of equal ones the first; fewer are active where fewer are positive.
    Makhzani and Frey 2014, "k-sparse autoencoders"; Gao et al. 2024, "Scaling and evaluating sparse
    autoencoders".

    Raises InputError where k lies outside of 1 to `features`.

    Attributes:
      dead_after: training steps without being active for any example of the batch after which a unit
        counts as dead, counted in the collection "sparse"; 0: none is counted.
      revive: of the dead units, how many of the largest of each example `Code.revival` holds (k_aux in
        Gao et al. 2024, appendix A.2); 0: there is no `Code.revival`.
      axis_name: of the devices, see `build`.
    """

    features: int
    k: int
    dead_after: Natural = 0
    revive: Natural = 0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, h: Array, *, keys: Array | None = None, train: bool = False) -> Code:
        _check_k(self)
        x = _dense(self, h)
        return _code(self, x, _largest(nn.relu(x), self.k), train=train)


class BatchTopK(nn.Module):
    """The `k * batch` largest units of the whole batch, after relu: [batch, ...] to [batch, features].

    So k units are active on average, more for some examples than for others. That holds in training;
    in evaluation, an example keeps what reaches a threshold, whatever else is in the batch: the running
    average of the smallest positive unit that each training batch kept, in the collection "sparse". Before
    the first training step the threshold is 0, and every positive unit is kept. Units equal to the smallest
    kept one are kept. Bussmann et al. 2024, "BatchTopK sparse autoencoders".

    Raises InputError where k lies outside of 1 to `features`, or decay outside of [0, 1).

    Attributes:
      decay: of the running average; the first training batch starts it.
      dead_after, revive, axis_name: as in `TopK`.
    """

    features: int
    k: int
    decay: float = 0.99
    dead_after: Natural = 0
    revive: Natural = 0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, h: Array, *, keys: Array | None = None, train: bool = False) -> Code:
        _check_k(self)
        if not 0 <= self.decay < 1:
            raise InputError(f"bottleneck.decay must be at least 0 and below 1, got {self.decay}")
        x = _dense(self, h)
        units = nn.relu(x)
        average = self.variable("sparse", "threshold", jnp.zeros, ())
        threshold = average.value
        if train:
            every = whole_batch(units, axis(self))
            kept = jax.lax.top_k(every.ravel(), self.k * len(every))[0]
            threshold = kept[-1]
            if learns(self, "sparse", train):
                smallest = jnp.min(kept, where=kept > 0, initial=jnp.inf)
                moved = self.decay * average.value + (1 - self.decay) * smallest
                moved = jnp.where(average.value == 0, smallest, moved)
                # A batch without any positive unit has no smallest one.
                average.value = jnp.where(jnp.isfinite(smallest), moved, average.value)
        return _code(self, x, jnp.where(units >= threshold, units, 0.0), train=train)


class JumpReLU(nn.Module):
    """Each unit as it is above a learned threshold of its own, else 0: [batch, ...] to [batch, features].

    Loss `l0`: the number of active units. The threshold is exp(log_threshold), one for each unit. It
    learns through pseudo-derivatives, those of the expectation over examples, estimated from the
    examples within half a `bandwidth` of the threshold. Rajamanoharan et al. 2024, "Jumping ahead:
    improving reconstruction fidelity with JumpReLU sparse autoencoders", equations 11 and 12.

    Raises InputError where bandwidth or threshold is not above 0.

    Attributes:
      bandwidth: of the rectangular kernel, in units of the code. The paper takes 0.001 for inputs of
        thousands of values scaled to a mean squared length of 1, so units of some hundredths. With units
        of order 1, 0.03 lets about one example in a hundred teach a threshold; a wider kernel has less
        noise and more bias.
      threshold: the initial one. The default is small for units of order 1, so that they start active,
        and more than half a bandwidth, so that no negative unit teaches it.
      dead_after, revive, axis_name: as in `TopK`.
    """

    features: int
    bandwidth: float = 0.03
    threshold: float = 0.1
    dead_after: Natural = 0
    revive: Natural = 0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, h: Array, *, keys: Array | None = None, train: bool = False) -> Code:
        for name in ("bandwidth", "threshold"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"bottleneck.{name} must be above 0, got {getattr(self, name)}")
        x = _dense(self, h)
        start = nn.initializers.constant(math.log(self.threshold))
        threshold = jnp.exp(self.param("log_threshold", start, (self.features,)))
        fixed = jax.lax.stop_gradient(threshold)
        active = (x > fixed).astype(jnp.float32)
        kernel = (jnp.abs(x - fixed) < self.bandwidth / 2) / self.bandwidth
        # Adds 0 to the step function, and its pseudo-derivative to the threshold (equation 12).
        slope = kernel * (fixed - threshold)
        z = x * active + fixed * slope  # equation 11
        return _code(self, x, z, {"l0": (active + slope).sum(-1)}, train=train)


Sparse = TopK | BatchTopK | JumpReLU


def _check_k(module: TopK | BatchTopK) -> None:
    if not 1 <= module.k <= module.features:
        raise InputError(f"bottleneck.k must be from 1 to bottleneck.features={module.features}, got {module.k}")


def _dense(module: Sparse, h: Array) -> Array:
    """Features [batch, ...] to the units before they are made sparse, float32 [batch, features]."""
    return nn.Dense(module.features, name="dense")(flatten(h).astype(jnp.float32))


def _largest(x: Array, k: int) -> Array:
    """The k largest of each row, the others 0: [batch, features] to the same."""
    values, index = jax.lax.top_k(x, k)
    return jax.vmap(lambda row, i, value: row.at[i].set(value))(jnp.zeros_like(x), index, values)


def _code(module: Sparse, x: Array, z: Array, losses: Mapping[str, Array] | None = None, *, train: bool) -> Code:
    """The code z with its metrics and the code of the dead units.

    Metrics: `l0`, the mean number of active units per example; with `dead_after`, also `dead_units`, the
    share of units that are dead. The last `dead_after` training steps include the present one.

    Args:
      x: the units before they are made sparse, [batch, features].
      z: after, likewise.

    Raises InputError where `revive` is above `features`, or `dead_after` is missing.
    """
    if module.revive > module.features:
        raise InputError(f"bottleneck.revive={module.revive} is above bottleneck.features={module.features}")
    if module.revive and not module.dead_after:
        raise InputError("bottleneck.revive needs bottleneck.dead_after, the steps until a unit is dead, e.g. 1000")
    share = whole_batch((z > 0).mean(0, keepdims=True), axis(module)).mean(0)  # of examples, for each unit
    code = Code(z=z, losses=losses or {}, metrics={"l0": share.sum()})
    if not module.dead_after:
        return code
    idle = module.variable("sparse", "idle", jnp.zeros, (module.features,), jnp.int32)
    if learns(module, "sparse", train):
        idle.value = jnp.where(share > 0, 0, idle.value + 1)
    dead = idle.value >= module.dead_after
    revival = _largest(nn.relu(x) * dead, module.revive) if module.revive else None
    return code.replace(metrics={**code.metrics, "dead_units": dead.mean()}, revival=revival)
