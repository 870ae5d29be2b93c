"""The keys of an experiment and what they mean; how a config is written, compared and read back."""

import contextlib
import json
import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from aejax.errors import InputError, one_of


def default() -> ConfigDict:
    """Every key with its default. An experiment changes what it needs and returns it locked."""
    config = ConfigDict()
    config.seed = 0  # below 2**32
    config.steps = 1_000
    config.batch_size = 128  # over all devices
    config.dtype = "float32"  # of the encoder's and decoder's computation: float32 or bfloat16
    config.ema = 0.0  # decay of the averaged parameters that evaluation uses; 0 is off
    config.log_every = 20
    config.checkpoint_every = 200  # validate, and save the state and the samples
    config.keep = 3  # newest checkpoints to keep, beside the best by validation loss
    config.patience = 0  # validations without a new best before the run stops early; 0 is off
    config.tracking = ()  # beside TensorBoard: wandb, mlflow, package.module:name of your own
    config.samples = 64  # validation examples whose latents and reconstructions travel with a checkpoint

    config.data = ConfigDict()
    config.data.name = "digits"  # digits, plane, sheet, shapes, a TFDS name, a .npy or .npz file, a folder of images
    config.data.data_dir = ""  # of TFDS; empty: TFDS_DATA_DIR or ~/tensorflow_datasets
    config.data.train = ""  # splits in TFDS syntax; empty: all three from what the data set has
    config.data.validation = ""
    config.data.test = ""
    config.data.held_out = -1  # a label that train and validation leave out and test keeps, as anomalies; -1: none
    config.data.size = 0  # resize images to size x size; 0 leaves them
    config.data.standardize = False  # vectors: subtract the mean and divide by the deviation of the train split
    config.data.memory_mb = 1_024  # larger splits are streamed
    config.data.cache = True  # smaller ones are decoded once, into the user's cache folder

    # pmap: every device holds the whole state; sharded: a share of it, for models that outgrow one device
    config.partition = ConfigDict({"name": "pmap"})

    config.encoder = ConfigDict({"name": "mlp"})
    config.bottleneck = ConfigDict({"name": "identity"})
    config.decoder = ConfigDict({"name": "mlp"})

    # Sparse autoencoders that are linear each way subtract the decoder's bias, which starts at the data's mean, from x.
    config.pre_bias = True

    config.classes = 0  # of the labels that encoder and decoder are given; 0: not conditional

    config.likelihood = ConfigDict({"name": "squared_error"})  # a name in aejax.objectives.LIKELIHOODS
    config.objective = ConfigDict()
    config.objective.weights = ConfigDict()  # weight of each further term by name, e.g. l1 or kl
    config.objective.schedules = ConfigDict()  # of weights by name, e.g. kl: {"name": "linear", "steps": 1000}
    config.objective.options = ConfigDict()  # of terms by name, e.g. mmd: {"kernel": "rbf"}
    config.objective.bound = ConfigDict({"name": "elbo"})  # or iwae, miwae, ciwae, dreg, piwae
    config.adversary = ConfigDict({"name": "none"})  # or factor_vae, aae, vae_gan
    config.corruption = ConfigDict({"name": "none", "level": 0.0})  # gaussian (deviation), masking (share), ...
    config.pretrain = ConfigDict({"steps": 0})  # greedy layer-wise pretraining: steps for each layer

    config.optim = ConfigDict()
    config.optim.name = "adam"
    config.optim.lr = 1e-3
    config.optim.schedule = "constant"  # or cosine, linear: down to 0 at the last step
    config.optim.warmup = 0  # steps of linear warm-up
    config.optim.clip = 0.0  # largest global norm of the gradient; 0 is off
    config.optim.weight_decay = 0.0  # decoupled, of kernels and all else of two axes or more, such as codebooks
    config.optim.accumulate = 1  # steps whose gradients are averaged into one update
    config.optim.options = ConfigDict()  # further arguments of the optimizer, e.g. b2
    return config


def parse_arg(arg: str, **defaults: bool) -> ConfigDict:
    """Reads the `arg` of `get_config(arg)`: `"tiny,mnist"` sets these flags among `defaults`."""
    flags = ConfigDict(defaults)
    for name in filter(None, arg.split(",")):
        if name not in defaults:
            raise InputError(f"config argument {name!r} is unknown; choose among: {', '.join(defaults)}")
        flags[name] = True
    return flags


def module(name: str, **attributes: Any) -> ConfigDict:
    """A section: the name of an encoder, bottleneck, decoder, likelihood, ... and its attributes."""
    return ConfigDict({"name": name, **attributes})


def lock(config: ConfigDict) -> ConfigDict:
    """Locks a finished config, but for the sections whose keys depend on what they name: flags may add to those."""
    config.lock()
    for path in _OPEN:
        with contextlib.suppress(KeyError):  # `check` says what is missing
            get(config, path).unlock()
    return config


def shrink(config: ConfigDict) -> None:
    """Makes a config run in seconds, for `:tiny`; models and data are the config's own to make small."""
    config.update({"steps": 4, "batch_size": 16, "log_every": 2, "checkpoint_every": 2})


def check(config: ConfigDict) -> None:
    """Raises InputError for unknown or missing keys and for values out of range."""
    reference = default()
    _same_keys(reference, config)
    for key in ("steps", "batch_size", "log_every", "checkpoint_every", "keep", "samples"):
        if not (isinstance(config[key], int) and config[key] > 0):
            raise InputError(f"{key} must be a whole number above 0, got {config[key]!r}")
    if config.dtype not in ("float32", "bfloat16"):
        raise InputError(f"dtype must be float32 or bfloat16, got {config.dtype!r}")
    if config.partition.name not in ("pmap", "sharded"):
        raise one_of("partition.name", config.partition.name, ("pmap", "sharded"))
    if not 0 <= config.ema < 1:
        raise InputError(f"ema must be in [0, 1), got {config.ema}")
    if isinstance(config.seed, bool) or not isinstance(config.seed, int) or not 0 <= config.seed < 2**32:
        raise InputError(f"seed must be a whole number from 0 to 2**32 - 1, got {config.seed!r}")
    for key in (
        "classes",
        "patience",
        "pretrain.steps",
        "optim.warmup",
        "optim.clip",
        "optim.weight_decay",
        "data.size",
    ):
        if get(config, key) < 0:
            raise InputError(f"{key} must not be negative, got {get(config, key)}")
    if not (math.isfinite(config.optim.lr) and config.optim.lr > 0):
        raise InputError(f"optim.lr must be above 0, got {config.optim.lr}")
    held_out = config.data.held_out
    if isinstance(held_out, bool) or not isinstance(held_out, int) or held_out < -1:
        raise InputError(f"data.held_out must be a label, or -1 for none, got {held_out!r}")
    if config.optim.accumulate < 1:
        raise InputError(f"optim.accumulate must be at least 1, got {config.optim.accumulate}")


# May change when a run goes on: they do not change what is computed.
FREE = ("data.data_dir", "data.memory_mb", "data.cache", "keep", "log_every", "partition.name", "tracking")


def changes(old: Mapping[str, Any], new: ConfigDict) -> list[str]:
    """The `differences` that make `new` another experiment than `old`; a constant rate may go on for longer.

    A key that is newer than `old` had what is now its default, or what `as_begun` makes of it.
    """
    newer = dict(flat(to_dict(default()))) | {"pre_bias": new.get("pre_bias")}
    old = newer | dict(flat(to_dict(old)))
    free = (*FREE, "steps") if new.optim.schedule == "constant" else FREE
    return [d for d in differences(old, new) if d.split(":")[0] not in free]


def as_begun(config: ConfigDict, old: Mapping[str, Any]) -> ConfigDict:
    """Returns `config` for a run begun with `old`: without `pre_bias` where `old`, written before the key, has none."""
    if "pre_bias" in old or "pre_bias" not in config:
        return config
    config = config.copy_and_resolve_references()
    with config.unlocked():
        del config["pre_bias"]
    return config


# Whose keys depend on what they name: the module, the term or the optimizer checks them.
_OPEN = (
    *("encoder", "bottleneck", "decoder", "likelihood", "adversary"),
    *("objective.weights", "objective.schedules", "objective.options", "objective.bound", "optim.options"),
)


def _same_keys(reference: ConfigDict, config: ConfigDict, path: str = "") -> None:
    for key in config:
        if key not in reference:
            raise one_of("config key", path + key, [path + k for k in reference])
    for key, value in reference.items():
        if key == "pre_bias" and key not in config:  # of a run from before the key, see `as_begun`
            continue
        if key not in config:
            raise InputError(f"config key {path + key!r} is missing; start from aejax.config.default()")
        if isinstance(value, ConfigDict) and path + key not in _OPEN:
            _same_keys(value, config[key], f"{path}{key}.")


def get(config: Mapping[str, Any], path: str) -> Any:
    """`get(config, "optim.lr")`."""
    for key in path.split("."):
        config = config[key]
    return config


def to_json(config: Mapping[str, Any]) -> str:
    """The config as JSON, tuples as lists."""
    return json.dumps(to_dict(config), indent=2)


def to_dict(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as plain dicts, lists and numbers, as JSON would read it back."""
    plain = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    return json.loads(json.dumps(plain))


def from_dict(values: Mapping[str, Any]) -> ConfigDict:
    """The locked config that `to_dict` gave."""
    return lock(ConfigDict(values))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys in which two configs differ, each as `key: old -> new`."""
    a, b = dict(flat(to_dict(old))), dict(flat(to_dict(new)))
    absent = "(absent)"
    keys = sorted(k for k in a.keys() | b.keys() if a.get(k, absent) != b.get(k, absent))
    return [f"{k}: {a.get(k, absent)} -> {b.get(k, absent)}" for k in keys]


def check_trust(config: Mapping[str, Any], trust: Collection[str], where: str) -> None:
    """Raises InputError where a config names code, "package.module:attribute", of which `trust` has neither.

    That a module is imported already does not make it trusted: `os` always is.
    """
    # Loading neither reads the data nor tracks.
    for text in _texts({key: value for key, value in config.items() if key not in ("data", "tracking")}):
        module, colon, _ = text.partition(":")
        if colon and not any(f"{module}.".startswith(f"{trusted}.") for trusted in trust):
            raise InputError(
                f"{where} names {text!r}, code that is not aejax's and would run here; if you trust it, say "
                f"trust={[module]} to load_run, or --trust={module}"
            )


def _texts(values: Mapping[str, Any]) -> Iterator[str]:
    """The keys and values of nested dicts."""
    for key, value in values.items():
        yield key
        yield from _texts(value) if isinstance(value, Mapping) else [str(value)]


def flat(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Each value of nested dicts by its dotted key."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{path}{key}.")
        else:
            yield path + key, value
