"""Four CPU devices for the whole suite; tests that want one say so."""

import os

os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_force_host_platform_device_count=4",
        # The programs are tiny and many: compiling them is most of the suite's time.
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_experimental_onednn_custom_call=false",  # its programs could not be shared by tests
        os.environ.get("XLA_FLAGS", ""),
    ]
)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["MPLBACKEND"] = "agg"

import dataclasses
import gc
import importlib
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from browser import CHROMIUM, Browser
from jax.experimental.compilation_cache import compilation_cache
from tensorboardX.proto import event_pb2

import aejax
from aejax.data import Spec
from aejax.distributed import processor
from aejax.evaluation import Part, Subject
from aejax.objectives import Context
from aejax.training.step import eval_variables, init
from aejax.training.task import make_task

gc.freeze()  # what is imported stays: no collection looks through it again
gc.set_threshold(100_000)

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
def _compile_each_program_once(request, tmp_path_factory):
    """Shares compiled programs among workers, commands that tests start, and later runs, in pytest's cache folder."""
    folder = str(request.config.cache.mkdir("programs"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))  # decoded data
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


@pytest.fixture(autouse=True)
def _go_on_sharing(_compile_each_program_once):
    """Returns to the shared programs after a test whose command, run in this process, has left them.

    JAX looks for its cache once, when it first compiles: every later test of the worker would compile all its programs.
    """
    yield
    if jax.config.jax_compilation_cache_dir != _compile_each_program_once:
        jax.config.update("jax_compilation_cache_dir", _compile_each_program_once)
        compilation_cache.reset_cache()


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Forgets compiled programs before they fill a process's memory maps, of which Linux allows 65,530: XLA crashes.

    The programs that stay are not searched for garbage again, as each read of a checkpoint would.
    """
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_text().count("\n") > 30_000:
        jax.clear_caches()
        gc.unfreeze()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    started = Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


def mostly_slow(cases, *quick):
    """Returns the cases of a parametrized test, marked slow except `quick` (the first one, where none are given)."""
    first, *rest = cases
    quick = quick or (first,)
    slow = lambda case: pytest.param(*case if isinstance(case, tuple) else [case], marks=pytest.mark.slow)  # noqa: E731
    return [case if any(case is kept or case == kept for kept in quick) else slow(case) for case in (first, *rest)]


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


def conv(**changes):
    """A small convolutional experiment on 8x8 images for `fit`, with latents of 4x4."""
    return mlp(
        encoder=aejax.config.module("conv", features=(2,)),
        bottleneck=aejax.config.module("conv", features=1),
        decoder=aejax.config.module("conv", features=(2,)),
        likelihood__name="bernoulli",
        **changes,
    )


def vectors(n: int = 100, features: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, features)).astype(np.float32)


def untrained(config, spec=None, seed=0):
    """A run of random variables, all of them away from what they are initialised with."""
    spec = spec or Spec({"plane": (3,), "sheet": (5,)}.get(config.data.name, (8, 8, 1)))
    model = aejax.models.build(config, spec.shape)
    label = np.zeros(1, np.int32) if config.classes else None
    variables = jax.device_get(jax.jit(model.init)(jax.random.key(seed), np.zeros((1, *spec.shape)), label=label))
    rng = np.random.default_rng(seed)
    moved = lambda a: a + rng.uniform(0, 0.1, a.shape).astype(a.dtype) if a.dtype == np.float32 else a  # noqa: E731
    latents, x = aejax.models.abstract_output(model, spec.shape).code.z, np.zeros((1, *spec.shape), np.float32)
    return aejax.Run(config, spec, 0, jax.tree.map(moved, variables), np.zeros(latents.shape, np.float32), x, x)


def command(name: str, package: str = "aejax.cli"):
    """A command's module, imported anew: the flags of all commands in one process would get into each other's way."""
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        ours = module.startswith(("aejax.cli.", "experiments.")) and module != "aejax.cli.command"
        for flag in list(defined) if ours else ():
            delattr(flags.FLAGS, flag.name)
    sys.modules.pop(f"{package}.{name}", None)
    return importlib.import_module(f"{package}.{name}")


def events(workdir):
    """The TensorBoard files read by hand: length, crc, event, crc; a last one cut short is left out."""
    for file in sorted(workdir.glob("events*")):
        content = file.read_bytes()
        while len(content) >= 16 + (length := int.from_bytes(content[:8], "little")):
            yield event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def scalars(workdir):
    """What TensorBoard shows: of each name and step the value, without what a later start hides."""
    shown = {}
    for event in events(workdir):
        if event.HasField("session_log"):
            shown = {key: value for key, value in shown.items() if key[1] < event.step}
        shown |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    return shown


def interpreter(script: str, folder, monkeypatch):
    """Has commands that this process starts with Python run a shell script instead, which costs no imports."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def one_device():
    return jax.devices()[:1]


def assert_trees_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def context(x, decoded=None, z=None, **fields):
    """A `Context` without a model: `fields` of Code (losses, posterior, prior, ...) or of Context."""
    x = jax.numpy.asarray(x, jax.numpy.float32)
    z = jax.numpy.zeros((len(x), 2)) if z is None else jax.numpy.asarray(z, jax.numpy.float32)
    of_code = {key: fields.pop(key) for key in list(fields) if key in aejax.Code.__dataclass_fields__}
    log_scale = fields.pop("log_scale", None)
    output = aejax.Output(aejax.Code(z=z, **of_code), x if decoded is None else jax.numpy.asarray(decoded), log_scale)
    given = {"apply": None, "variables": {}, "keys": jax.random.split(jax.random.key(0), len(x)), **fields}
    return Context(x=x, output=output, **given)


def example_keys(n, seed=0):
    """A key for each of n examples, as the training step makes them."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), np.arange(n))


def shared_among(n, arrays):
    """[batch, ...] to [n, batch / n, ...] for pmap."""
    return jax.tree.map(lambda a: a.reshape(n, len(a) // n, *a.shape[1:]), arrays)


def fresh(config, x, seed=0, spec=None):
    """A run of a config before its first step, for examples like x [n, ...]."""
    spec = spec or Spec(x.shape[1:])
    task = make_task(config, spec)
    state = init(task, spec.shape, jax.random.key(seed))
    run = aejax.Run(config, spec, 0, eval_variables(state), x[:0], x[:0], x[:0])
    latents = run.encode(x[:8], np.zeros(len(x[:8]), int) if config.classes else None)
    return dataclasses.replace(run, latents=latents, inputs=run.in_users_units(x[:8]))


def section(**changes):
    """The data section of the default config with `changes`."""
    config = aejax.config.default().data
    config.update(changes)
    return config


def whole(source):
    """All examples of a source."""
    return source.take(np.arange(len(source)))


def subject_of(run, test, train=None, label=None, train_label=None):
    """A run beside these arrays; train is test unless told."""
    train, train_label = (test, label) if train is None else (train, train_label)
    return Subject(run, Part(run, "train", train, train_label), Part(run, "test", test, label))


@pytest.fixture
def bfloat16(monkeypatch):
    """Computes in bfloat16 as an accelerator does, which CPUs widen."""
    monkeypatch.setattr(processor, "_flags", frozenset)
