"""Data parallelism over devices and processes: jit on one device; pmap, or jit of sharded arrays, on several."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax import dtypes
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from jaxtyping import PyTree

from aejax.distributed.processor import Program
from aejax.errors import InputError

AXIS = "devices"


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled function `carry, result = function(carry, held, batch)`, see `Partition.compile`.

    Attributes:
      run: runs it.
      compile: takes the arguments, or their shapes and shardings, and returns JAX's program, which calls with such
        arguments then need not compile.
    """

    run: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]
    compile: Callable[..., Any]

    def __call__(self, carry: PyTree, held: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
        return self.run(carry, held, batch)


class Partition:
    """Division of batches, and optionally of the state, among devices.

    `pmap` replicates the state on every device. `sharded` divides each array of the state along its largest axis that
    the number of devices divides; the compiler gathers the arrays of a layer when the layer needs them.

    Attributes:
      devices: the devices of all processes, ordered by process.
      axis_name: axis of the functions that `compile` maps; None if they see the whole batch.
      primary: whether this process writes the files that only one process writes.
      sharded: whether the state is divided.
    """

    def __init__(self, devices: Sequence[jax.Device] | None = None, name: str = "pmap"):
        """Uses `devices`, by default those of all processes, as `name` says: "pmap" or "sharded"."""
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
        """Raises InputError if the devices cannot divide a batch evenly."""
        if batch_size % len(self.devices):
            raise InputError(f"batch_size={batch_size} must be a multiple of the {len(self.devices)} devices")

    def own(self, batch_size: int) -> slice:
        """Returns the slice of a batch that this process reads, for its own devices."""
        each = batch_size // len(self.devices)
        return slice(self._own[0] * each, (self._own[-1] + 1) * each)

    def init(self, function: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
        """Computes the initial state `function(*arguments)`, with its arrays where `place` would put them."""
        # The program runs once. For `conv` on a CPU, full optimization takes 2.8 s and this level 0.8 s.
        options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
        where = self._choose_shardings(jax.eval_shape(function, *arguments)) if self.sharded else None
        return jax.jit(function, out_shardings=where, compiler_options=options)(*arguments)

    def place(self, state: PyTree) -> PyTree:
        """Moves a state to where `compile` expects it, replicated or divided. Shapes do not change."""
        return jax.tree.map(_put, state, self._choose_shardings(state)) if self.sharded else self.replicate(state)

    def replicate(self, tree: PyTree) -> PyTree:
        """Replicates `tree` on every device. Shapes do not change."""
        if not self._everywhere:
            return jax.device_put(tree, self._whole)
        return jax.tree.map(lambda a: _put(a, self._whole), tree)

    def share(self, batch: PyTree, axis: int = 0) -> PyTree:
        """Divides the examples, which lie along `axis`, among the devices.

        Each process passes the examples `own(batch_size)` of the batch.
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

    def compile(self, function: Callable, onednn: bool = False, constants: PyTree = None) -> Compiled:
        """Compiles `carry, result = function(carry, held, batch, reduce=...)` for the devices.

        `carry` is a state from `place`, and is donated; `held` is such a state, or is replicated; `batch` comes from
        `share`. `reduce(tree, how)` reduces a tree over the devices, where `how` is "mean", "sum" or "max". The
        function must derive its results from reduced values, so that they are equal on every device. For `onednn`,
        which serves a single device, see `Program`. `constants`, if there are any, are passed to the function as an
        argument of that name, since XLA takes long to compile large arrays into a program.
        """
        if constants:
            placed = self.replicate(constants)

            def taken(carry: Any, held: Any, batch: Any, reduce: Any) -> Any:
                return function(carry, held[0], batch, reduce=reduce, constants=held[1])

            compiled = self.compile(taken, onednn)
            return Compiled(
                lambda carry, held, batch: compiled(carry, (held, placed), batch),
                lambda carry, held, batch: compiled.compile(carry, (held, placed), batch),
            )
        if len(self.devices) == 1 or self.sharded:
            alone = functools.partial(function, reduce=lambda tree, how: tree)
            one = self._constrain(alone) if self.sharded else alone
            program = Program(one, onednn and not self.sharded, donate_argnums=0)
            return Compiled(self._one_at_a_time(program), program.compile)
        reduce = {"mean": jax.lax.pmean, "sum": jax.lax.psum, "max": jax.lax.pmax}
        mapped = jax.pmap(
            functools.partial(function, reduce=lambda tree, how: reduce[how](tree, AXIS)),
            axis_name=AXIS,
            in_axes=(None, None, 0),
            out_axes=None,
            devices=self.devices,
            donate_argnums=0,
        )
        return Compiled(self._one_at_a_time(mapped), lambda *arguments: mapped.lower(*arguments).compile())

    @contextlib.contextmanager
    def compile_meanwhile(self, function: "Compiled", state: PyTree, held: PyTree, batch: PyTree) -> Iterator[None]:
        """Compiles a function from `compile` while the context runs, so that its first call need not. Waits at the end.

        Args:
          function: with several devices it is compiled at its first call, as usual.
          state, held, batch: arrays, or their shapes, like those that the function is going to be given.
        """
        if len(self.devices) > 1:
            yield
            return
        given = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, dtypes.canonicalize_dtype(a.dtype), sharding=self._whole),
            (state, held, batch),
        )
        with ThreadPoolExecutor(1) as pool:
            pool.submit(function.compile, *given)  # an error comes again at the first call
            yield

    def compile_whole(self, function: Callable) -> Callable:
        """Compiles `function(state, batch)` for a small batch that is not divided, with NumPy arrays as results.

        Runs on one device, or on all devices if the state is sharded.
        """
        if not self.sharded:
            compiled = jax.jit(function)
            return lambda state, batch: jax.device_get(compiled(jax.device_get(state), batch))
        sharded = self._one_at_a_time(jax.jit(function, out_shardings=self._whole))
        return lambda state, batch: jax.device_get(sharded(state, self.replicate(batch)))

    def any(self, said: bool) -> bool:
        """Returns the logical OR of `said` over all processes.

        With several processes, returns the result of the previous call, so that communication overlaps computation.
        """
        if not self._everywhere:
            return said
        before = self._said
        self._said = self._any((), (), self.share(np.full(len(self._own), said)))[1]
        return bool(before)

    def wait(self) -> None:
        """Waits until all processes have called this method."""
        self.any(False)
        jax.block_until_ready(self._said)

    def _make_sharding(self, spec: PartitionSpec) -> Sharding:
        return SingleDeviceSharding(self.devices[0]) if len(self.devices) == 1 else NamedSharding(self._mesh, spec)

    def _choose_shardings(self, tree: PyTree) -> PyTree:
        """Returns the sharding of each array: along its largest axis that the number of devices divides, if any."""

        def place(a: Any) -> Sharding:
            shape, n = np.shape(a), len(self.devices)
            axis = max((i for i, size in enumerate(shape) if size % n == 0), key=lambda i: shape[i], default=None)
            return self._make_sharding(PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS))

        return jax.tree.map(place, tree)

    def _constrain(self, function: Callable) -> Callable:
        # The shardings of the carry depend on its shapes, which are known when the function is traced.
        def constrained(carry: Any, held: Any, batch: PyTree) -> Any:
            carry, result = function(carry, held, batch)
            return jax.lax.with_sharding_constraint((carry, result), (self._choose_shardings(carry), self._whole))

        return constrained

    def _one_at_a_time(self, function: Callable) -> Callable:
        """Makes the function wait, on CPU, until the last program of the partition has finished."""
        # XLA:CPU runs all devices of a process on one pool of threads: the collectives of several programs in flight
        # can take each other's threads and wait forever, and each program keeps its buffers. Accelerators have queues.
        if self.devices[0].platform != "cpu":
            return function

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            jax.block_until_ready(self._in_flight)
            self._in_flight = function(*arguments)
            return self._in_flight

        return call


def _put(a: Any, where: Sharding) -> jax.Array:
    """Moves an array that every process has, or that is there already, without comparing it among processes."""
    if isinstance(a, jax.Array) and not a.is_fully_addressable:
        return jax.device_put(a, where)
    a = np.asarray(a)
    return jax.make_array_from_callback(a.shape, where, lambda index: a[index])
