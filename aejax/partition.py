"""The only file that knows of devices: jit on one, pmap on several."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from aejax.errors import InputError

AXIS = "devices"


@dataclasses.dataclass(frozen=True)
class Partition:
    """Data parallelism: every device holds the state and a share of each batch.

    Attributes:
      devices: the devices to use, all local ones unless told.
    """

    devices: Sequence[jax.Device] = dataclasses.field(default_factory=jax.local_devices)

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

    def share(self, batch: Any) -> Any:
        """Puts each device's share of the leading axis on that device."""
        n = len(self.devices)
        if n == 1:
            return jax.device_put(batch, SingleDeviceSharding(self.devices[0]))
        split = jax.tree.map(lambda a: a.reshape(n, a.shape[0] // n, *a.shape[1:]), batch)
        return jax.device_put(split, NamedSharding(Mesh(np.array(self.devices), (AXIS,)), PartitionSpec(AXIS)))

    def compile(self, function: Callable) -> Callable:
        """Compiles `carry = function(carry, held, batch, reduce=...)` for the devices.

        `carry` (donated) and `held` are the same on every device, `batch` comes from `share`.
        `reduce(tree, how)`, with how "mean" or "sum", reduces a tree over the devices: what the
        function returns must be reduced, or made from what is.
        """
        if len(self.devices) == 1:
            return jax.jit(functools.partial(function, reduce=lambda tree, how: tree), donate_argnums=0)
        reduce = {"mean": jax.lax.pmean, "sum": jax.lax.psum}
        return jax.pmap(
            functools.partial(function, reduce=lambda tree, how: reduce[how](tree, AXIS)),
            axis_name=AXIS,
            in_axes=(None, None, 0),
            out_axes=None,
            devices=self.devices,
            donate_argnums=0,
        )
