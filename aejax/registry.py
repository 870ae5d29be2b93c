"""Instances of the classes that sections of a config name, with their attributes checked; and sections of instances."""

import contextlib
import dataclasses
import importlib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

import flax.linen as nn
from jax import Array
from ml_collections import ConfigDict

from aejax.config import OWN, check_kind, is_plain
from aejax.errors import InputError, one_of, shown

T = TypeVar("T")

Natural = Annotated[int, "may be 0"]  # an attribute that may be 0, where `int` must be above


def instantiate(
    part: str, classes: Mapping[str, type[T]], section: Mapping[str, Any], given: Mapping[str, Any] = {}
) -> T:
    """Returns an instance of the dataclass that `section["name"]` names; the other entries are its attributes.

    The name is one of `classes`, or "package.module:Class". Attributes that the class declares and the section leaves
    out come from `given`. An attribute that is a module has a section of its own. Raises InputError for an unknown name
    or attribute, for a missing attribute, and for a value of the wrong type.
    """
    options = dict(section)
    name = options.pop("name", None)
    cls = resolve(f"{part}.name", name, classes)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise InputError(f"{part}.name={name!r} is no module or dataclass; name a class of that kind")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.name not in ("parent", "name")}  # type: ignore[arg-type]
    for key, value in options.items():
        if key not in fields or key == "axis_name":
            raise one_of(f"{part} {name!r}: option", key, [f for f in fields if f != "axis_name"])
        check_type(f"{part}.{key}", value, fields[key].type)
        if fields[key].type is nn.Module:
            options[key] = instantiate(f"{part}.{key}", classes, value, given)
    options = {key: value for key, value in given.items() if key in fields} | options
    missing = [
        k for k, f in fields.items() if k not in options and f.default is f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"{part} {name!r} needs {', '.join(f'{part}.{key}' for key in missing)}")
    return cls(**options)


def describe(part: Any, classes: Mapping[str, type], given: Mapping[str, Any] = {}) -> dict[str, Any]:
    """Returns the section from which `instantiate` makes an equal part, or that of `describe_code` if there is none."""
    cls = type(part)
    name = next((known for known, each in classes.items() if each is cls), f"{cls.__module__}:{cls.__qualname__}")
    fields = {f.name: f.default for f in dataclasses.fields(cls) if f.name not in ("parent", "name")}
    values = {key: getattr(part, key) for key in fields}
    sections = {key: describe(value, classes, given) for key, value in values.items() if isinstance(value, nn.Module)}
    # The main module is another one in the process that will load the run.
    if cls.__module__ != "__main__" and all(is_plain(value) for key, value in values.items() if key not in sections):
        section = {"name": name} | {k: sections.get(k, v) for k, v in values.items() if v != given.get(k, fields[k])}
        with contextlib.suppress(InputError):  # the class cannot be imported by its name
            if instantiate("part", classes, section, given) == part:
                return section
    return describe_code(part)


def describe_code(part: object) -> dict[str, Any]:
    """Returns the section of a part that no config can make: its name is OWN, and its code is for people to read."""
    code = " ".join(re.sub(r" at 0x\w+", "", repr(part)).split())
    return {"name": OWN, "code": code.replace(":", "=")}  # a colon would name code to import


def resolve(what: str, name: Any, choices: Mapping[str, T]) -> T:
    """Returns `choices[name]`, or the object that "package.module:attribute" names, or a function that is given itself.

    Raises InputError for anything else.
    """
    if callable(name):
        return name
    if isinstance(name, str) and name in choices:
        return choices[name]
    module, colon, attribute = str(name).partition(":")
    if not colon or not all(part.isidentifier() for part in module.split(".")):
        if not choices:
            raise InputError(f"{what} {name!r} is unknown; write package.module:attribute")
        raise one_of(what, name, choices)
    try:
        return getattr(importlib.import_module(module), attribute)
    except InputError:  # of a module of ours, about a package that is not installed
        raise
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # the last two for names such as ".a" and ""
        raise InputError(f"{what}={name!r} cannot be imported ({error}); write package.module:attribute") from error


def check_type(what: str, value: object, kind: object) -> None:
    """Raises InputError if `value` does not fit the annotation `kind`; annotations unknown here take anything."""
    if kind == Sequence[int]:
        if not isinstance(value, Sequence) or isinstance(value, str) or not all(_is_whole(n, 1) for n in value):
            raise InputError(f"{what} must be whole numbers above 0, e.g. (64, 32), got {shown(value)}")
    elif kind in (int, Natural):
        if not _is_whole(value, int(kind is int)):
            least = "a whole number above 0" if kind is int else "0 or a whole number above it"
            bound = ", and below 2**31" if isinstance(value, int) and value >= 2**31 else ""
            raise InputError(f"{what} must be {least}{bound}, got {shown(value)}")
    elif kind is float and not isinstance(value, Array):  # it is traced when runs train together
        check_kind(what, value, 0.0)
    elif kind in (str, bool):
        check_kind(what, value, kind())
    elif kind is nn.Module:
        check_kind(what, value, ConfigDict())


def _is_whole(value: object, least: int) -> bool:
    # Sizes of arrays are below 2**31.
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**31
