"""Terms of sparse autoencoders: penalties of the code, and losses that revive dead units."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aejax.errors import InputError
from aejax.models.bottlenecks import Units
from aejax.models.bottlenecks.selection import combine, is_worthwhile
from aejax.models.layers import flatten
from aejax.objectives.context import Context

# Penalties of the code.


def l1(c: Context, decoder_norms: bool = False) -> Float[Array, " batch"]:
    """Returns the sum of the code's absolute activations (Olshausen and Field 1996).

    With `decoder_norms`, each is multiplied by the length of its row of the decoder, so that longer rows do not make
    the penalty smaller (Conerly et al. 2024, "Circuits updates, April").
    """
    return flatten(jnp.abs(c.z) * _weigh(c, "l1", decoder_norms)).sum(-1)


def tanh_sparsity(c: Context, scale: float = 4.0, decoder_norms: bool = True) -> Float[Array, " batch"]:
    """Returns the sum of tanh(scale * |z_j| * length of the decoder's row j), which counts units that are far above 0
    (Conerly et al. 2025, "Circuits updates, January").
    """
    return jnp.tanh(scale * flatten(jnp.abs(c.z) * _weigh(c, "tanh_sparsity", decoder_norms))).sum(-1)


def l0_target(c: Context, target: float = 32.0) -> Float[Array, " batch"]:
    """Returns (l0 / target - 1)^2 of each example, where l0 is its number of active units (Rajamanoharan et al. 2024,
    "Jumping ahead: improving reconstruction fidelity with JumpReLU sparse autoencoders", section 4).
    """
    if "l0" not in c.output.code.losses:
        raise InputError("objective.weights.l0_target needs a bottleneck with an l0: bottleneck.name=jumprelu")
    if not target > 0:
        raise InputError(f"objective.options.l0_target.target must be above 0, got {target}")
    return jnp.square(c.output.code.losses["l0"] / target - 1)


# Losses of gates.


def gate_l1(c: Context, decoder_norms: bool = False) -> Float[Array, " batch"]:
    """Returns the sum of relu of the gates (Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse
    autoencoders", equation 9), each times the length of its row of the decoder with `decoder_norms`.
    """
    return (jax.nn.relu(_gates(c, "gate_l1")) * _weigh(c, "gate_l1", decoder_norms)).sum(-1)


def gate_reconstruction(c: Context) -> Float[Array, " batch"]:
    """Returns the squared error of x decoded from relu of the gates, where the decoder counts as constant (ibid.)."""
    gates = jax.nn.relu(_gates(c, "gate_reconstruction"))
    decoded = c.apply(jax.lax.stop_gradient(c.variables), gates, method="decode", **c.given)
    return flatten(jnp.square(c.x - c.mean(decoded))).sum(-1)


# Nested prefixes.


def prefixes(c: Context, widths: Sequence[int] = ()) -> Float[Array, " batch"]:
    """Returns the squared errors of x decoded from the first units alone, summed over `widths`.

    `reconstruction` is that of all units, so that the loss is the one of Bussmann et al. 2025, "Learning multi-level
    features with Matryoshka sparse autoencoders", equation 5. Raises InputError unless widths rise and stay below the
    width of the code.
    """
    kernel, bias = _dictionary(c, "prefixes")
    bounds = (0, *widths, len(kernel))
    if not widths or any(a >= b for a, b in itertools.pairwise(bounds)):
        raise InputError(
            f"objective.options.prefixes.widths must rise from above 0 to below bottleneck.features={len(kernel)}, "
            f"got {tuple(widths)}"
        )
    z, x, kept, count = flatten(c.z), flatten(c.x), c.output.code.kept, len(bounds) - 1
    if kept is not None and is_worthwhile(z.shape[-1], kept.values.shape[-1]):
        # One product, with a row for each part of each example.
        rows = jnp.arange(len(x))[:, None] if kept.rows is None else kept.rows
        part = jnp.searchsorted(jnp.array(bounds[1:]), kept.indices, side="right")
        together = combine(kept.replace(rows=rows * count + part), kernel, len(x) * count).reshape(len(x), count, -1)
        parts = [together[:, i] for i in range(count - 1)]
    else:
        parts = [z[:, begin:end] @ kernel[begin:end] for begin, end in itertools.pairwise(bounds[:-1])]
    return sum((jnp.square(x - bias - each).sum(-1) for each in itertools.accumulate(parts)), jnp.zeros(len(x)))


# Losses that revive dead units.


def revival(c: Context) -> Float[Array, " batch"]:
    """Returns the squared error with which the dead units alone explain what the reconstruction misses, 0 where no unit
    is dead (Gao et al. 2024, appendix A.2: the auxiliary loss AuxK).
    """
    code = c.output.code.revival
    if code is None:
        raise InputError(
            "objective.weights.revival needs a sparse bottleneck with revive and dead_after above 0, e.g. "
            "bottleneck.name=topk, bottleneck.revive=64, bottleneck.dead_after=1000"
        )
    missed = _missed(c)

    def explain(code: Array) -> Array:
        explained = c.decode(code) - c.decode(jnp.zeros_like(code))
        return flatten(jnp.square(missed - explained)).sum(-1) * (flatten(jnp.abs(code)).sum(-1) > 0)

    # Without dead units nothing is decoded, nor are gradients of whole kernels computed. All devices choose alike: the
    # compiler may move the sum of gradients over devices into a branch, which would wait for the others forever.
    units = c.output.code.units
    if units is None or units.dead is None:
        return explain(code)
    return jax.lax.cond(jnp.any(units.dead), explain, lambda code: jnp.zeros(len(code)), code)


def ghost(c: Context) -> Float[Array, " batch"]:
    """Returns the ghost gradients' loss, 0 where no unit is dead (Jermyn and Templeton 2024, "Ghost grads: an
    improvement on resampling").

    The exponentials of the dead units are decoded, and scaled to half the length of what the reconstruction misses. The
    squared error between both is scaled to the reconstruction's. Neither scale has a gradient.
    """
    units = _units(c, "ghost")
    if units.dead is None:
        raise InputError(
            "objective.weights.ghost needs bottleneck.dead_after, the steps until a unit is dead, e.g. 1000"
        )
    dead, missed = units.dead > 0, flatten(_missed(c))

    def explain(pre: Array) -> Array:
        code = jnp.exp(jnp.where(dead, pre, -jnp.inf))
        ghosts = flatten(c.decode(code) - c.decode(jnp.zeros_like(code)))
        lengths = jnp.linalg.norm(missed, axis=-1), jnp.linalg.norm(jax.lax.stop_gradient(ghosts), axis=-1)
        error = jnp.square(missed - ghosts * (lengths[0] / (2 * lengths[1] + 1e-6))[:, None]).sum(-1)
        scale = jnp.square(missed).sum(-1) / (error + 1e-6)
        return error * jax.lax.stop_gradient(scale)

    return jax.lax.cond(dead.any(), explain, lambda pre: jnp.zeros(len(pre)), units.pre)


def pre_activation(c: Context, decoder_norms: bool = True) -> Float[Array, " batch"]:
    """Returns the sum over dead units of what they lack to be active, relu(threshold - unit), times the length of the
    decoder's row (Conerly et al. 2025, "Circuits updates, January", there for all units).
    """
    units = _units(c, "pre_activation")
    if units.dead is None or units.threshold is None:
        raise InputError("objective.weights.pre_activation needs bottleneck.name=jumprelu with dead_after above 0")
    lacking = jax.nn.relu(units.threshold - units.pre) * units.dead
    return (lacking * _weigh(c, "pre_activation", decoder_norms)).sum(-1)


def _missed(c: Context) -> Array:
    """Returns what the reconstruction misses, as a constant."""
    return jax.lax.stop_gradient(c.x - c.mean(c.output.decoded))


def _gates(c: Context, term: str) -> Array:
    units = c.output.code.units
    if units is None or not units.gates:
        raise InputError(f"objective.weights.{term} needs gates: bottleneck.name=gated; without, set l1 or l0_target")
    return units.pre


def _units(c: Context, term: str) -> Units:
    if c.output.code.units is None:
        raise InputError(f"objective.weights.{term} needs a sparse bottleneck, e.g. bottleneck.name=relu")
    return c.output.code.units


def _dictionary(c: Context, term: str) -> tuple[Array, Array]:
    """Returns the kernel [features, values] and the bias of a linear decoder, tied or not."""
    decoder = c.variables["params"].get("decoder", {})
    if set(decoder) != {"dense_0"}:
        raise InputError(f"objective.weights.{term} needs a decoder of one linear layer: decoder.name=dictionary")
    layer = decoder["dense_0"]
    kernel = layer["kernel"] if "kernel" in layer else c.variables["params"]["bottleneck"]["dense"]["kernel"].T
    return kernel, layer["bias"]


def _weigh(c: Context, term: str, decoder_norms: bool) -> Array:
    """Returns the length of each row of the decoder, [features], or 1."""
    return jnp.linalg.norm(_dictionary(c, term)[0], axis=-1) if decoder_norms else jnp.ones(())
