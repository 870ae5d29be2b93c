"""The partition by shares: the same run as pmap's, with less on each device."""

import shutil

import jax
import numpy as np
import pytest
from conftest import MEANT, config_of, mlp, one_device, vectors

import aejax
from aejax import config, data
from aejax.distributed.partition import Partition
from aejax.training.step import init, train_step
from aejax.training.task import make_task
from aejax.workdir import checkpoint, metrics_log, saved_config

module = config.module
IMAGES = np.random.default_rng(0).random((197, 8, 8), np.float32)
CONV = {
    "encoder": module("conv", features=(8,)),
    "decoder": module("conv", features=(8,)),
    "likelihood__name": "bernoulli",
}
# Widths that four devices can divide. Momentum and noise, so that the optimizer and the keys are seen, too.
CASES = {
    "vae": (
        mlp(
            encoder=module("mlp", features=(16,), activation="tanh"),
            bottleneck=module("gaussian", features=4),
            decoder=module("mlp", features=(16,), activation="tanh"),
            objective__weights__kl=1.0,
        ),
        vectors(197, 8),
    ),
    "conv": (mlp(**CONV, bottleneck=module("conv", features=4)), IMAGES),
    "vq": (mlp(**CONV, bottleneck=module("vq", codes=16, features=4), objective__weights__commitment=0.25), IMAGES),
}


def case(name, **changes):
    experiment, x = CASES[name]
    experiment = experiment.copy_and_resolve_references()
    experiment.update_from_flattened_dict(
        {"ema": 0.9, "optim.name": "sgd", "optim.lr": 1e-3, "optim.options": {"decay": 0.9}, **changes}
    )
    return experiment, x


def sharded(name, **changes):
    return case(name, **{"partition.name": "sharded"}, **changes)


def assert_close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), a, b)


@pytest.mark.slow
@pytest.mark.filterwarnings(MEANT)
@pytest.mark.parametrize("name", ["kl_f8", "vqgan", "taesd", "dc_ae"])
def test_tokenizers_take_the_same_step_in_shares(name):
    """The whole run of each under pmap, and on one device, is that of `test_configs.py`."""
    experiment = config_of(name)
    experiment.optim.update(name="sgd", lr=1e-3)
    source = data.from_array(IMAGES[..., None])
    task = make_task(experiment, data.Spec.of(source, False), len(source))
    batch, states = {"x": IMAGES[:8, ..., None], "index": np.arange(8, dtype=np.int32)}, []
    for partition in (Partition(one_device()), Partition(jax.devices(), "sharded")):
        state = partition.init(lambda key: init(task, source.shape, key), jax.random.key(0))
        step = partition.compile(lambda c, h, b, reduce: train_step(c, b, jax.random.key(1), task=task, reduce=reduce))
        states.append(jax.device_get(step(state, (), partition.share(batch))))
    assert_close(*states)


@pytest.mark.slow
@pytest.mark.filterwarnings(MEANT)
@pytest.mark.parametrize("name", CASES)
def test_shares_train_as_pmap_does(tmp_path, name):
    for folder, (experiment, x) in (("pmap", case(name)), ("sharded", sharded(name))):
        aejax.fit(experiment, x, tmp_path / folder, devices=jax.devices(), quiet=True)
    a, b = (checkpoint.load_newest(tmp_path / folder) for folder in ("pmap", "sharded"))
    assert_close(a.state, b.state)
    assert_close(a.samples, b.samples)
    for x, y in zip(*(metrics_log.read(tmp_path / folder) for folder in ("pmap", "sharded")), strict=True):
        x.pop("images_per_second", None), y.pop("images_per_second", None)
        assert x == pytest.approx(y, rel=1e-4)


def state_of(name):
    experiment, x = case(name)
    source = data.from_array(x)
    return make_task(experiment, data.Spec.of(source, False)), source.shape


@pytest.mark.slow
def test_each_device_holds_its_share_from_the_first_moment():
    task, shape = state_of("vae")
    partition = Partition(jax.devices(), "sharded")
    state = partition.init(lambda key: init(task, shape, key), jax.random.key(0))
    kernel = state.params["encoder"]["dense_0"]["kernel"]  # [8, 16]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(8, 4)}
    momentum = state.opt_state[1].trace["encoder"]["dense_0"]["kernel"]
    assert {shard.data.shape for shard in (*momentum.addressable_shards,)} == {(8, 4)}
    on_first = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    assert on_first < 0.3 * sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    whole = Partition(one_device()).init(lambda key: init(task, shape, key), jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(whole))


def test_the_step_gives_shares_back_and_donates():
    partition = Partition(jax.devices(), "sharded")
    state = partition.place({"w": np.ones((3, 8), np.float32), "odd": np.ones((3, 5), np.float32)})
    first = state
    step = partition.compile(lambda carry, held, batch, reduce: (jax.tree.map(lambda w: 2 * w, carry), batch.sum()))
    for i in range(1, 3):
        given, (state, total) = state, step(state, (), partition.share(np.arange(8.0, dtype=np.float32)))
        assert given["w"].is_deleted()
        assert total == 28
        np.testing.assert_array_equal(state["w"], np.full((3, 8), 2**i))
        assert {shard.data.shape for shard in state["w"].addressable_shards} == {(3, 2)}
        assert {shard.data.shape for shard in state["odd"].addressable_shards} == {(3, 5)}
    assert first["odd"].is_deleted()


@pytest.mark.slow
def test_a_checkpoint_of_shares_goes_on_anywhere(tmp_path):
    experiment, x = sharded("vae")
    splits = data.split({"train": data.from_array(x)}, experiment.data)

    def train(folder, config=experiment, devices=4, stop=lambda: False):
        return aejax.train(
            config, tmp_path / folder, data=splits, devices=jax.devices()[:devices], stop=stop, quiet=True
        )

    asked = iter(range(2))
    stopped = train("stopped", stop=lambda: next(asked, None) is None)
    assert stopped.step == 6
    assert (tmp_path / "stopped/checkpoints/6/state/_sharding").exists()  # saved by shares
    np.testing.assert_allclose(stopped.encode(stopped.inputs), stopped.latents, rtol=1e-5, atol=1e-6)
    whole = train("whole")
    for devices in (1, 2, 4):
        shutil.copytree(tmp_path / "stopped", tmp_path / f"on{devices}")
        finished = train(f"on{devices}", case("vae")[0] if devices < 4 else experiment, devices)
        assert finished.step == 8
        assert_close(finished.variables, whole.variables)


def test_shares_that_are_saved_are_copies(tmp_path):
    partition = Partition(jax.devices(), "sharded")
    step = partition.compile(lambda carry, held, batch, reduce: (jax.tree.map(lambda w: w + 1, carry), 0))
    state = partition.place({"w": np.zeros((64, 64), np.float32)})
    samples = {name: np.zeros(1, np.float32) for name in ("latents", "reconstructions", "inputs")}
    with checkpoint.Checkpoints(tmp_path, 100, {"config": {}, "spec": {}}) as checkpoints:
        for i in range(4):
            checkpoints.save(i, state, samples)
            for _ in range(3):
                state, _ = step(state, (), ())
    for i in range(4):
        np.testing.assert_array_equal(checkpoint.find(tmp_path, i).state["w"], np.full((64, 64), 3.0 * i))


def test_another_name_is_refused():
    with pytest.raises(aejax.InputError, match=r"partition.name 'shardd' is unknown; did you mean 'sharded'"):
        config.check(mlp(partition__name="shardd"))


def test_a_run_from_before_there_was_a_choice_goes_on():
    old = config.to_dict(mlp())
    del old["partition"]
    assert saved_config.find_conflicts(old, mlp(partition__name="sharded")) == []
