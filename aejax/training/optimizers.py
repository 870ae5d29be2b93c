"""Optimizers and learning rate schedules of optax, built from a config."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from aejax.config import check_kind
from aejax.errors import InputError, one_of
from aejax.training import paths

Parts = Callable[..., tuple[optax.GradientTransformation, ...]]


def _scaled(rule: Callable[..., optax.GradientTransformation]) -> Parts:
    """Returns a function that chains `rule(**options)`, weight decay and the learning rate."""

    @functools.wraps(rule)  # for its options and their defaults
    def parts(schedule: optax.Schedule, decay: optax.GradientTransformation | None, /, **options: Any) -> tuple:
        return rule(**options), decay or optax.identity(), optax.scale_by_learning_rate(schedule)

    return parts


def _adafactor(
    *,
    decay_rate: float = 0.8,
    min_dim_size_to_factor: int = 128,
    clipping_threshold: float = 1.0,
    multiply_by_parameter_scale: bool = True,
) -> optax.GradientTransformation:
    """Returns Adafactor (Shazeer and Stern 2018), whose second moments of a large matrix are a row and a column."""
    return optax.chain(
        optax.scale_by_factored_rms(decay_rate=decay_rate, min_dim_size_to_factor=min_dim_size_to_factor),
        optax.clip_by_block_rms(clipping_threshold),
        optax.scale_by_param_block_rms() if multiply_by_parameter_scale else optax.identity(),
    )


def _adam_normalized(*, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    """Returns Adam of gradients that are divided by their norm, each parameter's by its own (Yu et al. 2017,
    "Block-normalized gradient method").
    """

    def normalize(grads: Any) -> Any:
        return jax.tree.map(lambda g: g / (jnp.linalg.norm(g.ravel()) + 1e-7), grads)

    return optax.chain(optax.stateless(lambda grads, params: normalize(grads)), optax.scale_by_adam(b1, b2, eps))


def _rmsprop(
    *,
    decay: float = 0.9,
    eps: float = 1e-8,
    initial_scale: float = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
    momentum: float = 0.0,
) -> optax.GradientTransformation:
    """Returns RMSprop, with momentum of the scaled gradients where it is above 0."""
    scaled = optax.scale_by_rms(decay, eps, initial_scale, eps_in_sqrt, bias_correction)
    return optax.chain(scaled, optax.trace(momentum)) if momentum else scaled


def _muon(
    *,
    beta: float = 0.95,
    ns_steps: int = 5,
    nesterov: bool = True,
    consistent_rms: float = 0.2,
    adam_b1: float = 0.9,
    adam_b2: float = 0.999,
) -> optax.GradientTransformation:
    """Returns Muon (Jordan et al. 2024) for kernels and Adam for all other parameters.

    A kernel of a convolution is orthogonalized as the matrix [height * width * channels, features] that multiplies its
    patches. Updates of kernels are scaled to a root mean square of `consistent_rms` (Liu et al. 2025, "Muon is scalable
    for LLM training", equation 4), so that one learning rate serves kernels of all shapes and Adam. Without that, a
    kernel with n rows or columns would take steps of about 1 / sqrt(n), and Adam steps of about 1.
    """

    def find_axes(path: Any, a: Any) -> Any:
        kernel = getattr(path[-1], "key", None) == "kernel" and a.ndim > 1
        return optax.contrib.MuonDimensionNumbers(tuple(range(a.ndim - 1)), a.ndim - 1) if kernel else None

    muon = optax.contrib.muon(
        1.0,
        ns_steps=ns_steps,
        beta=beta,
        nesterov=nesterov,
        consistent_rms=consistent_rms,
        adam_b1=adam_b1,
        adam_b2=adam_b2,
        muon_weight_dimension_numbers=functools.partial(jax.tree_util.tree_map_with_path, find_axes),
    )
    return optax.chain(muon, optax.scale(-1.0))


def _schedule_free(
    schedule: optax.Schedule,
    decay: optax.GradientTransformation | None,
    /,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_lr_power: float = 2.0,
) -> tuple:
    """Returns schedule-free AdamW (Defazio et al. 2024), whose parameters for evaluation come from `average`."""
    if not b1 > 0:
        raise InputError(f"optim.options.b1 must be above 0 for schedule_free, got {b1}")
    second_moments = optax.scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True)
    rule = optax.chain(second_moments, decay or optax.identity(), optax.scale_by_learning_rate(schedule))
    return (optax.contrib.schedule_free(rule, schedule, b1, weight_lr_power),)


def _prodigy(
    schedule: optax.Schedule,
    decay: optax.GradientTransformation | None,
    /,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    estim_lr0: float = 1e-6,
    estim_lr_coef: float = 1.0,
    safeguard_warmup: bool = False,
    weight_decay: float = 0.0,
) -> tuple:
    """Returns Prodigy (Mishchenko and Defazio 2023), which estimates the learning rate that `schedule` multiplies."""
    if decay:
        raise InputError("optim.weight_decay does not go with prodigy; set optim.options.weight_decay instead")
    return (
        optax.contrib.prodigy(
            schedule,
            (b1, b2),
            eps=eps,
            estim_lr0=estim_lr0,
            estim_lr_coef=estim_lr_coef,
            weight_decay=weight_decay,
            safeguard_warmup=safeguard_warmup,
        ),
    )


OPTIMIZERS: dict[str, Parts] = {
    "adafactor": _scaled(_adafactor),
    "adam": _scaled(optax.scale_by_adam),
    "adam_normalized": _scaled(_adam_normalized),
    "lion": _scaled(optax.scale_by_lion),
    "muon": _scaled(_muon),
    "prodigy": _prodigy,
    "rmsprop": _scaled(_rmsprop),
    "schedule_free": _schedule_free,
    "sgd": _scaled(lambda decay=0.0, **options: optax.trace(decay, **options) if decay else optax.identity()),
}

SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {
    "constant": lambda lr, steps: optax.constant_schedule(lr),
    "cosine": lambda lr, steps: optax.cosine_decay_schedule(lr, steps),
    "burda": lambda lr, steps: _burda(lr, steps),
    "linear": lambda lr, steps: optax.linear_schedule(lr, 0.0, steps),
    # Tolstikhin et al. 2018, appendix D: halved after 30 of 100 epochs, and divided by 5 more after 50.
    "wae": lambda lr, steps: optax.piecewise_constant_schedule(lr, {round(0.3 * steps): 0.5, round(0.5 * steps): 0.2}),
}


def _burda(lr: float, steps: int) -> optax.Schedule:
    """Returns the schedule of Burda et al. 2016, section 5: stage i of 0 to 7 has the rate lr * 10^(-i/7).

    Each stage lasts three times as long as the one before.
    """
    ends = [(3 ** (i + 1) - 1) // 2 * steps / 3280 for i in range(7)]
    return optax.piecewise_constant_schedule(lr, {round(end): 10 ** (-1 / 7) for end in ends})


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
    _check_schedule(config)
    # Vectors, which are biases and scales, do not decay.
    matrices = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)  # noqa: E731
    decays = isinstance(config["weight_decay"], jax.Array) or config["weight_decay"] > 0  # traced where it is an array
    decay = optax.add_decayed_weights(config["weight_decay"], matrices) if decays else None
    try:
        parts = OPTIMIZERS[config["name"]](build_schedule(config, steps), decay, **config["options"])
    except TypeError as error:
        raise InputError(f"optim.options do not fit {config['name']!r}: {error}") from error
    chain = optax.chain(optax.clip_by_global_norm(config["clip"]) if config["clip"] else optax.identity(), *parts)
    accumulate, skip = config["accumulate"], config.get("skip", 0.0)
    if accumulate == 1 and not skip:
        return chain
    above = functools.partial(optax.skip_large_updates, max_squared_norm=skip**2) if skip else None
    return optax.MultiSteps(chain, accumulate, should_skip_update_fn=above).gradient_transformation()


def keep_unit_norm(optimizer: optax.GradientTransformation, path: str, axis: int) -> optax.GradientTransformation:
    """Returns the optimizer with updates after which the vectors along `axis` of one parameter have length 1.

    The gradient's part along these vectors, which would only change their lengths, is removed first, so that the
    moments of Adam do not contain it (Bricken et al. 2023, "Towards monosemanticity", appendix). `path` is that of the
    parameter, e.g. "decoder/dense_0/kernel".
    """
    normalize = lambda a: a / jnp.linalg.norm(a, axis=axis, keepdims=True)  # noqa: E731

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        flat = paths.flatten(grads)
        if path not in flat:  # it is frozen
            return optimizer.update(grads, state, params)
        vectors = normalize(paths.flatten(params)[path])
        along = (flat[path] * vectors).sum(axis, keepdims=True) * vectors
        updates, state = optimizer.update(paths.nest({**flat, path: flat[path] - along}), state, params)
        flat, before = paths.flatten(updates), paths.flatten(params)[path]
        return paths.nest({**flat, path: normalize(before + flat[path]) - before}), state

    return optax.GradientTransformation(optimizer.init, update)


def _check_schedule(config: Mapping[str, Any]) -> None:
    """Raises InputError for a learning rate or schedule that the optimizer cannot mean."""
    if config["name"] == "schedule_free" and config["schedule"] != "constant":
        raise InputError("optim.name='schedule_free' replaces a decaying schedule; set optim.schedule=constant")
    if config["name"] == "prodigy" and not isinstance(config["lr"], jax.Array) and config["lr"] < 0.1:
        raise InputError(f"prodigy's optim.lr={config['lr']} multiplies its estimate; set optim.lr=1")


def average(opt_state: Any, params: Any) -> Any:
    """Returns the averaged parameters of a schedule-free optimizer, for evaluation, or None for any other optimizer."""
    is_free = lambda state: isinstance(state, optax.contrib.ScheduleFreeState)  # noqa: E731
    states = [state for state in jax.tree.leaves(opt_state, is_leaf=is_free) if is_free(state)]
    return optax.contrib.schedule_free_eval_params(states[0], params) if states else None
