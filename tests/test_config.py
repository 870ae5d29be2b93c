import json
from collections.abc import Sequence

import numpy as np
import pytest
from conftest import mlp
from ml_collections import ConfigDict

import aejax
from aejax import config as config_lib
from aejax.data import Spec
from aejax.registry import Natural, check_type
from aejax.training.task import make_task
from aejax.workdir import saved_config


def test_json_round_trip_equals_the_config():
    config = aejax.config.default()
    config.encoder = aejax.config.module("mlp", features=(4, 3))
    again = config_lib.from_dict(json.loads(config_lib.to_json(config)))
    assert config_lib.differences(config, again) == []
    config_lib.check(again)
    assert again.is_locked


def test_empty_sections_are_saved_as_the_run_began():
    """Older runs have no section for what is newer: it stays out of their files while it is empty."""
    config = aejax.config.default()
    config.unlock()["mine"] = ConfigDict()
    plain = config_lib.to_dict(config)
    assert saved_config.to_save(config, None) == plain
    begun = {key: value for key, value in plain.items() if key not in ("mine", "seed")}
    assert saved_config.to_save(config, begun) == {key: value for key, value in plain.items() if key != "mine"}


def test_differences_name_keys_and_values():
    old, new = aejax.config.default(), aejax.config.default()
    new.optim.lr, new.encoder.features = 0.5, (3,)
    assert config_lib.differences(old, new) == ["encoder.features: (absent) -> [3]", "optim.lr: 0.001 -> 0.5"]


def test_arguments_are_flags_that_must_be_known():
    assert config_lib.parse_arg("mnist,tiny", tiny=False, mnist=False).to_dict() == {"tiny": True, "mnist": True}
    assert config_lib.parse_arg("", tiny=False).to_dict() == {"tiny": False}
    with pytest.raises(aejax.InputError, match=r"'tinny' is unknown .*; choose among: tiny"):
        config_lib.parse_arg("tinny", tiny=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.optim.update(lrr=1), r"'optim.lrr' is unknown; did you mean 'optim.lr'"),
        (lambda c: c.update(stepz=1), "'stepz' is unknown; did you mean 'steps'"),
        (lambda c: c.__delitem__("seed"), "'seed' is missing"),
        (lambda c: c.update(steps=0), "steps must be a whole number above 0"),
        *((lambda c, n=n: c.update(seed=n), rf"seed must be .* 2\*\*32 - 1, got {n}") for n in (-1, 2**32)),
        (lambda c: c.update(dtype="float16"), "dtype must be float32 or bfloat16"),
        (lambda c: c.update(ema=1.0), r"ema must be in \[0, 1\)"),
        (lambda c: c.optim.update(lr=0.0), "optim.lr must be above 0"),
        (lambda c: c.optim.update(clip=-1.0), "optim.clip must not be negative"),
        (lambda c: c.optim.update(skip=-1.0), "optim.skip must not be negative"),
        (lambda c: c.optim.update(accumulate=0), "optim.accumulate"),
    ],
)
def test_wrong_keys_and_values_are_named(change, message):
    config = aejax.config.default()
    change(config)
    with pytest.raises(aejax.InputError, match=message):
        config_lib.check(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        *((key, None, rf"{key} must be") for key, _ in config_lib.flatten(aejax.config.default().to_dict())),
        *((key, 3, f"{key} must be a section") for key, v in aejax.config.default().items() if hasattr(v, "keys")),
        ("steps", True, "steps must be a whole number, got True"),
        ("steps", 2**31, r"steps must be .* below 2\*\*31"),
        ("seed", float("nan"), "seed must be a whole number, got nan"),
        ("optim.clip", float("nan"), "optim.clip must be a finite number, got nan"),
        ("optim.lr", "1e-3", "optim.lr must be a finite number, got '1e-3'"),
        ("ema", float("inf"), "ema must be a finite number"),
        ("data.held_out", float("nan"), "data.held_out must be a whole number"),
        ("data.cache", 1, "data.cache must be True or False"),
        ("tracking", "wandb", r"tracking must be names, e.g. \('wandb',\)"),
        ("encoder.name", None, "encoder.name must be a string"),
        ("objective.weights.kl", float("inf"), "objective.weights.kl must be a finite number, got inf"),
        ("objective.weights.kl", 1e39, "objective.weights.kl must be a finite number, got 1e"),
        ("objective.schedules.kl", 0.5, "objective.schedules.kl must be a section of keys"),
        ("objective.options.mmd", None, "objective.options.mmd must be a section of keys"),
        ("bottleneck.decay", float("nan"), "bottleneck.decay must be finite"),
        ("encoder.features", np.arange(2), "encoder.features must hold plain numbers"),
    ],
)
def test_values_of_the_wrong_kind_are_named_by_their_key(key, value, message):
    plain = aejax.config.default().to_dict()
    *sections, last = key.split(".")
    place = config_lib.get(plain, ".".join(sections)) if sections else plain
    place[last] = value
    with pytest.raises(aejax.InputError, match=message) as error:
        config_lib.check(ConfigDict(plain))
    assert "\n" not in str(error.value)


NAMED = ("partition", "encoder", "bottleneck", "decoder", "likelihood", "objective.bound", "adversary", "corruption")


@pytest.mark.parametrize("key", [*NAMED, "optim", "data"])
def test_a_section_says_what_it_names(key):
    config = aejax.config.default()
    config_lib.get(config, key).name = "x"
    del config_lib.get(config, key).name
    with pytest.raises(aejax.InputError, match=rf"config key '{key}\.name' is missing"):
        config_lib.check(config)
    with config.ignore_type():
        config_lib.get(config, key).name = 3
    with pytest.raises(aejax.InputError, match=rf"{key}\.name must be a string, got 3"):
        config_lib.check(config)


@pytest.mark.parametrize("value", [None, "x", 3, [1]])
def test_a_config_of_another_form_is_locked_and_then_refused(value):
    plain = aejax.config.default().to_dict()
    for changes in ({"adversary": value}, {"objective": value}):
        with pytest.raises(aejax.InputError, match=f"{next(iter(changes))} must be a section of keys"):
            config_lib.check(config_lib.from_dict(plain | changes))
    with pytest.raises(aejax.InputError, match="a config holds keys that are not words without dots"):
        config_lib.from_dict(plain | {"objective.options": value})


@pytest.mark.parametrize("key", ["steps", "seed", "encoder.x"])
def test_a_number_of_more_digits_than_python_writes(key):
    config = aejax.config.default()
    *section, last = key.split(".")
    (config[section[0]] if section else config)[last] = 10**5000
    with pytest.raises(aejax.InputError, match=rf"{key} must be .* got a value of int"):
        config_lib.check(config)


@pytest.mark.parametrize(("kind", "least"), [(int, 1), (Natural, 0), (Sequence[int], 1)])
def test_whole_numbers_go_from_the_least_to_the_most_that_fits(kind, least):
    wrap = (lambda n: (8, n)) if kind == Sequence[int] else lambda n: n
    for fits in (least, 2**31 - 1):
        check_type("n", wrap(fits), kind)
    for wrong in (least - 1, 2**31, float(least), True):
        with pytest.raises(aejax.InputError, match=r"^n must be .*whole number"):
            check_type("n", wrap(wrong), kind)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective.schedules.l1": {"name": "linear", "steps": "9"}}, r"schedules\.l1\.steps must be a whole number"),
        ({"objective.schedules.l1": {"name": None}}, "name None is unknown"),
        ({"objective.options.l1": {"function": "mmd", "scale": None}}, r"options\.l1\.scale must be a finite number"),
        ({"objective.bound": {"name": "ciwae", "share": "x"}}, r"objective\.bound\.share must be a finite number"),
        ({"optim.options": {"b1": "x"}}, r"optim\.options\.b1 must be a finite number, got 'x'"),
        (
            {"bottleneck.features": 2**63},
            r"bottleneck\.features must be a whole number above 0, and below 2\*\*31, got",
        ),
        ({"encoder.activation": None}, r"encoder\.activation must be a string, got None"),
        ({"decoder.tied": 1}, r"decoder\.tied must be True or False, got 1"),
        ({"likelihood": {"name": "gaussian", "scale": "x"}}, r"likelihood\.scale must be a finite number"),
    ],
)
def test_attributes_of_the_wrong_kind_are_named_by_their_key(changes, message):
    config = mlp()
    config.objective.weights.l1 = 1.0
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = config_lib.get(config, ".".join(sections)) if sections else config
        with config.ignore_type():
            place[last] = ConfigDict(value) if isinstance(value, dict) else value
    with pytest.raises(aejax.InputError, match=message):
        make_task(config, Spec((6,)))
