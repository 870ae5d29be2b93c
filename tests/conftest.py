"""Four CPU devices for the whole suite; tests that want one say so."""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4 " + os.environ.get("XLA_FLAGS", "")
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["MPLBACKEND"] = "agg"

import importlib
from pathlib import Path

import jax
import numpy as np
import pytest

import aejax

MNIST = next(
    (
        folder
        for folder in (os.environ.get("TFDS_DATA_DIR"), Path(__file__).parents[2] / "shared/data/tfds")
        if folder and (Path(folder) / "mnist").is_dir()
    ),
    None,
)
needs_mnist = pytest.mark.skipif(MNIST is None, reason="no prepared MNIST: set TFDS_DATA_DIR to a folder that has it")
MEANT = "ignore:the code .* it can learn to copy"  # the warning that conv is overcomplete, on purpose


@pytest.fixture(scope="session", autouse=True)
def _compile_each_program_once(tmp_path_factory):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("jax-cache")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def config_of(name: str, arg: str = "tiny"):
    """A config of configs/, unlocked for the test to change."""
    return importlib.import_module(f"configs.{name}").get_config(arg).unlock()


def mlp(**changes):
    """A small experiment on 6-D vectors for `fit`: 6 -> 5 -> 2 -> 5 -> 6, 8 steps."""
    config = aejax.config.default()
    config.encoder = aejax.config.module("mlp", features=(5,), activation="tanh")
    config.bottleneck = aejax.config.module("dense", features=2)
    config.decoder = aejax.config.module("mlp", features=(5,), activation="tanh")
    config.update({"steps": 8, "batch_size": 16, "log_every": 2, "checkpoint_every": 4, "samples": 8})
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config


def vectors(n: int = 100, features: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, features)).astype(np.float32)


def one_device():
    return jax.devices()[:1]


def assert_trees_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
