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

    After each `bottleneck.resample` steps, every dead unit draws an example of the batch, with a probability
    proportional to its squared loss. Its row of the decoder becomes the direction of what the reconstruction of this
    example misses, with the mean length of the other rows; its column of the encoder becomes the same direction, with a
    fifth of the mean length of the others, and its bias 0. The optimizer's moments of all three become 0, and the unit
    counts as alive. Bricken et al. 2023, "Towards monosemanticity", appendix "Neuron resampling", where the direction
    is that of the example itself.

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
    length = jnp.linalg.norm(missed, axis=1)
    chosen = jax.random.categorical(key, 4 * jnp.log(length + 1e-30), shape=dead.shape)  # (squared error)^2
    direction = missed[chosen] / (length[chosen] + 1e-30)[:, None]
    due = dead & ((step + 1) % every == 0)
    leaves = paths.flatten(trained)
    columns, rows = leaves.get(f"{_ENCODER}/kernel"), leaves.get(_DECODER)
    new: dict[str, tuple[Array, Array]] = {}  # by path, the mask of what changes and its values
    if columns is not None:
        # A tied decoder has the same kernel.
        fraction = 0.2 if rows is not None else 1.0
        new[f"{_ENCODER}/kernel"] = due[None], direction.T * fraction * _mean_length(columns, 0, dead)
    if rows is not None:
        new[_DECODER] = due[:, None], direction * _mean_length(rows, 1, dead)
    new |= {path: (due, jnp.zeros(())) for path in (f"{_ENCODER}/bias", "bottleneck/bias") if path in leaves}

    def renew(tree: Any, values: Mapping[str, tuple[Array, Any]]) -> Any:
        flat = paths.flatten(tree)
        return paths.nest(flat | {path: jnp.where(mask, value, flat[path]) for path, (mask, value) in values.items()})

    zeros = {path: (mask, 0.0) for path, (mask, _) in new.items()}
    like_trained = lambda tree: isinstance(tree, Mapping) and set(paths.flatten(tree)) == set(leaves)  # noqa: E731
    opt_state = jax.tree.map(
        lambda tree: renew(tree, zeros) if like_trained(tree) else tree, opt_state, is_leaf=like_trained
    )
    idle = jnp.where(due, 0, variables["sparse"]["bottleneck"]["idle"])
    sparse = {**variables["sparse"]["bottleneck"], "idle": idle}
    return renew(trained, new), opt_state, {**variables, "sparse": {**variables["sparse"], "bottleneck": sparse}}


def _mean_length(kernel: Array, axis: int, dead: Array) -> Array:
    """Returns the mean length of a kernel's vectors along `axis` over units that are not dead."""
    lengths = jnp.linalg.norm(kernel, axis=axis)
    return jnp.where(dead, 0.0, lengths).sum() / jnp.maximum((~dead).sum(), 1)
