"""How a model reads labels: in encoder and decoder or in the decoder alone, one-hot or embedded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import example_keys, mlp, one_device, vectors

import aejax
from aejax.config import module
from aejax.models import Autoencoder, IdentityBottleneck, MLPDecoder, MLPEncoder
from aejax.models.layers import Normalization

X, LABEL = vectors(5, 3), jnp.array([0, 2, 1, 2, 0])


def model(**options):
    return Autoencoder(MLPEncoder(), IdentityBottleneck(), MLPDecoder((3,)), classes=3, **options)


def test_an_encoder_without_labels_returns_the_same_code_for_each():
    alone = model(label_to_encoder=False)
    variables = alone.init(jax.random.key(0), X, label=LABEL)
    code = alone.apply(variables, X, method="encode")
    np.testing.assert_array_equal(code.z, X)
    both = [alone.apply(variables, X, label=label).decoded for label in (LABEL, (LABEL + 1) % 3)]
    kernel = variables["params"]["decoder"]["dense_0"]["kernel"]
    assert kernel.shape == (6, 3)
    np.testing.assert_allclose(both[0], np.concatenate([X, np.eye(3)[LABEL]], 1) @ kernel, rtol=1e-5, atol=1e-6)
    assert np.abs(both[0] - both[1]).max() > 0.01


def test_an_embedded_label_is_a_learned_vector_that_encoder_and_decoder_share():
    embedded = model(embedding=2)
    variables = embedded.init(jax.random.key(0), X, label=LABEL)
    table, kernel = variables["params"]["label_embedding"], variables["params"]["decoder"]["dense_0"]["kernel"]
    assert (table.shape, kernel.shape) == ((3, 2), (7, 3))
    z = np.concatenate([X, table[LABEL]], 1)
    np.testing.assert_allclose(embedded.apply(variables, X, label=LABEL, method="encode").z, z, rtol=1e-6)
    decoded = np.concatenate([z, table[LABEL]], 1) @ kernel
    np.testing.assert_allclose(embedded.apply(variables, X, label=LABEL).decoded, decoded, rtol=1e-5, atol=1e-6)
    loss = lambda params: jnp.square(embedded.apply({"params": params}, X, label=LABEL).decoded).sum()  # noqa: E731
    assert (np.abs(jax.grad(loss)(variables["params"])["label_embedding"]).max(1) > 0).all()


def test_a_run_whose_encoder_reads_no_labels_encodes_without_them():
    config = mlp(classes=3, condition__encoder=False, condition__embedding=2, bottleneck=module("gaussian", features=2))
    config.objective.weights = {"kl": 1.0}
    x, label = vectors(), np.arange(100) % 3
    run = aejax.fit(config, x, label=label, quiet=True, devices=one_device())
    np.testing.assert_array_equal(run.encode(x), run.encode(x, label))
    np.testing.assert_array_equal(run.sample_posterior(x), run.sample_posterior(x, label=label))
    with pytest.raises(aejax.InputError, match="the run is conditional: give label=, 100 whole numbers from 0 to 2"):
        run.reconstruct(x)
    with pytest.raises(aejax.InputError, match="label must be 100 whole numbers"):
        run.encode(x, label + 1)
    assert np.abs(run.decode(run.encode(x), label) - run.decode(run.encode(x), label * 0)).max() > 1e-3


def test_hidden_dropout_keeps_the_mean_of_units_by_a_key_for_each_example():
    encoder, x = MLPEncoder((400,), activation="linear", hidden_dropout=0.25), jnp.ones((50, 3))
    variables = encoder.init(jax.random.key(0), x)
    whole = np.asarray(encoder.apply(variables, x))
    some = np.asarray(encoder.apply(variables, x, keys=example_keys(50), train=True))
    np.testing.assert_allclose(np.where(some == 0, 0, whole / 0.75), some, rtol=1e-5)
    np.testing.assert_allclose((some == 0).mean(), 0.25, atol=0.02)
    assert np.ptp((some == 0).sum(1)) > 0
    part = encoder.apply(variables, x[:7], keys=example_keys(50)[:7], train=True)
    np.testing.assert_allclose(part, some[:7], rtol=1e-6)
    with pytest.raises(aejax.InputError, match="MLPEncoder uses random numbers in training: give keys="):
        encoder.apply(variables, x, train=True)
    with pytest.raises(aejax.InputError, match=r"encoder.hidden_dropout must be in \[0, 1\), got -0.1"):
        MLPEncoder(hidden_dropout=-0.1).apply({}, x)


def test_slow_batch_normalization_averages_over_100_steps_with_an_epsilon_of_a_thousandth():
    layer, x = Normalization("slow_batch"), 0.05 * vectors(40, 3) + 1
    variables = layer.init(jax.random.key(0), x)
    made, updated = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(made, (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-3), rtol=1e-3, atol=1e-4)
    averages = updated["batch_stats"]["batch"]
    np.testing.assert_allclose(averages["mean"], 0.01 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(averages["var"], 0.99 + 0.01 * x.var(0), rtol=1e-5)
