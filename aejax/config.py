"""Configs of experiments: their keys and defaults, checks, comparison, and conversion to and from JSON."""

import contextlib
import copy
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from aejax import arguments
from aejax.errors import InputError, one_of, shown

OWN = "own"  # the name of a part that `fit` was given as an object, and which no config can make


def default() -> ConfigDict:
    """Returns a config with the default of every key. An experiment sets what it needs and then locks the config."""
    config = ConfigDict()
    config.seed = 0  # below 2**32
    config.steps = 1_000
    config.batch_size = 128  # examples per step, over all devices
    config.dtype = "float32"  # of the computation in encoder and decoder: float32 or bfloat16
    config.ema = 0.0  # decay of the moving average of the parameters, which evaluation uses; 0: off
    config.log_every = 20  # steps between logs
    config.checkpoint_every = 200  # steps between checkpoints, each with a validation
    config.keep = 3  # number of newest checkpoints to keep, besides the best one by validation loss
    config.patience = 0  # validations without a new best loss after which the run stops early; 0: off
    config.tracking = ()  # besides TensorBoard: wandb, mlflow, or package.module:name of your own tracker
    config.samples = 64  # validation examples whose latents and reconstructions are saved with a checkpoint

    config.data = ConfigDict()
    # digits, plane, sheet, shapes, volumes, clicks, cells, people, waves, voices, a TFDS name, a .npy, .npz or .h5ad
    # file, a table (.parquet, .csv), a folder of images, of .wav files, or of activations
    config.data.name = "digits"
    config.data.options = ""  # of sparse_features, activations with known features, e.g. features=512,dims=64
    # What an example is: vector, sequence [time, channels], image, or volume [depth, height, width, channels]; empty:
    # guessed from the number of axes and the values. Values of images and volumes may then be floats of any range.
    config.data.kind = ""
    config.data.target = ""  # likewise, what a transcoder decodes each example to; empty: the example itself
    config.data.layers = 0  # layers of a crosscoder, whose examples are [layers, features]; 0: whatever the data holds
    config.data.layer = ""  # of AnnData: the layer of the counts, or raw; empty: X
    # Likewise, the column of obs that is the label, of which classes is the number; or several, with commas, whose
    # combinations are the labels; empty: none.
    config.data.batch = ""
    config.data.data_dir = ""  # folder of TFDS data sets; empty: TFDS_DATA_DIR or ~/tensorflow_datasets
    config.data.train = ""  # split in TFDS syntax; empty: the data set's own, or cut from rows that no other part names
    config.data.validation = ""  # likewise
    config.data.test = ""  # likewise
    config.data.held_out = -1  # label of anomalies, which are removed from all parts but test; -1: none
    config.data.size = 0  # side to which images are resized, or steps of a segment of sound; 0: as they are
    config.data.width = 0  # of images that are resized to another width than height, which is data.size; 0: the same
    config.data.rate = 16_000  # samples per second of .wav files; others are refused
    # For images whose sides have another ratio: crop the side that is too long, pad the other, or stretch.
    config.data.fit = "crop"
    # data.fit=random crops at a random place in training; sides are from 1/zoom of the largest such crop to all.
    config.data.zoom = 1.0
    config.data.flip = False  # whether half of the training images are mirrored, others in each step
    config.data.binarize = "none"  # draws images of 0 and 1: dynamic (anew in each step), static, or threshold
    config.data.binarize_seed = 0  # of what is drawn once: all of static, and validation and test of dynamic
    config.data.missing = False  # whether NaN are missing values, which losses leave out and models reconstruct
    config.data.columns = ()  # of a table, likelihoods other than those of dtypes, e.g. visits=poisson, *=student_t
    config.data.weights = ""  # name of the array of an .npz file, or the column of a table, with weights of examples
    config.data.standardize = False  # whether vectors are scaled to mean 0 and standard deviation 1 in the train split
    # Vectors: expected_norm divides all by one number, which makes their mean length sqrt(features); per_token each.
    config.data.normalize = "none"
    config.data.memory_mb = 1_024  # splits up to this size are kept on device, larger ones are streamed
    # Whether the user's cache folder keeps decoded splits up to that size, and the sizes of images in large folders.
    config.data.cache = True
    config.data.buffer = 131_072  # examples of a store or a stream of activations that are mixed

    # pmap: each device has the whole state; sharded: each has a part, for models too large for one device
    config.partition = ConfigDict({"name": "pmap"})

    config.inputs = "linear"  # how the encoder reads x: linear, log1p of counts, or unit_norm, scaled to length 1

    # With remat=True the backward pass computes blocks of an encoder or decoder again instead of keeping their values.
    config.encoder = ConfigDict({"name": "mlp"})
    config.bottleneck = ConfigDict({"name": "identity"})
    config.decoder = ConfigDict({"name": "mlp"})

    # Whether linear sparse autoencoders subtract the decoder's bias, which starts at the data's mean, from x.
    config.pre_bias = True

    # Whether a linear map of x is added to what a transcoder decodes.
    config.skip = False

    config.init = "modules"  # initial kernels: as modules draw them, or glorot or pytorch (biases, too) for all
    config.output_bias = "zero"  # initial bias of the decoder's logits; or mean, the log-odds of the data's mean

    config.classes = 0  # number of classes that encoder and decoder are conditioned on; 0: unconditional
    # How a label is read: by the encoder, too, or by the decoder alone; one-hot, or as an embedding of this width.
    # `categories`, e.g. "3,2", are those of several columns whose combination is the label, see data.batch.
    config.condition = ConfigDict({"encoder": True, "embedding": 0, "categories": ""})

    config.likelihood = ConfigDict({"name": "squared_error"})  # a name in aejax.objectives.LIKELIHOODS
    config.objective = ConfigDict()
    config.objective.weights = ConfigDict()  # weight of each further term, e.g. kl: 4.0
    config.objective.schedules = ConfigDict()  # schedules of weights, e.g. kl: {"name": "linear", "steps": 1000}
    config.objective.options = ConfigDict()  # arguments of terms, e.g. mmd: {"kernel": "rbf"}
    config.objective.bound = ConfigDict({"name": "elbo"})  # or iwae, miwae, ciwae, dreg, piwae
    config.adversary = ConfigDict({"name": "none"})  # discriminator: none, factor_vae, aae, vae_gan or patchgan
    config.corruption = ConfigDict({"name": "none", "level": 0.0})  # e.g. gaussian or masking, of this level
    config.pretrain = ConfigDict({"steps": 0})  # steps of greedy layer-wise pretraining for each layer; 0: off

    config.init_from = ConfigDict()
    config.init_from.workdir = ""  # of another run, whose parameters and codebooks this one starts from; empty: none
    config.init_from.step = "newest"  # of its checkpoints; or best, or the number of a step
    config.init_from.include = ""  # patterns of the paths to take, with commas, e.g. encoder/; empty: all

    config.optim = ConfigDict()
    config.optim.name = "adam"  # or adafactor, adam_normalized, lion, muon, prodigy, rmsprop, schedule_free, sgd
    config.optim.lr = 1e-3
    config.optim.schedule = (
        "constant"  # of the learning rate; or cosine or linear, which end at 0 at the last step; or burda or wae
    )
    config.optim.warmup = 0  # steps of linear warm-up of the learning rate
    config.optim.clip = 0.0  # largest global norm of the gradient; 0: off
    config.optim.skip = 0.0  # global norm of the gradient above which a step changes no parameter; 0: off
    config.optim.weight_decay = 0.0  # decoupled; only of parameters with two or more axes, e.g. kernels and codebooks
    config.optim.accumulate = 1  # number of steps whose gradients are averaged for one update
    config.optim.freeze = ""  # patterns of the paths of what is not trained, with commas, e.g. encoder/,.*/bias
    config.optim.options = ConfigDict()  # further arguments of the optimizer, e.g. b2
    return config


def parse_arg(arg: str, **defaults: bool) -> ConfigDict:
    """Parses the `arg` of `get_config(arg)`: `"tiny,mnist"` sets the flags `tiny` and `mnist` of `defaults` to True."""
    flags = ConfigDict(defaults)
    for name in filter(None, arg.split(",")):
        if name not in defaults:
            raise InputError(
                f"config argument {name!r} is unknown (commas separate several); choose among: {', '.join(defaults)}"
            )
        flags[name] = True
    return flags


def module(name: str, **attributes: Any) -> ConfigDict:
    """Returns a section that names an encoder, bottleneck, decoder, likelihood, ... and sets its attributes."""
    return ConfigDict({"name": name, **attributes})


def section(values: Mapping[str, Any], what: str) -> ConfigDict:
    """Returns `values` as a ConfigDict. Raises InputError, in which they are called `what`, if a key is no word."""
    try:
        return ConfigDict(dict(values))
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} holds keys that are not words without dots ({shown(values)}); rename them") from error


def lock(config: ConfigDict) -> ConfigDict:
    """Locks a finished config, except for the sections to which flags may add keys, e.g. those of the encoder."""
    config.lock()
    for path in _OPEN:
        with contextlib.suppress(KeyError, TypeError, AttributeError):  # a section is missing, which `check` reports
            get(config, path).unlock()
    return config


def shrink(config: ConfigDict) -> None:
    """Shortens training to a few steps, for `:tiny`. A config has to make its model and data small itself."""
    config.update({"steps": 4, "batch_size": 16, "log_every": 2, "checkpoint_every": 2})
    for section in (*config.objective.schedules.values(), *config.objective.options.values()):
        if "steps" in section:
            section.steps = min(section.steps, config.steps)


_CHOICES = {
    "partition.name": ("pmap", "sharded"),
    "init": ("modules", "glorot", "pytorch"),
    "output_bias": ("zero", "mean"),
    "data.kind": ("", "vector", "sequence", "image", "volume"),
    "inputs": ("linear", "log1p", "unit_norm"),
    "data.fit": ("crop", "random", "pad", "stretch"),
    "data.binarize": ("none", "dynamic", "static", "threshold"),
}


def check(config: ConfigDict) -> None:
    """Raises InputError for unknown or missing keys, and for values of the wrong kind or out of range."""
    if not isinstance(config, ConfigDict):
        raise InputError(f"a config must start from aejax.config.default(), got {type(config).__name__}")
    if isinstance(config.get("optim"), ConfigDict) and config.optim.get("name") == OWN:  # which has no other keys
        config = ConfigDict({**config, "optim": default().optim})
    _check_section(default(), config)
    for key, value in flatten(config.to_dict()):
        _check_plain(key, value)
    for key in ("steps", "batch_size", "log_every", "checkpoint_every", "keep", "samples", "optim.accumulate"):
        if not 0 < get(config, key) < 2**31:
            raise InputError(f"{key} must be a whole number above 0 and below 2**31, got {get(config, key)}")
    if config.dtype not in ("float32", "bfloat16"):
        raise InputError(f"dtype must be float32 or bfloat16, got {config.dtype!r}")
    for key, known in _CHOICES.items():
        if get(config, key) not in known:
            raise one_of(key, get(config, key), known)
    if config.data.binarize != "none" and config.data.standardize:
        raise InputError(f"data.binarize={config.data.binarize} makes values of 0 and 1; set data.standardize=False")
    if config.data.binarize != "none" and config.data.missing:
        raise InputError(f"data.binarize={config.data.binarize} makes values of 0 and 1; set data.missing=False")
    if config.data.fit == "random" and not config.data.size:
        raise InputError("data.fit=random crops images to data.size, which is 0; set it")
    if not 1 <= config.data.zoom < 1e3:
        raise InputError(f"data.zoom must be at least 1 and below 1000, got {config.data.zoom}")
    if config.data.zoom != 1 and config.data.fit != "random":
        raise InputError(f"data.zoom={config.data.zoom} is that of random crops; set data.fit=random, too")
    if not 0 <= config.ema < 1:
        raise InputError(f"ema must be in [0, 1), got {config.ema}")
    arguments.check_seed(config.seed)
    for key in (
        *("classes", "patience", "pretrain.steps", "optim.warmup"),
        *("data.size", "data.width", "data.memory_mb", "data.binarize_seed", "data.layers", "condition.embedding"),
    ):
        if not 0 <= get(config, key) < 2**31:
            raise InputError(f"{key} must not be negative, and below 2**31, got {get(config, key)}")
    for key in ("optim.clip", "optim.skip", "optim.weight_decay"):
        if get(config, key) < 0:
            raise InputError(f"{key} must not be negative, got {get(config, key)}")
    if not config.optim.lr > 0:
        raise InputError(f"optim.lr must be above 0, got {config.optim.lr}")
    for key in ("init_from.include", "optim.freeze"):
        for pattern in parse_patterns(get(config, key)):
            try:
                re.compile(pattern)
            except (re.error, OverflowError, RecursionError) as error:
                raise InputError(f"{key}: {shown(pattern)} is no regular expression ({error}); correct it") from error
    if not 0 < config.data.rate < 2**31:
        raise InputError(f"data.rate must be above 0 and below 2**31 samples per second, got {config.data.rate}")
    if config.data.buffer < 1:
        raise InputError(f"data.buffer must be at least 1 example, got {config.data.buffer}")
    if config.data.held_out < -1:
        raise InputError(f"data.held_out must be a label, or -1 for none, got {config.data.held_out}")


def parse_categories(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the numbers in `condition.categories`. Raises InputError if their product is not `classes`."""
    text = config.get("condition", {}).get("categories", "")
    numbers = tuple(int(part) if part.strip().isdecimal() else 0 for part in filter(None, text.split(",")))
    if numbers and math.prod(numbers) != config["classes"]:
        raise InputError(
            f"condition.categories={text!r} are whole numbers, e.g. 3,2, whose product is classes, and that is "
            f"{config['classes']}; correct one"
        )
    return numbers


def parse_patterns(text: str) -> tuple[str, ...]:
    """Returns the regular expressions in a text that separates them by commas."""
    return tuple(filter(None, map(str.strip, text.split(","))))


# Keys that did not exist when some runs were trained, with the values that those runs used in effect.
BEFORE = {
    "data.held_out": -1,
    "data.options": "",
    "data.kind": "",
    "data.missing": False,
    "data.columns": (),
    "data.rate": 16_000,
    "data.weights": "",
    "data.fit": "stretch",
    "data.width": 0,
    "data.zoom": 1.0,
    "data.flip": False,
    "data.binarize": "none",
    "data.binarize_seed": 0,
    "data.normalize": "none",
    "data.buffer": 131_072,
    "data.target": "",
    "data.layer": "",
    "data.batch": "",
    "data.layers": 0,
    "skip": False,
    "inputs": "linear",
    "condition.encoder": True,
    "condition.embedding": 0,
    "condition.categories": "",
    "pre_bias": False,
    "init": "modules",
    "output_bias": "zero",
    "init_from.workdir": "",
    "init_from.step": "newest",
    "init_from.include": "",
    "optim.freeze": "",
    "optim.skip": 0.0,
}


def complete(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a saved config, completed by newer keys with the values that runs used in effect before these existed."""
    # Copied without `to_dict`, which would turn tuples into lists.
    filled = copy.deepcopy(saved.to_dict() if isinstance(saved, ConfigDict) else dict(saved))
    for path, value in BEFORE.items():
        *sections, key = path.split(".")
        place: Any = filled
        for section in sections:
            place = place.setdefault(section, {}) if isinstance(place, dict) else None
        if isinstance(place, dict) and place.get("name") != OWN:
            place.setdefault(key, value)
    return filled


def updated(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """Returns the config with other values for some dotted keys."""
    if not values:
        return config
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.update_from_flattened_dict(values)
    return config


# Sections whose keys depend on the module, term or optimizer that they name, which checks them.
_OPEN = (
    *("encoder", "bottleneck", "decoder", "likelihood", "adversary"),
    *("objective.weights", "objective.schedules", "objective.options", "objective.bound", "optim.options"),
)
# Sections among these with arbitrary keys and values of one kind, instead of a `name` and its arguments.
_VALUES = {"objective.weights": 0.0, "objective.schedules": ConfigDict(), "objective.options": ConfigDict()}


def _check_section(reference: ConfigDict, config: ConfigDict, path: str = "") -> None:
    """Raises InputError if keys or kinds of values differ from those of `reference`. `path` is "" or ends in a dot."""
    for key in config:
        if key not in reference:
            raise one_of("config key", path + key, [path + k for k in reference])
    for key, value in reference.items():
        if key not in config:
            raise InputError(f"config key {path + key!r} is missing; start from aejax.config.default()")
        check_kind(path + key, config[key], value)
        if path + key in _VALUES:
            for name, held in config[key].items():
                check_kind(f"{path}{key}.{name}", held, _VALUES[path + key])
        elif path + key not in _OPEN:
            if isinstance(value, ConfigDict):
                _check_section(value, config[key], f"{path}{key}.")
        elif "name" in value:
            if "name" not in config[key]:
                raise InputError(f"config key '{path}{key}.name' is missing; set it, e.g. to {value['name']!r}")
            check_kind(f"{path}{key}.name", config[key]["name"], "")


def check_kind(key: str, value: Any, default: object) -> None:
    """Raises InputError if `value` is of another kind than `default`. With a default of None, any value is fine."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match default:
        case bool():
            fits, wanted = isinstance(value, bool), "True or False"
        case int():
            fits, wanted = number and isinstance(value, int), "a whole number"
        case float():
            fits, wanted = number and abs(value) < 2**128, "a finite number"  # in float32
        case str():
            fits, wanted = isinstance(value, str), "a string"
        case tuple():
            fits = isinstance(value, tuple | list) and all(isinstance(name, str) for name in value)
            wanted = "names, e.g. ('wandb',)"
        case Mapping() | ConfigDict():
            fits, wanted = isinstance(value, Mapping | ConfigDict), "a section of keys, e.g. {'name': 'linear'}"
        case _:
            return
    if not fits:
        raise InputError(f"{key} must be {wanted}, got {shown(value)}")


def is_plain(value: object) -> bool:
    """Returns whether JSON can hold `value`."""
    try:
        _check_plain("", value)
    except InputError:
        return False
    return True


def _check_plain(key: str, value: object) -> None:
    """Raises InputError if JSON cannot hold `value`, or a value nested in it."""
    if isinstance(value, tuple | list):
        for each in value:
            _check_plain(key, each)
    elif type(value) not in (str, bool, int, float, type(None)):
        raise InputError(f"{key} must hold plain numbers, strings, lists or None, got {shown(value)}")
    elif isinstance(value, int | float) and not abs(value) < 2**128:
        raise InputError(f"{key} must be finite, and below 2**128, got {shown(value)}")


def get(config: Mapping[str, Any], path: str) -> Any:
    """Returns the value at a dotted path, e.g. `get(config, "optim.lr")`."""
    for key in path.split("."):
        config = config[key]
    return config


def to_json(config: Mapping[str, Any]) -> str:
    """Returns the config as JSON, with tuples as lists."""
    return json.dumps(to_dict(config), indent=2)


def to_dict(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config as plain dicts, lists and numbers, as JSON would read it back."""
    plain = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    return json.loads(json.dumps(plain))


def from_dict(values: Mapping[str, Any]) -> ConfigDict:
    """Restores a config from `values`, which `to_dict` returned; completes it by `complete` and locks it."""
    return lock(section(complete(values), "a config"))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lists the keys in which two configs differ, each as `key: old -> new`."""
    a, b = dict(flatten(to_dict(old))), dict(flatten(to_dict(new)))
    absent = "(absent)"
    keys = sorted(k for k in a.keys() | b.keys() if a.get(k, absent) != b.get(k, absent))
    return [f"{k}: {a.get(k, absent)} -> {b.get(k, absent)}" for k in keys]


def flatten(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted key and the value of each leaf of nested dicts."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{path}{key}.")
        else:
            yield path + key, value
