"""The only file that knows of devices and processes: jit on one device, on several pmap, or jit of sharded arrays."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from aejax.errors import InputError, one_of

AXIS = "devices"
NAMES = ("pmap", "sharded")


class Partition:
    """Data parallelism: every device computes a share of each batch.

    `pmap`: every device holds the whole state. `sharded`: each holds a share of every array of the state, cut along the
    array's largest axis that the number of devices divides; the compiler gathers what a layer needs when it needs it.

    Attributes:
      devices: of all processes, those of one process next to each other.
      axis_name: of functions that `compile` maps; None where they see the whole batch.
      primary: whether this process is the one that writes what is written once.
    """

    def __init__(self, devices: Sequence[jax.Device] | None = None, name: str = "pmap"):
        """`devices` to use, those of all processes unless told."""
        if name not in NAMES:
            raise one_of("partition.name", name, NAMES)
        self.devices = tuple(sorted(devices or jax.devices(), key=lambda d: (d.process_index, d.id)))
        self._own = [i for i, d in enumerate(self.devices) if d.process_index == jax.process_index()]
        self._everywhere = len({d.process_index for d in self.devices}) > 1
        self._mesh = Mesh(np.array(self.devices), (AXIS,))
        self._whole = self._make_sharding(PartitionSpec())
        self.primary = jax.process_index() == self.devices[0].process_index
        self.sharded = name == "sharded" and len(self.devices) > 1
        self.axis_name = AXIS if len(self.devices) > 1 and not self.sharded else None
        self._in_flight: Any = ()
        self._said: Any = False
        if self._everywhere:
            self._any = self.compile(lambda carry, held, batch, reduce: (carry, reduce(batch.max(), "max")))

    def check(self, batch_size: int) -> None:
        if batch_size % len(self.devices):
            raise InputError(
                f"batch_size={batch_size} cannot be divided among {len(self.devices)} devices; "
                f"choose a multiple of {len(self.devices)}"
            )

    def own(self, batch_size: int) -> slice:
        """The examples of a batch that this process's devices compute: it reads no others."""
        each = batch_size // len(self.devices)
        return slice(self._own[0] * each, (self._own[-1] + 1) * each)

    def init(self, function: Callable, *arguments: Any) -> Any:
        """`function(*arguments)`, the state before the first step, computed where `place` would put it."""
        # One program that runs once: optimising it for a CPU took 2.8 s of a start for `conv`, and so takes 0.8.
        options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
        where = self._choose_shardings(jax.eval_shape(function, *arguments)) if self.sharded else None
        return jax.jit(function, out_shardings=where, compiler_options=options)(*arguments)

    def place(self, state: Any) -> Any:
        """Puts a state where `compile` wants it: a copy on every device, or a share; shapes stay as they are."""
        return jax.tree.map(_put, state, self._choose_shardings(state)) if self.sharded else self.replicate(state)

    def replicate(self, tree: Any) -> Any:
        """Puts a copy of `tree` on every device; shapes stay as they are."""
        if not self._everywhere:
            return jax.device_put(tree, self._whole)
        return jax.tree.map(lambda a: _put(a, self._whole), tree)

    def share(self, batch: Any, axis: int = 0) -> Any:
        """Puts each device's share of the examples, which lie along `axis`, on that device.

        Of several processes each gives the examples `own(batch_size)`.
        """
        n = len(self._own)
        if self.sharded:
            where = self._make_sharding(PartitionSpec(*[None] * axis, AXIS))
        elif len(self.devices) == 1:
            where = self._whole
        else:
            where = self._make_sharding(PartitionSpec(AXIS))
            divide = lambda a: np.moveaxis(a.reshape(*a.shape[:axis], n, -1, *a.shape[axis + 1 :]), axis, 0)  # noqa: E731
            batch = jax.tree.map(divide, batch)
        if not self._everywhere:
            return jax.device_put(batch, where)
        return jax.tree.map(lambda a: jax.make_array_from_process_local_data(where, a), batch)

    def compile(self, function: Callable) -> Callable:
        """Compiles `carry, result = function(carry, held, batch, reduce=...)` for the devices.

        `carry` (donated) is a state, see `place`, `held` too or the same on every device, `batch` comes from `share`.
        `reduce(tree, how)`, with how "mean", "sum" or "max", reduces a tree over the devices: what the
        function returns must be reduced, or made from what is. The result is the same on every device.
        """
        if len(self.devices) == 1 or self.sharded:
            alone = functools.partial(function, reduce=lambda tree, how: tree)
            return self._one_at_a_time(self._jit_sharded(alone) if self.sharded else jax.jit(alone, donate_argnums=0))
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

    def compile_whole(self, function: Callable) -> Callable:
        """Compiles `function(state, batch)` for a small batch that is not shared; its results are numpy.

        One device computes it, but where the state is sharded.
        """
        if not self.sharded:
            compiled = jax.jit(function)
            return lambda state, batch: jax.device_get(compiled(jax.device_get(state), batch))
        sharded = self._one_at_a_time(jax.jit(function, out_shardings=self._whole))
        return lambda state, batch: jax.device_get(sharded(state, self.replicate(batch)))

    def any(self, said: bool) -> bool:
        """Whether any process said so; all are told the same.

        Of several processes, what was said in the last call: the answer is on its way while the devices work.
        """
        if not self._everywhere:
            return said
        before = self._said
        self._said = self._any((), (), self.share(np.full(len(self._own), said)))[1]
        return bool(before)

    def wait(self) -> None:
        """Returns when all processes have come here."""
        self.any(False)
        jax.block_until_ready(self._said)

    def _make_sharding(self, spec: PartitionSpec) -> Sharding:
        return SingleDeviceSharding(self.devices[0]) if len(self.devices) == 1 else NamedSharding(self._mesh, spec)

    def _choose_shardings(self, tree: Any) -> Any:
        """Of each array, where its shares lie."""

        def place(a: Any) -> Sharding:
            shape, n = np.shape(a), len(self.devices)
            axis = max((i for i, size in enumerate(shape) if size % n == 0), key=lambda i: shape[i], default=None)
            return self._make_sharding(PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS))

        return jax.tree.map(place, tree)

    def _jit_sharded(self, function: Callable) -> Callable:
        @functools.cache
        def compiled() -> Callable:
            # The places of the carry are known with its shapes alone.
            def constrained(carry: Any, held: Any, batch: Any) -> Any:
                carry, result = function(carry, held, batch)
                return jax.lax.with_sharding_constraint((carry, result), (self._choose_shardings(carry), self._whole))

            return jax.jit(constrained, donate_argnums=0)

        return compiled()

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


def _put(a: Any, where: Sharding) -> jax.Array:
    """An array that every process holds, or that lies there already, without asking whether they hold the same."""
    if isinstance(a, jax.Array) and not a.is_fully_addressable:
        return jax.device_put(a, where)
    a = np.asarray(a)
    return jax.make_array_from_callback(a.shape, where, lambda index: a[index])
