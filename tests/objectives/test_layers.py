"""Terms by layer of hierarchical codes, against NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import context

import aejax
from aejax.models import HierarchicalGaussian
from aejax.models.distributions import HierarchicalPrior, StandardNormal
from aejax.objectives.layers import balanced_kl, layer_free_bits

RATES = np.random.default_rng(0).uniform(0, [[3.0], [0.4], [0.2]], (3, 6)).astype(np.float32)
SIZES = (4, 2, 1)


def hierarchical(step=None, sizes=SIZES):
    names = ["kl"] if len(sizes) == 1 else [f"kl_{i + 1}" for i in range(len(sizes))]
    of = {"losses": {"kl": RATES.sum(0), **dict(zip(names, RATES, strict=False))}}
    prior = HierarchicalPrior(HierarchicalGaussian(sizes), {}, sizes)
    return context(np.zeros((6, 2)), prior=prior, step=None if step is None else jnp.array(step), **of)


def test_free_bits_of_layers_are_maxima_over_their_means():
    means = RATES.astype(np.float64).mean(1)
    for nats in (0.3, (1.0, 0.5, 0.0), [0, 0, 0]):
        np.testing.assert_allclose(layer_free_bits(hierarchical(), nats), np.maximum(nats, means).sum(), rtol=1e-6)
    np.testing.assert_allclose(layer_free_bits(hierarchical(sizes=(4,)), 0.0), RATES[0].mean(), rtol=1e-6)


def test_balanced_kl_has_factors_by_unit_in_the_warm_up_alone():
    weights = (RATES.mean(1) + 0.01) / SIZES
    factors = weights / weights.mean()
    np.testing.assert_allclose(balanced_kl(hierarchical(3), 10), factors @ RATES, rtol=1e-5)
    assert factors[0] > factors[2] > 0  # what carries little costs little
    for step in (10, None):
        np.testing.assert_allclose(balanced_kl(hierarchical(step), 10), RATES.sum(0), rtol=1e-6)


@pytest.mark.parametrize("nats", [(1.0, 2.0), (1.0, 2.0, -1.0), -1.0, "ab", (1.0, 2.0, "x"), ()])
def test_free_bits_that_fit_no_layers_are_one_line(nats):
    message = (
        r"objective\.options\.layer_free_bits\.nats must be a number of 0 or above, or one for each of the 3 layers"
    )
    with pytest.raises(aejax.InputError, match=message) as caught:
        layer_free_bits(hierarchical(), nats)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("term", [layer_free_bits, balanced_kl])
def test_codes_without_layers_are_one_line(term):
    c = context(np.zeros((6, 2)), prior=StandardNormal(2), losses={"kl": RATES[0]})
    with pytest.raises(aejax.InputError, match=rf"objective\.weights\.{term.__name__} needs layers of latent units"):
        term(c)
