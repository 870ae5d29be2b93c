"""The loop: from a config to a trained run in a workdir, and on from where it was left."""

import contextlib
import dataclasses
import functools
import json
import math
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from aejax import checkpoint, models, optim
from aejax import config as config_lib
from aejax.data import Feed, Source, Spec, Splits, chunks, from_array, labels, load, padded, rows, split
from aejax.dispatch import batches, compile_steps, steps_at_once
from aejax.errors import DivergedError, InputError, StorageError
from aejax.logs import Logs, Unwritten, read
from aejax.objectives import ADVERSARIES, LIKELIHOODS, Corruption, Objective
from aejax.partition import Partition
from aejax.pretrain import pretrain, stacked_layers
from aejax.run import Run, from_checkpoint
from aejax.sections import instance
from aejax.step import Task, TrainState, eval_step, eval_variables, gather, init, start

Metrics = list[Mapping[str, Any]]


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    data: Splits | None = None,
    devices: Sequence[jax.Device] | None = None,
    stop: Callable[[], bool] = lambda: False,
    quiet: bool = False,
) -> Run:
    """Trains what `config` describes in `workdir`, or goes on where the workdir's run was left.

    Args:
      config: see `aejax.config.default`.
      workdir: folder of the whole experiment, made if need be. One that holds a run of another
        config is refused.
      data: the three splits, in place of those of `config.data`.
      devices: all local ones unless told.
      stop: asked after each dispatch of steps; once true, the run is saved and left.
      quiet: without progress bar or table of parameters; warnings stay.

    Returns:
      The run at its newest checkpoint.

    Raises:
      InputError, StorageError, DivergedError: one line that says what to change.
    """
    config_lib.check(config)
    workdir = Path(workdir)
    partition = Partition(devices, config.partition.name)
    partition.check(config.batch_size)
    quiet = quiet or not partition.primary
    with _storage_errors(workdir):
        saved = _open(workdir, config)

    data = data or load(config.data)
    spec = Spec.from_dict(saved.metadata["spec"]) if saved else Spec.of(data.train, config.data.standardize)
    if spec.shape != data.train.shape:
        raise InputError(f"{workdir} was trained on examples of {spec.shape}, the data now holds {data.train.shape}")
    rows(len(data.train), config.batch_size, config.seed, 0)  # raises before anything is decoded
    task = make_task(config, spec, len(data.train), partition.axis_name)
    init_key, key = jax.random.split(jax.random.key(config.seed))
    state = partition.init(functools.partial(init, task, spec.shape), init_key)
    if saved:
        state = checkpoint.fill(state, saved.state, f"{workdir}, step {saved.step},")
        if saved.step >= config.steps:
            return from_checkpoint(saved)
        if not quiet:
            print(f"going on from step {saved.step:,} of {config.steps:,}", file=sys.stderr)
    if config.pretrain.steps:
        stacked_layers(config)
    _check_range(task, data.train)
    if not quiet:
        print(models.table(task.model, spec.shape), file=sys.stderr)
    budget = config.data.memory_mb * 2**20
    training, validation = (Feed(part, budget, partition.replicate) for part in (data.train, data.validation))
    for feed in (training, validation) if config.classes else ():
        _check_labels(feed, config.classes)
    partition.wait()  # until all have seen the workdir as it was
    with _storage_errors(workdir):
        if partition.primary:
            _claim(workdir, config)
    if not saved and config.pretrain.steps:
        params = pretrain(config, task, training, partition, state.params, stop, quiet)
        state = start(task, params, state.variables)

    begin = saved.step if saved else 0
    at_once = steps_at_once(task, begin, config.steps, config.log_every, config.checkpoint_every)
    steps_fn = compile_steps(task, key, partition)
    validate = _validator(task, partition, validation, config.batch_size)
    sample = _sampler(
        make_task(config, spec),
        spec,
        partition,
        data.validation.take(np.arange(min(config.samples, len(data.validation)))),
    )
    state = partition.place(state)
    metadata = {"config": config_lib.to_dict(config), "spec": spec.to_dict()}
    with (
        _storage_errors(workdir),
        checkpoint.Checkpoints(
            workdir, config.keep, metadata, saved.broken if saved and partition.primary else ()
        ) as checkpoints,
        (Logs if partition.primary else Unwritten)(workdir, begin, config.steps, config.batch_size, quiet) as logs,
    ):
        window: Metrics = []  # of each dispatch, on the device until they are reported
        waiting: Metrics = []
        span = range(begin, begin if _stale(logs.history, config.patience) else config.steps)
        dispatches = batches(training, config.batch_size, config.seed, partition, at_once, span)
        for step, batch in zip(range(begin + at_once, span.stop + 1, at_once), dispatches, strict=True):
            state, metrics = steps_fn(state, training.held, batch)
            window.append(metrics)
            if waiting:  # read only now, while the device is busy with these steps
                _report(logs, step - at_once, waiting, checkpoints)
                waiting = []
            planned = step % config.checkpoint_every == 0 or step == config.steps
            leaving = step == config.steps or partition.any(stop())
            if step % config.log_every == 0:
                waiting, window = window, []
            if planned or leaving:
                _report(logs, step, waiting + window, checkpoints)
                waiting, window = [], []
                loss = None
                if planned:
                    results = validate(state)
                    _check_finite({name: [value] for name, value in results.items()}, step, checkpoints, "validation ")
                    logs.validation(step, results)
                    loss = results["loss"]
                samples = sample(state)
                finite = {name: [0.0 if np.isfinite(x).all() else np.nan] for name, x in samples.items()}
                _check_finite(finite, step, checkpoints)
                checkpoints.save(step, state, samples, loss)
                logs.restart_clock()
                if leaving or _stale(logs.history, config.patience):
                    break
    partition.wait()  # until it is written
    newest = checkpoint.newest(workdir)
    assert newest is not None
    return from_checkpoint(newest)


def fit(
    config: ConfigDict,
    images: Any,
    workdir: str | Path | None = None,
    *,
    label: Any = None,
    devices: Sequence[jax.Device] | None = None,
    quiet: bool = False,
) -> Run:
    """Trains on an array: [n, features], [n, height, width] or [n, height, width, channels].

    `label` [n], whole numbers from 0, is what a conditional model (`config.classes`) is given.
    Without a workdir nothing stays on disk. With one, the same call goes on where it was left. `devices` and `quiet`
    as in `train`.
    """
    config_lib.check(config)
    config = config.copy_and_resolve_references()
    source = from_array(images, label, name="images", size=config.data.size)
    with config.unlocked():
        config.data.name = f"array-{zlib.crc32(np.ascontiguousarray(images)):08x}"
    data = split({"train": source}, config.data)
    with contextlib.ExitStack() as stack:
        folder = workdir or stack.enter_context(tempfile.TemporaryDirectory(prefix="aejax-"))
        return train(config, folder, data=data, devices=devices, quiet=quiet)


def make_task(config: ConfigDict, spec: Spec, examples: int = 1, axis_name: str | None = None) -> Task:
    """Model, objective and optimizer of a config, checked against each other.

    `examples` is the number in the training split, `axis_name` that of the devices, see `Partition`.
    """
    model = models.build(config, spec.shape, axis_name)
    adversary = None
    if config.adversary.name != "none":
        adversary = instance("adversary", ADVERSARIES, config.adversary)
    task = Task(
        model=model,
        objective=Objective(instance("likelihood", LIKELIHOODS, config.likelihood), **config.objective.to_dict()),
        optimizer=optim.build(config.optim, config.steps),
        prepare=spec.prepare,
        restore=spec.restore,
        corruption=Corruption(**config.corruption),
        ema=config.ema,
        adversary=adversary,
        examples=examples,
        axis_name=axis_name,
    )
    traced = _trace(dataclasses.replace(task, model=models.build(config, spec.shape), axis_name=None), spec)
    models.warn_if_overcomplete(models.abstract_output(model, spec.shape), config)
    return dataclasses.replace(task, convolves="conv_general_dilated" in traced)


def _trace(task: Task, spec: Spec) -> str:
    """The operations of an evaluation. Computes nothing.

    Raises InputError where a weight has no term, or a term does not fit the model.
    """

    def evaluate(x: Any) -> Any:
        state = init(task, spec.shape, jax.random.key(0))
        batch = {"x": x, **{name: np.arange(2, dtype=np.int32) for name in ("index", "label", "weight")}}
        return eval_step(state, batch, task=task)

    return str(jax.make_jaxpr(evaluate)(jax.ShapeDtypeStruct((2, *spec.shape), np.float32)))


def _open(workdir: Path, config: ConfigDict) -> checkpoint.Checkpoint | None:
    """The checkpoint to go on from. Raises where the workdir is another run's or cannot be written."""
    file = workdir / "config.json"
    workdir.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=workdir).close()
    if file.exists():
        try:
            old = json.loads(file.read_text())
        except json.JSONDecodeError as error:
            raise InputError(f"{file} is no JSON ({error}); restore it, or remove it if the run is yours") from error
        if any("validation/loss" in record for record in read(workdir)):  # or it never came to a checkpoint
            _same_config(old, config, workdir)
    elif any(workdir.iterdir()) and not (workdir / checkpoint.FOLDER).is_dir():
        raise InputError(f"{workdir} holds files but no run; choose a new or an empty workdir")
    saved = checkpoint.newest(workdir)
    if saved:
        _same_config(saved.metadata["config"], config, workdir)
    return saved


def _claim(workdir: Path, config: ConfigDict) -> None:
    """Writes config.json, whole or not at all."""
    written = workdir / "config.tmp"
    written.write_text(config_lib.to_json(config))
    written.replace(workdir / "config.json")


def _same_config(old: Mapping[str, Any], new: ConfigDict, workdir: Path) -> None:
    differ = config_lib.changes(old, new)
    if differ:
        more = f" and {len(differ) - 4} more" if len(differ) > 4 else ""
        raise InputError(
            f"{workdir} holds a run of another config ({'; '.join(differ[:4])}{more}); "
            "choose another workdir, or the config it was begun with"
        )


def _check_range(task: Task, source: Source) -> None:
    likelihood = task.objective.likelihood
    if likelihood.unit_interval and len(source.shape) == 1:
        for x in map(task.prepare, chunks(source)):
            if x.min() < 0 or x.max() > 1:
                raise InputError(
                    f"likelihood.name={type(likelihood).__name__} wants values in [0, 1], the data has "
                    f"{x.min():.3g} to {x.max():.3g}; use gaussian or squared_error, or scale the data"
                )


def _check_labels(feed: Feed, classes: int) -> None:
    if "label" not in feed.source.take(np.arange(1)):
        raise InputError(
            f"classes={classes} makes the model conditional, but the data has no labels; give some or set classes=0"
        )
    label = np.asarray(feed.held["label"]) if feed.held else labels(feed.source)
    if label.min() < 0 or label.max() >= classes:
        raise InputError(
            f"the data has labels from {label.min()} to {label.max()}, and classes={classes} means 0 to {classes - 1}; "
            "set classes to the number of labels"
        )


def _validator(task: Task, partition: Partition, feed: Feed, batch_size: int) -> Callable[[TrainState], dict]:
    """Means of `eval_step` over a whole split."""
    batches, own = math.ceil(len(feed.source) / batch_size), partition.own(batch_size)
    compiled = partition.compile(
        lambda carry, held, batch, reduce: (
            carry,
            eval_step(held["state"], gather(held["data"], batch), task=task, reduce=reduce),
        )
    )

    def validate(state: TrainState) -> dict[str, float]:
        held = {"state": state, "data": feed.held}
        sums = []
        for i, batch in enumerate(feed.batches(lambda i: padded(len(feed.source), batch_size, i)[0][own], 0, batches)):
            weight = padded(len(feed.source), batch_size, i)[1][own]
            sums.append(compiled((), held, partition.share({**batch, "weight": weight}))[1])
        sums = jax.device_get(sums)
        totals = {key: sum(float(s[key]) for s in sums) for key in sums[0]}
        count = totals.pop("weight")
        means = {key: value / count for key, value in totals.items()}
        return means | {"squared_error_per_value": means["squared_error"] / math.prod(feed.source.shape)}

    return validate


def _sampler(
    task: Task, spec: Spec, partition: Partition, batch: Mapping[str, Any]
) -> Callable[[TrainState], dict[str, np.ndarray]]:
    """Latents, reconstructions and inputs of the fixed evaluation batch, in the user's units.

    `task` is one without an axis of devices.
    """

    def apply(variables, batch):
        x = spec.prepare(batch["x"])
        output: Any = task.apply(variables, x, batch, None)
        reconstructions = spec.restore(task.objective.mean(output.decoded))
        return {"latents": output.code.z, "reconstructions": reconstructions, "inputs": spec.restore(x)}

    compiled = partition.on_whole(apply)
    return lambda state: compiled(eval_variables(state), batch)


def _report(logs: Logs, step: int, window: Metrics, checkpoints: checkpoint.Checkpoints) -> None:
    """Logs the means over a window of dispatches that ends with `step`; stops the run at a NaN."""
    if not window:
        return
    dispatches = jax.device_get(list(window))
    metrics = {name: np.concatenate([d[name] for d in dispatches]) for name in dispatches[0]}
    _check_finite(metrics, step, checkpoints)
    logs.train(step, {name: float(np.mean(values)) for name, values in metrics.items()})


def _check_finite(metrics: Mapping[str, Any], last: int, checkpoints: checkpoint.Checkpoints, what: str = "") -> None:
    """Raises for the first step with a number that is not finite; metrics are [steps], of the steps up to `last`."""
    finite = {name: np.isfinite(values) for name, values in metrics.items()}
    good = np.logical_and.reduce(list(finite.values()))
    if good.all():
        return
    i, first = int(np.argmin(good)), last - len(good) + 1
    broken = [name for name, values in finite.items() if not values[i]]
    saved = checkpoints.newest_step()
    kept = "no checkpoint was saved yet" if saved is None else f"the last good checkpoint is step {saved}"
    raise DivergedError(
        f"{what}{' and '.join(broken)} not finite at step {first + i} (steps {first} to {last} were read); "
        f"{kept}; lower optim.lr or set optim.clip{', in a new workdir' if saved else ''}, or look at the data"
    )


def _stale(history: Sequence[Mapping[str, Any]], patience: int) -> bool:
    """Whether the last `patience` validations were all worse than the best before them."""
    losses = [record["validation/loss"] for record in history if "validation/loss" in record]
    return bool(patience) and len(losses) - 1 - int(np.argmin(losses or [0])) >= patience


@contextlib.contextmanager
def _storage_errors(workdir: Path) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{workdir} cannot be used ({error}); choose a workdir that can be written") from error
