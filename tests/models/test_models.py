import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import config_of
from flax import nnx

import aejax
from aejax.models import bottlenecks, decoders, encoders, layers
from aejax.models.resnet import UpsampleConv


def build(name, shape, arg="", **changes):
    config = config_of(name, arg)
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return aejax.models.build(config, shape)


# The table of the design, layer by layer.
LAYERS = {
    ("basic", "", (3,)): [(2,), (3,)],
    ("stacked", "", (5,)): [(4,), (3,), (2,), (3,), (4,), (5,)],
    ("stacked", "mnist", (28, 28, 1)): [(1000,), (500,), (250,), (30,), (250,), (500,), (1000,), (784,)],
    ("conv", "", (28, 28, 1)): [
        (28, 28, 64),
        (14, 14, 64),
        (14, 14, 128),
        (7, 7, 128),
        (7, 7, 256),
        (7, 7, 128),
        (14, 14, 128),
        (14, 14, 64),
        (28, 28, 64),
        (28, 28, 1),
    ],
}


@pytest.mark.parametrize(("name", "arg", "shape"), LAYERS)
def test_every_layer_has_the_shape_of_the_textbook(name, arg, shape):
    rows = aejax.models.summary(build(name, shape, arg), shape)
    assert [row.shape for row in rows] == LAYERS[name, arg, shape]


def test_conv_has_3x3_kernels_and_its_parameters():
    model = build("conv", (28, 28, 1))
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))["params"]
    kernels = [leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim == 4]
    assert sorted(kernels) == sorted(
        [(3, 3, 1, 64), (3, 3, 64, 128), (3, 3, 128, 256), (3, 3, 256, 128), (3, 3, 128, 64), (3, 3, 64, 1)]
    )
    assert not [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2]  # nothing is flattened
    counted = sum(row.parameters for row in aejax.models.summary(model, (28, 28, 1)))
    assert counted == sum(leaf.size for leaf in jax.tree.leaves(params)) == 739073


def test_table_names_layers_and_total():
    text = aejax.models.table(build("basic", (3,)), (3,))
    assert [line.split() for line in text.splitlines()] == [
        ["layer", "output", "parameters"],
        ["input", "3"],
        ["encoder/dense_0", "2", "8"],
        ["decoder/dense_0", "3", "9"],
        ["total", "17"],
    ]


@pytest.mark.parametrize("seed", range(3))
def test_stacked_is_the_formula(seed):
    """x W + b and the activation, layer by layer, in numpy."""
    model = build("stacked", (5,), encoder__activation="tanh", decoder__activation="tanh")
    x = np.random.default_rng(seed).normal(size=(4, 5)).astype(np.float32)
    variables = model.init(jax.random.key(seed), x)
    p = jax.tree.map(np.asarray, variables["params"])
    h = x
    for layer in (p["encoder"]["dense_0"], p["encoder"]["dense_1"]):
        h = np.tanh(h @ layer["kernel"] + layer["bias"])
    z = h @ p["bottleneck"]["dense"]["kernel"] + p["bottleneck"]["dense"]["bias"]
    output = model.apply(variables, x)
    np.testing.assert_allclose(output.code.z, z, rtol=1e-5, atol=1e-6)
    h = z
    for layer in (p["decoder"]["dense_0"], p["decoder"]["dense_1"]):
        h = np.tanh(h @ layer["kernel"] + layer["bias"])
    h = h @ p["decoder"]["dense_2"]["kernel"] + p["decoder"]["dense_2"]["bias"]
    np.testing.assert_allclose(output.decoded, h, rtol=1e-5, atol=1e-6)


def test_tied_decoder_uses_the_transposed_kernels_and_trains_them():
    model = build("stacked", (5,), decoder__tied=True, encoder__activation="linear", decoder__activation="linear")
    x = jax.random.normal(jax.random.key(1), (4, 5))
    variables = model.init(jax.random.key(0), x)
    assert {jnp.ndim(leaf) for leaf in jax.tree.leaves(variables["params"]["decoder"])} == {1}  # biases only
    encoder, bottleneck = variables["params"]["encoder"], variables["params"]["bottleneck"]
    product = encoder["dense_0"]["kernel"] @ encoder["dense_1"]["kernel"] @ bottleneck["dense"]["kernel"]
    np.testing.assert_allclose(model.apply(variables, x).decoded, x @ product @ product.T, rtol=1e-4, atol=1e-5)

    z = jax.random.normal(jax.random.key(2), (4, 2))
    grads = jax.grad(lambda v: model.apply(v, z, method="decode").sum())(variables)["params"]
    assert jnp.abs(grads["encoder"]["dense_0"]["kernel"]).max() > 0


def test_the_gradient_of_pool_goes_to_the_largest_pixel_of_a_window():
    x = jnp.eye(4).reshape(4, 2, 2, 1)  # each of four in turn
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda x: layers.Pool().apply({}, x).sum()))(x), x)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "shape"), [(2, (2, 4, 6, 3)), (2, (1, 8, 8, 1)), (3, (2, 6, 3, 2))])
@pytest.mark.parametrize("ties", [False, True])
def test_pool_equals_max_pool_with_its_gradient(k, shape, ties):
    x = jax.random.normal(jax.random.key(sum(shape)), shape)
    x = jnp.round(x) if ties else x

    def plain(x):
        return nn.max_pool(x, (k, k), (k, k))

    def pool(x):
        return layers.Pool(k).apply({}, x)

    np.testing.assert_array_equal(pool(x), plain(x))
    weights = jax.random.normal(jax.random.key(1), pool(x).shape)
    grads = [jax.grad(lambda x, f=f: (f(x) * weights).sum())(x) for f in (pool, plain)]
    np.testing.assert_array_equal(*grads)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_through_pool_does_not_depend_on_what_the_compiler_computes_twice(seed):
    x, weights = (jax.random.normal(key, (16, 8, 8, 4)) for key in jax.random.split(jax.random.key(seed)))
    layer = nn.BatchNorm(use_running_average=False)
    variables = layer.init(jax.random.key(0), x)

    def loss(x):
        y = layers.Pool().apply({}, nn.relu(layer.apply(variables, x, mutable=True)[0] * 1.1 - 0.3))
        return (y * weights[:, ::2, ::2]).sum()

    with jax.disable_jit():
        expected = jax.grad(loss)(x)
    for level in (0, 3):
        compiled = jax.jit(jax.grad(loss), compiler_options={"xla_backend_optimization_level": level})
        np.testing.assert_allclose(compiled(x), expected, atol=1e-5)


def test_upsample_repeats_pixels():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(np.float32)
    np.testing.assert_array_equal(layers.Upsample().apply({}, x), x.repeat(2, 1).repeat(2, 2))


@pytest.mark.parametrize("units", ["gated", "maxout"])
def test_units_of_dense_layers_are_their_formulas(units):
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    affine = lambda h, layer: h @ layer["kernel"] + layer["bias"]  # noqa: E731
    for module in (
        aejax.models.MLPEncoder((3, 5), "tanh", units=units),
        aejax.models.MLPDecoder((2,), (3, 5), "tanh", units=units),
    ):
        variables = jax.tree.map(lambda a: a + 0.1, module.init(jax.random.key(0), x))
        params, h = jax.tree.map(np.float64, variables["params"]), np.float64(x)
        for i in range(2):
            linear = affine(h, params[f"dense_{i}"])
            if units == "gated":
                h = np.tanh(linear / (1 + np.exp(-affine(h, params[f"gate_{i}"]))))
            else:
                h = np.tanh(np.stack([linear[:, 4 * unit : 4 * unit + 4].max(1) for unit in range((3, 5)[i])], 1))
        expected = affine(h, params["dense_2"]) if isinstance(module, aejax.models.MLPDecoder) else h
        np.testing.assert_allclose(module.apply(variables, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("arg", "z"), [("wae", 8), ("rae", 16)])
def test_dcgan_has_the_layers_of_the_papers(arg, z):
    rows = aejax.models.summary(build(arg, (28, 28, 1), "paper"), (28, 28, 1))
    sizes = {row.path: (row.shape, row.parameters) for row in rows if "norm" not in row.path}
    conv = lambda a, b: 16 * a * b + b  # noqa: E731
    assert sizes == {
        "encoder/conv_0": ((14, 14, 128), conv(1, 128)),
        "encoder/conv_1": ((7, 7, 256), conv(128, 256)),
        "encoder/conv_2": ((4, 4, 512), conv(256, 512)),
        "encoder/conv_3": ((2, 2, 1024), conv(512, 1024)),
        "bottleneck/dense": ((z,), (4 * 1024 + 1) * z),
        "decoder/project": ((7 * 7 * 1024,), 7 * 7 * 1024 * (z + 1)),
        # Four biases for each feature of a transposed convolution, of which batch normalization leaves none.
        "decoder/up_0/conv": ((8, 8, 4 * 512), conv(1024, 512) + 3 * 512),
        "decoder/up_0/shuffle": ((14, 14, 512), 0),
        "decoder/up_1/conv": ((15, 15, 4 * 256), conv(512, 256) + 3 * 256),
        "decoder/up_1/shuffle": ((28, 28, 256), 0),
        "decoder/conv": ((28, 28, 1), conv(256, 1)),
    }
    normalized = [row.path.split("/")[0] for row in rows if "norm" in row.path]
    assert normalized == ["encoder"] * 4 + ["decoder"] * 2


@pytest.mark.slow
def test_dcgan_is_what_flax_makes_of_its_parameters():
    x = jax.random.uniform(jax.random.key(0), (3, 12, 12, 2))
    encoder = aejax.models.DCGANEncoder((3, 4), normalisation="none")
    variables = encoder.init(jax.random.key(1), x)
    h = x
    for i, features in enumerate((3, 4)):
        h = nn.relu(nn.Conv(features, (4, 4), (2, 2)).apply({"params": variables["params"][f"conv_{i}"]}, h))
    np.testing.assert_allclose(encoder.apply(variables, x), h, rtol=1e-4, atol=1e-5)
    decoder = aejax.models.DCGANDecoder((12, 12, 2), (5, 4, 3), normalisation="none", output="sigmoid")
    variables = decoder.init(jax.random.key(1), jnp.zeros((3, 7)))
    z = jax.random.normal(jax.random.key(2), (3, 7))
    params = variables["params"]
    h = (z @ params["project"]["kernel"] + params["project"]["bias"]).reshape(3, 3, 3, 5)
    for i, features in enumerate((4, 3)):
        h = nn.relu(UpsampleConv(features).apply({"params": params[f"up_{i}"]}, h))
    expected = nn.sigmoid(nn.Conv(2, (4, 4)).apply({"params": params["conv"]}, h))
    np.testing.assert_allclose(decoder.apply(variables, z), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(aejax.InputError, match="14x14 is not divisible by 4"):
        aejax.models.DCGANDecoder((14, 14, 2), (5, 4, 3)).init(jax.random.key(1), z)


@pytest.mark.slow
def test_parts_alone_make_the_whole():
    shape = (8, 8, 1)
    encoder = aejax.models.ConvEncoder((4, 8))
    bottleneck = aejax.models.ConvBottleneck(6)
    decoder = aejax.models.ConvDecoder(shape, (8, 4))
    model = aejax.Autoencoder(encoder, bottleneck, decoder)
    x = jax.random.uniform(jax.random.key(0), (3, *shape))
    variables = model.init(jax.random.key(1), x)
    params = variables["params"]
    h = encoder.apply({"params": params["encoder"]}, x)
    code = bottleneck.apply({"params": params["bottleneck"]}, h)
    decoded = decoder.apply({"params": params["decoder"]}, code.z)
    whole = model.apply(variables, x)
    np.testing.assert_array_equal(whole.code.z, code.z)
    np.testing.assert_array_equal(whole.decoded, decoded)
    np.testing.assert_array_equal(model.apply(variables, code.z, method="decode"), decoded)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [("stacked", (5,)), ("conv", (8, 8, 1))])
def test_examples_do_not_see_each_other(name, shape):
    model = build(name, shape, "tiny")
    x = jax.random.uniform(jax.random.key(0), (3, *shape))
    variables = jax.jit(model.init)(jax.random.key(1), x)
    grad = jax.jit(jax.grad(lambda x: model.apply(variables, x).decoded[1].sum()))(x)
    assert [bool(jnp.any(g != 0)) for g in grad] == [False, True, False]


@pytest.mark.slow
def test_flat_code_is_projected_to_an_image():
    decoder = aejax.models.ConvDecoder((8, 8, 3), (6, 4))
    decoded, variables = decoder.init_with_output(jax.random.key(0), jnp.ones((2, 5)))
    assert decoded.shape == (2, 8, 8, 3)
    assert variables["params"]["project"]["kernel"].shape == (5, 2 * 2 * 6)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [("stacked", (5,)), ("conv", (8, 8, 1))])
@pytest.mark.usefixtures("bfloat16")
def test_bfloat16_computes_near_float32_with_float32_parameters(name, shape):
    x = jax.random.uniform(jax.random.key(0), (4, *shape))
    exact, rough = (build(name, shape, "tiny", dtype=dtype) for dtype in ("float32", "bfloat16"))
    variables = exact.init(jax.random.key(1), x)
    same = rough.init(jax.random.key(1), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(same)} == {jnp.dtype("float32")}
    a, b = exact.apply(variables, x), rough.apply(variables, x)
    assert b.decoded.dtype == b.code.z.dtype == jnp.float32
    assert np.any(np.asarray(a.decoded) != np.asarray(b.decoded))  # or bfloat16 did nothing
    np.testing.assert_allclose(a.decoded, b.decoded, atol=0.03)  # 8 bits of mantissa, a few layers


def test_works_inside_nnx():
    model = build("stacked", (5,))
    x = jnp.ones((2, 5))
    bridged = nnx.bridge.ToNNX(model, rngs=nnx.Rngs(0)).lazy_init(x)
    params = nnx.to_pure_dict(nnx.state(bridged, nnx.Param))
    np.testing.assert_array_equal(bridged(x).decoded, model.apply({"params": params}, x).decoded)


def test_overcomplete_code_is_warned_of_unless_regularised():
    config, shape = config_of("conv", ""), (28, 28, 1)

    def warn():
        model = aejax.models.build(config, shape)
        aejax.models.warn_if_overcomplete(aejax.models.abstract_output(model, shape), config)

    with pytest.warns(UserWarning, match=r"12,544 numbers and the input 784.*corruption.*l1.*bottleneck\.features"):
        warn()
    config.corruption.name = "masking"
    warn()  # a warning would be an error here
    config.corruption.name, config.objective.weights = "none", {"l1": 1e-3}
    warn()
    config.objective.weights, config.bottleneck.features = {}, 8
    warn()


@pytest.mark.parametrize(
    ("name", "shape", "changes", "message"),
    [
        ("stacked", (5,), {"encoder": {"name": "mlpp"}}, "encoder.name 'mlpp' is unknown; did you mean 'mlp'"),
        ("stacked", (5,), {"encoder": {"name": "mlp", "feature": (3,)}}, "did you mean 'features'"),
        ("stacked", (5,), {"bottleneck": {"name": "dense"}}, "needs bottleneck.features"),
        ("stacked", (5,), {"encoder": {"name": "mlp", "features": (4,), "activation": "rleu"}}, "did you mean 'relu'"),
        ("stacked", (5,), {"decoder": {"name": "mlp", "shape": (6,)}}, r"makes \(6,\) but the input is \(5,\)"),
        ("stacked", (5,), {"decoder": {"name": "mlp", "features": (9,), "tied": True}}, "mirrors the decoder"),
        ("stacked", (5,), {"encoder": {"name": "mlp", "features": (4,), "units": "gate"}}, "did you mean 'gated'"),
        (
            "stacked",
            (5,),
            {"decoder": {"name": "mlp", "features": (2, 3, 4), "tied": True, "units": "gated"}},
            "goes with neither tied nor spectral",
        ),
        ("conv", (5,), {}, r"ConvEncoder reads images .*got \[1, 5\]"),
        ("conv", (5,), {"encoder": {"name": "mlp", "features": (4,)}}, r"ConvBottleneck reads images .*got \[1, 4\]"),
        ("conv", (8, 8, 1), {"decoder": {"name": "conv", "features": (4,)}}, r"\(2, 2, 256\) does not become.*8x8"),
        (
            "conv",
            (8, 8, 1),
            {"decoder": {"name": "conv", "shape": (8, 8, 3)}},
            r"\(8, 8, 3\) but the input is \(8, 8, 1\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(name, shape, changes, message):
    config = config_of(name, "")
    for part, options in changes.items():
        config[part] = options
    with pytest.raises(aejax.InputError, match=message):
        aejax.models.build(config, shape)


def test_the_count_of_samples_is_no_array():
    """A compiled function asks for it: an array would have no truth there."""
    code = aejax.Code(jnp.zeros((3, 2, 4)), samples=3)
    assert jax.jit(lambda code: code)(code).samples == 3
    assert jax.eval_shape(lambda code: code.z[0] if code.samples else code.z, code).shape == (2, 4)


def test_pooling_alone_names_the_size():
    with pytest.raises(aejax.InputError, match="5x4"):
        layers.Pool().apply({}, jnp.zeros((1, 5, 4, 1)))


def test_every_module_is_in_its_table():
    tables = (encoders.ENCODERS, bottlenecks.BOTTLENECKS, decoders.DECODERS)
    parts = {v for v in vars(aejax.models).values() if isinstance(v, type) and issubclass(v, nn.Module)}
    assert {module for table in tables for module in table.values()} == parts - {aejax.Autoencoder}


@pytest.mark.slow
def test_the_code_is_float32_whatever_the_encoder_computes_in():
    encoder = aejax.models.MLPEncoder((4,), dtype="bfloat16")
    h = encoder.init_with_output(jax.random.key(0), jnp.ones((2, 3)))[0]
    assert h.dtype == jnp.bfloat16
    for bottleneck in (aejax.models.IdentityBottleneck(), aejax.models.DenseBottleneck(2)):
        assert bottleneck.init_with_output(jax.random.key(0), h)[0].z.dtype == jnp.float32
