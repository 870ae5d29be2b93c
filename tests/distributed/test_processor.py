"""bfloat16 on processors that have instructions for it, and on those that have none."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import config_of

from aejax.data import Spec
from aejax.distributed import processor
from aejax.models.conv import Conv
from aejax.models.layers import Dense
from aejax.training.task import make_task

DENSE, CONV = Dense(3, dtype="bfloat16"), Conv(3, (3, 3), dtype="bfloat16")


def multiplied_in(layer):
    """The type in which the layer's products and convolutions are computed, forward and backward."""
    x = jnp.ones((2, 4, 4, 9))
    variables = layer.init(jax.random.key(0), x)
    loss = lambda v, x: layer.apply(v, x).astype("float32").sum()  # noqa: E731
    program = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(variables, x))
    products = [line for line in program.splitlines() if "dot_general[" in line or "conv_general_dilated[" in line]
    assert products
    (dtype,) = {line.split("[")[0].split(":")[-1] for line in products}
    return dtype


@pytest.mark.parametrize(
    ("flags", "dense", "conv"),
    [({"avx2"}, "f32", "f32"), ({"avx2", "amx_bf16"}, "bf16", "f32"), ((), "bf16", "bf16")],
    ids=["without", "AMX", "unknown"],
)
def test_computes_in_the_faster_type(monkeypatch, flags, dense, conv):
    monkeypatch.setattr(processor, "_flags", lambda: frozenset(flags))
    assert (multiplied_in(DENSE), multiplied_in(CONV)) == (dense, conv)


@pytest.mark.parametrize("layer", [DENSE, CONV], ids=["dense", "conv"])
def test_values_and_gradients_are_those_of_bfloat16(monkeypatch, layer):
    """x and the kernel are rounded before they are widened; sums alone are in float32, as on an accelerator."""
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 9))
    variables = layer.init(jax.random.key(1), x)
    found = []
    for flags in (frozenset(), frozenset({"avx2"})):
        monkeypatch.setattr(processor, "_flags", lambda flags=flags: flags)
        loss = lambda v, x: (layer.apply(v, x).astype("float32") ** 2).sum()  # noqa: E731
        found.append((layer.apply(variables, x), jax.grad(loss, (0, 1))(variables, x)))
    assert found[1][0].dtype == jnp.bfloat16
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=0.02, atol=0.1), *found)


@pytest.mark.parametrize("flags", [frozenset(), frozenset({"avx2"})], ids=["as it is", "widened"])
@pytest.mark.parametrize(
    "layer", [Dense(1, dtype="bfloat16"), Conv(1, (1, 1), dtype="bfloat16")], ids=["dense", "conv"]
)
def test_x_and_the_kernel_are_rounded(monkeypatch, layer, flags):
    monkeypatch.setattr(processor, "_flags", lambda: flags)
    rounded, one = 1 + 2.0**-9, 1.0  # bfloat16 has 8 bits
    for x, kernel in (([rounded, -one], [one, one]), ([one, -one], [rounded, one])):
        x, kernel = jnp.array(x).reshape(1, 1, 1, 2), jnp.array(kernel)
        shape = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]["kernel"].shape
        y = layer.apply({"params": {"kernel": kernel.reshape(shape), "bias": jnp.zeros(1)}}, x)
        np.testing.assert_array_equal(y, 0)


def test_a_run_in_bfloat16_is_warned_where_it_saves_nothing(monkeypatch):
    config = config_of("basic")
    config.dtype = "bfloat16"
    monkeypatch.setattr(processor, "_flags", lambda: frozenset({"avx2"}))
    with pytest.warns(UserWarning, match="dtype=bfloat16: this processor has no matrix instructions"):
        make_task(config, Spec((3,)))
    monkeypatch.setattr(processor, "_flags", lambda: frozenset({"amx_bf16"}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_task(config, Spec((3,)))


def test_flags_are_read_from_the_system():
    processor._flags.cache_clear()
    assert all(flag == flag.strip() for flag in processor._flags())
