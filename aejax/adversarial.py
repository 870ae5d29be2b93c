"""Losses of adversarial training: pure functions of logits and gradients, which any training loop can call.

A logit is above 0 where the discriminator takes an image for real. The losses are of each logit; average them over the
patches of an image. LOSSES has a pair for each game, what the discriminator and what the autoencoder minimizes. The
doctests print with `numpy.set_printoptions(precision=3, suppress=True)`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import relu, softplus
from jaxtyping import Array, Float, PyTree

Logits = Float[Array, "*#shape"]


class Game(NamedTuple):
    """What each side minimizes: `discriminator(real, fake)` and `generator(fake)`, both of logits."""

    discriminator: Callable[[Logits, Logits], Logits]
    generator: Callable[[Logits], Logits]


def hinge(real: Logits, fake: Logits) -> Float[Array, "..."]:
    """Returns max(0, 1 - D(x)) + max(0, 1 + D(x̂)) (Lim and Ye 2017, equation 2).

    >>> hinge(jnp.array([0.0, 2.0]), jnp.array([0.0, -2.0]))
    Array([2., 0.], dtype=float32)
    """
    return relu(1 - real) + relu(1 + fake)


def cross_entropy(real: Logits, fake: Logits) -> Float[Array, "..."]:
    """Returns -log s(D(x)) - log(1 - s(D(x̂))), s the sigmoid (Goodfellow et al. 2014, equation 1, negated).

    >>> cross_entropy(jnp.array([0.0, 100.0]), jnp.array([0.0, -100.0]))  # the first: 2 log 2
    Array([1.386, 0.   ], dtype=float32)
    """
    return softplus(-real) + softplus(fake)


def wasserstein(real: Logits, fake: Logits) -> Float[Array, "..."]:
    """Returns D(x̂) - D(x) (Arjovsky et al. 2017, equation 2), which needs a bound on D's slope: spectral norm or R1.

    >>> wasserstein(jnp.array([1.0]), jnp.array([-2.0]))
    Array([-3.], dtype=float32)
    """
    return fake - real


def raise_logit(fake: Logits) -> Float[Array, "..."]:
    """Returns -D(x̂), what the autoencoder minimizes under `hinge` and `wasserstein`."""
    return -fake


def saturating(fake: Logits) -> Float[Array, "..."]:
    """Returns log(1 - s(D(x̂))), whose gradient vanishes for clear fakes (Goodfellow et al. 2014, equation 1).

    >>> saturating(jnp.array([0.0, -100.0]))  # the first: -log 2
    Array([-0.693, -0.   ], dtype=float32)
    """
    return -softplus(fake)


def non_saturating(fake: Logits) -> Float[Array, "..."]:
    """Returns -log s(D(x̂)), whose gradient does not vanish (Goodfellow et al. 2014, section 3).

    >>> non_saturating(jnp.array([0.0, -100.0]))
    Array([  0.693, 100.   ], dtype=float32)
    """
    return softplus(-fake)


GAMES = {
    "hinge": Game(hinge, raise_logit),
    "vanilla": Game(cross_entropy, saturating),
    "non_saturating": Game(cross_entropy, non_saturating),
    "wasserstein": Game(wasserstein, raise_logit),
}


def r1(judge: Callable[[Array], Float[Array, " batch"]], x: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
    """Returns half the squared norm of the gradient of D at real examples (Mescheder et al. 2018, equation 9, for a
    weight of 1). `judge` returns one logit for each example, for patches their mean.

    >>> r1(lambda x: x @ jnp.array([3.0, 4.0]), jnp.zeros((1, 2)))
    Array([12.5], dtype=float32)
    """
    gradient = jax.grad(lambda x: judge(x).sum())(x)
    return 0.5 * jnp.square(gradient).reshape(x.shape[0], -1).sum(-1)


def lecam(
    real: Logits, fake: Logits, average_real: Float[Array, ""], average_fake: Float[Array, ""]
) -> Float[Array, "..."]:
    """Returns (D(x) - a_F)^2 + (D(x̂) - a_R)^2 (Tseng et al. 2021, equation 4).

    a_R and a_F are moving averages of the logits of real examples and of fakes.

    >>> lecam(jnp.array([3.0]), jnp.array([-1.0]), jnp.array(1.0), jnp.array(0.0))
    Array([13.], dtype=float32)
    """
    return jnp.square(real - average_fake) + jnp.square(fake - average_real)


def adaptive_weight(rest: PyTree, judged: PyTree) -> Float[Array, ""]:
    """Returns |rest| / (|judged| + 1e-6), as a constant (Esser et al. 2021, equation 7).

    `rest` and `judged` are the gradients of the reconstruction's and of the discriminator's terms with respect to the
    decoder's last layer, averaged over the whole batch.

    >>> adaptive_weight({"kernel": jnp.array([3.0, 4.0])}, {"kernel": jnp.array([0.0, 2.0])})
    Array(2.5, dtype=float32)
    """
    norm = lambda tree: jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(tree)))  # noqa: E731
    return jax.lax.stop_gradient(norm(rest) / (norm(judged) + 1e-6))
