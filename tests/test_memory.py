import subprocess
import sys

import pytest

from aejax import memory

FAULTS = """
import resource, sys
from aejax import memory
if sys.argv[1] == "keep":
    assert memory.keep_freed()
import jax, jax.numpy as jnp
step = jax.jit(lambda x: jax.lax.optimization_barrier(jax.lax.optimization_barrier(x + 1)[::-1] * 2).sum())
x = jnp.ones(10_000_000)
faults = []
for _ in range(30):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc alone")
def test_pages_are_taken_once():
    faults = [
        int(subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True).stdout)
        for how in ("keep", "leave")
    ]
    assert faults[0] < 100 < 5_000 < faults[1]  # a buffer of 40 MB is 9,800 pages


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert not memory.keep_freed()
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())  # musl has no mallopt
    assert not memory.keep_freed()
