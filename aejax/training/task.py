"""Construction of a `Task` from a config, with checks of its parts against each other and against the data."""

import dataclasses
import math
import operator
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax import models
from aejax.data import SAMPLED, Feed, Source, Spec, read_chunks, read_labels
from aejax.data.kinds import has_pixels
from aejax.distributed.processor import warn_of_bfloat16
from aejax.errors import AejaxError, InputError, kind_and_words, one_of, shown
from aejax.inference.parts import describe_parts
from aejax.models import pre_encoder
from aejax.models.encoders import ENCODERS
from aejax.objectives import DISCRIMINATORS, LIKELIHOODS, Corruption, Discriminator, Likelihood, Objective
from aejax.registry import describe, instantiate
from aejax.training import optimizers
from aejax.training.pretraining import list_layers
from aejax.training.step import Task, eval_step, eval_variables, init


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """The objects of a task that a config names, or that `fit` was given."""

    model: models.Autoencoder
    objective: Objective
    optimizer: optax.GradientTransformation
    corruption: Corruption = dataclasses.field(default_factory=Corruption)
    discriminator: Discriminator | None = None


def take_parts(needed: Mapping[str, Any], more: Mapping[str, Any]) -> Parts:
    """Returns the parts that `fit` was given. Raises InputError if one is missing or of another kind."""
    if missing := [f"{name}=" for name, value in needed.items() if value is None]:
        raise InputError(f"fit without a config needs {', '.join(missing)}; give them, or a config and the examples")
    given = {name: value for name, value in {**needed, **more}.items() if value is not None}
    parts = Parts(**{name: value for name, value in given.items() if name != "data"})
    wanted: list[tuple[str, Any, str]] = [
        ("model", models.Autoencoder, "an aejax.Autoencoder(encoder, bottleneck, decoder)"),
        *((f"model.{name}", nn.Module, "a linen module") for name in ("encoder", "bottleneck", "decoder")),
        ("objective", Objective, "an aejax.Objective(likelihood, weights={...})"),
        ("objective.likelihood", Likelihood, "a likelihood, e.g. Bernoulli()"),
        ("optimizer", optax.GradientTransformation, "one of optax, e.g. optax.adam(1e-3)"),
        ("corruption", Corruption, "an aejax.objectives.Corruption(name, level)"),
        ("discriminator", Discriminator | None, "an aejax.objectives.Discriminator"),
    ]
    for name, kind, what in wanted:
        value = operator.attrgetter(name)(parts)
        if not isinstance(value, kind):
            raise InputError(f"{name} must be {what}, got {shown(value)}")
    return parts


def build_parts(config: ConfigDict, spec: Spec) -> Parts:
    """Builds the parts that `config` names, for inputs and targets as in `spec`."""
    model = models.build(config, spec.shape, target=spec.target, columns=spec.likelihoods)
    likelihood = instantiate("likelihood", LIKELIHOODS, config.likelihood, {"columns": spec.likelihoods})
    if spec.target and config.pretrain.steps:
        raise InputError("pretrain.steps trains layers to copy, and a transcoder does not; set it to 0")
    if spec.missing and config.pretrain.steps:
        raise InputError("pretrain.steps trains layers without a mask, and the data has missing values; set it to 0")
    if config.pretrain.steps and model.decoded:
        raise InputError(
            f"pretrain.steps is for likelihoods of one parameter, not {config.likelihood.name}; set it to 0"
        )
    if config.pretrain.steps:
        list_layers(config)
    named, shared = config.adversary, {"accumulate": config.optim.accumulate}
    discriminator = None if named.name == "none" else instantiate("adversary", DISCRIMINATORS, named, shared)
    return Parts(
        model=model,
        objective=Objective(likelihood, **config.objective.to_dict()),
        optimizer=optimizers.build(config.optim, config.steps),
        corruption=Corruption(**config.corruption),
        discriminator=discriminator,
    )


def make_config(parts: Parts, shape: Sequence[int], settings: Mapping[str, Any]) -> ConfigDict:
    """Returns the config of a run of `parts` on examples of `shape`, as far as a config can name them.

    `settings` are values of its other keys. Raises InputError for an unknown key, and for a model that `shape` does not
    fit.
    """
    try:
        models.abstract_output(parts.model, shape)
    except AejaxError:
        raise
    except Exception as error:  # whatever modules of others raise
        raise InputError(
            f"the model does not fit examples of {tuple(shape)} ({kind_and_words(error)}); change the model or the data"
        ) from error
    config = config_lib.default()
    config.data.missing = parts.model.missing
    named = {} if parts.discriminator is None else {"adversary": describe(parts.discriminator, DISCRIMINATORS)}
    of_parts = {
        **describe_parts(parts.model, parts.objective, shape),
        **named,
        "corruption": dataclasses.asdict(parts.corruption),
        "optim": {"name": config_lib.OWN},
    }
    known = [key for key in config if key not in ("data", "dtype", "partition", "pretrain", *of_parts, "adversary")]
    for key in settings:
        if key not in known:
            raise one_of("fit: argument", key, known)
    return config_lib.section({**config, **of_parts, **settings}, "fit: the arguments")


def make_task(
    config: ConfigDict, spec: Spec, examples: int = 1, axis_name: str | None = None, parts: Parts | None = None
) -> Task:
    """Builds the task of `config`.

    Args:
      config: see `aejax.config.default`.
      spec: shape and units of the data.
      examples: number of examples in the training split.
      axis_name: axis of the devices that share a batch, see `Partition`.
      parts: objects in place of those that the config names.

    Raises InputError if the parts do not fit each other. Warns of schedules that outlast training, of a code that can
    learn to copy its input, and of bfloat16 on a processor that gains nothing by it.
    """
    if config.data.flip and spec.kind != "image":
        raise InputError(f"data.flip mirrors images, and the data holds examples of {spec.shape}; set it to False")
    parts = build_parts(config, spec) if parts is None else parts
    if tuple(parts.model.target) != spec.target:
        raise InputError(
            f"the model decodes targets of shape {tuple(parts.model.target)} and the data has {spec.target}, where () "
            f"stands for x itself; give Autoencoder(target={spec.target})"
        )
    if spec.masked:
        _check_masked(parts, spec)
    _check_likelihood(config, spec, parts)
    task = Task(
        **{**vars(parts), "optimizer": constrain(parts.optimizer, parts.model)},
        prepare=spec.prepare,
        restore=spec.restore,
        standardized=bool(spec.mean),
        ema=config.ema,
        flip=config.data.flip,
        draws=config.data.get("binarize", "none") == "dynamic",
        masked=spec.masked,
        frozen=config_lib.parse_patterns(config.optim.get("freeze", "")),
        constants=parts.objective.load_constants(),
        examples=examples,
    )
    operations, output = _trace(single_device_task(task), spec)
    lengths = task.objective.unfinished(config.steps)
    bottleneck = parts.model.bottleneck
    if getattr(bottleneck, "anneal_from", 0) and bottleneck.anneal_steps > config.steps:
        lengths["bottleneck.anneal_steps"] = bottleneck.anneal_steps
    for key, taken in lengths.items():
        warnings.warn(
            f"{key}={taken} is more than steps={config.steps}: training ends before this schedule does, with another "
            f"weight, target or k than the config's; raise steps, or lower {key}",
            stacklevel=2,
        )
    if config.dtype == "bfloat16":
        warn_of_bfloat16()
    models.warn_if_overcomplete(output, config)
    reach = getattr(parts.model.encoder, "receptive_field", 0)
    if spec.kind == "sequence" and spec.shape[0] < reach:
        warnings.warn(
            f"the data has {spec.shape[0]} time steps, and a position of the encoder's code reads {reach}, its "
            "receptive field: the rest are zeros; use fewer encoder.features",
            stacklevel=2,
        )
    return dataclasses.replace(
        task,
        model=models.set_axis(parts.model, axis_name),
        axis_name=axis_name,
        convolves="conv_general_dilated" in operations,
        bfloat16="bf16[" in operations,
    )


def _check_masked(parts: Parts, spec: Spec) -> None:
    """Raises InputError for parts that would read what is not there: the padding of sequences, or missing values."""
    readers = [name for name, cls in ENCODERS.items() if getattr(cls, "reads_padding", False)]
    if spec.padded and not getattr(parts.model.encoder, "reads_padding", False):
        raise InputError(
            f"the data has sequences of unequal length, whose padding {type(parts.model.encoder).__name__} would read; "
            f"choose encoder.name among: {', '.join(readers)}, or cut the sequences to one length"
        )
    if getattr(parts.objective.likelihood, "variance", "fixed") == "optimal":
        what = "padding" if spec.padded else "missing values"
        raise InputError(f"likelihood.variance='optimal' would average over {what}; choose 'fixed' or 'learned'")
    if spec.missing and parts.objective.likelihood.reads_input:
        raise InputError(
            "likelihood.library='observed' reads the total of x, which missing values leave open; choose another"
        )
    read = sorted(_READ_X.intersection(parts.objective.weights))
    if read or parts.discriminator is not None:
        what = f"objective.weights.{read[0]}" if read else "a discriminator"
        where = "missing values, or categories as numbers" if spec.columns else "missing values"
        where = "the padding of sequences of unequal length" if spec.padded else where
        raise InputError(f"{what} would read {where}; leave it out")
    if spec.columns and parts.corruption.name != "none":
        raise InputError(f"corruption.name={parts.corruption.name} would change categories as numbers; set it to none")
    if spec.missing and not parts.model.missing and not spec.columns:
        raise InputError("the data has missing values, which the model reads as NaN; give Autoencoder(missing=True)")


# Terms that compare with x itself.
_READ_X = {"contractive", "lpips", "prefixes", "revival", "ghost", "gate_reconstruction", "crosscoder_l1"}
_READ_X |= {"multiscale_stft"}


def _check_likelihood(config: ConfigDict, spec: Spec, parts: Parts) -> None:
    """Raises InputError unless the model makes the parameters of the likelihood, and the data keeps its units."""
    likelihood, model = parts.objective.likelihood, parts.model
    if spec.columns and likelihood.columns != spec.likelihoods:
        raise InputError(
            f"the data is a table of {', '.join(spec.likelihoods)}, and the likelihood reads "
            f"{', '.join(likelihood.columns) or 'no columns'}; set likelihood.name=mixed, "
            "and leave likelihood.columns empty"
        )
    if tuple(model.levels) != likelihood.column_levels:
        raise InputError(f"the model reads no levels of the table; give Autoencoder(levels={likelihood.column_levels})")
    name, decoded = config.likelihood.get("name"), likelihood.decoded_shape(spec.decoded)
    made = tuple(model.decoded or spec.decoded)
    if made != decoded:
        raise InputError(
            f"the likelihood has parameters of shape {decoded} and the model makes {made}; give a decoder of that "
            f"shape and Autoencoder(decoded={decoded})"
        )
    scale = likelihood.scale_shape(spec.decoded)
    if scale and (not model.learned_scale or tuple(model.scale_shape) != scale):
        raise InputError(
            f"the likelihood learns parameters of shape {scale} beside the decoder; give "
            f"Autoencoder(learned_scale=True, scale_shape={scale}, scale_by_label={likelihood.scale_by_label})"
        )
    if likelihood.levels and (spec.mean or spec.per_token):
        raise InputError(f"likelihood.name={name} reads whole numbers; set data.standardize=False, data.normalize=none")


def constrain(optimizer: optax.GradientTransformation, model: models.Autoencoder) -> optax.GradientTransformation:
    """Returns the optimizer, with `keep_unit_norm` if the model's decoder has `unit_norm`."""
    found = pre_encoder.find_unit_rows(model.decoder)
    return optimizers.keep_unit_norm(optimizer, *found) if found else optimizer


def single_device_task(task: Task) -> Task:
    """Returns the task for a single device, without `axis_name`."""
    return dataclasses.replace(task, model=models.set_axis(task.model, None), axis_name=None)


def _trace(task: Task, spec: Spec) -> tuple[str, models.Output]:
    """Returns the operations of an evaluation as text, and the model's output without its values.

    Raises InputError if a weight has no term, or a term does not fit the model.
    """

    def evaluate(x: Any) -> Any:
        state = init(task, spec.shape, jax.random.key(0))
        batch = {"x": x, **{name: jnp.arange(2) for name in ("index", "label", "weight")}}
        batch |= {"target": jnp.zeros((2, *spec.target))} if spec.target else {}
        return eval_step(state, batch, task=task), task.apply(eval_variables(state), task.prepare(x), batch, None)

    x = jax.ShapeDtypeStruct((2, *spec.shape), np.float32)
    operations, (_, output) = jax.make_jaxpr(evaluate, return_shape=True)(x)
    return str(operations), output


def check_data(config: ConfigDict, task: Task, training: Feed, validation: Feed) -> None:
    """Raises InputError if values or labels do not fit the config."""
    _check_range(task, training.source)
    if config.data.get("batch", "") and not training.source.genes:
        raise InputError(
            f"data.batch={config.data.batch!r} is a column of AnnData, which the data is not; set it to ''"
        )
    if config.data.get("batch", "") and config.classes != (found := len(training.source.kinds)):
        raise InputError(
            f"data.batch={config.data.batch!r} has {found} batches, and classes={config.classes}; set classes={found}"
        )
    if config_lib.parse_categories(config) not in ((), training.source.categories):
        numbers = ",".join(map(str, training.source.categories))
        raise InputError(
            f"condition.categories={config.condition.categories!r} and those of data.batch={config.data.batch!r} are "
            f"{numbers!r}; set it to these"
        )
    if training.source.weights is not None and (task.discriminator or config.pretrain.steps):
        what = "a discriminator" if task.discriminator else "layer-wise pretraining"
        raise InputError(f"weights of examples are not for {what}; leave them out, or that")
    for feed in (training, validation) if config.classes else ():
        _check_labels(feed, config.classes)


def _check_range(task: Task, source: Source) -> None:
    """Raises InputError for values that the likelihood cannot have: outside [0, 1], or no whole numbers."""
    likelihood = task.objective.likelihood
    if likelihood.levels or any(likelihood.column_levels):
        _check_whole(task, source)
    if likelihood.unit_interval and (source.limits or not has_pixels(source.kind)):
        source = source.sample(SAMPLED) if source.block else source
        for x in map(task.prepare, read_chunks(source)):
            low, high = jnp.nanmin(x), jnp.nanmax(x)
            if low < 0 or high > 1:
                raise InputError(
                    f"likelihood.name={type(likelihood).__name__} wants values in [0, 1], the data has "
                    f"{low} to {high}; use gaussian or squared_error, or scale the data"
                )


def _check_whole(task: Task, source: Source) -> None:
    """Raises InputError for values that are no counts, or no levels, of the likelihood."""
    likelihood, start = task.objective.likelihood, 0
    levels, name = np.asarray(likelihood.column_levels or likelihood.levels), type(likelihood).__name__
    cure = source.cure or "give raw ones, or a likelihood of other numbers, e.g. gaussian"
    rows = max(2**24 // math.prod(source.shape), 1)  # of 64 MB, as those of sparse matrices may be wide
    for x in map(np.asarray, map(task.prepare, read_chunks(source, min(rows, 4096)))):
        bad = (levels != 0) & ~np.isnan(x) & ((x != np.floor(x)) | (x < 0) | ((levels > 0) & (x >= levels)))
        if bad.any():
            row, *place = np.argwhere(bad)[0].tolist()
            where = f"example {start + row}, value {place[0] if len(place) == 1 else tuple(place)}"
            most = int(np.broadcast_to(levels, x.shape[1:])[tuple(place)])
            wanted = f"levels from 0 to {most - 1}" if most > 0 else "counts: whole numbers from 0"
            raise InputError(
                f"{source.name}: {where} is {x[(row, *place)]:g}, and likelihood.name={name} reads {wanted}; {cure}"
            )
        start += len(x)


def _check_labels(feed: Feed, classes: int) -> None:
    """Raises InputError unless all labels are there and below `classes`."""
    if "label" not in feed.source.take(np.arange(1)):
        raise InputError(f"classes={classes}, but the data has no labels; give some or set classes=0")
    label = np.asarray(feed.held["label"]) if feed.held else read_labels(feed.source)
    if label.min() < 0 or label.max() >= classes:
        raise InputError(
            f"the data has labels from {label.min()} to {label.max()}, and classes={classes} means 0 to {classes - 1}; "
            "set classes to the number of labels"
        )
