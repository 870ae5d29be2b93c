"""The transformer on data that comes in parts: what its steps are, and that nothing begins anew between them."""

import pickle

import jax
import numpy as np
import pytest
from conftest import mlp, vectors
from sklearn.base import clone

import aejax
from aejax.config import module
from aejax.sklearn import AutoencoderTransformer

X = vectors(24)
LINEAR = AutoencoderTransformer(hidden=(), batch_size=8, learning_rate=0.01, standardize=False, random_state=0)
NAMES = (("bottleneck", "dense", "kernel"), ("bottleneck", "dense", "bias"))
NAMES += (("decoder", "dense_0", "kernel"), ("decoder", "dense_0", "bias"))


def parameters(model):
    found = []
    for path in NAMES:
        tree = model.run_.variables["params"]
        for name in path:
            tree = tree[name]
        found.append(np.asarray(tree, np.float64))
    return found


def adam(start, batches, rate=0.01):
    """Adam (Kingma and Ba 2015, algorithm 1) on the squared error of a linear autoencoder, from its first step on."""
    params, first, second = list(start), [0.0] * 4, [0.0] * 4
    for t, x in enumerate(batches, 1):
        z = x @ params[0] + params[1]
        d = 2 * (z @ params[2] + params[3] - x) / len(x)
        of_z = d @ params[2].T
        for i, g in enumerate((x.T @ of_z, of_z.sum(0), z.T @ d, d.sum(0))):
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.999 * second[i] + 0.001 * g**2
            params[i] = params[i] - rate * (first[i] / (1 - 0.9**t)) / (np.sqrt(second[i] / (1 - 0.999**t)) + 1e-8)
    return params


def test_calls_with_parts_are_the_steps_of_one_adam():
    """From a random start, as one row has no two components; the last batch, of 4 rows, is incomplete."""
    model = clone(LINEAR).partial_fit(X[:1]).partial_fit(X[:16])
    start = clone(LINEAR).set_params(learning_rate=1e-12).partial_fit(X[:1])  # but for rounding
    model.partial_fit(X[:4])
    expected = adam(parameters(start), [X[:1], X[:8], X[8:16], X[:4]])
    for found, wanted in zip(parameters(model), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
    assert (model.run_.step, model.n_features_in_, len(model.run_.latents)) == (4, 6, 1)


@pytest.fixture(scope="module")
def begun():
    return clone(LINEAR).partial_fit(X)


def test_copies_of_a_pickle_go_on_alike(begun):
    copy = pickle.loads(pickle.dumps(begun))
    again = pickle.loads(pickle.dumps(begun))
    copy.partial_fit(X[:16])
    again.partial_fit(X[:8]).partial_fit(X[8:16])
    np.testing.assert_array_equal(copy.transform(X), again.transform(X))
    assert np.abs(copy.transform(X) - begun.transform(X)).max() > 1e-3


def test_parts_that_do_not_fit_are_one_line_and_change_nothing(begun):
    z = begun.transform(X)
    with pytest.raises(ValueError, match="X has 4 features, but AutoencoderTransformer is expecting 6 features"):
        begun.partial_fit(X[:, :4])
    huge = X[:8] * np.float32(1e25)
    with pytest.raises(aejax.DivergedError, match=r"the loss is not finite; .* The state is as it was"):
        begun.partial_fit(huge)
    np.testing.assert_array_equal(begun.transform(X), z)
    config = mlp()
    config.pretrain.steps = 3
    with pytest.raises(aejax.InputError, match=r"pretrain\.steps=3 needs all data at once"):
        AutoencoderTransformer(config=config).partial_fit(X)


@pytest.mark.slow
def test_fit_begins_anew_and_parts_go_on_from_it():
    model = clone(LINEAR).set_params(steps=3).fit(X)
    z, copy = model.transform(X), clone(LINEAR).set_params(steps=3).fit(X)
    copy.set_params(learning_rate=1e-12).partial_fit(X[:8])
    assert copy.run_.step == 4
    model.partial_fit(X[:8])
    wanted = adam(parameters(clone(LINEAR).set_params(steps=3).fit(X)), [X[:8]])
    for found, expected in zip(parameters(model), wanted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(model.fit(X).transform(X), z)


@pytest.mark.slow
def test_a_fit_between_parts_is_what_the_next_part_goes_on_from():
    model = clone(LINEAR).set_params(steps=3).partial_fit(X[:16]).fit(X)
    fitted = clone(LINEAR).set_params(steps=3).fit(X)
    for each in (model, fitted):
        each.partial_fit(X[:16])
    np.testing.assert_array_equal(model.transform(X), fitted.transform(X))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*root mean squares")
def test_parts_are_trained_on_with_noise_averages_and_running_statistics():
    config = mlp(bottleneck=module("gaussian", features=2), ema=0.9, batch_size=8)
    config.objective.weights.kl = 1.0
    config.encoder.normalisation = "batch"
    model = AutoencoderTransformer(config=config, random_state=0)
    one, two = clone(model).partial_fit(X), clone(model).partial_fit(X[:16]).partial_fit(X[16:])
    assert one.run_.step == two.run_.step == 3
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(two)).transform(X), two.transform(X))
    statistics = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(one.run_.variables["batch_stats"])])
    assert np.mean((statistics != 0) & (statistics != 1)) > 0.5
