"""What the encoder reads instead of x, and dropout of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import example_keys, mlp, one_device

import aejax
from aejax.models import Autoencoder, IdentityBottleneck, MLPDecoder, MLPEncoder

X = np.float32([[3.0, 0.0, 4.0], [0.0, 0.0, 0.0], [1.0, 2.0, 2.0]])


def encode(inputs, **options):
    model = Autoencoder(MLPEncoder(), IdentityBottleneck(), MLPDecoder((3,)), inputs=inputs, **options)
    label = jnp.arange(3) if options else None
    variables = model.init(jax.random.key(0), X, label=label)
    return np.asarray(model.apply(variables, X, label=label, method="encode").z)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [("linear", X), ("log1p", np.log1p(X)), ("unit_norm", X / np.array([[5.0], [1.0], [3.0]], np.float32))],
)
def test_the_encoder_reads_them(inputs, expected):
    np.testing.assert_allclose(encode(inputs), expected, rtol=1e-6)
    labelled = encode(inputs, classes=3)  # labels are appended as they are
    np.testing.assert_allclose(labelled, np.concatenate([expected, np.eye(3)], 1), rtol=1e-6)


def test_a_config_names_them():
    x = np.random.default_rng(0).poisson(3.0, (64, 6))
    run = aejax.fit(mlp(inputs="unit_norm", steps=2), x, quiet=True, devices=one_device())
    np.testing.assert_allclose(run.encode(x * 7), run.encode(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(aejax.InputError, match="inputs 'sqrt' is unknown; choose one of: linear, log1p, unit_norm"):
        aejax.fit(mlp(inputs="sqrt"), x, quiet=True)


def test_dropout_keeps_the_mean_by_a_key_for_each_example():
    encoder, x = MLPEncoder(dropout=0.25), jnp.ones((50, 400))
    z = np.asarray(encoder.apply({}, x, keys=example_keys(50), train=True))
    np.testing.assert_allclose(np.unique(z), [0, 4 / 3], rtol=1e-6)
    np.testing.assert_allclose((z == 0).mean(), 0.25, atol=0.02)
    assert np.ptp((z == 0).sum(1)) > 0
    part = encoder.apply({}, x[:7], keys=example_keys(50)[:7], train=True)
    np.testing.assert_array_equal(part, z[:7])
    np.testing.assert_array_equal(encoder.apply({}, x, keys=example_keys(50)), x)  # not in evaluation
    with pytest.raises(aejax.InputError, match="MLPEncoder uses random numbers in training: give keys="):
        encoder.apply({}, x, train=True)
    with pytest.raises(aejax.InputError, match=r"encoder.dropout must be in \[0, 1\), got 1"):
        MLPEncoder(dropout=1.0).apply({}, x)
