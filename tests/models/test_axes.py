"""Convolutional, residual and transformer blocks over one, two and three axes, and sizes that strides do not divide."""

import itertools
import warnings
from functools import partial

import flax.linen as nn
import jax
import numpy as np
import pytest
from conftest import mlp, one_device
from scipy import signal

import aejax
from aejax.data import Spec
from aejax.models import (
    ConvBottleneck,
    ConvDecoder,
    ConvEncoder,
    ResNetDecoder,
    ResNetEncoder,
    ViTDecoder,
    ViTEncoder,
    resnet,
    vit,
)
from aejax.models.layers import Pool
from aejax.training.task import make_task

SIZES = {1: (12,), 2: (8, 4), 3: (4, 8, 4)}
ODD = {1: (11,), 2: (7, 5), 3: (3, 7, 5)}


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def variables_of(module, *args):
    """Variables from numpy, none of them 0."""
    rng = np.random.default_rng(9)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
    scale = lambda leaf: max(1, np.prod(leaf.shape[:-1])) ** -0.5  # noqa: E731
    return jax.tree.map(lambda leaf: (rng.normal(size=leaf.shape) * scale(leaf)).astype(np.float32), shapes)


def run(module, variables, *args):
    return np.asarray(jax.jit(module.apply)(variables, *args))


def correlate(x, layer):
    """A convolution with stride 1 and zeros around x, channel by channel, by scipy."""
    kernel, y = np.float64(layer["kernel"]), []
    for feature in range(kernel.shape[-1]):
        channels = range(x.shape[-1])
        y.append([sum(signal.correlate(row[..., c], kernel[..., c, feature], "same") for c in channels) for row in x])
    return np.moveaxis(np.array(y), 0, -1) + layer["bias"]


def pool(x):
    for axis in range(1, x.ndim - 1):
        x = np.maximum(*(x.take(range(i, x.shape[axis], 2), axis) for i in (0, 1)))
    return x


def enlarge(x):
    for axis in range(1, x.ndim - 1):
        x = x.repeat(2, axis)
    return x


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_conv_is_computed_by_scipy(axes):
    x = draw(2, *SIZES[axes], 2)
    encoder, decoder = ConvEncoder((3, 4)), ConvDecoder((*SIZES[axes], 2), (4, 3))
    of_encoder = variables_of(encoder, x)
    z = run(encoder, of_encoder, x)
    wanted = np.float64(x)
    for i in range(2):
        wanted = pool(np.maximum(correlate(wanted, of_encoder["params"][f"conv_{i}"]), 0))
    np.testing.assert_allclose(z, wanted, rtol=1e-4, atol=1e-5)
    of_decoder = variables_of(decoder, z)
    for i in range(2):
        wanted = enlarge(np.maximum(correlate(wanted, of_decoder["params"][f"conv_{i}"]), 0))
    wanted = correlate(wanted, of_decoder["params"]["conv_2"])
    np.testing.assert_allclose(run(decoder, of_decoder, z), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_resnet_is_computed_by_scipy(axes):
    """Strides of 2 read at odd places, since zeros are added at the end alone; the block is x + conv relu conv relu."""
    x = draw(2, *SIZES[axes], 2)
    encoder = ResNetEncoder((4,), normalisation="none")
    variables = variables_of(encoder, x)
    layers = variables["params"]
    h = correlate(np.float64(x), layers["downsample_0"])[(slice(None), *[slice(1, None, 2)] * axes)]
    block = np.maximum(correlate(np.maximum(h, 0), layers["block_0_0"]["conv_0"]), 0)
    wanted = np.maximum(h + correlate(block, layers["block_0_0"]["conv_1"]), 0)
    np.testing.assert_allclose(run(encoder, variables, x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axes", [1, 3])
def test_upsampling_is_a_transposed_convolution(axes):
    x, features = draw(2, *ODD[axes], 2), 3
    transposed = nn.ConvTranspose(features, (4,) * axes, (2,) * axes)
    params = variables_of(transposed, x)["params"]
    kernel = np.zeros((*(2,) * axes, 2, *(2,) * axes, features), np.float32)
    for place in itertools.product(range(2), repeat=2 * axes):
        taps, pixel = place[:axes], place[axes:]
        at = tuple(2 * s + 1 - i for s, i in zip(taps, pixel, strict=True))
        kernel[(*taps, slice(None), *pixel)] = params["kernel"][at]
    same = {"kernel": kernel.reshape(*(2,) * axes, 2, -1), "bias": np.tile(params["bias"], 2**axes)}
    y = run(resnet.UpsampleConv(features), {"params": {"conv": same}}, x)
    np.testing.assert_allclose(y, run(transposed, {"params": params}, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axes", [1, 3])
def test_a_transformer_reads_patches_at_their_places(axes):
    sizes, patch, features = SIZES[axes], 2, 12
    x = draw(2, *sizes, 2)
    grid = [size // patch for size in sizes]
    places = list(itertools.product(*map(range, grid)))
    cut = np.stack(
        [x[(slice(None), *(slice(patch * i, patch * i + patch) for i in place))].reshape(2, -1) for place in places], 1
    )
    np.testing.assert_array_equal(vit.patchify(x, patch), cut)
    np.testing.assert_array_equal(vit.unpatchify(cut, patch, x.shape[1:]), x)
    table = vit.embed_positions(grid, features)
    waves = features // (2 * axes)
    for place, row in zip(places, table, strict=True):
        angles = np.outer(place, 10000.0 ** (-np.arange(waves) / waves))
        wanted = np.concatenate([np.sin(angles), np.cos(angles)], 1)
        np.testing.assert_allclose(row, wanted.ravel(), rtol=1e-4, atol=1e-5)
    encoder = ViTEncoder(patch, features, layers=1, heads=2)
    params = variables_of(encoder, x)["params"]
    tokens = cut @ params["embed"]["kernel"] + params["embed"]["bias"] + table
    wanted = run(vit.Transformer(1, 2), {"params": params["transformer"]}, tokens)
    np.testing.assert_allclose(run(encoder, {"params": params}, x), wanted, rtol=1e-4, atol=1e-4)


ENCODERS = {
    "conv": (ConvEncoder((3, 4)), partial(ConvDecoder, features=(4, 3)), 4),
    "resnet": (ResNetEncoder((4, 4), normalisation="layer"), partial(ResNetDecoder, features=(4, 4)), 4),
    "vit": (ViTEncoder(2, 12, 1, 2), partial(ViTDecoder, patch=2, features=12, layers=1, heads=2), 2),
}


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("name", ENCODERS)
def test_sizes_that_strides_do_not_divide_are_padded_by_zeros_and_cropped(name, axes):
    encoder, decoder, factor = ENCODERS[name]
    x = draw(2, *ODD[axes], 2)
    variables = variables_of(encoder, x)
    z = run(encoder, variables, x)
    whole = np.pad(x, [(0, 0), *((0, -size % factor) for size in ODD[axes]), (0, 0)])
    np.testing.assert_array_equal(z, run(encoder, variables, whole))
    small, large = (decoder(shape) for shape in (x.shape[1:], whole.shape[1:]))
    variables = variables_of(small, z)
    y = run(small, variables, z)
    assert y.shape == x.shape
    inside = (slice(None), *(slice(size) for size in ODD[axes]))
    np.testing.assert_array_equal(y, run(large, variables, z)[inside])
    if name == "vit":  # a flat code gets a token for each patch, those at the edge too
        assert jax.eval_shape(small.init_with_output, jax.random.key(0), draw(2, 5))[0].shape == x.shape


def causal_model(name, causal):
    if name == "conv":
        parts = ConvEncoder((4, 4), normalisation="layer", causal=causal), ConvDecoder
        options = {"features": (4, 4), "normalisation": "layer"}
    else:
        parts = ResNetEncoder((4, 4), normalisation="none", causal=causal), ResNetDecoder
        options = {"features": (4, 4), "normalisation": "none"}
    return aejax.Autoencoder(parts[0], ConvBottleneck(3, causal=causal), parts[1]((13, 2), causal=causal, **options))


@pytest.mark.parametrize("name", ["conv", "resnet"])
def test_a_causal_output_does_not_change_with_later_inputs(name):
    x = draw(1, 13, 2)
    for causal in (True, False):
        model = causal_model(name, causal)
        variables = variables_of(model, x)
        slopes = jax.jit(jax.jacrev(lambda x: model.apply(variables, x).decoded))(x)  # noqa: B023
        reads = np.abs(slopes[0, :, :, 0]).sum((1, 3)) > 0  # [time of the output, time of the input]
        assert np.triu(reads, 1).any() != causal
        assert (np.tril(reads).sum(1) > 0).all()


def test_causal_convolutions_are_told_from_what_is_not():
    for options, shape, message in (
        ({"causal": True}, (1, 8, 8, 2), "causal=True pads the past of one axis, time, and the data has 2"),
        ({"causal": True, "normalisation": "group"}, (1, 8, 2), "'group' averages over all times, also later ones"),
    ):
        with pytest.raises(aejax.InputError, match=message):
            jax.eval_shape(ConvEncoder((4,), **options).init, jax.random.key(0), draw(*shape))


def test_a_causal_pool_reads_the_position_and_the_one_before():
    x = draw(1, 6, 1)
    y = run(Pool(2, causal=True), {}, x)[0, :, 0]
    np.testing.assert_array_equal(y, [x[0, 0, 0], x[0, 1:3].max(), x[0, 3:5].max()])


@pytest.mark.parametrize("axes", [1, 3])
def test_the_gradient_of_a_pool_goes_to_the_first_of_the_largest(axes):
    x = np.random.default_rng(1).integers(0, 2, (3, *SIZES[axes], 2)).astype(np.float32)
    window, apart = (2,) * axes, [part for size in SIZES[axes] for part in (size // 2, 2)]
    gradient = jax.grad(lambda x: Pool().apply({}, x).sum())(x)
    np.testing.assert_array_equal(run(Pool(), {}, x), nn.max_pool(x, window, window))
    last = range(2, 2 * axes + 1, 2)
    order = (0, *range(1, 2 * axes, 2), 2 * axes + 1, *last)
    rows, marks = (a.reshape(3, *apart, 2).transpose(order).reshape(-1, 2**axes) for a in (x, np.asarray(gradient)))
    np.testing.assert_array_equal(marks, np.eye(2**axes)[rows.argmax(1)])


@pytest.mark.parametrize("length", [4, 40])
def test_series_shorter_than_the_receptive_field_are_told(length, recwarn):
    config = mlp(
        encoder=aejax.config.module("conv", features=(4, 4)), decoder=aejax.config.module("conv", features=(4, 4))
    )
    make_task(config, Spec((length, 2), kind="sequence"))
    said = [str(each.message) for each in recwarn if "receptive" in str(each.message)]
    assert len(said) == (length == 4)
    assert all(
        "has 4 time steps, and a position of the encoder's code reads 10, its receptive" in each for each in said
    )


@pytest.mark.slow
@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("name", ENCODERS)
def test_training_is_the_same_on_four_devices_with_remat_and_near_in_bfloat16(name, axes):
    x = draw(40, *ODD[axes], 2)
    options = {"patch": 2, "features": 12, "heads": 2, "layers": 1} if name == "vit" else {"features": (4,)}
    part = lambda **more: aejax.config.module(name, **options, **more)  # noqa: E731
    kind = {1: "sequence", 3: "volume"}[axes]
    runs = {}
    for how, devices, changes, more in (
        ("one", one_device(), {}, {}),
        ("four", None, {}, {}),
        ("remat", one_device(), {}, {"remat": True}),
        ("bfloat16", one_device(), {"dtype": "bfloat16"}, {}),
    ):
        config = mlp(steps=3, data__kind=kind, encoder=part(**more), decoder=part(**more), **changes)
        with warnings.catch_warnings(action="ignore"):  # of a code that can learn to copy, and of bfloat16
            runs[how] = aejax.fit(config, x, devices=devices, quiet=True).reconstruct(x)
    np.testing.assert_allclose(runs["four"], runs["one"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(runs["remat"], runs["one"], rtol=1e-4, atol=1e-4)
    assert 0 < np.abs(runs["bfloat16"] - runs["one"]).max() < 0.1 * np.abs(runs["one"]).max() + 0.05
