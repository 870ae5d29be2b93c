"""Encoders, decoders and the Gaussian bottleneck whose codes are images; `tests/pretrained` compares with diffusers."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import example_keys
from scipy import stats

import aejax
from aejax.config import module
from aejax.models import KLDecoder, KLEncoder, SpatialGaussian, TinyDecoder, TinyEncoder
from aejax.models.distributions import StandardNormal
from aejax.models.efficient_vit import DepthwiseConv, GroupedDense, PixelNorm
from aejax.models.layers import ACTIVATIONS, GroupNorm
from aejax.pretrained import describe_model

NARROW = {"features": (4,), "groups": 2, "blocks": 1}


@pytest.fixture(scope="module")
def h():
    """Features of which some log variances are out of bounds."""
    return np.random.default_rng(0).normal(size=(3, 2, 4, 6), scale=[1, 1, 1, 1, 1, 30]).astype(np.float32)


def test_its_posterior_is_that_of_all_latent_units(h):
    bottleneck = SpatialGaussian(3, project=False)
    code = bottleneck.apply({}, h, keys=example_keys(3), train=True)
    mean, log_variance = h[..., :3], np.clip(h[..., 3:], -30, 20)
    assert (log_variance != h[..., 3:]).any()
    kl = 0.5 * (np.square(mean) + np.exp(log_variance) - 1 - log_variance).sum((1, 2, 3))
    np.testing.assert_allclose(code.losses["kl"], kl, rtol=1e-5)
    np.testing.assert_allclose(code.posterior.kl_by_unit().sum(1), kl, rtol=1e-5)
    density = stats.norm.logpdf(code.z, mean, np.exp(log_variance / 2)).sum((1, 2, 3))
    np.testing.assert_allclose(code.posterior.log_prob(code.z), density, rtol=1e-4)
    several = jnp.stack([code.z, code.z + 1e-3])
    assert code.posterior.log_prob(several).shape == (2, 3)
    np.testing.assert_allclose(code.prior.log_prob(several)[0], stats.norm.logpdf(code.z).sum((1, 2, 3)), rtol=1e-4)
    np.testing.assert_array_equal(bottleneck.apply({}, h).z, mean)
    spread = np.linspace(-1, 1, 3).reshape(3, 1, 1, 1) * np.sqrt(np.array([1, 0.02, 0.01, 0, 0, 0]))  # var: 2/3 of that
    assert bottleneck.apply({}, np.tile(spread, (1, 2, 4, 1))).metrics["active_units"] == 2 * 4 * 2  # above 0.01
    alone = bottleneck.apply({}, h[1:2], keys=example_keys(3)[1:2])
    np.testing.assert_array_equal(alone.z, code.z[1:2])  # the noise is each example's own


@pytest.mark.parametrize(
    ("part", "stage"),
    [(TinyEncoder(4, 4, (1, 1), pooled=True), 1), (TinyDecoder((8, 8, 3), 4, (1, 1), pooled=True), 0)],
)
def test_only_the_blocks_nearest_the_code_are_pooled(part, stage):
    params = jax.eval_shape(part.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    assert [i for i in range(2) if "pooled" in params[f"block_{i}_0"]] == [stage]


def test_samples_of_the_prior_have_the_shape_of_the_code():
    z = StandardNormal(3, (20, 30)).sample(example_keys(2))
    assert z.shape == (2, 20, 30, 3)
    assert stats.kstest(np.ravel(z), "norm").pvalue > 0.01


def test_channels_that_do_not_fit_are_one_line(h):
    with pytest.raises(aejax.InputError, match=r"features=4 needs 8 channels, .* got 6; set encoder.channels=8 or"):
        SpatialGaussian(4, project=False).apply({}, h)
    with pytest.raises(aejax.InputError, match="KLEncoder reads images"):
        KLEncoder().init(jax.random.key(0), jnp.zeros((2, 8)))
    with pytest.raises(
        aejax.InputError, match=r"12x8 is not divisible by 8; resize with data.size=16 or change encoder.bl"
    ):
        TinyEncoder(features=2).init(jax.random.key(0), jnp.zeros((1, 12, 8, 3)))
    for part, options in ((KLEncoder, {"features": ()}), (KLDecoder, {"features": (), "shape": (8, 8, 3)})):
        with pytest.raises(aejax.InputError, match="features must name the width of at least one stage"):
            part(**options).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


@pytest.mark.parametrize("part", [KLEncoder(**NARROW), KLDecoder((2, 2, 3), **NARROW)], ids=["encoder", "decoder"])
def test_symmetric_scales_images_to_what_the_network_reads(part):
    x = np.random.default_rng(0).uniform(size=(1, 2, 2, 3)).astype(np.float32)
    variables = part.init(jax.random.key(0), x)
    plain = part.clone(symmetric=False)
    if isinstance(part, KLEncoder):
        np.testing.assert_allclose(part.apply(variables, x), plain.apply(variables, 2 * x - 1), atol=1e-6)
    else:
        np.testing.assert_allclose(2 * part.apply(variables, x) - 1, plain.apply(variables, x), atol=1e-6)


@pytest.mark.parametrize(
    ("ours", "flax"),
    [
        (DepthwiseConv(5), nn.Conv(12, (5, 5), feature_group_count=12)),
        (GroupedDense(3), nn.Conv(12, (1, 1), feature_group_count=3, use_bias=False)),
    ],
    ids=["depthwise", "grouped"],
)
def test_convolutions_of_groups_are_those_of_flax(ours, flax):
    x = jax.random.normal(jax.random.key(0), (2, 3, 7, 12))
    variables = jax.tree.map(lambda a: jax.random.normal(jax.random.key(1), a.shape), flax.init(jax.random.key(0), x))
    assert jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x)) == jax.tree.map(jnp.shape, variables)

    @jax.jit
    def values_and_gradients(variables, x):
        pairs = [jax.vjp(module.apply, variables, x) for module in (ours, flax)]
        return [(y, pull(jnp.cos(jnp.arange(y.size)).reshape(y.shape))) for y, pull in pairs]

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)  # noqa: E731
    jax.tree.map(close, *values_and_gradients(variables, x))
    rounded = ours.clone(dtype="bfloat16").apply(variables, x)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype("float32"), ours.apply(variables, x), rtol=0.02, atol=0.1)


def test_batch_normalization_counts_its_updates():
    x = jax.random.normal(jax.random.key(0), (4, 2, 2, 3))
    variables = PixelNorm("batch").init(jax.random.key(0), x)
    assert variables["batch_stats"]["steps"] == 0
    _, updated = PixelNorm("batch").apply(variables, x, train=True, mutable=["batch_stats"])
    assert updated["batch_stats"]["steps"] == 1
    np.testing.assert_allclose(updated["batch_stats"]["batch"]["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
    with pytest.raises(aejax.InputError, match="normalisation 'layer' is unknown; choose one of: batch, rms"):
        PixelNorm("layer").init(jax.random.key(0), x)


def test_stages_of_deep_compression_may_differ_and_configs_keep_that():
    config = aejax.config.default()
    shared = {"blocks": (1, 1), "head_features": 2, "attention_stages": (1, 2), "windows": ((3,), ()), "shuffle": False}
    config.encoder = module("dc", channels=2, features=(4, 8), **shared)
    config.decoder = module("dc", features=(8, 4), activation=("relu", "silu"), **shared)
    model = aejax.models.build(config, (4, 4, 3))
    saved = json.loads(aejax.config.to_json(config))
    again = aejax.models.build(aejax.config.from_dict(saved), (4, 4, 3))
    settings = describe_model(again, 3)
    assert settings == describe_model(model, 3)
    assert settings["decoder_qkv_multiscales"] == [[], [3]]  # outermost first
    assert settings["decoder_act_fns"] == ["silu", "relu"]
    shapes = aejax.models.abstract_variables(model, (4, 4, 3))["params"]
    assert ["grouped_0" in shapes["encoder"][f"block_{i}_0"]["attention"] for i in range(2)] == [True, False]
    same = model.clone(
        decoder=model.decoder.clone(activation="relu", normalisation=("rms", "rms"), windows=((3,), (3,)))
    )
    assert describe_model(same, 3)["decoder_act_fns"] == ["relu", "relu"]
    for changes, message in (
        ({"windows": ((3,), (4,))}, r"decoder.windows must be odd numbers, or a list of them for each of the 2 stages"),
        ({"windows": ((3,),)}, r"decoder.windows must be odd .* got \(\(3,\),\)"),
        ({"blocks": (1,)}, r"decoder.features=\(8, 4\) and decoder.blocks=\(1,\) must hold an entry for each stage"),
        ({"attention_stages": (3,)}, "decoder.attention_stages names stage 3, but decoder.features has 2"),
        ({"windows": 3}, r"decoder.windows must be odd .* got 3"),
        ({"activation": 3}, "decoder.activation must be one name, or one for each of the 2 stages, got 3"),
        ({"activation": ("relu",)}, "decoder.activation must be one name, or one for each of the 2 stages"),
    ):
        with pytest.raises(aejax.InputError, match=message):
            aejax.models.build({**config, "decoder": {**config.decoder, **changes}}, (4, 4, 3))


def test_group_norm_takes_its_epsilon():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 8), scale=1e-3), jnp.float32)
    ours, flax = GroupNorm(2, epsilon=1e-5), nn.GroupNorm(2, epsilon=1e-5)
    variables = flax.init(jax.random.key(0), x)
    np.testing.assert_allclose(ours.apply(variables, x), flax.apply(variables, x), rtol=1e-4, atol=1e-6)
    assert np.abs(GroupNorm(2).apply(variables, x) - ours.apply(variables, x)).max() > 0.1


def test_activations_are_those_of_their_names():
    x = np.linspace(-4, 4, 81)
    np.testing.assert_allclose(ACTIVATIONS["exact_gelu"](x), x * stats.norm.cdf(x), atol=1e-6)
    np.testing.assert_allclose(ACTIVATIONS["mish"](x), x * np.tanh(np.log1p(np.exp(x))), atol=1e-6)
