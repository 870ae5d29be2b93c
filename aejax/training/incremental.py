"""Training on data that comes in parts, on one device: the state stays between the parts, and no workdir is written."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax.data import Feed, Source, Spec
from aejax.distributed.partition import Partition
from aejax.errors import DivergedError, InputError
from aejax.inference.run import Run
from aejax.training import initializers
from aejax.training.evaluator import compile_sampling
from aejax.training.step import Task, TrainState, eval_variables, make_keys, train_step
from aejax.training.task import check_data, make_task
from aejax.training.warm_start import initialize

Adjust = Callable[[PyTree], PyTree]


class Incremental:
    """A state that trains on one batch after the other. Pickles hold arrays and the config, nothing compiled.

    Attributes:
      config: see `aejax.config.default`.
      spec: shape and units of an example.
    """

    config: ConfigDict
    spec: Spec
    _state: TrainState
    _fixed: dict[str, np.ndarray]  # the examples whose samples a run keeps

    def __init__(self, config: ConfigDict, source: Source, adjust: Adjust | None = None, run: Run | None = None):
        """Begins with the state that `train` would begin with on `source`, or with the parameters of `run`.

        Of `source` are the spec and what the initial parameters depend on; no step is taken. Raises InputError as
        `train` does, and for layer-wise pretraining.
        """
        config_lib.check(config)
        if config.pretrain.steps:
            raise InputError(f"pretrain.steps={config.pretrain.steps} needs all data at once; set it to 0, or use fit")
        self.config = config_lib.lock(config)
        self.spec = Spec.of(source, config.data.standardize, config.data.normalize) if run is None else run.spec
        task = self.__dict__["_task"] = make_task(config, self.spec)
        feed = Feed(self.spec.standardize_source(source), 0, dict)
        check_data(config, task, feed, feed)
        if adjust is None:
            adjust = initializers.choose(config, task, self.spec, source)
        params = None if run is None else run.variables["params"]
        begin = adjust if run is None else lambda _: jax.tree.map(jnp.asarray, params)
        state = initialize(config, task, self.spec.shape, make_keys(config.seed)[0], self._partition, begin)
        if run is not None:
            others = {name: value for name, value in run.variables.items() if name != "params"}
            state = state.replace(step=jnp.asarray(run.step, jnp.int32), variables=others)
        self._state = jax.device_get(state)
        self._fixed = feed.source.take(np.arange(min(config.samples, len(source))))

    def __getstate__(self) -> dict[str, Any]:
        """Returns plain data, without programs."""
        plain = {"config": config_lib.to_dict(self.config), "spec": self.spec.to_dict()}
        return plain | {"_state": jax.device_get(self._state), "_fixed": self._fixed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        config, spec = config_lib.from_dict(state["config"]), Spec.from_dict(state["spec"])
        self.__dict__.update(state, config=config, spec=spec)

    @functools.cached_property
    def _partition(self) -> Partition:
        return Partition(jax.local_devices()[:1])

    @functools.cached_property
    def _task(self) -> Task:
        with warnings.catch_warnings():  # which were given when the state began
            warnings.simplefilter("ignore")
            return make_task(self.config, self.spec)

    @functools.cached_property
    def _step(self) -> Callable[..., Any]:
        return jax.jit(functools.partial(train_step, key=make_keys(self.config.seed)[1], task=self._task))

    @functools.cached_property
    def _sample(self) -> Callable[[TrainState], dict[str, np.ndarray]]:
        return compile_sampling(self._task, self._partition, self._fixed)

    def update(self, x: Any, batch_size: int) -> Run:
        """Takes one step on each `batch_size` rows of x, in their order, and returns the run after the last one.

        The last batch may be smaller. Raises InputError if x does not fit the spec, and DivergedError, with the state
        as it was, if a loss is not finite.
        """
        rows, state, losses = self.spec.check(x), self._state, []
        for start in range(0, x.shape[0], batch_size):
            part = rows[start : start + batch_size]
            batch = {"x": part, "index": np.arange(start, start + len(part), dtype=np.int32)}
            state, metrics = self._step(state, batch)
            losses.append(metrics["loss"])
        if not np.isfinite(losses).all():
            raise DivergedError("the loss is not finite; lower the learning rate, or scale X. The state is as it was")
        self._state = jax.device_get(state)
        return self.make_run()

    def make_run(self) -> Run:
        """Returns the run of the state."""
        samples = jax.device_get(self._sample(self._state))
        variables = jax.device_get(eval_variables(self._state))
        return Run(config=self.config, spec=self.spec, step=int(self._state.step), variables=variables, **samples)
