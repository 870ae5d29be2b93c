import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mostly_slow
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from aejax.workdir import checksums


def test_it_is_what_it_says():
    """Words 1, 2, 3 by 1, 3, 5; and past the first block."""
    assert checksums.compute_checksums({"a": np.array([[1, 2, 3]], np.int32)}) == {"a": f"int32[1,3] {1 + 6 + 15:08x}"}
    words = np.random.default_rng().integers(2**32, size=200_000, dtype=np.uint32)
    total = sum(int(word) * (2 * i + 1) for i, word in enumerate(words)) % 2**32
    assert checksums.compute_checksums({"a": words}) == {"a": f"uint32[200000] {total:08x}"}


@pytest.mark.parametrize(
    "dtype", mostly_slow(["float32", "bfloat16", "float16", "int32", "uint8", "bool"], "bfloat16", "bool")
)
@pytest.mark.parametrize("shape", [(), (8,), (3, 8), (4, 2, 5), (0, 4)])
def test_shares_on_devices_sum_up_to_the_whole(dtype, shape):
    whole = jnp.asarray(np.random.default_rng().normal(size=shape) * 3, dtype)
    mesh = Mesh(np.array(jax.devices()), ("devices",))
    for axis, size in enumerate(shape):
        if size % 4 == 0:
            where = NamedSharding(mesh, PartitionSpec(*[None] * axis, "devices"))
            shared = jax.device_put(whole, where)
            assert not shared.is_fully_replicated
            assert checksums.compute_checksums({"a": shared, "b": whole}) == checksums.compute_checksums(
                {"a": np.asarray(whole), "b": whole}
            )


def test_every_bit_counts_and_so_do_order_shape_and_kind():
    a = np.random.default_rng().normal(size=(70, 1000)).astype(np.float32)
    before = checksums.compute_checksums({"a": a})
    for place in np.random.default_rng().integers(a.size, size=20):
        for bit in range(32):
            flipped = a.copy()
            flipped.reshape(-1).view(np.uint32)[place] ^= np.uint32(1 << bit)
            assert checksums.compute_checksums({"a": flipped}) != before
    for other in (a[::-1], a.reshape(1000, 70), a.view(np.int32), a[:-1]):
        assert checksums.compute_checksums({"a": other}) != before
