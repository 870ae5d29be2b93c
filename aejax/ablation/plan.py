"""The plan of an ablation: from a config and overrides to runs, each with its own name and config."""

import ast
import collections
import contextlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from aejax import config as config_lib
from aejax.errors import InputError, one_of, shown
from aejax.files import file_name
from aejax.workdir.tracking import resolve_trackers

Overrides = Mapping[str, Any]


class Planned(NamedTuple):
    """A run that is planned.

    Attributes:
      name: of its folder, built from what differs.
      overrides: value by key, e.g. {"optim.lr": 1e-3}; a mapping replaces a whole section.
      config: with the overrides, checked and locked.
    """

    name: str
    overrides: dict[str, Any]
    config: ConfigDict


def added(sweep: Callable[[Callable[..., None]], None]) -> list[Overrides]:
    """Returns what `sweep(add)` adds, by calls such as `add(**{"optim.lr": 1e-3, "seed": 1})`."""
    found: list[Overrides] = []
    sweep(lambda **overrides: found.append(overrides))
    return found


def grid(axes: Mapping[str, Sequence[Any]]) -> list[Overrides]:
    """Returns all combinations of the values of the axes; the last axis varies fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def values(text: str) -> list[Any]:
    """Parses the values in "2,8,32", "(64,32),(128,64)" or "relu,gelu"."""
    parts = re.findall(r"(?:\([^()]*\)|\[[^\[\]]*\]|[^,])+", text)
    if not parts:
        raise InputError("a swept key has no values; give some with commas, e.g. --sweep.optim.lr=1e-3,1e-4")
    return [_value(part.strip()) for part in parts]


def _value(text: str) -> Any:
    """Parses a literal of Python, "true" or "false"; returns any other text as it is."""
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (SyntaxError, ValueError, TypeError):  # TypeError is of what cannot be a key, as in {[1]: 2}
        return text
    except (RecursionError, MemoryError) as error:  # of Python's parser
        raise InputError(f"the swept value {shown(text)} is nested too deeply") from error


def plan(config: ConfigDict, overrides: Iterable[Overrides], seeds: int = 1) -> list[Planned]:
    """Returns the planned runs, all checked.

    Args:
      config: that they have in common.
      overrides: of each setting.
      seeds: number of runs of each setting, with the config's seed and the following ones.

    Raises InputError where a key or a value does not fit, or two runs are the same.
    """
    settings = [dict(o) for o in overrides] or [{}]
    if seeds > 1:
        if any("seed" in setting for setting in settings):
            raise InputError("seeds are swept already; leave --seeds out")
        settings = [{**s, "seed": config.seed + i} for s in settings for i in range(seeds)]
    configs = [overridden(config, setting) for setting in settings]
    runs = [
        Planned(name, *run) for name, run in zip(_names(settings), zip(settings, configs, strict=True), strict=True)
    ]
    seen: dict[str, str] = {}
    for run in runs:
        other = seen.setdefault(config_lib.to_json(run.config), run.name)
        if other != run.name:
            raise InputError(f"the runs {other} and {run.name} are the same; leave one of them out")
    for name, count in collections.Counter(run.name for run in runs).items():
        if count > 1:
            raise InputError(f"the sweep holds the run {name} twice; leave one of them out")
    return runs


def overridden(config: ConfigDict, overrides: Overrides) -> ConfigDict:
    """Returns the config with these overrides, checked and locked; InputError where a key or a value does not fit."""
    config = config_lib.lock(config.copy_and_resolve_references())
    for key, value in overrides.items():
        place = config
        *sections, last = key.split(".")
        for i, section in enumerate(sections):
            if not isinstance(place.get(section), ConfigDict):
                raise one_of("overridden key", key, [".".join([*sections[:i], name]) for name in place])
            place = place[section]
        if last not in place and place.is_locked:
            raise one_of("overridden key", key, [".".join([*sections, name]) for name in place])
        try:
            if isinstance(place.get(last), float) and isinstance(value, int) and not isinstance(value, bool):
                value = float(value)
            with config.unlocked() if isinstance(value, Mapping) else contextlib.nullcontext():
                place[last] = config_lib.section(value, key) if isinstance(value, Mapping) else value
        except (TypeError, OverflowError) as error:
            wanted = type(place[last]).__name__
            raise InputError(f"the key {key} holds a {wanted}; {shown(value)} does not fit") from error
        config_lib.lock(config)  # a section that was replaced is not locked yet
    config_lib.check(config)
    resolve_trackers(config.tracking)
    return config


def _names(settings: Sequence[Overrides]) -> list[str]:
    """Returns short names of the settings: what differs between them, by the `short` name of each key."""
    keys = dict.fromkeys(key for setting in settings for key in setting)
    first = {key: settings[0].get(key) for key in keys}
    differ = [key for key in keys if any(key not in s or s[key] != first[key] for s in settings)] or list(keys)
    names = short(differ)
    parts = ([f"{names[key]}={_text(s[key])}" for key in differ if key in s] for s in settings)
    return [file_name("_".join(part) or "base") for part in parts]


def short(axes: Sequence[str]) -> dict[str, str]:
    """Returns the shortest unique end of each dotted key: `lr` for `optim.lr`."""
    ends = {a: [".".join(a.split(".")[-n:]) for n in range(1, a.count(".") + 2)] for a in axes}
    others = {a: {e for b, own in ends.items() if b != a for e in own} for a in axes}
    return {a: next((e for e in own if e not in others[a]), a) for a, own in ends.items()}


def _text(value: Any) -> str:
    """Returns the value as a part of a folder's name."""
    if isinstance(value, Mapping):
        return "-".join(_text(v) for v in value.values())
    if isinstance(value, tuple | list):
        return "x".join(map(_text, value))
    return re.sub(r"[^\w.+-]", "_", str(value))


def to_json(config: ConfigDict, runs: Sequence[Planned]) -> str:
    """Returns the plan as JSON, which is written next to the runs for `compare`."""
    listed = [{"name": run.name, "overrides": run.overrides} for run in runs]
    return json.dumps({"config": config_lib.to_dict(config), "runs": listed}, indent=2)
