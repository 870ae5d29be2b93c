"""Sections of a config that describe a model and an objective which are given as objects."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aejax import config as config_lib
from aejax import models
from aejax.errors import InputError
from aejax.models.bottlenecks import BOTTLENECKS
from aejax.models.decoders import DECODERS
from aejax.models.encoders import ENCODERS
from aejax.objectives import LIKELIHOODS, Objective
from aejax.registry import describe, describe_code, resolve

_CLASSES: dict[str, Mapping[str, type]] = {"encoder": ENCODERS, "bottleneck": BOTTLENECKS, "decoder": DECODERS}


def describe_parts(model: models.Autoencoder, objective: Objective, shape: Sequence[int]) -> dict[str, Any]:
    """Returns the sections from which `models.build` and `Objective` make equal parts, for inputs of `shape`.

    The section of a part that they cannot make has the name `config.OWN`.
    """
    config = config_lib.default()
    config.data.missing = model.missing
    given = {
        "shape": tuple(model.decoded) or tuple(model.target) or tuple(shape),
        "dtype": config.dtype,
        "axis_name": None,
        "classes": model.classes,
    }
    sections: dict[str, Any] = {
        **{name: describe(getattr(model, name), classes, given) for name, classes in _CLASSES.items()},
        "likelihood": describe(objective.likelihood, LIKELIHOODS),
        "objective": {key: _plain(getattr(objective, key)) for key in config.objective},
        "classes": model.classes,
        "condition": {
            "encoder": model.label_to_encoder,
            "embedding": model.embedding,
            "categories": ",".join(map(str, model.categories)),
        },
        "pre_bias": model.pre_bias,
        "skip": model.skip,
        "inputs": model.inputs,
    }
    if type(objective) is not Objective:
        sections["likelihood"] = describe_code(objective)
    if not list_own(sections) and _build(config, sections, shape, model.target) != model:
        sections["encoder"] = describe_code(model)
    return sections


def _build(
    config: Mapping[str, Any], sections: Mapping[str, Any], shape: Sequence[int], target: Sequence[int]
) -> models.Autoencoder:
    return models.build({**config, **config_lib.section(sections, "parts")}, shape, target=target)


def list_own(config: Mapping[str, Any]) -> list[str]:
    """Returns the parts of a config that only code can make."""
    return [name for name in (*_CLASSES, "likelihood") if config[name]["name"] == config_lib.OWN]


def check_objects(
    config: Mapping[str, Any],
    model: models.Autoencoder | None,
    objective: Objective | None,
    shape: Sequence[int],
    where: str,
) -> None:
    """Raises InputError unless `model` and `objective` are those of the run with this config.

    Both may be None if the config can make them.
    """
    if model is None and objective is None:
        if own := list_own(config):
            raise InputError(
                f"{where}: its {' and '.join(own)} is code, which a config does not hold; give what fit was given: "
                "load_run(workdir, model=..., objective=...)"
            )
    elif model is None or objective is None or config["optim"]["name"] != config_lib.OWN:
        raise InputError(
            f"{where}: model= and objective= belong together, and to runs that fit(model=...) has trained; give both "
            "or leave both out"
        )
    else:
        sections = describe_parts(model, objective, shape)
        if differ := config_lib.differences({key: config[key] for key in sections}, sections):
            raise InputError(f"{where} is of another model or objective ({'; '.join(differ[:4])}); give those")


def _plain(value: Any) -> Any:
    """Returns `value` as a config holds it: a function by the name that imports it, or by its code."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, Callable):  # type: ignore[arg-type]
        name = f"{value.__module__}:{value.__qualname__}"
        with contextlib.suppress(InputError):
            if resolve("function", name, {}) is value:
                return name
        return describe_code(value)["code"]
    return value
