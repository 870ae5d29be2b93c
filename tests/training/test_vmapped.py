"""Runs that train together equal those that train alone; what ends one leaves the others."""

import jax
import numpy as np
import pytest
from conftest import one_device

import aejax
from aejax.ablation.plan import plan
from aejax.data import from_array, split
from aejax.training import vmapped
from aejax.training.recorder import Recorder
from aejax.training.vmapped import Member, train_together
from aejax.workdir import checkpoint, metrics_log
from aejax.workdir.lifecycle import read_end
from configs import denoising, topk, vae

NUMBERS = {"optim.lr": (1e-2, 1e-3), "optim.weight_decay": (0.1, 0.3), "seed": (3, 5)}


def configs(base, **numbers):
    rows = [dict(zip(numbers, values, strict=True)) for values in zip(*numbers.values(), strict=True)]
    return [run.config for run in plan(base, rows)]


def images(config):
    values = np.random.default_rng(0).random((120, 6)).astype(np.float32)
    return split({"train": from_array(values, None, name="images", size=0)}, config.data)


def small(config):
    config = config.copy_and_resolve_references().unlock()
    config.update({"steps": 8, "batch_size": 8, "log_every": 2, "checkpoint_every": 4, "ema": 0.9})
    return aejax.config.lock(config)


BASES = {
    "vae": (vae, {"objective.weights.kl": (0.0, 4.0)}),
    "denoising": (denoising, {"corruption.level": (0.1, 0.5)}),
    "topk": (topk, {"objective.weights.revival": (0.1, 0.5)}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "devices"), [("vae", 4), ("denoising", 1), ("topk", 1), ("topk", 4)])
def test_together_as_alone(name, devices, tmp_path, monkeypatch):
    if name == "topk":  # whose runs take turns
        monkeypatch.setattr(vmapped, "_WIDE", 1)
    module, numbers = BASES[name]
    several = configs(small(module.get_config("tiny")), **NUMBERS, **numbers)
    given = {"data": images(several[0]), "devices": jax.devices()[:devices], "quiet": True}
    together = train_together(several, [tmp_path / str(i) for i in range(2)], **given)
    for i, config in enumerate(several):
        alone = aejax.train(config, tmp_path / f"alone{i}", **given)
        a, b = (checkpoint.load_newest(tmp_path / folder).state for folder in (str(i), f"alone{i}"))
        # Float tolerance: a batch of products is summed in another order.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), a, b)
        np.testing.assert_allclose(together[i].latents, alone.latents, rtol=2e-3, atol=2e-4)
        assert together[i].config.optim.lr == config.optim.lr
        told, told_alone = (metrics_log.read(tmp_path / folder) for folder in (str(i), f"alone{i}"))
        assert [set(record) for record in told] == [set(record) for record in told_alone]
        for x, y in zip(told, told_alone, strict=True):
            for key in set(x) - {"images_per_second"}:
                np.testing.assert_allclose(x[key], y[key], rtol=5e-3, atol=1e-3, err_msg=key)


@pytest.mark.slow
def test_they_go_on_together_with_the_same_bits(tmp_path):
    several = configs(small(vae.get_config("tiny")), **NUMBERS)
    given = {"data": images(several[0]), "devices": one_device(), "quiet": True}
    train_together(several, [tmp_path / f"whole{i}" for i in range(2)], **given)
    folders = [tmp_path / str(i) for i in range(2)]
    stopped = train_together(several, folders, **given, stop=lambda: True)
    assert [run.step for run in stopped] == [2, 2]
    train_together(several, folders, **given)
    for i in range(2):
        a, b = (checkpoint.load_newest(tmp_path / folder).state for folder in (str(i), f"whole{i}"))
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_number_that_does_not_fit_is_refused_whichever_run_has_it(tmp_path):
    several = configs(small(denoising.get_config("tiny")), **{"corruption.level": (0.1, 1.2)})
    for order in (several, several[::-1]):
        with pytest.raises(aejax.InputError, match=r"corruption\.level must be .* got 1\.2"):
            train_together(order, [tmp_path / str(i) for i in range(2)], data=images(several[0]), quiet=True)
    assert not list(tmp_path.glob("*/config.json"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_what_diverges_ends_alone(tmp_path):
    several = configs(small(vae.get_config("tiny")), **{"optim.lr": (1e-3, 1e30)})
    given = {"data": images(several[0]), "devices": one_device(), "quiet": True}
    good, bad = train_together(several, [tmp_path / "good", tmp_path / "bad"], **given)
    assert good.step == 8
    assert isinstance(bad, aejax.DivergedError)
    assert "(steps 1 to 2 were read)" in str(bad)  # the first that went wrong, after which nothing more is tried
    assert checkpoint.list_steps(tmp_path / "bad") == []
    assert checkpoint.list_steps(tmp_path / "good") == [4, 8]
    assert read_end(tmp_path / "bad") == f"failed: {bad}"
    assert read_end(tmp_path / "good") == ""


def test_a_recorder_closes_with_the_error_of_its_run_or_of_all(monkeypatch):
    closed, of_run, of_all = [], aejax.DivergedError("a loss"), KeyboardInterrupt()
    monkeypatch.setattr(Recorder, "__exit__", lambda self, kind, error, trace: closed.append((kind, error)))
    member = object.__new__(Member)
    member.opened = True
    for error, own in ((None, None), (None, of_run), (of_all, None), (of_all, of_run)):
        member.error = own
        member.__exit__(type(error) if error else None, error, None)
    assert closed == [(None, None), (aejax.DivergedError, of_run), *[(KeyboardInterrupt, of_all)] * 2]


@pytest.mark.slow
def test_what_cannot_train_together(tmp_path):
    base = small(vae.get_config("tiny"))
    several = configs(base, **{"encoder.features": ((4,), (5,))})
    with pytest.raises(aejax.InputError, match=r"encoder.features: \[4\] -> \[5\]; train them one by one"):
        train_together(several, [tmp_path / "a", tmp_path / "b"], quiet=True)
    several = configs(base, seed=(0, 1))
    given = {"data": images(base), "devices": one_device(), "quiet": True}
    aejax.train(several[0], tmp_path / "c", **given)
    with pytest.raises(aejax.InputError, match="at the same step"):
        train_together(several, [tmp_path / "c", tmp_path / "d"], **given)


@pytest.mark.slow
def test_a_second_one_in_the_same_workdir_is_refused(tmp_path):
    config = small(vae.get_config("tiny"))
    seen = []

    def stop():
        if not seen:
            with pytest.raises(aejax.InputError, match="another process") as error:
                aejax.train(config, tmp_path, data=images(config), devices=one_device(), quiet=True)
            seen.append(error)
        return False

    aejax.train(config, tmp_path, data=images(config), devices=one_device(), quiet=True, stop=stop)
    assert seen
