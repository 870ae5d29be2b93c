import json

import pytest

import aejax
from aejax import config as config_lib


def test_json_round_trip_equals_the_config():
    config = aejax.config.default()
    config.encoder = aejax.config.module("mlp", features=(4, 3))
    again = config_lib.from_dict(json.loads(config_lib.to_json(config)))
    assert config_lib.differences(config, again) == []
    config_lib.check(again)
    assert again.is_locked


def test_differences_name_keys_and_values():
    old, new = aejax.config.default(), aejax.config.default()
    new.optim.lr, new.encoder.features = 0.5, (3,)
    assert config_lib.differences(old, new) == ["encoder.features: (absent) -> [3]", "optim.lr: 0.001 -> 0.5"]


def test_arguments_are_flags_that_must_be_known():
    assert config_lib.parse_arg("mnist,tiny", tiny=False, mnist=False).to_dict() == {"tiny": True, "mnist": True}
    assert config_lib.parse_arg("", tiny=False).to_dict() == {"tiny": False}
    with pytest.raises(aejax.InputError, match="'tinny' is unknown; choose among: tiny"):
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
        (lambda c: c.optim.update(accumulate=0), "optim.accumulate"),
    ],
)
def test_wrong_keys_and_values_are_named(change, message):
    config = aejax.config.default()
    change(config)
    with pytest.raises(aejax.InputError, match=message):
        config_lib.check(config)
