"""One-dimensional tokens of images, and nested dropout, which orders them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import config_of, mlp, one_device
from scipy.stats import ortho_group
from sklearn.decomposition import PCA

import aejax
from aejax.config import module
from aejax.models import FSQ, IdentityBottleneck, OrderedCodes, ViTDecoder, ViTEncoder


@pytest.fixture(scope="module", autouse=True)
def _compile_quickly():
    """Small arrays: compiling takes far longer than computing."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def test_a_random_prefix_is_kept_in_training_and_all_tokens_otherwise():
    n, batch = 5, 4000
    bottleneck = OrderedCodes(FSQ((5, 3), positions=n))
    h = np.random.default_rng(0).normal(size=(batch, 6)).astype(np.float32) + 3  # no token is 0
    variables = jax.jit(bottleneck.init)(jax.random.key(0), h)
    variables["params"]["inner"]["dense"]["bias"] += 9.0
    apply = jax.jit(lambda h, keys, train: bottleneck.apply(variables, h, keys=keys, train=train), static_argnums=2)
    whole, code = apply(h, keys(batch), False), apply(h, keys(batch), True)
    np.testing.assert_array_equal(code.indices, whole.indices)
    kept = np.any(code.z != 0, -1)
    lengths = kept.sum(1)
    np.testing.assert_array_equal(kept, np.arange(n) < lengths[:, None])
    np.testing.assert_array_equal(code.z, np.where(kept[..., None], whole.z, 0))
    shares = np.bincount(lengths, minlength=n + 1) / batch
    assert shares[0] == 0
    # Standard deviation of a share: sqrt(0.2 * 0.8 / 4000) = 0.006; five of them.
    np.testing.assert_allclose(shares[1:], 1 / n, atol=0.03)
    np.testing.assert_array_equal(apply(h[::-1], keys(batch)[::-1], True).z, code.z[::-1])  # by the example's own key
    indices = whole.indices[:3]
    np.testing.assert_array_equal(bottleneck.apply(variables, indices, method="lookup"), whole.z[:3])
    assert (bottleneck.size, bottleneck.codebooks) == (15, 0)


def test_queries_read_all_patches_and_make_an_image_again():
    x = np.random.default_rng(0).uniform(size=(2, 8, 8, 1)).astype(np.float32)
    encoder = ViTEncoder(patch=2, features=8, layers=1, heads=2, queries=3)
    decoder = ViTDecoder((8, 8, 1), patch=2, features=8, layers=1, heads=2, tokens=3)
    variables = jax.jit(encoder.init)(jax.random.key(0), x)
    tokens = jax.jit(encoder.apply)(variables, x)
    assert tokens.shape == (2, 3, 8)
    assert not np.allclose(tokens[:, 0], tokens[:, 1])
    read = jax.jit(jax.jacrev(lambda x: encoder.apply(variables, x[None])[0, :, 0]))(x[0])  # [3, 8, 8, 1]
    assert np.all(read != 0)  # each token reads each pixel
    z = np.asarray(tokens[..., :4])
    decoding = jax.jit(decoder.init)(jax.random.key(0), z)
    decode = jax.jit(lambda z: decoder.apply(decoding, z))
    assert decode(z).shape == (2, 8, 8, 1)
    assert np.abs(decode(z[:, ::-1]) - decode(z)).max() > 1e-6  # the order of tokens matters
    with pytest.raises(aejax.InputError, match=r"decoder.tokens=3 does not read a code of \(2, 4\); set encoder.que"):
        decoder.init(jax.random.key(0), z[:, :2])
    with pytest.raises(aejax.InputError, match=r"encoder.queries return no patches to mask; set mask_ratio=0.5 to 0"):
        encoder.clone(mask_ratio=0.5).init(jax.random.key(0), x)


def test_what_has_no_order_cannot_be_ordered():
    with pytest.raises(aejax.InputError, match=r"'ordered' orders units or tokens, not a code of \(2, 2, 3\)"):
        jax.eval_shape(OrderedCodes(IdentityBottleneck()).init, jax.random.key(0), jnp.zeros((1, 2, 2, 3)))


def prefix_errors(run, x):
    """Mean squared errors of the reconstructions from 0, 1, ... and all units or tokens of the code."""
    z = run.encode(x)
    kept = np.tri(z.shape[1] + 1, z.shape[1], -1).reshape(-1, 1, z.shape[1], *[1] * (z.ndim - 2))
    return [np.square(run.decode(z * mask) - x).reshape(len(x), -1).sum(1).mean() for mask in kept]


def test_the_prefixes_of_an_ordered_linear_code_are_those_of_pca(tmp_path):
    x = np.random.default_rng(0).normal(size=(500, 5)) * [4, 3, 2, 1, 0.5] @ ortho_group.rvs(5, random_state=0)
    x = (x - x.mean(0)).astype(np.float32)
    config = mlp(bottleneck=module("ordered", bottleneck=module("dense", features=3)))
    config.encoder = config.decoder = module("mlp", features=())
    config.update({"steps": 1000, "batch_size": 400, "log_every": 500, "checkpoint_every": 1000})
    config.optim.update(lr=3e-2, schedule="cosine")
    run = aejax.fit(config, x, tmp_path, devices=one_device(), quiet=True)
    errors = prefix_errors(run, x)
    axes = PCA(3).fit(x).components_
    expected = [np.square(x - x @ axes[:k].T @ axes[:k]).sum(1).mean() for k in range(4)]
    np.testing.assert_allclose(errors, expected, rtol=0.05)


@pytest.mark.slow
def test_each_further_token_of_titok_lowers_the_error(tmp_path):
    config = config_of("titok", "ordered")
    config.data.name, config.batch_size, config.steps, config.checkpoint_every = "digits", 64, 600, 600
    config.encoder.update(patch=4, queries=4)
    config.decoder.update(patch=4, tokens=4)
    run = aejax.train(config, tmp_path, devices=one_device(), quiet=True)
    x = run.in_users_units(aejax.data.read(aejax.data.load(config.data).test)["x"])
    np.testing.assert_allclose(run.lookup(run.indices(x)), run.encode(x), rtol=1e-6)
    errors = prefix_errors(run, x)
    assert np.all(np.diff(errors) < 0), errors
