"""bfloat16 on processors that have instructions for it, and on those that have none."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import assert_trees_equal, config_of, one_device

import aejax
from aejax.data import Spec
from aejax.distributed import processor
from aejax.distributed.partition import Partition
from aejax.models.conv import Conv, convolve
from aejax.models.layers import Dense
from aejax.training.multistep import compile_steps
from aejax.training.preflight import preflight
from aejax.training.task import make_task
from aejax.workdir import checkpoint

IMAGES = ("NHWC", "HWIO", "NHWC")
DENSE, CONV = Dense(3, dtype="bfloat16"), Conv(3, (3, 3), dtype="bfloat16")


@pytest.fixture(autouse=True)
def as_users(monkeypatch):
    jax.devices()  # by the suite's own flags
    monkeypatch.setenv("XLA_FLAGS", "")


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
    ("flags", "version", "dtype"),
    [
        ({"avx2"}, (0, 12, 0), "f32"),
        ({"avx2", "amx_bf16"}, (0, 12, 0), "bf16"),
        ({"avx2", "avx512_bf16"}, (0, 12, 0), "bf16"),
        ({"avx2", "avx512_bf16"}, (0, 11, 0), "f32"),
        ((), (0, 11, 0), "bf16"),
    ],
    ids=["without", "AMX", "AVX512", "older jax", "unknown"],
)
def test_computes_in_the_faster_type(monkeypatch, flags, version, dtype):
    monkeypatch.setattr(processor, "_flags", lambda: frozenset(flags))
    monkeypatch.setattr(jax, "__version_info__", version)
    assert multiplied_in(DENSE) == multiplied_in(CONV) == dtype


needs_onednn = pytest.mark.skipif(
    not processor._flags() or jax.__version_info__ < (0, 12), reason="XLA's oneDNN serves jax >= 0.12 on x86"
)


@needs_onednn
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_and_convolutions_are_those_of_onednn(dtype):
    """In float32 the values are those of the default program, up to the order of sums."""
    x = jax.random.normal(jax.random.key(0), (8, 16, 16, 32)).astype(dtype)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 32, 32)).astype(dtype) / 17

    def both(x, kernel):
        convolved = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=IMAGES)
        rows = jnp.tanh(convolved).reshape(256, -1)
        return rows @ rows.T

    with processor._suspend_storing():
        program = jax.jit(both, compiler_options=processor._choose_options()).lower(x, kernel).compile().as_text()
    assert "__onednn$convolution" in program
    assert "__onednn$matmul" in program
    tolerance = {"float32": 1e-5, "bfloat16": 0.05}[dtype]
    values, expected = (np.float32(f(x, kernel)) for f in (processor.Program(both, onednn=True), jax.jit(both)))
    np.testing.assert_allclose(values, expected, rtol=tolerance, atol=tolerance)


@needs_onednn
@pytest.mark.skipif(
    processor._flags().isdisjoint(("avx512_bf16", "amx_bf16")), reason="this processor has no instructions for bfloat16"
)
def test_gradients_of_a_convolution_are_computed_in_bfloat16():
    x, kernel = jnp.ones((8, 16, 16, 32), jnp.bfloat16), jnp.ones((3, 3, 32, 64), jnp.bfloat16)

    def gradients(x, kernel):
        y, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, (1, 1), "SAME", dimension_numbers=IMAGES), x, kernel)
        return pull(jnp.tanh(y))

    with processor._suspend_storing():
        program = jax.jit(gradients, compiler_options=processor._choose_options()).lower(x, kernel).compile().as_text()
    called = [line for line in program.splitlines() if 'custom_call_target="__onednn' in line]
    assert sum("$convolution" in line for line in called) == 2  # forward, and the gradient of x
    assert sum("$matmul" in line for line in called) == 1  # the gradient of the kernel
    assert all("(bf16[" in line for line in called)  # results


@needs_onednn
@pytest.mark.filterwarnings("ignore:the code .* holds")
@pytest.mark.parametrize(
    ("name", "shape", "dtype", "uses"),
    [
        ("conv", (8, 8, 1), "float32", True),
        ("stacked", (5,), "float32", False),
        ("stacked", (5,), "bfloat16", True),
    ],
)
def test_steps_that_convolve_or_compute_in_bfloat16_ask_for_onednn(monkeypatch, name, shape, dtype, uses):
    config = config_of(name)
    config.dtype = dtype
    monkeypatch.setattr(processor, "_flags", lambda: frozenset({"avx512_bf16"}))
    task, asked, real = make_task(config, Spec(shape)), [], jax.jit
    monkeypatch.setattr(
        jax, "jit", lambda function, **options: asked.append(options.get("compiler_options")) or real(function)
    )
    compile_steps(task, jax.random.key(0), Partition(one_device()))
    assert asked == [processor._ONEDNN if uses else None]


@needs_onednn
def test_flags_of_the_user_are_kept(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_onednn_custom_call=false")
    assert not processor._choose_options()


@needs_onednn
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_run_by_onednn_resumes_bit_for_bit(tmp_path, monkeypatch, dtype):
    """Nor does JAX warn that it cannot store the program."""
    config = config_of("conv")
    config.dtype = dtype
    monkeypatch.setattr(processor, "_flags", lambda: frozenset({"avx512_bf16"}))
    aejax.train(config, tmp_path / "whole", devices=one_device(), quiet=True)
    aejax.train(config, tmp_path / "parts", devices=one_device(), quiet=True, stop=lambda: True)
    assert checkpoint.load_newest(tmp_path / "parts").step < config.steps
    aejax.train(config, tmp_path / "parts", devices=one_device(), quiet=True)
    whole, parts = (checkpoint.load_newest(tmp_path / name) for name in ("whole", "parts"))
    assert whole.step == parts.step == config.steps
    assert_trees_equal(whole.state, parts.state)


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
    with pytest.warns(UserWarning, match="dtype=bfloat16: this processor has no instructions"):
        make_task(config, Spec((3,)))
    monkeypatch.setattr(processor, "_flags", lambda: frozenset({"amx_bf16"}))
    monkeypatch.setattr(jax, "__version_info__", (0, 12, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_task(config, Spec((3,)))


def test_flags_are_read_from_the_system():
    processor._flags.cache_clear()
    assert all(flag == flag.strip() for flag in processor._flags())


@pytest.mark.slow
def test_what_is_compiled_for_onednn_can_be_lowered(monkeypatch):
    """As `train --check` does. The suite's flags turn oneDNN off, and an unknown version of JAX has none."""
    monkeypatch.setattr(processor, "_choose_options", lambda: {"xla_backend_optimization_level": 0})
    assert preflight(config_of("conv"), one_device())["step_gib"] > 0
