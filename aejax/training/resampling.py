"""Resampling of dead units: a training step gives them the directions of examples that are reconstructed badly."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from aejax.models import Autoencoder, Output
from aejax.models.layers import flatten, whole_batch
from aejax.training import paths

_ENCODER = "bottleneck/dense"
_DECODER = "decoder/dense_0/kernel"
_THRESHOLDS = ("bottleneck/log_threshold", "bottleneck/threshold")
_SHORT = 0.2  # length of one side of a new unit, so that it changes little until it is trained


def resamples(model: Autoencoder) -> bool:
    """Returns whether training steps resample the model's dead units, as its bottleneck's `resample` says."""
    return bool(getattr(model.bottleneck, "resample", 0))


def resample(
    model: Autoencoder,
    step: Array,
    key: Array,
    x: Float[Array, "batch ..."],
    reconstruction: Float[Array, "batch ..."],
    output: Output,
    trained: PyTree,
    opt_state: PyTree,
    variables: Mapping[str, Any],
    axis_name: str | None = None,
) -> tuple[PyTree, PyTree, dict[str, Any]]:
    """Returns the parameters, the optimizer's state and the other variables, with dead units that start anew.

    After each `bottleneck.resample` steps, dead units draw examples of the batch, with probabilities proportional to
    their squared losses. Each example is drawn once at most, as units that start equal stay so; of more dead units than
    examples, the others stay dead until the next time. A unit's row of the decoder becomes the direction of what the
    reconstruction of its example misses, with the mean length of the other rows; its column of the encoder becomes the
    same direction, with a fifth of the mean length of the others, and its bias 0. Where k units are kept or units have
    thresholds, the row has the fifth instead, since a unit with a short column would never be active; its threshold
    becomes the mean of the others. The optimizer's moments of all of them become 0, and the unit counts as alive.
    Bricken et al. 2023, "Towards monosemanticity", appendix "Neuron resampling", where the direction is that of the
    example itself.

    Args:
      model: its bottleneck has the attribute `resample`, and a layer `dense`.
      step: the number of the step, from 0.
      key: random key of the step, equal on all devices.
      x, reconstruction: the batch, of which each device has a part, in the model's units.
      output: the model's output for x.
      trained, opt_state, variables: those after the update of this step.
      axis_name: name of the axis of the devices that share the batch.
    """
    every, units = model.bottleneck.resample, output.code.units
    assert units is not None  # of every bottleneck that has `resample`
    assert units.dead is not None
    dead: Array = jnp.greater(units.dead, 0)
    missed = whole_batch(flatten(x - reconstruction), axis_name)

    def start_anew(trained: PyTree, opt_state: PyTree, state: Mapping[str, Array]) -> tuple[PyTree, PyTree, Any]:
        length = jnp.linalg.norm(missed, axis=1)
        # Examples in the order in which they are drawn with probabilities (squared error)^2, without replacement.
        order = jnp.argsort(-4 * jnp.log(length + 1e-30) - jax.random.gumbel(key, length.shape))
        turn = jnp.cumsum(dead) - 1
        chosen = order[jnp.minimum(turn, len(order) - 1)]
        new = _make_units(model, trained, missed[chosen] / (length[chosen] + 1e-30)[:, None], dead)
        due = dead & (turn < len(order))
        idle = jnp.where(due, 0, state["idle"])
        return _replace(trained, new, due), _clear(opt_state, trained, new, due), {**state, "idle": idle}

    sparse = variables["sparse"]
    # All devices choose alike. The state is left alone in most steps, which read and write nothing for it.
    trained, opt_state, own = jax.lax.cond(
        (step + 1) % every == 0, start_anew, lambda *given: given, trained, opt_state, dict(sparse["bottleneck"])
    )
    return trained, opt_state, {**variables, "sparse": {**sparse, "bottleneck": own}}


def _make_units(model: Autoencoder, trained: PyTree, direction: Array, dead: Array) -> dict[str, Array]:
    """Returns the values of new units for `direction` [units, values], by the path of their parameter."""
    leaves = paths.flatten(trained)
    columns, rows = leaves.get(f"{_ENCODER}/kernel"), leaves.get(_DECODER)
    thresholds = {path: leaves[path] for path in _THRESHOLDS if path in leaves}
    long = bool(thresholds) or hasattr(model.bottleneck, "k")
    new: dict[str, Array] = {}
    if columns is not None:
        # A tied decoder has the same kernel.
        fraction = 1.0 if rows is None or long else _SHORT
        new[f"{_ENCODER}/kernel"] = direction.T * fraction * _mean_length(columns, 0, dead)
    if rows is not None:
        fraction = _SHORT if long and not getattr(model.decoder, "unit_norm", False) else 1.0
        new[_DECODER] = direction * fraction * _mean_length(rows, 1, dead)
    new |= {path: jnp.zeros(dead.shape) for path in (f"{_ENCODER}/bias", "bottleneck/bias") if path in leaves}
    means = {path: jnp.mean(value, where=~dead) for path, value in thresholds.items()}
    return new | {path: jnp.where(dead.all(), thresholds[path], mean) for path, mean in means.items()}


def _replace(tree: PyTree, new: Mapping[str, Any], due: Array) -> PyTree:
    """Returns the tree with the values `new` at the units that are due."""
    flat = paths.flatten(tree)
    mask = {path: due[:, None] if path == _DECODER else due for path in new}  # units are the last axis elsewhere
    return paths.nest(flat | {path: jnp.where(mask[path], value, flat[path]) for path, value in new.items()})


def _clear(opt_state: PyTree, trained: PyTree, new: Mapping[str, Any], due: Array) -> PyTree:
    """Returns the optimizer's state with moments of 0 for the units that are due."""
    leaves = paths.flatten(trained)
    like_trained = lambda tree: isinstance(tree, Mapping) and set(paths.flatten(tree)) == set(leaves)  # noqa: E731
    zeros = dict.fromkeys(new, 0.0)
    clear = lambda tree: _replace(tree, zeros, due) if like_trained(tree) else tree  # noqa: E731
    return jax.tree.map(clear, opt_state, is_leaf=like_trained)


def _mean_length(kernel: Array, axis: int, dead: Array) -> Array:
    """Returns the mean length of a kernel's vectors along `axis` over units that are not dead."""
    lengths = jnp.linalg.norm(kernel, axis=axis)
    return jnp.where(dead, 0.0, lengths).sum() / jnp.maximum((~dead).sum(), 1)
