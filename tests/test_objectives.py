import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import bernoulli

import aejax
from aejax.objectives import Corruption, Objective


def output(decoded, z=None, **losses):
    z = jnp.zeros((len(decoded), 2)) if z is None else z
    return aejax.Output(aejax.Code(z=z, losses=losses), decoded)


@pytest.mark.parametrize("seed", range(3))
def test_bernoulli_is_the_log_probability_in_nats(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=3, size=(4, 2, 3, 1)).astype(np.float32)
    x = rng.integers(0, 2, size=logits.shape).astype(np.float32)
    expected = -bernoulli.logpmf(x.astype(int), expit(logits)).reshape(4, -1).sum(1)
    terms = Objective("bernoulli", {})(output(logits), x)
    np.testing.assert_allclose(terms["reconstruction"], expected, rtol=1e-4)
    np.testing.assert_allclose(Objective("bernoulli", {}).mean(logits), expit(logits), rtol=1e-5)


def test_bernoulli_stays_finite_far_out():
    terms = Objective("bernoulli", {})(output(jnp.array([[1e4, -1e4]])), jnp.array([[0.0, 1.0]]))
    np.testing.assert_allclose(terms["loss"], [2e4])


def test_squared_error_is_summed_over_values_and_kept_per_example():
    x, decoded = jnp.arange(12.0).reshape(2, 2, 3, 1), jnp.zeros((2, 2, 3, 1))
    terms = Objective("squared_error", {})(output(decoded), x)
    np.testing.assert_array_equal(terms["loss"], [55, 451])  # sums of squares of 0..5 and of 6..11


def test_terms_are_weighted_and_logged_unweighted():
    z = jnp.array([[1.0, -2.0], [0.0, 4.0]])
    x = jnp.ones((2, 3))
    objective = Objective("squared_error", {"l1": 0.5, "mine": 3.0})
    terms = objective(output(jnp.zeros((2, 3)), z, mine=jnp.array([1.0, 2.0])), x)
    np.testing.assert_array_equal(terms["l1"], [3, 4])
    np.testing.assert_array_equal(terms["mine"], [1, 2])
    np.testing.assert_array_equal(terms["loss"], [3 + 1.5 + 3, 3 + 2 + 6])


def test_unknown_terms_are_named():
    with pytest.raises(aejax.InputError, match="term 'l2' is unknown; choose one of: l1"):
        Objective("squared_error", {"l2": 1.0})(output(jnp.zeros((1, 2))), jnp.zeros((1, 2)))
    with pytest.raises(aejax.InputError, match="did you mean 'bernoulli'"):
        Objective("bernouli", {})


@pytest.mark.parametrize("name", ["gaussian", "masking"])
def test_noise_belongs_to_the_example_and_the_key(name):
    corrupt = Corruption(name, 0.4)
    x = jnp.ones((8, 50))
    index = jnp.arange(8)
    key = jax.random.key(0)
    noisy = corrupt(key, x, index)
    np.testing.assert_array_equal(corrupt(key, x[3:5], index[3:5]), noisy[3:5])
    assert jnp.any(noisy[0] != noisy[1])
    assert jnp.any(corrupt(jax.random.key(1), x, index) != noisy)


def test_noise_has_its_level():
    x = jnp.ones((200, 100))
    masked = Corruption("masking", 0.3)(jax.random.key(0), x, jnp.arange(200))
    assert set(np.unique(masked)) == {0, 1}
    assert abs(float((masked == 0).mean()) - 0.3) < 0.02  # four deviations of a share of 20,000
    noise = Corruption("gaussian", 0.3)(jax.random.key(0), x, jnp.arange(200)) - x
    assert abs(float(noise.std()) - 0.3) < 0.01
    assert abs(float(noise.mean())) < 0.01
    np.testing.assert_array_equal(Corruption()(jax.random.key(0), x, jnp.arange(200)), x)


@pytest.mark.parametrize(("name", "level"), [("masking", 1.0), ("gaussian", -1.0), ("gaussian", 0.0), ("salt", 0.1)])
def test_corruption_checks_its_level(name, level):
    with pytest.raises(aejax.InputError, match=r"corruption"):
        Corruption(name, level)
