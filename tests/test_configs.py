"""Every config runs, finishes and resumes as :tiny, and is what its table says."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from conftest import MEANT, config_of, one_device

import aejax
from aejax import config as config_lib

CONFIGS = sorted(p.stem for p in (Path(__file__).parents[1] / "configs").glob("[!_]*.py"))
VARIANTS = [
    (name, arg) for name in CONFIGS for arg in ("tiny", "tiny,mnist") if not (name == "basic" and "mnist" in arg)
]


def test_the_three_architectures_are_there():
    assert {"basic", "stacked", "conv"} <= set(CONFIGS)


@pytest.mark.filterwarnings(MEANT)
@pytest.mark.parametrize(("name", "arg"), VARIANTS)
def test_tiny_runs_end_to_end(name, arg, tmp_path):
    config = config_of(name, arg)
    run = aejax.train(config, tmp_path, devices=one_device())
    assert run.step == config.steps
    loaded = aejax.load_run(tmp_path)
    np.testing.assert_allclose(loaded.reconstruct(loaded.inputs), run.reconstructions, rtol=1e-4, atol=1e-5)
    assert np.all(np.isfinite(loaded.generate(2)))


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_are_locked_checked_and_documented(name):
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config()
    config_lib.check(config)
    assert config.is_locked
    assert f"python -m experiments.train --config=configs/{name}.py" in module.__doc__
    with pytest.raises(aejax.InputError, match="'tinny' is unknown"):
        module.get_config("tinny")


@pytest.mark.parametrize("options", [{"decoder.tied": True}, {"pretrain.steps": 4}, {"dtype": "bfloat16", "ema": 0.9}])
def test_stacked_takes_its_options(options, tmp_path):
    config = config_of("stacked")
    config.update_from_flattened_dict(options)
    assert aejax.train(config, tmp_path, devices=one_device()).step == config.steps
