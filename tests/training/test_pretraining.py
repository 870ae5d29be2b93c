import jax
import numpy as np
import pytest
from conftest import config_of, mlp, one_device, vectors

import aejax
from aejax import data
from aejax.distributed.partition import Partition
from aejax.training.pretraining import list_layers, pretrain
from aejax.training.step import init
from aejax.training.task import make_task


def setup(config, x):
    source = data.from_array(x)
    task = make_task(config, data.Spec.of(source, False))
    params = init(task, source.shape, jax.random.key(0)).params
    return task, source, params


def run(config, x, devices, stop=lambda: False):
    task, source, params = setup(config, x)
    partition = Partition(devices)
    return pretrain(config, task, data.Feed(source, 2**30, partition.replicate), partition, params, stop), params


def layer(params, part, name="dense_0"):
    return np.asarray(params[part][name]["kernel"]), np.asarray(params[part][name]["bias"])


def deep(**changes):
    linear = {"encoder__activation": "linear", "decoder__activation": "linear"}
    return mlp(encoder__features=(4,), decoder__features=(4,), optim__lr=1e-2, **linear, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
def test_each_pair_of_layers_copies_the_codes_below_it(count):
    """Linear layers: the first pair must span PCA's first 4 axes, the second the first 2 of its codes."""
    scales = np.array([3, 2.5, 2, 1.5, 0.1, 0.05], np.float32)
    x = vectors(400) * scales
    config = deep(pretrain__steps=1500)
    trained, _ = run(config, x, jax.devices()[:count])
    w1, b1 = layer(trained, "encoder")
    w2, b2 = layer(trained, "bottleneck", "dense")
    v2, c2 = layer(trained, "decoder", "dense_0")
    v1, c1 = layer(trained, "decoder", "dense_1")
    codes = x @ w1 + b1

    def error(a, b):
        return np.square(a - b).sum(1).mean()

    def pca(values, n):
        return (np.linalg.svd(values - values.mean(0), compute_uv=False)[n:] ** 2).sum() / len(values)

    assert error(codes @ v1 + c1, x) < 1.05 * pca(x, 4) + 1e-3
    assert error((codes @ w2 + b2) @ v2 + c2, codes) < 1.05 * pca(codes, 2) + 1e-3


def test_tied_pairs_have_biases_only_in_the_decoder():
    config = deep(pretrain__steps=3, decoder__tied=True)
    trained, params = run(config, vectors(), one_device())
    assert jax.tree.map(np.shape, trained) == jax.tree.map(np.shape, params)
    assert {leaf.ndim for leaf in jax.tree.leaves(trained["decoder"])} == {1}


@pytest.mark.slow
def test_a_run_begins_with_pretrained_layers(tmp_path):
    x = np.asarray(data.read(data.find(config_of("stacked").data)["train"])["x"])
    losses = []
    for steps in (0, 300):
        config = config_of("stacked")
        config.pretrain.steps, config.optim.lr, config.optim.schedule = steps, 1e-2, "constant"
        config.steps = config.checkpoint_every = 1
        run = aejax.fit(config, x, tmp_path / str(steps), devices=one_device())
        losses.append(np.square(run.reconstruct(x) - x).sum(1).mean())
    assert losses[1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder__features": (9,)}, r"decoder.features=\(9,\) must be \(4,\)"),
        ({"encoder": {"name": "conv"}}, "needs an mlp encoder"),
    ],
)
def test_what_cannot_be_stacked_is_named(changes, message):
    config = deep(pretrain__steps=3)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items() if k != "encoder"})
    config.encoder = aejax.config.module(**changes.get("encoder", {"name": "mlp", "features": (4,)}))
    with pytest.raises(aejax.InputError, match=message):
        list_layers(config)


@pytest.mark.slow
def test_wrong_stacks_leave_the_workdir_free(tmp_path):
    config = deep(pretrain__steps=3)
    config.decoder.features = (9,)
    with pytest.raises(aejax.InputError, match="mirrors the encoder"):
        aejax.fit(config, vectors(), tmp_path, devices=one_device())
    assert [file.name for file in tmp_path.iterdir()] == ["ended.txt"]  # which says why, and claims nothing
    aejax.fit(deep(pretrain__steps=3), vectors(), tmp_path, devices=one_device())


@pytest.mark.slow
def test_stop_and_nan_are_heeded():
    with pytest.raises(aejax.StoppedError, match="begins anew"):
        run(deep(pretrain__steps=10**9), vectors(), one_device(), stop=lambda: True)
    wild = deep(pretrain__steps=30, optim__name="sgd")
    wild.optim.lr = 1e30
    with pytest.raises(aejax.DivergedError, match="pretraining diverged"):
        run(wild, vectors(), one_device())


@pytest.mark.slow
def test_inner_pairs_copy_codes_by_squared_error_whatever_the_first_does():
    """tanh codes are negative half the time: a Bernoulli there would run away."""
    x = 1 / (1 + np.exp(-vectors(300)))
    config = mlp(encoder__features=(4,), decoder__features=(4,), optim__lr=1e-2, pretrain__steps=600)
    config.likelihood.name = "bernoulli"
    trained, _ = run(config, x, one_device())
    w1, b1 = layer(trained, "encoder")
    w2, b2 = layer(trained, "bottleneck", "dense")
    v2, c2 = layer(trained, "decoder", "dense_0")
    codes = np.tanh(x @ w1 + b1)
    error = np.square(np.tanh((codes @ w2 + b2) @ v2 + c2) - codes).sum(1).mean()
    assert error < 0.5 * codes.var(0).sum()
