"""Changes of a run's config that its user asked for when it resumed, and that its checkpoints record."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax.errors import InputError, StorageError

# Keys that need no other state, and leave the losses before and after comparable.
CHANGEABLE = (
    *("steps", "checkpoint_every", "patience"),
    *("optim.lr", "optim.schedule", "optim.warmup", "optim.clip", "optim.weight_decay"),
)


class Change(NamedTuple):
    """A change of one key of the config, from the step at which the run resumed."""

    step: int
    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.after} from step {self.step}"


def parse(metadata: Mapping[str, Any]) -> tuple[Change, ...]:
    """Returns the changes in the metadata of a checkpoint. Raises StorageError if they have another form."""
    try:
        found = tuple(Change(**change) for change in metadata.get("changes", ()))
        if not all(type(change.step) is int and change.key in CHANGEABLE for change in found):
            raise TypeError("a step or a key is none")
    except TypeError as error:
        raise StorageError(f"a checkpoint holds no list of changes ({error}); remove that checkpoint") from error
    return found


def check_keys(keys: Collection[str], config: ConfigDict) -> None:
    """Raises InputError for keys that must not change, or that `config` lacks."""
    there = dict(config_lib.flatten(config_lib.to_dict(config)))
    for key in keys:
        if key not in CHANGEABLE:
            raise InputError(
                f"change={key}: only {', '.join(CHANGEABLE)} can change when a run resumes; begin a new run, which may "
                "start from this one by init_from"
            )
        if key not in there:
            raise InputError(f"change={key}: the optimizer was given as an object; give another one, in a new workdir")


def is_superseded(config: Mapping[str, Any], key: str, changes: Iterable[Change]) -> bool:
    """Returns whether the config has a value of the key that a change has replaced."""
    return any(change.key == key and config_lib.get(config, key) == change.before for change in changes)


def follow(
    config: ConfigDict, latest: Mapping[str, Any], changes: Sequence[Change], but: Collection[str]
) -> ConfigDict:
    """Returns `config` with the values of `latest`, the config as last recorded, where a change replaced its own.

    Keys in `but` keep their values.
    """
    keys = {change.key for change in changes} - set(but)
    newer = {key: config_lib.get(latest, key) for key in keys if is_superseded(config, key, changes)}
    return config_lib.updated(config, newer)


def find_new(config: ConfigDict, latest: Mapping[str, Any], keys: Collection[str], step: int) -> tuple[Change, ...]:
    """Returns the changes of `keys` from `latest`, the config as last recorded, to `config`."""
    pairs = {key: (config_lib.get(latest, key), config_lib.get(config, key)) for key in keys}
    return tuple(Change(step, key, *pair) for key, pair in sorted(pairs.items()) if pair[0] != pair[1])
