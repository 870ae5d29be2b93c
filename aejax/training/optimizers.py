"""Optimizers and learning rate schedules of optax, built from a config."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from aejax.config import check_kind
from aejax.errors import InputError, one_of

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.scale_by_adam,
    "lion": optax.scale_by_lion,
    "rmsprop": optax.scale_by_rms,
    "sgd": lambda decay=0.0, **options: optax.trace(decay, **options) if decay else optax.identity(),
}

SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {
    "constant": lambda lr, steps: optax.constant_schedule(lr),
    "cosine": lambda lr, steps: optax.cosine_decay_schedule(lr, steps),
    "linear": lambda lr, steps: optax.linear_schedule(lr, 0.0, steps),
}


def build_schedule(config: Mapping[str, Any], steps: int) -> optax.Schedule:
    """Builds the learning rate by update: a linear warm-up, then `schedule`. Raises InputError if they do not fit."""
    if config["schedule"] not in SCHEDULES:
        raise one_of("optim.schedule", config["schedule"], SCHEDULES)
    updates, warmup = steps // config["accumulate"], config["warmup"] // config["accumulate"]
    if warmup >= max(updates, 1):
        raise InputError(f"optim.warmup={config['warmup']} leaves nothing of {steps} steps; lower it or raise steps")
    decay = SCHEDULES[config["schedule"]](config["lr"], max(updates - warmup, 1))
    if not warmup:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, config["lr"], warmup), decay], [warmup])


def build(config: Mapping[str, Any], steps: int) -> optax.GradientTransformation:
    """Builds the optax chain from clipping to accumulation. Raises InputError for an unknown optimizer or option."""
    if config["name"] not in OPTIMIZERS:
        raise one_of("optim.name", config["name"], OPTIMIZERS)
    known = inspect.signature(OPTIMIZERS[config["name"]]).parameters
    for option, value in config["options"].items():
        check_kind(f"optim.options.{option}", value, known[option].default if option in known else None)
    try:
        rule = OPTIMIZERS[config["name"]](**config["options"])
    except TypeError as error:
        raise InputError(f"optim.options do not fit {config['name']!r}: {error}") from error
    chain = optax.chain(
        optax.clip_by_global_norm(config["clip"]) if config["clip"] else optax.identity(),
        rule,
        # Vectors, which are biases and scales, do not decay.
        optax.add_decayed_weights(config["weight_decay"], lambda params: jax.tree.map(lambda p: p.ndim > 1, params))
        if _is_on(config["weight_decay"])
        else optax.identity(),
        optax.scale_by_learning_rate(build_schedule(config, steps)),
    )
    accumulate = config["accumulate"]
    return optax.MultiSteps(chain, accumulate).gradient_transformation() if accumulate > 1 else chain


def _is_on(value: Any) -> bool:
    """Returns whether the value is above 0, as is every traced one, which belongs to runs that train together."""
    return isinstance(value, jax.Array) or value > 0
