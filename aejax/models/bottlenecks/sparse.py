"""Bottlenecks with sparse codes, in which only few of many units are active at a time."""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from aejax.errors import InputError
from aejax.models.bottlenecks.code import Code, Units
from aejax.models.bottlenecks.selection import (
    Kept,
    find_largest,
    find_largest_of_batch,
    is_worthwhile,
    keep_fewer,
    project_largest,
)
from aejax.models.layers import flatten, get_axis, must_update, whole_batch
from aejax.registry import Natural


class TopK(nn.Module):
    """The `k` largest units of each example, after relu: [batch, ...] to [batch, features].

    Exactly k units are kept, the first among equal ones; fewer are active if fewer are positive. Makhzani and Frey
    2014, "k-sparse autoencoders"; Gao et al. 2024, "Scaling and evaluating sparse autoencoders".

    Raises InputError if k is not between 1 and `features`.

    Attributes:
      dead_after: number of training steps after which a unit that was not active for any example is dead, counted in
        the collection "sparse"; 0: units are not counted.
      revive: number of dead units, the largest of each example, in `Code.revival` (k_aux in Gao et al. 2024,
        appendix A.2); 0: there is no `Code.revival`.
      resample: number of training steps after which dead units start anew from examples that are reconstructed badly,
        again and again, see `aejax.training.resampling`; 0: never.
      anneal_from, anneal_steps: number of units that the first training step keeps, and number of steps within which it
        falls linearly to k, so that more units learn while all are random; 0: it is k from the beginning.
      axis_name: name of the device axis, see `build`.
    """

    features: int
    k: int
    dead_after: Natural = 0
    revive: Natural = 0
    resample: Natural = 0
    anneal_from: Natural = 0
    anneal_steps: Natural = 0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, h: Array, *, keys: Array | None = None, train: bool = False) -> Code:
        check_k(self)
        x, (most, k) = project(self, h), anneal(self, train)
        if train and not self.is_initializing() and is_worthwhile(self.features, most):
            # The same units, with a gradient that reads no others; the compiler leaves `project` out.
            kept = project_largest(flatten(h).astype(jnp.float32), *get_dense(self), most)
        else:
            kept = find_largest(nn.relu(x), most)
        kept = kept if k is None else keep_fewer(kept, k)
        return make_code(self, h, x, kept.spread(self.features), kept=kept, train=train)


class BatchTopK(nn.Module):
    """The `k * batch` largest units of the whole batch, after relu: [batch, ...] to [batch, features].

    In training, k units per example are thus active on average. In evaluation, an example keeps the units that reach a
    threshold, so that it does not depend on the rest of its batch. The threshold is the running average of the smallest
    positive unit that each training batch kept, in the collection "sparse"; before the first training step it is 0.
    Units equal to the smallest kept unit are kept, too, but not those of wide codes on one device. Bussmann et al.
    2024, "BatchTopK sparse autoencoders".

    Raises InputError if k is not between 1 and `features`, or decay not in [0, 1).

    Attributes:
      decay: decay of the running average, which starts at the value of the first training batch.
      dead_after, revive, resample, anneal_from, anneal_steps, axis_name: as in `TopK`.
    """

    features: int
    k: int
    decay: float = 0.99
    dead_after: Natural = 0
    revive: Natural = 0
    resample: Natural = 0
    anneal_from: Natural = 0
    anneal_steps: Natural = 0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, h: Array, *, keys: Array | None = None, train: bool = False) -> Code:
        check_k(self)
        if not 0 <= self.decay < 1:
            raise InputError(f"bottleneck.decay must be at least 0 and below 1, got {self.decay}")
        x, (most, k) = project(self, h), anneal(self, train)
        average = self.variable("sparse", "threshold", jnp.zeros, ())
        units, threshold, kept = nn.relu(x), average.value, None
        if train:
            if alone := self.axis_name is None and not self.is_initializing() and is_worthwhile(self.features, most):
                largest = project_largest(flatten(h).astype(jnp.float32), *get_dense(self), most, True)  # as in `TopK`
            else:
                largest = find_largest_of_batch(whole_batch(units, get_axis(self)), most)
            largest = largest if k is None else keep_fewer(largest, k)
            kept = largest if alone else None
            threshold = jnp.min(largest.values, where=largest.values > 0, initial=jnp.inf)
        if must_update(self, "sparse", train):
            updated = self.decay * average.value + (1 - self.decay) * threshold
            updated = jnp.where(average.value == 0, threshold, updated)
            # A batch without positive units has no smallest one.
            average.value = jnp.where(jnp.isfinite(threshold), updated, average.value)
        z = jnp.where(units >= threshold, units, 0.0) if kept is None else kept.spread(self.features)
        return make_code(self, h, x, z, kept=kept, train=train)


class JumpReLU(nn.Module):
    """Units that keep their value above a learned threshold and are 0 below: [batch, ...] to [batch, features].

    Loss `l0`: the number of active units. Each unit has its own threshold, exp(log_threshold). Its gradient is a
    pseudo-derivative, that of the expectation over examples, which is estimated from the examples within half a
    `bandwidth` of the threshold. Rajamanoharan et al. 2024, "Jumping ahead: improving reconstruction fidelity with
    JumpReLU sparse autoencoders", equations 11 and 12.

    Raises InputError if bandwidth or threshold is not above 0.

    Attributes:
      bandwidth: width of the rectangular kernel, on the scale of the units. The paper uses 0.001 for inputs of
        thousands of values scaled to a mean squared length of 1, whose units are of order 0.01. With units of order 1
        and 0.03, about one example in a hundred contributes to the gradient of a threshold; a wider kernel has less
        variance and more bias.
      to_input: whether the pseudo-derivative reaches the units as well as the threshold (Conerly et al. 2025, "Circuits
        updates, January").
      threshold: initial threshold. The default is small for units of order 1, so that they start active, and more than
        half a bandwidth, so that negative values do not contribute to its gradient.
      dead_after, revive, resample, axis_name: as in `TopK`.
      positive: whether the parameter is `log_threshold`, so that thresholds stay above 0; otherwise it is `threshold`
        itself, as in published models, and one below 0 acts as 0.
    """

    features: int
    bandwidth: float = 0.03
    threshold: float = 0.1
    to_input: bool = False
    dead_after: Natural = 0
    revive: Natural = 0
    resample: Natural = 0
    axis_name: str | None = None
    positive: bool = True

    @nn.compact
    def __call__(self, h: Array, *, keys: Array | None = None, train: bool = False) -> Code:
        for name in ("bandwidth", "threshold"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"bottleneck.{name} must be above 0, got {getattr(self, name)}")
        x = project(self, h)
        initial = nn.initializers.constant(math.log(self.threshold) if self.positive else self.threshold)
        threshold = self.param("log_threshold" if self.positive else "threshold", initial, (self.features,))
        threshold = jnp.exp(threshold) if self.positive else threshold
        fixed = jax.lax.stop_gradient(threshold)
        active = (x > fixed).astype(jnp.float32)
        kernel = (jnp.abs(x - fixed) < self.bandwidth / 2) / self.bandwidth
        # Its value is 0; its gradient is the pseudo-derivative of the step function (equation 12).
        slope = kernel * (fixed - threshold)
        if self.to_input:
            slope += kernel * (x - jax.lax.stop_gradient(x))
        z = nn.relu(x) * active + fixed * slope  # equation 11
        return make_code(self, h, x, z, {"l0": (active + slope).sum(-1)}, threshold=threshold, train=train)


class SparseReLU(nn.Module):
    """Units after relu, which a term makes sparse, e.g. `l1`: [batch, ...] to [batch, features].

    Unlike `DenseBottleneck` with relu it counts dead units. Bricken et al. 2023, "Towards monosemanticity".

    Attributes:
      dead_after, revive, resample, axis_name: as in `TopK`.
    """

    features: int
    dead_after: Natural = 0
    revive: Natural = 0
    resample: Natural = 0
    axis_name: str | None = None

    @nn.compact
    def __call__(self, h: Array, *, keys: Array | None = None, train: bool = False) -> Code:
        x = project(self, h)
        return make_code(self, h, x, nn.relu(x), train=train)


# The modules that the functions below take have the attributes of `TopK`, but for `k` and, of some, `revive`.


def check_k(module: Any) -> None:
    """Raises InputError unless `module.k` is from 1 to `module.features`."""
    if not 1 <= module.k <= module.features:
        raise InputError(f"bottleneck.k must be from 1 to bottleneck.features={module.features}, got {module.k}")


def anneal(module: Any, train: bool) -> tuple[int, Array | None]:
    """Returns the most units that `module` ever keeps per example, and how many it keeps in this call, if fewer.

    Counts the training steps. Raises InputError unless k <= anneal_from <= features, with anneal_steps.
    """
    if not module.anneal_from and not module.anneal_steps:
        return module.k, None
    if not (module.k <= module.anneal_from <= module.features and module.anneal_steps):
        raise InputError(
            f"bottleneck.anneal_from must be from bottleneck.k={module.k} to bottleneck.features={module.features} and "
            f"anneal_steps above 0, got {module.anneal_from} and {module.anneal_steps}"
        )
    steps = module.variable("sparse", "steps", jnp.zeros, (), jnp.int32)
    if not train:
        return module.k, None
    left = jnp.maximum(1 - steps.value / module.anneal_steps, 0.0)
    if must_update(module, "sparse", train):
        steps.value += 1
    return module.anneal_from, module.k + (module.anneal_from - module.k) * left


def project(module: Any, h: Array) -> Array:
    """Projects features [batch, ...] to the units before they are made sparse, float32 [batch, features]."""
    return nn.Dense(module.features, name="dense")(flatten(h).astype(jnp.float32))


def get_dense(module: Any) -> tuple[Array, Array]:
    """Returns the kernel and the bias of the layer of `project`."""
    layer = module.variables["params"]["dense"]
    return layer["kernel"], layer["bias"]


def make_code(
    module: Any,
    h: Array,
    x: Array,
    z: Array,
    losses: Mapping[str, Array] | None = None,
    *,
    kept: Kept | None = None,
    threshold: Array | None = None,
    train: bool,
) -> Code:
    """Returns the code of h, with x, the units before they are made sparse, and z, the units afterwards.

    Metrics: `l0`, the mean number of active units per example; with `dead_after`, also `dead_units`, the fraction of
    the units that were inactive in the last `dead_after` training steps, this one included.

    Raises InputError if `revive` is above `features`, or `revive` or `resample` is given without `dead_after`.
    """
    if getattr(module, "revive", 0) > module.features:
        raise InputError(f"bottleneck.revive={module.revive} is above bottleneck.features={module.features}")
    for name in ("revive", "resample"):
        if getattr(module, name, 0) and not module.dead_after:
            raise InputError(
                f"bottleneck.{name} needs bottleneck.dead_after, the steps until a unit is dead, e.g. 1000"
            )
    # The fraction of examples for which each unit is active.
    if kept is None:
        frequency = (z > 0).mean(0)
    else:
        frequency = jnp.zeros(module.features).at[kept.indices].add(kept.values > 0) / kept.values.shape[0]
    frequency = whole_batch(frequency[None], get_axis(module)).mean(0)
    code = Code(z=z, losses=losses or {}, metrics={"l0": frequency.sum()}, kept=kept, units=Units(x, None, threshold))
    if not module.dead_after:
        return code
    idle = module.variable("sparse", "idle", jnp.zeros, (module.features,), jnp.int32)
    if must_update(module, "sparse", train):
        idle.value = jnp.where(frequency > 0, 0, idle.value + 1)
    dead = (idle.value >= module.dead_after).astype(jnp.float32)
    revival = _revive(module, h, dead) if getattr(module, "revive", 0) else None
    metrics = {**code.metrics, "dead_units": dead.mean()}
    return code.replace(metrics=metrics, revival=revival, units=Units(x, dead, threshold))


def _revive(module: Any, h: Array, dead: Array) -> Array:
    """Returns the `module.revive` largest dead units of each example after relu, [batch, features].

    They are projected once more, and only if there are dead units: their gradient reads and writes whole kernels.
    """
    x = flatten(h).astype(jnp.float32)

    def find(x: Array, kernel: Array, bias: Array) -> Array:
        return find_largest(nn.relu(x @ kernel + bias) * dead, module.revive).spread(module.features)

    none = lambda x, kernel, bias: jnp.zeros((x.shape[0], module.features))  # noqa: E731
    return jax.lax.cond(dead.any(), find, none, x, *get_dense(module))
