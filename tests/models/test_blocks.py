"""The residual and transformer encoders and decoders, and the masked bottleneck."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mostly_slow

import aejax
from aejax.models import MaskedBottleneck, ResNetDecoder, ResNetEncoder, Tokens, ViTDecoder, ViTEncoder, resnet, vit
from aejax.models.bottlenecks.masked import MaskToken
from aejax.models.layers import NORMALIZATIONS, GroupNorm

VIT = {"name": "vit", "patch": 2, "features": 8, "layers": 1, "heads": 2}
RESNET = {"name": "resnet", "features": (8,)}  # for encoder and decoder
MASKED = {"name": "masked", "features": 6}


def config(encoder, bottleneck, decoder, **changes):
    parts = {"encoder": encoder, "bottleneck": bottleneck, "decoder": decoder}
    return parts | {"classes": 0, "likelihood": {"name": "squared_error"}, "dtype": "float32"} | changes


def build(encoder, bottleneck, decoder, shape=(8, 8, 3), axis_name=None, **changes):
    return aejax.models.build(config(encoder, bottleneck, decoder, **changes), shape, axis_name)


def images(n=3, shape=(8, 8, 3), seed=0):
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype(np.float32)


def keys_of(n, seed=5):
    return jax.random.split(jax.random.key(seed), n)


def drawn(module, *args, **options):
    """Variables from numpy, none of them 0: nothing to compile, and kernels that start at 0 do something."""
    rng = np.random.default_rng(9)

    def draw(leaf):
        if len(leaf.shape) < 2:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return (rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))).astype(np.float32)

    return jax.tree.map(draw, jax.eval_shape(module.init, jax.random.key(0), *args, **options))


def run(module, variables, *args, **options):
    """The output, compiled at once, which is quicker than operation by operation."""
    return jax.jit(module.apply, static_argnames=("train", "mutable"))(variables, *args, **options)


def shapes(module, *args):
    """Shapes of output and variables; computes nothing."""
    output, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), *args)
    return output.shape, jax.tree.map(jnp.shape, variables["params"])


def patches_by_loops(x, p):
    b, h, w, _ = x.shape
    places = itertools.product(range(0, h, p), range(0, w, p))
    return np.stack([x[:, i : i + p, j : j + p].reshape(b, -1) for i, j in places], 1)


# Residual networks.


@pytest.mark.parametrize(
    ("shape", "features", "blocks", "small"),
    [
        ((28, 28, 1), (8, 16), 1, (7, 7, 16)),
        ((8, 12, 3), (4,), 2, (4, 6, 4)),
        ((16, 8, 2), (4, 6, 8), 1, (2, 1, 8)),
    ],
)
def test_resnet_shapes(shape, features, blocks, small):
    assert shapes(ResNetEncoder(features, blocks), images(2, shape))[0] == (2, *small)
    decoder = ResNetDecoder(shape, features[::-1], blocks)
    assert shapes(decoder, jnp.ones((2, *small)))[0] == (2, *shape)
    output, params = shapes(decoder, jnp.ones((2, 5)))
    assert output == (2, *shape)
    assert params["project"]["kernel"] == (5, np.prod(small))
    assert len([name for name in params if name.startswith("block")]) == blocks * len(features)


@pytest.mark.parametrize(("window", "crop"), [(2, 0), (3, 0), (2, 1)])
def test_depth_to_space_inverts_space_to_depth(window, crop):
    x = images(2, (6, 12, 3))
    deep = patches_by_loops(x, window).reshape(2, 6 // window, 12 // window, -1)
    shallow = resnet.DepthToSpace(window, crop).apply({}, deep)
    np.testing.assert_array_equal(shallow, x[:, crop : 6 - crop, crop : 12 - crop])


@pytest.mark.parametrize(("shape", "features"), [((7, 5, 3), 4), ((1, 2, 2), 1)])
def test_upsample_conv_is_a_transposed_convolution(shape, features):
    x = images(2, shape)
    transposed = nn.ConvTranspose(features, (4, 4), (2, 2))
    params = drawn(transposed, x)["params"]
    params["bias"] = jnp.arange(features) + 1.0
    kernel = np.zeros((2, 2, shape[-1], 2, 2, features), np.float32)
    for s, t, i, j in itertools.product(range(2), repeat=4):
        kernel[s, t, :, i, j] = params["kernel"][2 * s + 1 - i, 2 * t + 1 - j]
    same = {"kernel": kernel.reshape(2, 2, shape[-1], 4 * features), "bias": jnp.tile(params["bias"], 4)}
    layer = resnet.UpsampleConv(features)
    assert shapes(layer, x)[1] == {"conv": jax.tree.map(jnp.shape, same)}
    y = run(layer, {"params": {"conv": same}}, x)
    np.testing.assert_allclose(y, run(transposed, {"params": params}, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("normalisation", mostly_slow(NORMALIZATIONS))
def test_residual_block_starts_as_the_identity(normalisation):
    x = images(2, (4, 4, 8))
    block = resnet.ResidualBlock(normalisation=normalisation)
    variables = block.init(jax.random.key(0), x)
    np.testing.assert_array_equal(run(block, variables, x), x)
    assert np.abs(run(block, drawn(block, x), x) - x).max() > 0.01


def test_residual_block_is_the_pre_activation_formula():
    """x + W1 relu(W0 relu(x) + b0) + b1 with kernels that are 0 but in their middle."""
    x, rng = images(2, (4, 5, 3)), np.random.default_rng(1)
    w = rng.normal(size=(2, 3, 3)).astype(np.float32)
    block = resnet.ResidualBlock(normalisation="none")
    params = drawn(block, x)["params"]
    for i in range(2):
        params[f"conv_{i}"]["kernel"] = jnp.zeros((3, 3, 3, 3)).at[1, 1].set(w[i])
    b0, b1 = params["conv_0"]["bias"], params["conv_1"]["bias"]
    expected = x + np.maximum(np.maximum(x, 0) @ w[0] + b0, 0) @ w[1] + b1
    np.testing.assert_allclose(run(block, {"params": params}, x), expected, rtol=1e-5, atol=1e-5)


def test_batch_statistics_are_of_the_batch_and_the_image_and_change_in_training_only():
    x = images(4, (4, 4, 8)) * 2 + 1
    block = resnet.ResidualBlock(normalisation="batch")
    variables = drawn(block, x)
    _, trained = run(block, variables, x, train=True, mutable="batch_stats")
    old, new = (v["batch_stats"]["norm_0"]["batch"] for v in (variables, trained))
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * x.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * x.var((0, 1, 2)), rtol=1e-4)
    _, same = run(block, variables, x, train=False, mutable="batch_stats")
    jax.tree.map(np.testing.assert_array_equal, same["batch_stats"], variables["batch_stats"])


@pytest.mark.slow
def test_batch_normalisation_on_four_devices_is_that_of_one():
    x = images(8)
    part = RESNET | {"normalisation": "batch"}
    parts = part, {"name": "dense", "features": 5}, part
    one, four = (build(*parts, axis_name=name) for name in (None, "devices"))
    variables = drawn(one, x)

    def train(model):
        def step(variables, x):
            output, new = model.apply(variables, x, train=True, mutable="batch_stats")
            return output.decoded, new["batch_stats"]

        return step

    decoded, stats = jax.jit(train(one))(variables, x)
    mapped = jax.pmap(
        train(four), axis_name="devices", in_axes=(None, 0), out_axes=(0, None), devices=jax.devices()[:4]
    )
    decoded_4, stats_4 = mapped(variables, x.reshape(4, 2, *x.shape[1:]))
    np.testing.assert_allclose(decoded_4.reshape(decoded.shape), decoded, rtol=1e-4, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), stats_4, stats)


# Transformers.


@pytest.mark.parametrize(("shape", "patch"), [((8, 8, 3), 2), ((6, 9, 1), 3), ((4, 4, 2), 4)])
def test_patches_are_cut_and_put_together_row_by_row(shape, patch):
    x = images(2, shape)
    cut = vit.patchify(x, patch)
    np.testing.assert_array_equal(cut, patches_by_loops(x, patch))
    np.testing.assert_array_equal(vit.unpatchify(cut, patch, shape), x)


def test_positions_tell_every_place_row_and_column():
    rows, columns, d = 30, 20, 16
    table = vit.embed_positions((rows, columns), d)
    assert table.shape == (rows * columns, d)
    assert table.dtype == np.float32
    gaps = np.linalg.norm(table[:, None] - table[None], axis=-1) + 9 * np.eye(len(table))
    assert gaps.min() > 0.5
    grid = table.reshape(rows, columns, d)
    assert np.ptp(grid[..., : d // 2], axis=1).max() == np.ptp(grid[..., d // 2 :], axis=0).max() == 0
    for r, c, k in ((0, 0, 0), (7, 3, 1), (29, 19, 3)):
        angles = np.array([r, c]) / 10000 ** (k / (d // 4))
        expected = [np.sin(angles[0]), np.cos(angles[0]), np.sin(angles[1]), np.cos(angles[1])]
        np.testing.assert_allclose(grid[r, c, k :: d // 4], expected, atol=1e-6)


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_is_the_formula(heads):
    """softmax(Q K^T / sqrt(d)) V of each head, in numpy."""
    x, c = images(2, (5, 8)), 8
    attention = vit.Attention(heads)
    variables = drawn(attention, x)
    p = jax.tree.map(np.asarray, variables["params"])
    q, k, v = np.split(x @ p["qkv"]["kernel"] + p["qkv"]["bias"], 3, -1)
    parts = []
    for head in np.split(np.arange(c), heads):
        scores = np.exp(q[..., head] @ k[..., head].swapaxes(1, 2) / np.sqrt(c / heads))
        parts.append(scores / scores.sum(-1, keepdims=True) @ v[..., head])
    expected = np.concatenate(parts, -1) @ p["out"]["kernel"] + p["out"]["bias"]
    np.testing.assert_allclose(run(attention, variables, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_transformer_blocks_are_pre_norm():
    """A block whose branches end in 0 is the identity, so only the last LayerNorm is left."""
    x = images(2, (5, 8)) * 3
    transformer = vit.Transformer(layers=2, heads=2)
    params = drawn(transformer, x)["params"]
    for i in range(2):
        for last in (params[f"attention_{i}"]["out"], params[f"dense_{i}_1"]):
            last.update(jax.tree.map(jnp.zeros_like, last))
    last = nn.LayerNorm().apply({"params": params["norm"]["layer"]}, x)
    np.testing.assert_allclose(run(transformer, {"params": params}, x), last, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_permuting_patches_with_their_positions_permutes_tokens(monkeypatch):
    x, order = images(2), np.random.default_rng(3).permutation(16)
    encoder = ViTEncoder(patch=2, features=8, heads=2)
    variables = drawn(encoder, x)
    tokens = run(encoder, variables, x)
    moved = vit.unpatchify(vit.patchify(x, 2)[:, order], 2, (8, 8, 3))
    assert np.abs(run(encoder, variables, moved) - tokens[:, order]).max() > 0.01  # positions matter
    table = vit.embed_positions((4, 4), 8)[order]
    monkeypatch.setattr(vit, "embed_positions", lambda grid, features: table)
    np.testing.assert_allclose(run(encoder, variables, moved), tokens[:, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("shape", "patch"), [((28, 28, 1), 4), ((6, 9, 3), 3), ((4, 8, 1), 4)])
def test_vit_shapes(shape, patch):
    n = shape[0] * shape[1] // patch**2
    assert shapes(ViTEncoder(patch, 12, 1, 3), images(2, shape))[0] == (2, n, 12)
    decoder = ViTDecoder(shape, patch, 8, 1, 2)
    for code in ((n, 12), (shape[0] // patch, shape[1] // patch, 12), (5,)):
        assert shapes(decoder, jnp.ones((2, *code)))[0] == (2, *shape)


def test_vit_decoder_reads_a_grid_as_its_tokens():
    z = images(2, (12, 5))
    decoder = ViTDecoder((8, 6, 1), patch=2, features=8, layers=1, heads=2)
    variables = drawn(decoder, z)
    np.testing.assert_array_equal(run(decoder, variables, z.reshape(2, 4, 3, 5)), run(decoder, variables, z))


def test_decoded_patches_lie_where_their_tokens_do():
    """Without attention a token makes its own patch alone."""
    decoder = ViTDecoder((8, 6, 1), patch=2, features=8, layers=0, heads=2)
    z = images(1, (12, 5))
    variables = drawn(decoder, z)
    gradient = jax.jit(jax.grad(lambda z, place: vit.patchify(run(decoder, variables, z), 2)[0, place].sum()))
    for place in (0, 4, 11):
        grad = gradient(z, place)
        assert np.flatnonzero(np.abs(grad[0]).sum(-1)).tolist() == [place]


# Masking.


@pytest.mark.slow
@pytest.mark.parametrize(("ratio", "visible"), [(0.75, 4), (0.1, 14)])
def test_the_mask_marks_exactly_the_patches_that_nothing_depends_on(ratio, visible):
    x, keys = images(3), keys_of(3)
    encoder = ViTEncoder(patch=2, features=8, layers=1, heads=2, mask_ratio=ratio)
    variables = drawn(encoder, x)
    h = run(encoder, variables, x, keys=keys)
    assert isinstance(h, Tokens)
    assert h.tokens.shape == (3, visible, 8)
    mask = np.asarray(MaskedBottleneck(6).init_with_output(jax.random.key(0), h)[0].mask)
    assert mask.shape == (3, 4, 4)
    assert (mask.reshape(3, -1).sum(1) == 16 - visible).all()
    weights = images(3, (visible, 8), seed=1)
    grad = jax.jit(jax.grad(lambda x: (run(encoder, variables, x, keys=keys).tokens * weights).sum()))(x)
    hidden = patches_by_loops(np.asarray(grad), 2) == 0
    np.testing.assert_array_equal(hidden, np.broadcast_to(mask.reshape(3, 16, 1) == 1, hidden.shape))
    noisy = x + vit.unpatchify(np.repeat(mask.reshape(3, 16, 1), 12, 2), 2, (8, 8, 3)) * images(seed=2)
    np.testing.assert_array_equal(run(encoder, variables, noisy, keys=keys).tokens, h.tokens)


def masks(keys, train=False):
    encoder = ViTEncoder(patch=2, features=8, layers=0, heads=2, mask_ratio=0.75)
    x = jnp.zeros((len(keys), 8, 8, 3))
    variables = drawn(encoder, x[:1])
    return np.asarray(run(encoder, variables, x, keys=keys, train=train).order >= 4)


@pytest.mark.slow
def test_the_mask_is_the_own_keys_alone():
    keys = keys_of(5)
    whole = masks(keys)
    np.testing.assert_array_equal(masks(keys[::-1])[::-1], whole)
    np.testing.assert_array_equal(masks(keys[2:3])[0], whole[2])
    np.testing.assert_array_equal(masks(keys, train=True), whole)
    assert len(np.unique(whole, axis=0)) == 5
    assert np.any(masks(keys_of(5, seed=6)) != whole)


def test_every_patch_is_hidden_as_often():
    n = 2000
    share = masks(keys_of(n)).mean(0)
    np.testing.assert_allclose(share, 0.75, atol=5 * np.sqrt(0.75 * 0.25 / n))  # five standard deviations


def test_tokens_return_to_their_places_and_mask_tokens_fill_the_others():
    """Without attention, a token is the same whether other patches are hidden or not."""
    x, keys = images(3), keys_of(3)
    encoder, whole = (ViTEncoder(patch=2, features=8, layers=0, heads=2, mask_ratio=r) for r in (0.75, 0.0))
    bottleneck = MaskedBottleneck(6)
    params = drawn(encoder, x)
    h = run(encoder, params, x, keys=keys)
    variables = drawn(bottleneck, h)
    code, plain = run(bottleneck, variables, h), run(bottleneck, variables, run(whole, params, x))
    assert plain.mask is None
    assert code.z.dtype == code.mask.dtype == jnp.float32
    expected = np.where(
        code.mask.reshape(3, 16, 1) == 1, variables["params"]["mask"]["token"], np.asarray(plain.z).reshape(3, 16, 6)
    )
    np.testing.assert_allclose(code.z, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_without_keys_nothing_is_hidden():
    x = images(3)
    masking, plain = (ViTEncoder(patch=2, features=8, heads=2, mask_ratio=r) for r in (0.75, 0.0))
    variables = drawn(masking, x)
    h, tokens = run(masking, variables, x), run(plain, variables, x)
    assert h.order is None
    np.testing.assert_array_equal(h.tokens, tokens)
    np.testing.assert_array_equal(run(plain, variables, x, keys=keys_of(3)), tokens)
    bottleneck = MaskedBottleneck(6)
    z, params = bottleneck.init_with_output(jax.random.key(0), h)
    assert z.mask is None
    np.testing.assert_array_equal(run(bottleneck, params, tokens).z, z.z)


def test_mask_token_stays_out_of_the_way_of_what_is_visible():
    x, order = images(1, (2, 3)), jnp.array([[1, 3, 0, 2]])
    filled = MaskToken().apply({"params": {"token": jnp.full(3, 7.0)}}, x, order)
    np.testing.assert_array_equal(filled[0], np.stack([x[0, 1], np.full(3, 7), x[0, 0], np.full(3, 7)]))


# Both, in an autoencoder.

COMPOSED = {
    "masked": (VIT | {"mask_ratio": 0.75}, MASKED, VIT),
    "vit": (VIT, {"name": "gaussian", "features": 5}, VIT),
    "resnet": (RESNET, {"name": "conv", "features": 6}, RESNET),
    "flat": (VIT, {"name": "dense", "features": 5}, RESNET),
    "mixed": (RESNET, {"name": "conv", "features": 6}, VIT | {"patch": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPOSED)
def test_autoencoder_of_a_config_trains_every_parameter(name):
    x, keys = images(4), keys_of(4)
    model = build(*COMPOSED[name])
    variables = drawn(model, x)

    @jax.jit
    def grads(variables):
        def loss(variables):
            output = model.apply(variables, x, keys=keys, train=True)
            return jnp.square(output.decoded - x).mean(), output

        return jax.grad(loss, has_aux=True)(variables)

    grad, output = grads(variables)
    assert output.decoded.shape == x.shape
    assert (output.code.mask is not None) == (name == "masked")
    for leaf in jax.tree.leaves(grad):
        assert np.isfinite(leaf).all()
        assert np.any(np.asarray(leaf) != 0)


@pytest.mark.parametrize("name", COMPOSED)
def test_autoencoder_takes_labels(name):
    output = aejax.models.abstract_output(build(*COMPOSED[name], classes=3), (8, 8, 3), drawn=True)
    assert output.decoded.shape == (1, 8, 8, 3)


@pytest.mark.parametrize("name", COMPOSED)
def test_the_table_counts_every_parameter(name):
    model = build(*COMPOSED[name])
    params = jax.eval_shape(model.init, jax.random.key(0), images(1))["params"]
    counted = sum(row.parameters for row in aejax.models.summary(model, (8, 8, 3)))
    assert counted == sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 5, 12), (7, 12), (12,)])
def test_group_normalisation_is_flax_s(shape):
    rng = np.random.default_rng()
    x = rng.normal(rng.normal(), 2.0, (4, *shape)).astype(np.float32)
    plain, ours = nn.GroupNorm(4), GroupNorm(4)
    variables = drawn(plain, x)
    assert jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x)) == jax.tree.map(jnp.shape, variables)
    cotangent = rng.normal(size=x.shape).astype(np.float32)
    values = [jax.vjp(jax.jit(layer.apply), variables, x) for layer in (plain, ours)]
    (a, of_a), (b, of_b) = values
    np.testing.assert_allclose(a, b, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), of_a(cotangent), of_b(cotangent))
    assert GroupNorm(4, "bfloat16").apply(variables, x).dtype == jnp.bfloat16
    np.testing.assert_allclose(run(GroupNorm(4, "bfloat16"), variables, x), a, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("normalisation", mostly_slow(NORMALIZATIONS))
@pytest.mark.parametrize("block", [RESNET, VIT], ids=["resnet", "vit"])
def test_blocks_normalise_as_told(block, normalisation):
    part = block | {"normalisation": normalisation}
    model = build(part, {"name": "dense", "features": 5}, part)
    x = images(4)
    variables = drawn(model, x)
    assert ("batch_stats" in variables) == (normalisation in ("batch", "slow_batch"))
    kinds = {path[-2].key for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])}
    assert {kind for kind in NORMALIZATIONS if kind in kinds} == {normalisation.removeprefix("slow_")} - {"none"}
    assert np.isfinite(run(model, variables, x).decoded).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masked", "resnet"])
def test_examples_do_not_see_each_other(name):
    x, keys = images(3), keys_of(3)
    model = build(*COMPOSED[name])
    variables = drawn(model, x)
    grad = jax.jit(jax.grad(lambda x: run(model, variables, x, keys=keys).decoded[1].sum()))(x)
    assert [bool(np.any(np.asarray(g) != 0)) for g in grad] == [False, True, False]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masked", "resnet"])
@pytest.mark.usefixtures("bfloat16")
def test_bfloat16_computes_near_float32_with_float32_parameters(name):
    x, keys = images(4), keys_of(4)
    exact, rough = (build(*COMPOSED[name], dtype=dtype) for dtype in ("float32", "bfloat16"))
    variables = drawn(exact, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(rough.init, jax.random.key(0), x))} == {
        jnp.dtype("float32")
    }
    a, b = (run(model, variables, x, keys=keys) for model in (exact, rough))
    assert b.decoded.dtype == b.code.z.dtype == jnp.float32
    assert np.any(np.asarray(a.decoded) != np.asarray(b.decoded))  # or bfloat16 did nothing
    # 8 bits of mantissa and some twenty roundings in a row on values of about 1.
    np.testing.assert_allclose(a.decoded, b.decoded, atol=0.1)
    np.testing.assert_allclose(np.asarray(a.decoded - b.decoded).std(), 0, atol=0.02)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_takes_large_scores(dtype):
    x = 1e3 * images(2, (5, 8))
    attention = vit.Attention(2, dtype)
    variables = drawn(attention, x)
    assert np.isfinite(np.asarray(run(attention, variables, x), np.float32)).all()


@pytest.mark.parametrize(
    ("parts", "shape", "message"),
    [
        ((VIT | {"mask_ratio": 0.5}, MASKED, VIT), (9, 8, 3), r"9x8 is not divisible by 2, and .*mask_ratio"),
        ((VIT, MASKED, VIT), (5,), r"ViTEncoder reads images .*got \[1, 5\]"),
        ((VIT | {"heads": 3}, MASKED, VIT), (8, 8, 3), "3 heads cannot share 8 features"),
        ((VIT | {"features": 6}, MASKED, VIT), (8, 8, 3), "features must be a multiple of 4, .* got 6"),
        ((VIT | {"mask_ratio": 1.0}, MASKED, VIT), (8, 8, 3), r"mask_ratio must be .*below 1, got 1\.0"),
        ((VIT | {"mask_ratio": -0.1}, MASKED, VIT), (8, 8, 3), r"got -0\.1"),
        ((VIT | {"mask_ratio": "half"}, MASKED, VIT), (8, 8, 3), "got 'half'"),
        ((VIT | {"mask_ratio": 0.99}, MASKED, VIT), (8, 8, 3), r"mask_ratio=0\.99 masks all of 16 patches"),
        ((VIT | {"mask_ratio": 0.01}, MASKED, VIT), (8, 8, 3), r"mask_ratio=0\.01 masks none of 16 patches"),
        ((VIT | {"layers": 0}, MASKED, VIT), (8, 8, 3), r"encoder\.layers must be a whole number above 0"),
        (
            (VIT | {"mask_ratio": 0.5}, {"name": "dense", "features": 5}, VIT),
            (8, 8, 3),
            "needs bottleneck.name='masked'",
        ),
        (
            (VIT | {"mask_ratio": 0.5}, {"name": "conv", "features": 5}, VIT),
            (8, 8, 3),
            "needs bottleneck.name='masked'",
        ),
        ((VIT | {"mask_ratio": 0.5}, {"name": "identity"}, VIT), (8, 8, 3), "needs bottleneck.name='masked'"),
        ((VIT, MASKED, VIT | {"patch": 4}), (8, 8, 3), r"2x2 patches.*\(16, 6\).*same value"),
        (({"name": "mlp"}, {"name": "dense", "features": 5}, VIT), (6,), r"ViTDecoder makes images .*\(6,\)"),
        ((VIT | {"activation": "gelo"}, MASKED, VIT), (8, 8, 3), "did you mean 'gelu'"),
        ((RESNET, {"name": "identity"}, RESNET), (5,), r"ResNetEncoder reads images .*got \[1, 5\]"),
        ((RESNET, {"name": "identity"}, RESNET | {"features": (4, 4)}), (8, 8, 3), r"\(4, 4, 8\).*8x8"),
        ((RESNET, {"name": "identity"}, RESNET | {"features": ()}), (8, 8, 3), "at least one stage"),
        (
            ({"name": "mlp"}, {"name": "dense", "features": 5}, RESNET),
            (6,),
            r"ResNetDecoder makes images .*\(6,\)",
        ),
        ((RESNET | {"normalisation": "grup"}, MASKED, RESNET), (8, 8, 3), "did you mean 'group'"),
        ((RESNET | {"blocks": 0}, MASKED, RESNET), (8, 8, 3), r"encoder\.blocks must be a whole number above 0"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(parts, shape, message):
    with pytest.raises(aejax.InputError, match=message) as error:
        build(*parts, shape)
    assert "\n" not in str(error.value)


def test_depth_to_space_names_the_channels():
    with pytest.raises(aejax.InputError, match="6 channels"):
        resnet.DepthToSpace().apply({}, jnp.zeros((1, 2, 2, 6)))
