"""The loop: from a config to a trained run in a workdir, and on from where it was left."""

import contextlib
import dataclasses
import functools
import itertools
import math
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from aejax import checkpoint, models, optim, profile, together
from aejax import config as config_lib
from aejax.data import (
    Feed,
    Source,
    Spec,
    Splits,
    check_identity,
    compute_mean,
    from_array,
    identify,
    load,
    pad_rows,
    read_chunks,
    read_labels,
    shuffle_rows,
    split,
    warn_of_scale,
)
from aejax.dispatch import batches, compile_steps, compile_together, steps_at_once
from aejax.errors import AejaxError, InputError
from aejax.member import Member
from aejax.models import pre_encoder
from aejax.objectives import ADVERSARIES, LIKELIHOODS, Corruption, Objective
from aejax.partition import Partition
from aejax.pretrain import pretrain, stacked_layers
from aejax.run import Run, from_checkpoint
from aejax.sections import instance
from aejax.step import Task, TrainState, eval_step, eval_variables, gather, init, start
from aejax.storage import local
from aejax.tracking import resolve_trackers
from aejax.workdir import claim, ends_known, held, open_run, storage_errors


def train(
    config: ConfigDict,
    workdir: str | Path,
    *,
    data: Splits | Callable[[ConfigDict], Splits] = load,
    devices: Sequence[jax.Device] | None = None,
    stop: Callable[[], bool] = lambda: False,
    quiet: bool = False,
    profiled: range | None = None,
    adjust: Callable[[Any], Any] | None = None,
) -> Run:
    """Trains what `config` describes in `workdir`, or goes on where the workdir's run was left.

    Args:
      config: see `aejax.config.default`.
      workdir: folder of the whole experiment, made if need be. One that holds a run of another
        config is refused.
      data: the three splits, or what makes them of `config.data`.
      devices: all local ones unless told.
      stop: asked after each dispatch of steps and the validation that is due then; once true, the run is saved and
        left, as it is when Orbax hears that the process will be preempted.
      quiet: without progress bar or table of parameters; warnings stay.
      profiled: steps that JAX's profiler is to trace, `range(100, 110)` those that lead from step 100 to step 110;
        the trace covers the whole dispatches that hold them, in the first process, see `profile.around`. Those that
        a run which goes on has passed, or never comes by, are left out.
      adjust: maps the initial parameters, as they are drawn, to those that training starts from.

    Returns:
      The run at its newest checkpoint.

    Raises:
      InputError, StorageError, DivergedError: one line that says what to change.
    """
    (done,) = train_together(
        [config], [workdir], data=data, devices=devices, stop=stop, quiet=quiet, profiled=profiled, adjust=adjust
    )
    if isinstance(done, AejaxError):
        raise done
    return done


def train_together(
    configs: Sequence[ConfigDict],
    workdirs: Sequence[str | Path],
    *,
    data: Splits | Callable[[ConfigDict], Splits] = load,
    devices: Sequence[jax.Device] | None = None,
    stop: Callable[[], bool] = lambda: False,
    quiet: bool = False,
    profiled: range | None = None,
    adjust: Callable[[Any], Any] | None = None,
) -> list[Run | AejaxError]:
    """`train` of several runs in one program, under vmap.

    Each run has its own workdir, checkpoints and metrics, and equals the run alone to float tolerance. One that
    diverges or cannot be written ends alone.

    Args:
      configs: differ only in `together.NUMBERS`, see there; all at the same step.
      workdirs: of each config.
      data, devices, stop, quiet, profiled, adjust: as in `train`; the profile is written in the first workdir.

    Returns:
      Of each run what `train` returns, or the error that ended it.

    Raises what keeps all runs from beginning.
    """
    folders = [local(workdir) for workdir in workdirs]
    for each in configs:
        config_lib.check(each)
        resolve_trackers(each.tracking)
    config, alone, numbers = configs[0], len(configs) == 1, together.numbers(configs)
    partition = Partition(devices, config.partition.name)
    partition.check(config.batch_size)
    quiet = quiet or not partition.primary
    with contextlib.ExitStack() as stack:

        def know_ends() -> None:
            for workdir in folders if partition.primary else ():
                with storage_errors(workdir):
                    stack.enter_context(ends_known(workdir))

        saves = []
        for each, workdir in zip(configs, folders, strict=True):
            with storage_errors(workdir):
                workdir.mkdir(parents=True, exist_ok=True)
                if partition.primary:
                    stack.enter_context(held(workdir))
                saves.append(open_run(workdir, each))
        configs = [
            config_lib.as_begun(each, saved.metadata["config"]) if saved else each
            for each, saved in zip(configs, saves, strict=True)
        ]
        config = configs[0]
        begin = saves[0].step if saves[0] else 0
        if any(begin != (saved.step if saved else 0) for saved in saves):
            raise InputError("runs that train together must have come equally far; run them one by one")
        if profiled is not None:
            profiled = profile.ahead(profiled, begin, config.steps)
        if not begin:  # what keeps a begun run from going on does not end it
            know_ends()

        data = data if isinstance(data, Splits) else data(config.data)
        spec = Spec.from_dict(saves[0].metadata["spec"]) if saves[0] else Spec.of(data.train, config.data.standardize)
        if spec.shape != data.train.shape:
            raise InputError(
                f"{folders[0]} was trained on examples of {spec.shape}, the data now holds {data.train.shape}"
            )
        shuffle_rows(len(data.train), config.batch_size, config.seed)  # raises before anything is decoded
        task = make_task(config, spec, len(data.train), partition.axis_name)
        together.check(task, configs, numbers)
        if task.model.pre_bias and not begin and adjust is None:
            adjust = functools.partial(pre_encoder.start_at, compute_mean(data.train, spec))
        initial = functools.partial(init, task, spec.shape, adjust=adjust)
        init_keys, keys = zip(*(jax.random.split(jax.random.key(each.seed)) for each in configs), strict=True)
        states = [partition.init(initial, key) for key in init_keys]
        for i, saved in enumerate(saves):
            if saved:
                states[i] = checkpoint.fill(states[i], saved.state, f"{folders[i]}, step {saved.step},")
        if begin >= config.steps:
            know_ends()
            return [from_checkpoint(saved) for saved in saves if saved]
        for folder, saved in zip(folders, saves, strict=True):
            if saved:
                cure = "restore the data, or choose another workdir"
                check_identity(saved.metadata.get("data"), data._asdict(), str(folder), cure)
        trained_on = identify(data._asdict(), labels=config.classes > 0)
        if begin and not quiet:
            print(f"going on from step {begin:,} of {config.steps:,}", file=sys.stderr)
        if not quiet:
            print(models.table(task.model, spec.shape), file=sys.stderr)
        data = Splits(*map(spec.standardize_source, data))
        budget = config.data.memory_mb * 2**20
        training, validation = (Feed(part, budget, partition.replicate) for part in (data.train, data.validation))
        check_data(config, task, training, validation)
        if not begin:
            warn_of_scale(data.train, spec)
        partition.wait()  # until all have seen the workdir as it was
        for each, workdir, saved in zip(configs, folders, saves, strict=True) if partition.primary else ():
            with storage_errors(workdir):
                claim(workdir, each, saved)
        if begin:
            know_ends()
        questions = itertools.count(1)

        def asked() -> bool:  # of all processes together, in pretraining as in training
            number = next(questions)
            return partition.any(stop() or checkpoint.preempted(number))

        if not begin and config.pretrain.steps:
            params = pretrain(config, task, training, partition, states[0].params, asked, quiet)
            states[0] = start(task, params, states[0].variables)

        at_once = steps_at_once(task, begin, config.steps, config.log_every, config.checkpoint_every)
        steps_fn = (
            compile_steps(task, keys[0], partition)
            if alone
            else compile_together(task, config, keys, numbers, partition)
        )
        if profiled is not None and partition.primary:
            steps_fn = stack.enter_context(profile.around(steps_fn, profiled, begin, at_once, folders[0]))
        validate = _validator(task, config, partition, validation)
        fixed = data.validation.take(np.arange(min(config.samples, len(data.validation))))
        sample = _sampler(_on_one_device(task, config, spec), partition, fixed)
        state = partition.place(together.stack(states))
        running, members = stack.enter_context(contextlib.ExitStack()), []
        for each, workdir, saved in zip(configs, folders, saves, strict=True):
            member = Member(each, workdir, spec, trained_on, saved, partition.primary, quiet or not alone)
            members.append(running.enter_context(member))

        def report(step: int, window: list[Any]) -> None:
            dispatches = jax.device_get(window)
            for i, member in enumerate(members) if window else ():
                metrics = [together.pick(dispatch, i, len(members)) for dispatch in dispatches]
                if not member.ended:
                    member.report(step, {name: np.concatenate([m[name] for m in metrics]) for name in metrics[0]})

        window: list[Any] = []  # of each dispatch, on the device until they are reported
        waiting: list[Any] = []
        span = range(begin, begin if all(member.ended for member in members) else config.steps)
        of_run = lambda seed: batches(training, config.batch_size, seed, partition, at_once, span)  # noqa: E731
        dispatches = of_run(config.seed) if alone else zip(*(of_run(each.seed) for each in configs), strict=True)
        ends = range(begin + at_once, span.stop + 1, at_once)
        for step, batch in zip(ends, dispatches, strict=True):
            state, metrics = steps_fn(state, training.held, batch)
            window.append(metrics)
            if waiting:  # read only now, while the device is busy with these steps
                report(step - at_once, waiting)
                waiting = []
            planned = step % config.checkpoint_every == 0 or step == config.steps
            leaving = step == config.steps or (not planned and asked())
            if step % config.log_every == 0:
                waiting, window = window, []
            if planned or leaving:
                report(step, waiting + window)
                waiting, window = [], []
                for i, member in enumerate(members):
                    if not member.ended:
                        check = functools.partial(validate, numbers=together.pick(numbers, i, len(members)))
                        member.save(step, together.pick(state, i, len(members)), sample, check if planned else None)
            if leaving or all(member.ended for member in members) or (planned and asked()):
                break
        running.close()
        if not any(member.error for member in members):
            partition.wait()  # until all is written
    return [member.error or _newest(workdir) for member, workdir in zip(members, folders, strict=True)]


def _newest(workdir: Path) -> Run:
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
    adjust: Callable[[Any], Any] | None = None,
) -> Run:
    """Trains on an array: [n, features], [n, height, width] or [n, height, width, channels].

    `label` [n], whole numbers from 0, is what a conditional model (`config.classes`) is given.
    Without a workdir nothing stays on disk. With one, the same call goes on where it was left. `devices`, `quiet`
    and `adjust` as in `train`.
    """
    config_lib.check(config)
    config = config.copy_and_resolve_references()
    source = from_array(images, label, name="images", size=config.data.size, fit=config.data.fit)
    crc = zlib.crc32(np.ascontiguousarray(images))
    if label is not None:
        crc = zlib.crc32(np.asarray(label, np.int32, order="C"), crc)
    with config.unlocked():
        config.data.name = f"array-{crc:08x}"
    data = split({"train": source}, config.data)
    with contextlib.ExitStack() as stack:
        folder = workdir or stack.enter_context(tempfile.TemporaryDirectory(prefix="aejax-"))
        return train(config, folder, data=data, devices=devices, quiet=quiet, adjust=adjust)


def make_task(config: ConfigDict, spec: Spec, examples: int = 1, axis_name: str | None = None) -> Task:
    """Model, objective and optimizer of a config, checked against each other.

    `examples` is the number in the training split, `axis_name` that of the devices, see `Partition`.
    """
    model = models.build(config, spec.shape, axis_name)
    if config.pretrain.steps:
        stacked_layers(config)
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
    traced = _trace(_on_one_device(task, config, spec), spec)
    for key, taken in task.objective.unfinished(config.steps).items():
        warnings.warn(
            f"{key}={taken} is more than steps={config.steps}: training ends before this schedule does, with another "
            f"weight or target than the config's; raise steps, or lower {key}",
            stacklevel=2,
        )
    models.warn_if_overcomplete(models.abstract_output(model, spec.shape), config)
    return dataclasses.replace(task, convolves="conv_general_dilated" in traced)


def _on_one_device(task: Task, config: ConfigDict, spec: Spec) -> Task:
    """The same for batches that no devices share."""
    if task.axis_name is None:
        return task
    return dataclasses.replace(task, model=models.build(config, spec.shape), axis_name=None)


def _trace(task: Task, spec: Spec) -> str:
    """The operations of an evaluation. Computes nothing.

    Raises InputError where a weight has no term, or a term does not fit the model.
    """

    def evaluate(x: Any) -> Any:
        state = init(task, spec.shape, jax.random.key(0))
        batch = {"x": x, **{name: np.arange(2, dtype=np.int32) for name in ("index", "label", "weight")}}
        return eval_step(state, batch, task=task)

    return str(jax.make_jaxpr(evaluate)(jax.ShapeDtypeStruct((2, *spec.shape), np.float32)))


def check_data(config: ConfigDict, task: Task, training: Feed, validation: Feed) -> None:
    """Raises InputError where values or labels are not what the config is for."""
    _check_range(task, training.source)
    for feed in (training, validation) if config.classes else ():
        _check_labels(feed, config.classes)


def _check_range(task: Task, source: Source) -> None:
    likelihood = task.objective.likelihood
    if likelihood.unit_interval and len(source.shape) == 1:
        for x in map(task.prepare, read_chunks(source)):
            if x.min() < 0 or x.max() > 1:
                raise InputError(
                    f"likelihood.name={type(likelihood).__name__} wants values in [0, 1], the data has "
                    f"{x.min()} to {x.max()}; use gaussian or squared_error, or scale the data"
                )


def _check_labels(feed: Feed, classes: int) -> None:
    if "label" not in feed.source.take(np.arange(1)):
        raise InputError(
            f"classes={classes} makes the model conditional, but the data has no labels; give some or set classes=0"
        )
    label = np.asarray(feed.held["label"]) if feed.held else read_labels(feed.source)
    if label.min() < 0 or label.max() >= classes:
        raise InputError(
            f"the data has labels from {label.min()} to {label.max()}, and classes={classes} means 0 to {classes - 1}; "
            "set classes to the number of labels"
        )


def _validator(task: Task, config: ConfigDict, partition: Partition, feed: Feed) -> Callable[..., dict[str, float]]:
    """Means of `eval_step` over a whole split, of a state and the numbers of its run, see `together`."""
    batch_size = config.batch_size
    batches, own = math.ceil(len(feed.source) / batch_size), partition.own(batch_size)

    def evaluate(carry: Any, held: Any, batch: Any, reduce: Any) -> Any:
        numbered = together.with_numbers(task, config, held["numbers"])
        return carry, eval_step(held["state"], gather(held["data"], batch), task=numbered, reduce=reduce)

    compiled = partition.compile(evaluate)

    def validate(state: TrainState, numbers: Mapping[str, Any]) -> dict[str, float]:
        held = {"state": state, "data": feed.held, "numbers": partition.replicate(numbers)}
        sums = []
        for i, batch in enumerate(
            feed.batches(lambda i: pad_rows(len(feed.source), batch_size, i)[0][own], 0, batches)
        ):
            weight = pad_rows(len(feed.source), batch_size, i)[1][own]
            sums.append(compiled((), held, partition.share({**batch, "weight": weight}))[1])
        sums = jax.device_get(sums)
        totals = {key: sum(float(s[key]) for s in sums) for key in sums[0]}
        count = totals.pop("weight")
        means = {key: value / count for key, value in totals.items()}
        return means | {"squared_error_per_value": means["squared_error"] / math.prod(feed.source.shape)}

    return validate


def _sampler(
    task: Task, partition: Partition, batch: Mapping[str, Any]
) -> Callable[[TrainState], dict[str, np.ndarray]]:
    """Latents, reconstructions and inputs of the fixed evaluation batch, in the user's units.

    `task` is one without an axis of devices.
    """

    def apply(variables, batch):
        x = task.prepare(batch["x"])
        output: Any = task.apply(variables, x, batch, None)
        reconstructions = task.restore(task.objective.mean(output.decoded))
        return {"latents": output.code.z, "reconstructions": reconstructions, "inputs": task.restore(x)}

    compiled = partition.on_whole(apply)
    return lambda state: compiled(eval_variables(state), batch)
