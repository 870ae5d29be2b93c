"""The adaptive weight of a discriminator's term, from gradients at the decoder's last layer (Esser et al. 2021)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from aejax.adversarial import adaptive_weight
from aejax.errors import InputError
from aejax.training import paths


def check(discriminator: Any, opt_state: Any, trained: PyTree) -> None:
    """Raises InputError if an adaptive discriminator does not fit the trained parameters or their optimizer."""
    if not discriminator.adaptive:
        return
    of_decoder = [path for path in paths.flatten(trained) if path.startswith("decoder/")]
    paths.check_patterns("adversary.last_layer", [discriminator.last_layer], of_decoder)
    if discriminator.accumulate > 1 and not isinstance(opt_state, optax.MultiStepsState):
        raise InputError(
            f"the discriminator has accumulate={discriminator.accumulate}, but the optimizer is no optax.MultiSteps; "
            "give one of as many steps, or accumulate=1"
        )


def differentiate(
    loss_fn: Callable[[PyTree], Any],
    trained: PyTree,
    discriminator: Any,
    weight: Array | float,
    state: Any,
    reduce: Callable[[PyTree, str], PyTree],
) -> tuple[PyTree, Any, PyTree]:
    """Differentiates loss + weight * (adaptive weight) * adversarial.

    The adaptive weight compares gradients of the whole batch: of all devices, and of all steps of an update. Where an
    update has several, the gradients of `adversarial` are averaged in the discriminator's state until the last step.

    Args:
      loss_fn: returns the loss without `adversarial`, and a tuple that begins with the metrics.
      trained: the parameters.
      discriminator: has the attributes `last_layer`, `start` and `accumulate` of `PatchGAN`.
      weight: of the term in the objective.
      state: the training state before the step.
      reduce: reduces over devices.

    Returns the gradient, what `loss_fn` returns beside its loss, and the discriminator's state.
    """

    def both(trained: PyTree) -> Any:
        loss, (metrics, *more) = loss_fn(trained)
        return (loss, metrics["adversarial"]), (metrics, *more)

    def last(grads: PyTree) -> dict[str, Any]:
        leaves = paths.flatten(grads)
        return {path: leaf for path, leaf in leaves.items() if paths.is_chosen(path, [discriminator.last_layer])}

    def weigh(rest: PyTree, judged: PyTree) -> Array:
        return jnp.where(state.step >= discriminator.start, weight * adaptive_weight(last(rest), last(judged)), 0.0)

    _, pull, (metrics, *more) = jax.vjp(both, trained, has_aux=True)
    one, zero = jnp.ones(()), jnp.zeros(())
    (rest,), (judged,) = pull((one, zero)), pull((zero, one))
    critic, steps = state.critic, discriminator.accumulate
    if steps == 1:
        factor = weigh(*reduce((last(rest), last(judged)), "mean"))
        (grads,) = pull((one, factor))  # of the two above, the compiler keeps the last layer alone
    else:
        rest, judged = reduce((rest, judged), "mean")
        number = state.opt_state.mini_step
        average = lambda before, new: jax.tree.map(lambda a, b: a + (b - a) / (number + 1), before, new)  # noqa: E731
        judged = average(critic["gradients"], judged)
        factor = weigh(average(state.opt_state.acc_grads, rest), judged)
        added = jnp.where(number == steps - 1, steps * factor, 0)  # of which the optimizer takes the mean
        grads, critic = jax.tree.map(lambda a, b: a + added * b, rest, judged), {**critic, "gradients": judged}
    metrics |= {"adversarial_weight": factor, "loss": metrics["loss"] + factor * metrics["adversarial"]}
    return grads, (metrics, *more), critic
