"""The training loop: from a config to a trained run in a workdir, resuming from its newest checkpoint."""

import functools
import itertools
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import PyTree
from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from aejax import config as config_lib
from aejax import models
from aejax.data import (
    Feed,
    Spec,
    Splits,
    check_identity,
    from_given,
    identify,
    load,
    shuffle_rows,
    split,
    warn_of_penalty,
    warn_of_scale,
)
from aejax.distributed import processes
from aejax.distributed.partition import Partition
from aejax.errors import InputError
from aejax.files import local
from aejax.inference.loading import from_checkpoint
from aejax.inference.run import Run
from aejax.objectives import Corruption, Discriminator, Mixed, Objective, SquaredError
from aejax.training import initializers, profiler
from aejax.training.evaluator import compile_sampling, compile_validation
from aejax.training.multistep import Steps, batches, compile_steps, describe_inputs, hint, limit_steps, steps_at_once
from aejax.training.pretraining import pretrain
from aejax.training.recorder import Recorder
from aejax.training.step import Task, init, make_keys, start
from aejax.training.task import Parts, check_data, make_config, make_task, take_parts
from aejax.training.warm_start import InitFrom, initialize
from aejax.workdir import checkpoint
from aejax.workdir.checkpoint import Checkpoints, InMemory
from aejax.workdir.lifecycle import OpenWorkdir, open_workdir
from aejax.workdir.tracking import resolve_trackers

Data = Splits | Callable[[ConfigDict], Splits]
Adjust = Callable[[PyTree], PyTree]
Stream = Callable[..., Iterator[np.ndarray]]  # see `data.from_stream`


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    data: Data = load,
    devices: Sequence[jax.Device] | None = None,
    stop: Callable[[], bool] = lambda: False,
    quiet: bool = False,
    profiled: range | None = None,
    adjust: Adjust | None = None,
    init_from: InitFrom | None = None,
    change: Collection[str] = (),
) -> Run:
    """Trains `config` in `workdir`, resuming from its newest checkpoint.

    Args:
      config: see `aejax.config.default`.
      workdir: the folder of the experiment, created if it is missing. It must not hold a run of another config.
      data: the three splits, or a function that makes them from `config.data`.
      devices: defaults to all devices.
      stop: is called after each dispatch of steps. When it returns True, or the process is about to be preempted, the
        run is saved and training ends.
      quiet: hides the progress bar and the table of parameters, but no warnings.
      profiled: the steps that JAX's profiler traces: `range(100, 110)` leads from step 100 to step 110. The trace
        covers whole dispatches in the first process, see `profiler.trace_steps`. Steps that a resumed run has
        passed, or never reaches, are left out.
      adjust: maps the random initial parameters to those that training starts from.
      init_from: a run, the variables of one, or parameters in nested dicts, that a new run starts from, like
        `config.init_from`. A run that resumes does not read it.
      change: keys of the config whose values a run that resumes takes from `config`, instead of refusing them. Each
        change is recorded, see `aejax.workdir.changes`, and later calls need not repeat it.

    Returns:
      The run at its newest checkpoint.

    Raises:
      InputError: the config, the data or the workdir do not fit; StorageError: the workdir cannot be read or written;
        DivergedError: a metric is not finite. Each is one line that says what to change.
    """
    given = _Given(data, devices, quiet, adjust, init_from, change, stop=stop, profiled=profiled)
    return _train(config, local(workdir), Checkpoints, given)


def fit(
    config: ConfigDict | None = None,
    x: ArrayLike | Stream | None = None,
    workdir: str | Path | None = None,
    *,
    data: ArrayLike | Stream | None = None,
    model: models.Autoencoder | None = None,
    objective: Objective | None = None,
    optimizer: optax.GradientTransformation | None = None,
    corruption: Corruption | None = None,
    discriminator: Discriminator | None = None,
    label: ArrayLike | None = None,
    target: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    devices: Sequence[jax.Device] | None = None,
    quiet: bool = False,
    adjust: Adjust | None = None,
    init_from: InitFrom | None = None,
    change: Collection[str] = (),
    **settings: Any,
) -> Run:
    """Trains on an array of vectors, sequences, images or volumes (see `data.from_array`), or on a stream.

    A sparse matrix of SciPy stays sparse until a batch is read, unless its dense values fit in `data.memory_mb`. So do
    the counts of an AnnData object, which are those of its X or `data.layer`; with `data.batch`, a column of its obs,
    the model is conditional on the batches (`classes` becomes their number). With likelihood.name=mixed, the examples
    are the rows of a DataFrame, see `data.from_frame`, and what the run decodes is a DataFrame, too.

    What is trained is described either by a config or by objects of your own:

        run = aejax.fit(config, x)
        run = aejax.fit(data=x, model=Autoencoder(encoder, bottleneck, decoder), objective=Objective(Bernoulli()),
                        optimizer=optax.adam(1e-3), steps=2_000)

    Args:
      config: see `aejax.config.default`.
      x: the examples, with a config; or a function that yields arrays of activations, see `data.from_stream`.
      workdir: the folder of the experiment, in which the same call resumes. Without one, no checkpoint is written and
        nothing stays on disk.
      data: the examples, without a config.
      model: the encoder, bottleneck and decoder.
      objective: what is minimized.
      optimizer: an optimizer of optax. A schedule of the learning rate is part of it.
      corruption, discriminator: noise on the input in training, and what is trained against the model; default to none.
      label: [n], whole numbers from 0, for a conditional model (`classes`).
      target: [n, ...], what a transcoder is to decode from each example; without it, the example itself.
      weights: [n], at least 0. The loss, in training and validation, is the weighted mean: an example of weight 2
        counts like two.
      devices, quiet, adjust, init_from, change: as in `train`.
      settings: further keys of a config: `steps`, `batch_size`, `seed`, `ema`, `log_every`, `checkpoint_every`, `keep`,
        `patience`, `tracking`, `samples`.

    Returns the trained run, and raises the errors of `train`. In a workdir, the run's config names the given objects
    that a config can make; `load_run` needs the others as its arguments. The checkpoint holds the statistics of the
    run's latents.
    """
    own = {"model": model, "objective": objective, "optimizer": optimizer}
    more = {"corruption": corruption, "discriminator": discriminator}
    if config is None:
        parts, examples, of_data = take_parts({"data": data, **own}, more), data, config_lib.default().data
        of_data.missing = parts.model.missing
    elif superfluous := [key for key, value in {"data": data, **own, **more, **settings}.items() if value is not None]:
        raise InputError(
            f"fit takes a config, or the objects that it would describe: leave config or {superfluous[0]}= out"
        )
    else:
        config_lib.check(config)
        parts, examples, of_data = None, x, config.data
    as_table = config.likelihood.name == "mixed" if config else isinstance(objective and objective.likelihood, Mixed)
    sources, name = from_given(examples, of_data, label, target, weights, as_table)
    if parts is not None:
        config = make_config(parts, sources["train"].shape, settings)
    assert config is not None
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.name = name
        if config.data.batch and not config.classes:
            config.classes = len(sources["train"].kinds)
            config.condition.categories = ",".join(map(str, sources["train"].categories))
    given = _Given(split(sources, config.data), devices, quiet, adjust, init_from, change, parts)
    if workdir is not None:
        run = _train(config, local(workdir), Checkpoints, given)
        run.keep_statistics()  # now, as the workdir does not keep the array
        return run
    with tempfile.TemporaryDirectory(prefix="aejax-") as folder:
        return _train(config, Path(folder), InMemory, given._replace(change=()))


class _Given(NamedTuple):
    """What the callers of `train` and `fit` give besides the config; `parts` are in place of those of the config."""

    data: Data
    devices: Sequence[jax.Device] | None
    quiet: bool
    adjust: Adjust | None
    init_from: InitFrom | None
    change: Collection[str]
    parts: Parts | None = None
    stop: Callable[[], bool] = lambda: False
    profiled: range | None = None


def _train(config: ConfigDict, folder: Path, checkpoints: type[Checkpoints] | type[InMemory], given: _Given) -> Run:
    """Trains as `train` does, with the given class of checkpoints."""
    # ---- Devices
    partition = make_partition(config, given.devices)
    quiet = given.quiet or not partition.primary
    parts, profiled = given.parts, given.profiled
    own: dict[str, Any] = {"model": parts.model, "objective": parts.objective} if parts else {}
    kept = folder if checkpoints is Checkpoints else None

    # ---- Workdir
    with open_workdir(folder, config, partition.primary, given.change) as opened:
        config, begin = opened.config, opened.begin
        if profiled is not None:
            profiled = profiler.clip_steps(profiled, begin, config.steps)
        profiled = profiled if partition.primary else None

        # ---- Data, task, state
        splits, spec = load_data(opened, given.data)
        task = make_task(config, spec, len(splits.train), partition.axis_name, parts)
        state, key = init_state(opened, task, spec, splits, partition, quiet, given.adjust, given.init_from)
        if begin >= config.steps:
            assert opened.saved is not None
            opened.resume()
            return from_checkpoint(opened.saved, workdir=kept, train_split=splits.train, **own)

        # ---- Steps, compiled while the data is decoded
        most = limit_steps(splits.train, config)
        at_once = steps_at_once(task, begin, config.steps, config.log_every, config.checkpoint_every, most=most)
        if not quiet:
            hint(task, config.steps, config.log_every, config.checkpoint_every)
        train_steps = compile_steps(task, key, partition)
        inputs = describe_inputs(spec.standardize_source(splits.train), config, at_once)
        with partition.compile_meanwhile(train_steps, state, *inputs):
            trained_on, training, validation, fixed = prepare_data([opened], task, spec, splits, partition, quiet)
        should_stop = ask_all(given.stop, partition)
        if not begin and config.pretrain.steps:
            params = pretrain(config, task, training, partition, state.params, should_stop, quiet)
            state = start(task, params, state.variables)

        # ---- Training
        validate = compile_validation(task, config.batch_size, partition, validation)
        sample = compile_sampling(task, partition, fixed)
        with (
            profiler.trace_steps(train_steps, profiled, begin, at_once, folder) as traced,
            Recorder(opened, spec, trained_on, validate, sample, quiet, checkpoints) as recorder,
        ):
            steps = range(begin, begin if recorder.done else config.steps)
            dispatches = batches(training, config.batch_size, config.seed, partition, at_once, steps)
            run_steps(traced, partition.place(state), training.held, dispatches, recorder, opened, at_once, should_stop)
        partition.wait()  # until all is written
    return from_checkpoint(recorder.load_newest(), workdir=kept, train_split=splits.train, **own)


def run_steps(
    train_steps: Steps,
    state: PyTree,
    held: PyTree,
    dispatches: Iterable[PyTree],
    recorder: Any,  # a Recorder or, of several runs, `vmapped.Recorders`
    opened: OpenWorkdir,
    at_once: int,
    should_stop: Callable[[], bool],
) -> None:
    """Runs dispatches of `at_once` steps each until they end, early stopping, or a request to stop."""
    config = opened.config
    for step, batch in zip(itertools.count(opened.begin + at_once, at_once), dispatches, strict=False):
        state, metrics = train_steps(state, held, batch)
        recorder.add(step, metrics)
        due = step % config.checkpoint_every == 0 or step == config.steps
        leaving = not due and should_stop()
        if due or leaving:
            recorder.save(step, state, validated=due)
        if leaving or recorder.done or (due and step < config.steps and should_stop()):
            return


def make_partition(config: ConfigDict, devices: Sequence[jax.Device] | None) -> Partition:
    """Checks the config and its trackers, and returns the partition that divides its batches among the devices."""
    config_lib.check(config)
    resolve_trackers(config.tracking)
    partition = Partition(devices, config.partition.name)
    partition.check(config.batch_size)
    return partition


def load_data(opened: OpenWorkdir, data: Data) -> tuple[Splits, Spec]:
    """Returns the splits, not yet decoded, and their spec, which is the saved spec if the run resumes.

    Raises InputError if the splits do not fit the saved run or the batch size.
    """
    config, saved = opened.config, opened.saved
    splits = data if isinstance(data, Splits) else data(config.data)
    spec = (
        Spec.from_dict(saved.metadata["spec"])
        if saved
        else Spec.of(splits.train, config.data.standardize, config.data.normalize)
    )
    if spec.columns != splits.train.columns:
        raise InputError(
            f"{opened.folder} was trained on a table of other columns, dtypes or categories than the data now has; "
            "restore the data, or choose another workdir"
        )
    if (spec.shape, spec.kind) != (splits.train.shape, splits.train.kind):
        was, now = (f"examples of {part.shape}" for part in (spec, splits.train))
        if was == now:
            was, now = (f"{part.kind}s of {part.shape}" for part in (spec, splits.train))
        raise InputError(
            f"{opened.folder} was trained on {was}, the data now holds {now.removeprefix('examples of ')}; "
            "restore the data, or choose another workdir"
        )
    shuffle_rows(len(splits.train), config.batch_size, config.seed)  # raises before anything is decoded
    return splits, spec


def init_state(
    opened: OpenWorkdir,
    task: Task,
    spec: Spec,
    splits: Splits,
    partition: Partition,
    quiet: bool,
    adjust: Adjust | None = None,
    init_from: InitFrom | None = None,
) -> tuple[PyTree, jax.Array]:
    """Returns the state that training starts or resumes from, and the run's key."""
    saved = opened.saved
    if not saved and adjust is None:
        adjust = initializers.choose(opened.config, task, spec, splits.train)
    init_key, key = make_keys(opened.config.seed)
    if saved:
        state = partition.init(functools.partial(init, task, spec.shape), init_key)
        return checkpoint.fill(state, saved.state, f"{opened.folder}, step {saved.step},"), key
    return initialize(opened.config, task, spec.shape, init_key, partition, adjust, init_from, quiet), key


def prepare_data(
    opened: Sequence[OpenWorkdir], task: Task, spec: Spec, splits: Splits, partition: Partition, quiet: bool
) -> tuple[dict[str, Any], Feed, Feed, PyTree]:
    """Returns the identity of the data, its training and validation feeds, and the fixed batch whose samples are saved.

    Claims the workdirs of the run, or of the runs that train together, once the data is decoded and fits: raises
    InputError if a run would resume on other data than it began with, or values or labels do not fit the config. Warns
    of a scale far from 1 if the run is new.
    """
    config, begin = opened[0].config, opened[0].begin
    for each in opened:
        if each.saved:
            cure = "restore the data, or choose another workdir"
            check_identity(each.saved.metadata.get("data"), splits._asdict(), str(each.folder), cure)
    trained_on = identify(splits._asdict(), labels=config.classes > 0)
    if begin and not quiet:
        print(f"resuming from step {begin:,} of {config.steps:,}", file=sys.stderr)
    if not quiet:
        stated = "as data.kind says" if config.data.kind else "data.kind would say otherwise"
        stated = "data.columns would say otherwise" if spec.columns else stated
        print(f"{len(splits.train):,} {spec.describe()} ({stated})", file=sys.stderr)
        print(models.table(task.model, spec.shape), file=sys.stderr)
    splits = Splits(*map(spec.standardize_source, splits))
    budget = config.data.memory_mb * 2**20
    options = {"labels": config.classes > 0, "zoom": config.data.zoom, "buffer": config.data.buffer}
    training, validation = (
        Feed(part, budget, partition.replicate, **options) for part in (splits.train, splits.validation)
    )
    check_data(config, task, training, validation)
    if not begin:
        if not task.objective.likelihood.levels:  # whose values keep their units, see `inputs`
            warn_of_scale(splits.train, spec)
        if isinstance(task.objective.likelihood, SquaredError):
            warn_of_penalty(splits.train, spec, task.objective.weights)
    fixed = splits.validation.take(np.arange(min(config.samples, len(splits.validation))))
    partition.wait()  # until all processes have read the workdirs, before they change
    for each in opened:
        each.claim()
    return trained_on, training, validation, fixed


def ask_all(stop: Callable[[], bool], partition: Partition) -> Callable[[], bool]:
    """Returns a function, for all processes to call together, that says whether any of them should stop."""
    numbers = itertools.count(1)

    def should_stop() -> bool:
        preempted = processes.is_preempted(next(numbers))
        return partition.any(stop() or preempted)

    return should_stop
