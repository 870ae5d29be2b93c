"""Every form of a convolution equals nn.Conv: forward, gradients, tangents, and its parameters are nn.Conv's."""

import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mostly_slow

from aejax.models.conv import Conv, _map_taps
from aejax.models.layers import Upsample

# Image, kernel, features, further arguments, batch.
CASES = {
    "one channel": ((6, 8, 1), (3, 3), 5, {}, 3),
    "one channel, wide": ((7, 5, 1), (5, 3), 2, {}, 2),
    "channels": ((6, 4, 8), (3, 3), 9, {}, 5),
    "one feature": ((6, 4, 3), (3, 3), 1, {}, 5),
    "edges": ((6, 4, 8), (2, 5), 9, {"padding": ((0, 2), (3, 1))}, 5),
    "wide": ((5, 7, 9), (5, 3), 10, {}, 2),
    "few channels": ((6, 4, 3), (3, 3), 9, {}, 5),
    "few features": ((6, 4, 8), (3, 3), 4, {}, 5),
    "strides": ((8, 8, 3), (3, 3), 4, {"strides": 2}, 6),
    "even": ((5, 5, 8), (2, 2), 9, {"padding": "VALID"}, 5),
    "even, same": ((6, 6, 1), (4, 4), 2, {}, 5),
    "taps": ((5, 4, 8), (2, 2), 9, {"padding": "VALID"}, 5),
    "one tap": ((4, 3, 8), (1, 1), 9, {}, 5),
    "one channel, dilated": ((9, 9, 1), (3, 3), 2, {"kernel_dilation": 2}, 5),
    "taps, groups": ((5, 4, 4), (2, 2), 4, {"padding": "VALID", "feature_group_count": 2}, 5),
    "sequence": ((8, 3), (3,), 2, {}, 5),
    "volume": ((3, 4, 2, 2), (3, 1, 3), 3, {}, 5),
    "volume, edges": ((3, 4, 2, 2), (2, 1, 3), 3, {"padding": ((0, 2), (1, 0), (1, 1))}, 2),
    "volume, one channel": ((3, 4, 2, 1), (3, 2, 3), 3, {"padding": ((1, 1), (0, 0), (2, 0))}, 2),
    "volume, one feature": ((3, 4, 2, 3), (3, 2, 3), 1, {"padding": ((0, 2), (1, 0), (1, 1))}, 2),
    "volume, strides": ((4, 4, 2, 2), (3, 3, 3), 3, {"strides": 2}, 2),
    "dilated": ((9, 9, 2), (3, 3), 2, {"kernel_dilation": 2}, 5),
    "groups": ((6, 6, 4), (3, 3), 4, {"feature_group_count": 2}, 5),
}


def fresh():
    return jax.random.key(np.random.default_rng().integers(2**31))


def both(case, enlarged=False, **more):
    """The plain layer's function and ours, of (variables, x), with drawn variables and x."""
    shape, kernel, features, options, batch = case
    keys = jax.random.split(fresh(), 3)
    x = jax.random.normal(keys[0], (batch, *shape))
    plain = nn.Conv(features, kernel, **options, **more)
    ours = Conv(features, kernel, enlarged=enlarged, **options, **more)
    enlarge = Upsample().apply if enlarged else lambda variables, x: x
    big = jax.eval_shape(enlarge, {}, x)
    variables = jax.jit(plain.init)(keys[1], jnp.zeros(big.shape))
    assert jax.tree.map(jnp.shape, jax.eval_shape(ours.init, keys[1], big)) == jax.tree.map(jnp.shape, variables)
    variables = jax.tree.map(lambda a: a + jax.random.normal(keys[2], a.shape), variables)
    return (lambda v, x: plain.apply(v, enlarge({}, x))), (lambda v, x: ours.apply(v, enlarge({}, x))), variables, x


def close(a, b):
    """To float32 tolerance of sums of some hundred products of order 1."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), a, b)


def compare(plain, ours, variables, x):
    rng = np.random.default_rng()
    normal = lambda a: rng.normal(size=a.shape).astype(np.float32)  # noqa: E731
    tangents, cotangent = jax.tree.map(normal, (variables, x)), normal(jax.eval_shape(plain, variables, x))

    def compute(function, variables, x):
        """Returns values, tangents, and gradients, those of the variables also without those of the image."""
        alone = jax.grad(lambda v: (function(v, x) * cotangent).sum())(variables)
        both = jax.vjp(function, variables, x)[1](cotangent)
        return function(variables, x), jax.jvp(function, (variables, x), tangents), both, alone

    # One program for each: compiled one by one, the operations take several times as long.
    close(*(jax.jit(partial(compute, function))(variables, x) for function in (plain, ours)))


@pytest.mark.parametrize("name", mostly_slow(CASES, "groups"))
def test_equals_the_plain_layer(name):
    compare(*both(CASES[name]))


@pytest.mark.parametrize("size", mostly_slow(["3x3", "1x1", "5x5", "3x7", "2x2"]))
@pytest.mark.parametrize(("channels", "features"), mostly_slow([(1, 2), (8, 3), (3, 1)]))
def test_of_an_enlarged_image(size, channels, features):
    kernel = tuple(int(length) for length in size.split("x"))
    compare(*both(((3, 4, channels), kernel, features, {}, 6), enlarged=True))


@pytest.mark.parametrize("size", mostly_slow(["3x3x1", "3", "5", "3x1x3", "1x5x3"]))
@pytest.mark.parametrize(("channels", "features"), mostly_slow([(8, 1), (2, 9), (1, 1)]))
def test_of_an_enlarged_sequence_or_volume(size, channels, features):
    kernel = tuple(int(length) for length in size.split("x"))
    sizes = {1: (5,), 3: (2, 3, 4)}[len(kernel)]
    compare(*both(((*sizes, channels), kernel, features, {}, 3), enlarged=True))


def test_the_gradient_of_an_enlarged_image_is_not_written_out_among_zeros():
    """As a slice of one pixel in each window has it, which took three times as long as the rest."""
    _, ours, variables, x = both(CASES["one feature"], enlarged=True)
    program = jax.jit(jax.grad(lambda x: jnp.sin(ours(variables, x)).sum())).lower(x).compile().as_text()
    assert "f32[5,6,2,4,2,3]" not in program
    assert "f32[5,12,8,3]" not in program


@pytest.mark.slow
def test_second_derivatives():
    """Of a sine of what stays of order 1, as `close` needs it: of 72 products the sum is of order 10."""
    plain, ours, variables, x = both(CASES["channels"])
    penalty = lambda f: lambda v: jnp.square(jax.grad(lambda x: jnp.sin(f(v, x) / 10).sum())(x)).sum()  # noqa: E731
    close(jax.grad(penalty(plain))(variables), jax.grad(penalty(ours))(variables))


@pytest.mark.slow
def test_of_many_models_at_once():
    plain, ours, variables, x = both(CASES["channels"])
    many = jax.tree.map(lambda a: jnp.stack([a, 2 * a, a - 1]), variables)
    close(*(jax.vmap(jax.grad(lambda v, f=f: jnp.sin(f(v, x)).sum()))(many) for f in (plain, ours)))


@pytest.mark.slow
@pytest.mark.usefixtures("bfloat16")
def test_in_bfloat16():
    plain, ours, variables, x = both(CASES["channels"], enlarged=True, dtype=jnp.bfloat16)
    assert ours(variables, x).dtype == jnp.bfloat16
    # Eight bits of mantissa, and taps that are added before the product.
    np.testing.assert_allclose(*(np.float32(f(variables, x)) for f in (plain, ours)), rtol=0.05, atol=0.3)


def test_taps_read_what_upsampling_shows():
    for size in (1, 3, 5, 7):
        taps, padding = _map_taps(size)
        small = np.random.default_rng().integers(1, 100, 6)
        large = np.pad(np.repeat(small, 2), size // 2)
        padded = np.pad(small, padding)
        for r in range(7):  # corners
            for side in (0, 1):
                pixel = 2 * r - 1 + side
                if 0 <= pixel < 12:
                    read = taps[side].T @ padded[r : r + taps.shape[1]]
                    np.testing.assert_array_equal(read, large[pixel : pixel + size])


def test_products_are_of_two_dimensions_and_their_input_is_computed_once():
    """As XLA:CPU needs it; otherwise the same numbers come, but later."""
    _, ours, variables, x = both(CASES["channels"])
    program = str(jax.make_jaxpr(jax.grad(lambda v: ours(v, x).sum()))(variables))
    products = re.findall(r"dot_general\[.*?dimension_numbers=(.*?)\n", program, re.DOTALL)
    assert products == ["(([1], [0]), ([], []))"]
    assert program.count("= optimization_barrier") == 1


@pytest.mark.slow
def test_forms_are_used(monkeypatch):
    """Products for the gradients of kernels, patches for one channel, the plain form with strides: as programs say."""

    def convolutions(name, enlarged=False):
        _, ours, variables, x = both(CASES[name], enlarged)
        text = str(jax.make_jaxpr(jax.grad(lambda v: ours(v, x).sum()))(variables))
        return len(re.findall(r"conv_general_dilated\w*\[", text))

    assert convolutions("one channel") == 0
    assert convolutions("strides") == 2  # forward and backwards
    assert convolutions("channels") == convolutions("edges") == 1  # backwards products
    assert convolutions("few channels") == convolutions("few features") == 2
    assert convolutions("channels", enlarged=True) == 1  # likewise, of the corners
    assert convolutions("one feature", enlarged=True) == 0
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert convolutions("one channel") == convolutions("one feature", enlarged=True) == 0
    assert convolutions("channels") == convolutions("channels", enlarged=True) == 2
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert convolutions("one channel") == convolutions("channels", enlarged=True) == 2
