"""Terms of hierarchical codes, by layer. Layers are counted from the data up, as the losses `kl_1`, `kl_2`, ... are."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from aejax.errors import InputError, shown
from aejax.models.distributions import HierarchicalPrior
from aejax.objectives.context import Context
from aejax.objectives.schedules import progress


def layer_free_bits(c: Context, nats: float | Sequence[float] = 1.0) -> Float[Array, ""]:
    """Returns the sum over layers of max(nats, mean KL over the batch), in place of `kl` (Kingma et al. 2016, equation
    15; Sønderby et al. 2016). `nats` is one number for all layers, or one for each.
    """
    rates, _ = _rates(c, "layer_free_bits")
    free = [nats] * len(rates) if isinstance(nats, int | float) else list(nats)
    if len(free) != len(rates) or not all(isinstance(n, int | float) and n >= 0 for n in free):
        raise InputError(
            "objective.options.layer_free_bits.nats must be a number of 0 or above, or one for each of the "
            f"{len(rates)} layers, got {shown(nats)}"
        )
    means = jnp.stack([c.whole(rate).mean() for rate in rates])
    return jnp.maximum(jnp.array(free, jnp.float32), means).sum()


def balanced_kl(c: Context, steps: int = 10_000) -> Float[Array, " batch"]:
    """Returns the KL with a factor for each layer during the first `steps`, and the KL itself afterwards, in place of
    `kl` (Vahdat and Kautz 2020, NVAE, appendix A).

    The factors are constants, proportional to the batch's mean KL by unit of the layer, and 1 on average. Layers that
    carry little have small ones, which keeps them from being turned off.
    """
    rates, sizes = _rates(c, "balanced_kl")
    by_unit = jnp.stack(
        [(jnp.abs(c.whole(rate).mean()) + 0.01) / size for rate, size in zip(rates, sizes, strict=True)]
    )
    factors = jax.lax.stop_gradient(by_unit / by_unit.mean())
    factors = jnp.where(progress(c.step, steps) < 1, factors, 1.0)
    return jnp.einsum("l,lb->b", factors, jnp.stack(rates), precision="highest")


def _rates(c: Context, term: str) -> tuple[list[Array], tuple[int, ...]]:
    """Returns the KL of each layer, [batch], and the number of its units."""
    code = c.output.code
    if not isinstance(code.prior, HierarchicalPrior):
        raise InputError(
            f"objective.weights.{term} needs layers of latent units: bottleneck.name=ladder, or hierarchical"
        )
    sizes = code.prior.sizes
    return [code.losses["kl" if len(sizes) == 1 else f"kl_{i}"] for i in range(1, len(sizes) + 1)], sizes
