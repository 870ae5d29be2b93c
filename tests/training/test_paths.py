"""Freezing: what a pattern of `optim.freeze` matches keeps its bits, and everything else trains as without it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import assert_trees_equal, mlp, one_device, vectors
from test_step import batch, task

import aejax
from aejax import data
from aejax.data import Spec
from aejax.distributed.partition import Partition
from aejax.training import optimizers, paths
from aejax.training.step import init, train_step
from aejax.training.task import make_task
from aejax.training.vmapped import train_together
from aejax.workdir import checkpoint

FIRST = {"x": jax.random.normal(jax.random.key(0), (8, 6)), "index": jnp.arange(8)}


def test_a_tree_is_split_and_merged_again():
    tree = {"encoder": {"a": {"kernel": 1, "bias": 2}}, "decoder": {"a": {"kernel": 3}}, "encoders": 4}
    others, chosen = paths.split(tree, ["encoder/", ".*/bias"])
    assert chosen == {"encoder": {"a": {"kernel": 1, "bias": 2}}}
    assert others == {"decoder": {"a": {"kernel": 3}}, "encoders": 4}
    assert paths.merge(others, chosen) == tree
    assert paths.split(tree, ["kernel"])[1] == {}  # a path begins with what matches


def test_frozen_parameters_keep_their_bits_and_count_for_nothing():
    """The decoder alone, by optax: weight decay, and a norm that the encoder's gradients do not enter."""
    config = mlp(optim__clip=0.1, optim__weight_decay=0.5, optim__freeze="encoder/").optim
    t = task(optimizer=optimizers.build(config, 8), ema=0.5, frozen=(config.freeze,))
    state = first = init(t, (3,), jax.random.key(1))
    plain = optax.chain(
        optax.clip_by_global_norm(0.1),
        optax.scale_by_adam(),
        optax.add_decayed_weights(0.5, lambda tree: jax.tree.map(lambda a: a.ndim > 1, tree)),
        optax.scale_by_learning_rate(1e-3),
    )
    decoder = first.params["decoder"]
    opt_state = plain.init(decoder)

    @jax.jit
    def by_optax(decoder, opt_state, x):
        def loss(decoder):
            params = {**first.params, "decoder": decoder}
            return jnp.square(t.model.apply({"params": params}, x).decoded - x).sum(1).mean()

        grads = jax.grad(loss)(decoder)
        updates, opt_state = plain.update(grads, opt_state, decoder)
        return optax.apply_updates(decoder, updates), opt_state, optax.tree.norm(grads)

    step = jax.jit(partial(train_step, key=jax.random.key(0), task=t))
    for i in range(3):
        decoder, opt_state, norm = by_optax(decoder, opt_state, batch(seed=i)["x"])
        state, metrics = step(state, batch(seed=i))
        np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state.params["decoder"], decoder)
    assert np.any(state.params["decoder"]["dense_0"]["kernel"] != first.params["decoder"]["dense_0"]["kernel"])
    assert_trees_equal(state.params["encoder"], first.params["encoder"])
    assert_trees_equal(state.ema["encoder"], first.params["encoder"])
    assert not any("encoder" in jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state.opt_state))


@pytest.mark.slow
def test_a_codebook_is_frozen_like_parameters():
    config = mlp(steps=1, optim__freeze="bottleneck/")
    config.bottleneck = aejax.config.module("vq", codes=4)
    config.objective.weights.commitment = 1.0
    for frozen, same in ((config.optim.freeze, True), ("", False)):
        config.optim.freeze = frozen
        t = make_task(config, Spec((6,)), 8)
        state = jax.jit(partial(init, t, (6,)))(jax.random.key(0))
        after, _ = jax.jit(partial(train_step, task=t))(state, FIRST, jax.random.key(1))
        books = [jax.tree.leaves(s.variables) for s in (state, after)]
        assert all(np.array_equal(a, b) for a, b in zip(*books, strict=True)) == same


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            "encodr/, encoder/",
            r"optim.freeze: 'encodr/' matches none of the variables' paths, e.g. .*encoder/dense_0/kernel",
        ),
        ("encoder/,decoder/,bottleneck/", "leaves no parameter to train"),
        ("(", r"optim.freeze: '\(' is no regular expression"),
    ],
)
def test_patterns_that_do_not_fit_are_named(patterns, message):
    config = mlp(optim__freeze=patterns)
    with pytest.raises(aejax.InputError, match=message):
        aejax.fit(config, vectors(), quiet=True)


CASES = {
    "pmap": {"devices": 4},
    "sharded": {"devices": 4, "partition__name": "sharded"},
    "accumulated": {"devices": 1, "optim__accumulate": 2, "ema": 0.9},
    "adversary": {"devices": 1, "adversary__name": "aae", "adversary__features": (4,), "ema": 0.9},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_frozen_parameters_keep_their_bits_through_stop_and_resume(case, tmp_path):
    changes = dict(CASES[case])
    devices = jax.devices()[: changes.pop("devices")]
    config = mlp(optim__freeze="encoder/,decoder/.*/bias", optim__weight_decay=0.1)
    with config.unlocked():
        config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    if case == "adversary":
        config.objective.weights.adversarial = 1.0
    splits = data.split({"train": data.from_array(vectors())}, config.data)
    asked = iter(range(2))
    given = {"data": splits, "devices": devices, "quiet": True}
    aejax.train(config, tmp_path / "cut", **given, stop=lambda: next(asked, None) is None)
    aejax.train(config, tmp_path / "cut", **given)
    aejax.train(config, tmp_path / "whole", **given)
    cut, whole = (checkpoint.load_newest(tmp_path / name).state for name in ("cut", "whole"))
    assert_trees_equal(cut, whole)
    key = jax.random.split(jax.random.key(config.seed))[0]
    first = Partition(one_device()).init(partial(init, make_task(config, Spec((6,))), (6,)), key)
    for params in filter(None, (whole["params"], whole["ema"])):
        leaves, before = paths.flatten(params), paths.flatten(first.params)
        for path in leaves:
            same = np.array_equal(leaves[path], before[path])
            assert same == paths.is_chosen(path, ["encoder/", "decoder/.*/bias"]), path


@pytest.mark.slow
def test_runs_that_train_together_freeze_alike(tmp_path):
    configs = [mlp(optim__lr=lr, optim__freeze="encoder/") for lr in (1e-2, 1e-3)]
    splits = data.split({"train": data.from_array(vectors())}, configs[0].data)
    given = {"data": splits, "devices": one_device(), "quiet": True}
    together = train_together(configs, [tmp_path / str(i) for i in range(2)], **given)
    for i, config in enumerate(configs):
        alone = aejax.train(config, tmp_path / f"alone{i}", **given)
        assert_trees_equal(together[i].variables["params"]["encoder"], alone.variables["params"]["encoder"])
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)  # noqa: E731
        jax.tree.map(close, together[i].variables, alone.variables)
