"""Warm start: what is taken, what is refused, and that a resumed run does not read it again."""

import shutil
from functools import partial

import jax
import numpy as np
import optax
import pytest
from conftest import assert_trees_equal, fresh, mlp, one_device, vectors

import aejax
from aejax.data import Spec
from aejax.distributed.partition import Partition
from aejax.training import optimizers, paths
from aejax.training.step import init
from aejax.training.task import make_task
from aejax.training.warm_start import initialize
from aejax.workdir import checkpoint, saved_config

KEY = jax.random.key(7)


def started(config, init_from=None, adjust=None, quiet=True):
    task = make_task(config, Spec((6,)))
    return initialize(config, task, (6,), KEY, Partition(one_device()), adjust, init_from, quiet)


def saved_in(workdir, config=None, step=4, ema=(), **variables):
    """A workdir with one checkpoint of random variables, and the variables."""
    state = jax.device_get(jax.jit(partial(init, make_task(mlp(), Spec((6,))), (6,)))(jax.random.key(1)))
    state = state.replace(variables=variables, ema=jax.tree.map(lambda a: a + 1, state.params) if ema else {})
    metadata = {"config": aejax.config.to_dict(config or mlp()), "spec": Spec((6,)).to_dict()}
    samples = {name: np.zeros((2, 2), np.float32) for name in ("latents", "reconstructions", "inputs")}
    with checkpoint.Checkpoints(workdir, 3, metadata) as checkpoints:
        checkpoints.save(step, state, samples)
    return state


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A workdir with a checkpoint of step 4, and its state."""
    folder = tmp_path_factory.mktemp("first")
    return folder, saved_in(folder)


def test_a_run_starts_from_the_newest_parameters_of_a_workdir(tmp_path, capsys):
    config = mlp(init_from__workdir=str(tmp_path))
    saved_in(tmp_path, step=2)
    theirs = saved_in(tmp_path, step=4, ema=True)
    state = started(config, quiet=False)
    assert_trees_equal(state.params, theirs.ema)  # the averaged ones, where there are any
    assert int(state.step) == 0
    cold = started(mlp())
    assert_trees_equal(state.opt_state, cold.opt_state)
    assert f"starting from {tmp_path}, step 4: 8 of the model's 8 arrays" in capsys.readouterr().err
    config.init_from.step = "2"
    assert_trees_equal(started(config).params, theirs.params)


@pytest.mark.slow
def test_only_what_is_included_is_taken(first):
    folder, theirs = first
    config = mlp(init_from__workdir=str(folder), init_from__include="encoder/", ema=0.9)
    config.decoder.features = (7,)  # another shape, which does not matter
    state, cold = started(config), started(mlp(decoder__features=(7,)))
    assert_trees_equal(state.params["encoder"], theirs.params["encoder"])
    assert_trees_equal(state.params["decoder"], cold.params["decoder"])
    assert_trees_equal(state.ema, state.params)


@pytest.mark.slow
def test_parameters_and_codebooks_of_a_run_or_of_ones_own_are_taken():
    config = mlp()
    config.bottleneck = aejax.config.module("vq", codes=4)
    config.objective.weights.commitment = 1.0
    run = fresh(config, vectors(8), seed=3)
    cold = started(config)
    assert jax.tree.map(np.shape, {"params": cold.params, **cold.variables}) == jax.tree.map(np.shape, run.variables)
    for given in (run, run.variables):
        state = started(config, given)
        assert_trees_equal({"params": state.params, **state.variables}, dict(run.variables))
    bare = started(config, run.variables["params"])  # leaves the codebook random
    assert_trees_equal(bare.params, run.variables["params"])
    assert_trees_equal(bare.variables, cold.variables)


@pytest.mark.slow
def test_taken_parameters_come_after_an_adjustment():
    twice = lambda params: jax.tree.map(lambda a: a + 2, params)  # noqa: E731
    run = fresh(mlp(), vectors(8), seed=3)
    state = started(mlp(init_from__include="encoder/"), run, twice)
    assert_trees_equal(state.params["encoder"], run.variables["params"]["encoder"])
    adjusted = twice(started(mlp()).params)["decoder"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state.params["decoder"], adjusted)


def test_state_of_the_optimizer_that_depends_on_the_parameters_follows_them(monkeypatch):
    kept = optax.GradientTransformation(lambda params: params, lambda updates, state, params: (updates, state))
    monkeypatch.setitem(optimizers.OPTIMIZERS, "remembers", optimizers._scaled(lambda: kept))
    run = fresh(mlp(), vectors(8), seed=3)
    state = started(mlp(optim__name="remembers"), run)
    assert_trees_equal(state.opt_state[1], run.variables["params"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder__features": (4,)},
            r"step 4 does not fit this model: 3 arrays differ \(bottleneck/dense/kernel: \(5, 2\) there, \(4, 2\) "
            r"here; encoder/dense_0/bias: \(5,\) there, \(4,\) here; encoder/dense_0/kernel: \(6, 5\) there, \(6, 4\) "
            r"here\); take only what fits by init_from.include",
        ),
        ({"encoder__features": (4, 3)}, r"5 arrays differ .* here; and 2 more\); take only what fits"),
        ({"bottleneck": aejax.config.module("identity")}, r"bottleneck/dense/bias: \(2,\) there, absent here"),
        ({"likelihood": aejax.config.module("gaussian", variance="learned")}, r"log_scale: absent there, \(\) here"),
        ({"init_from__include": "encodr"}, "init_from.include: 'encodr' matches none of the variables' paths"),
        ({"init_from__step": "3"}, "no checkpoint of step 3; saved are 4"),
        ({"init_from__step": "last"}, "step='last' must be a whole number, 'newest' or 'best'"),
        ({"init_from__workdir": "nowhere"}, "nowhere: no checkpoint here"),
        ({"init_from__workdir": "", "init_from__include": "x"}, "set that, too"),
        ({"pretrain__steps": 2, "decoder__features": (5,)}, "init_from and pretrain.steps both set"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(first, changes, message):
    with pytest.raises(aejax.InputError, match=message) as error:
        started(mlp(**{"init_from__workdir": str(first[0]), **changes}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("given", [{}, 3, [np.zeros(3)]])
def test_what_holds_no_parameters_is_refused(given):
    with pytest.raises(aejax.InputError, match="init_from must be a Run or nested dicts of parameters"):
        started(mlp(), given)
    with pytest.raises(aejax.InputError, match="leave one of them out"):
        started(mlp(init_from__workdir="runs/vae"), given)


def test_a_workdir_of_a_stranger_executes_nothing(tmp_path):
    (tmp_path / "stranger.py").write_text("raise SystemExit('executed')")
    foreign = mlp(encoder=aejax.config.module("stranger:Encoder"), tracking=("stranger:Tracker",))
    theirs = saved_in(tmp_path, foreign)
    assert_trees_equal(started(mlp(init_from__workdir=str(tmp_path))).params, theirs.params)


def test_paths_and_patterns_with_colons_name_no_code():
    config = mlp(init_from__workdir="runs:1/vae", optim__freeze="(?:encoder|decoder)/")
    saved_config.check_trust(aejax.config.to_dict(config), [], "a run")


@pytest.mark.slow
def test_a_resumed_run_does_not_read_it_again(tmp_path):
    x = vectors()
    first = aejax.fit(mlp(), x, tmp_path / "first", devices=one_device(), quiet=True)
    config = mlp(init_from__workdir=str(tmp_path / "first"), optim__lr=1e-9)
    warm = aejax.fit(config, x, tmp_path / "warm", devices=one_device(), quiet=True)
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)  # noqa: E731
    jax.tree.map(close, warm.variables, first.variables)
    shutil.rmtree(tmp_path / "first")
    shutil.rmtree(tmp_path / "warm/checkpoints/8")
    with pytest.warns(UserWarning, match="the checkpoint of step 8 is missing"):
        again = aejax.fit(config, x, tmp_path / "warm", devices=one_device(), quiet=True)
    assert_trees_equal(again.variables, warm.variables)
    with pytest.raises(aejax.InputError, match=r"init_from\.workdir"):
        aejax.fit(mlp(optim__lr=1e-9), x, tmp_path / "warm", devices=one_device(), quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("partition", ["pmap", "sharded"])
def test_several_devices_start_alike(first, partition):
    folder, theirs = first
    config = mlp(init_from__workdir=str(folder), optim__lr=1e-9, partition__name=partition)
    run = aejax.fit(config, vectors(), devices=jax.devices(), quiet=True)
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)  # noqa: E731
    jax.tree.map(close, run.variables["params"], theirs.params)
    assert set(paths.flatten(run.variables["params"])) == set(paths.flatten(theirs.params))
