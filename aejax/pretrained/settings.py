"""Settings in config.json: their kinds, and what those of several classes of diffusers share."""

from collections.abc import Mapping
from typing import Any

from aejax.errors import InputError, one_of, shown

Settings = Mapping[str, Any]
Sections = dict[str, dict[str, Any]]

ACTIVATIONS = {"silu": "silu", "swish": "silu", "mish": "mish", "gelu": "exact_gelu", "relu": "relu"}
_NAMES = {ours: theirs for theirs, ours in ACTIVATIONS.items() if theirs != "swish"}


class ForStages(str):
    """The default of a setting that holds one name for all stages, or a list with a name for each."""


def check(where: str, key: str, value: Any, default: Any) -> Any:
    """Returns a setting of the kind of its default, lists as tuples. Raises InputError for another kind."""
    if isinstance(default, ForStages):
        if isinstance(value, str) or (_is_list(value) and value and all(type(each) is str for each in value)):
            return value if isinstance(value, str) else tuple(value)
        raise InputError(f"{where}: {key} must be a name or a list of names, got {shown(value)}")
    if isinstance(default, tuple) and isinstance(default[0], tuple):
        if _is_list(value) and all(_is_list(each) and all(type(n) is int for n in each) for each in value):
            return tuple(map(tuple, value))
        raise InputError(f"{where}: {key} must be a list of lists of int, got {shown(value)}")
    if isinstance(default, tuple):
        kind = type(default[0])
        if _is_list(value) and value and all(type(each) is kind for each in value):
            return tuple(value)
        raise InputError(f"{where}: {key} must be a list of {kind.__name__}, got {shown(value)}")
    if type(value) is not type(default) or (type(value) is int and value < 1):
        raise InputError(f"{where}: {key} must be of the kind of {default!r}, got {shown(value)}")
    return value


def require(settings: Settings, key: str, value: Any) -> None:
    """Raises InputError if a setting has another value than the only one that is supported."""
    if settings[key] != value:
        raise InputError(f"{key}={settings[key]!r} is not supported; only {value!r} is")


def read_activation(name: Any, key: str = "act_fn") -> str:
    """Returns the name here of an activation of diffusers."""
    if name not in ACTIVATIONS:
        raise one_of(key, name, ACTIVATIONS)
    return ACTIVATIONS[name]


def name_activation(name: str) -> str:
    """Returns the name there of an activation of aejax, or the name here if diffusers has none."""
    return _NAMES.get(name, name)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
