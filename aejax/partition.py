"""The only file that knows of devices: jit on one, pmap on several."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from aejax.errors import InputError

AXIS = "devices"


class Partition:
    """Data parallelism: every device holds the state and a share of each batch."""

    def __init__(self, devices: Sequence[jax.Device] | None = None):
        """`devices` to use, all local ones unless told."""
        if jax.process_count() > 1:
            raise InputError("training on several processes is not there yet; launch one, with all its devices")
        self.devices = tuple(devices or jax.local_devices())
        self.axis_name = AXIS if len(self.devices) > 1 else None  # of functions that `compile` maps
        self._in_flight: Any = ()

    def check(self, batch_size: int) -> None:
        if batch_size % len(self.devices):
            raise InputError(
                f"batch_size={batch_size} cannot be divided among {len(self.devices)} devices; "
                f"choose a multiple of {len(self.devices)}"
            )

    def replicate(self, tree: Any) -> Any:
        """Puts a copy of `tree` on every device; shapes stay as they are."""
        if len(self.devices) == 1:
            return jax.device_put(tree, SingleDeviceSharding(self.devices[0]))
        return jax.device_put(tree, NamedSharding(Mesh(np.array(self.devices), (AXIS,)), PartitionSpec()))

    def share(self, batch: Any, axis: int = 0) -> Any:
        """Puts each device's share of the examples, which lie along `axis`, on that device."""
        n = len(self.devices)
        if n == 1:
            return jax.device_put(batch, SingleDeviceSharding(self.devices[0]))
        divide = lambda a: np.moveaxis(a.reshape(*a.shape[:axis], n, -1, *a.shape[axis + 1 :]), axis, 0)  # noqa: E731
        split = jax.tree.map(divide, batch)
        return jax.device_put(split, NamedSharding(Mesh(np.array(self.devices), (AXIS,)), PartitionSpec(AXIS)))

    def compile(self, function: Callable) -> Callable:
        """Compiles `carry = function(carry, held, batch, reduce=...)` for the devices.

        `carry` (donated) and `held` are the same on every device, `batch` comes from `share`.
        `reduce(tree, how)`, with how "mean", "sum" or "max", reduces a tree over the devices: what the
        function returns must be reduced, or made from what is.
        """
        if len(self.devices) == 1:
            alone = jax.jit(functools.partial(function, reduce=lambda tree, how: tree), donate_argnums=0)
            return self._one_at_a_time(alone)
        reduce = {"mean": jax.lax.pmean, "sum": jax.lax.psum, "max": jax.lax.pmax}
        mapped = jax.pmap(
            functools.partial(function, reduce=lambda tree, how: reduce[how](tree, AXIS)),
            axis_name=AXIS,
            in_axes=(None, None, 0),
            out_axes=None,
            devices=self.devices,
            donate_argnums=0,
        )
        return self._one_at_a_time(mapped)

    def _one_at_a_time(self, function: Callable) -> Callable:
        # XLA:CPU runs all devices of a process on one pool of threads: with several programs in flight, their
        # collectives can take each other's threads and wait for ever, and each holds its buffers. Accelerators queue.
        if self.devices[0].platform != "cpu":
            return function

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            jax.block_until_ready(self._in_flight)
            self._in_flight = function(*arguments)
            return self._in_flight

        return call
