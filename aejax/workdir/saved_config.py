"""Configs of saved runs, which may be older than some keys, beside those that such runs resume with."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from aejax import config as config_lib

# Keys that may change when a run resumes, because they do not change what is computed.
FREE = (
    *("data.data_dir", "data.memory_mb", "data.cache", "keep", "log_every", "partition.name", "tracking"),
    *("encoder.remat", "decoder.remat"),
)


def changes(old: Mapping[str, Any], new: ConfigDict) -> list[str]:
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
