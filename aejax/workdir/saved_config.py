"""Configs of saved runs, which may be older than some keys, and may come from anyone."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax.errors import InputError

# Keys that may change when a run resumes, because they do not change what is computed.
FREE = (
    *("data.data_dir", "data.memory_mb", "data.cache", "keep", "log_every", "partition.name", "tracking"),
    *("encoder.remat", "decoder.remat"),
)


def find_conflicts(old: Mapping[str, Any], new: ConfigDict) -> list[str]:
    """Returns the `config.differences` that prevent a run that was begun with `old` from resuming with `new`.

    `steps` may change if the learning rate is constant, or the optimizer is an object. For keys that are newer than
    `old`, see `as_begun`.
    """
    old, new = config_lib.complete(old), as_begun(new, old)
    free = (*FREE, "steps") if new.optim.get("schedule", "constant") == "constant" else FREE
    return [d for d in config_lib.differences(old, new) if d.split(":")[0] not in free]


def as_begun(config: ConfigDict, saved: Mapping[str, Any]) -> ConfigDict:
    """Returns `config` for resuming a run that was begun with `saved`, which may be older than some keys.

    If `config` has the default of such a key, the run keeps what it used before the key existed.
    """
    there, here, reference = (
        dict(config_lib.flatten(config_lib.to_dict(each))) for each in (saved, config, config_lib.default())
    )
    kept = {k: v for k, v in config_lib.BEFORE.items() if k not in there and k in here and here[k] == reference[k]}
    return config_lib.updated(config, kept)


def to_save(config: ConfigDict, begun: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns `config` as it is saved: without keys that are newer than `begun`, the config that the run began with."""
    plain = config_lib.to_dict(config)
    reference = config_lib.to_dict(config if begun is None else begun)
    for path in config_lib.BEFORE.keys() - dict(config_lib.flatten(reference)).keys():
        *sections, key = path.split(".")
        config_lib.get(plain, ".".join(sections)).pop(key, None) if sections else plain.pop(key, None)
    return {key: value for key, value in plain.items() if value != {} or key in reference}


def check_trust(config: Mapping[str, Any], trust: Collection[str], where: str) -> None:
    """Raises InputError if a config names code, "package.module:attribute", from a module that `trust` does not list.

    Trusting a package trusts its modules. That a module is already imported is no reason to trust it: so is `os`.
    """
    # What names no code but may hold colons is skipped: splits, e.g. train[:90%], paths, and regular expressions.
    read = {key: value for key, value in config.items() if key not in ("data", "init_from", "tracking")}
    if isinstance(optim := read.get("optim"), Mapping):
        read["optim"] = {key: value for key, value in optim.items() if key != "freeze"}
    texts = list(_texts(read))
    texts += [name.strip() for names in _texts([config.get("tracking", ())]) for name in names.split(",")]
    for text in texts:
        module, colon, _ = text.partition(":")
        if colon and not any(f"{module}.".startswith(f"{trusted}.") for trusted in trust):
            raise InputError(
                f"{where} names {text!r}, code that is not aejax's and would run here; if you trust it, give load_run "
                f"trust={[module]}, or --trust={module} to a command"
            )


def _texts(values: Any) -> Iterator[str]:
    """Yields all keys and values in nested dicts and lists, as text."""
    if isinstance(values, Mapping):
        values = [*values, *values.values()]
    if not isinstance(values, list | tuple):
        yield str(values)
        return
    for value in values:
        yield from _texts(value)
