"""AUROC of a class that the run never saw, on data where the answer is known; and how a class is held out."""

import numpy as np
import pytest
from conftest import fresh, mlp, section, subject_of, vectors, whole

import aejax
from aejax import config as config_lib
from aejax import data
from aejax.config import module
from aejax.evaluation import Skipped, anomaly
from aejax.workdir import saved_config


def plane_run(held_out=-1, likelihood_="gaussian", bottleneck="gaussian", classes=0):
    """A run that copies the first two of six values and says 0 for the others: it knows a plane."""
    config = mlp(encoder__features=(), decoder__features=(), classes=classes)
    config.data.held_out = held_out
    config.bottleneck = module(bottleneck, features=2)
    config.likelihood = module(likelihood_, **({"variance": "optimal"} if likelihood_ == "gaussian" else {}))
    run = fresh(config, vectors(8))
    if classes:
        return run
    params = run.variables["params"]
    layers = params["bottleneck"]
    layers["mean" if bottleneck == "gaussian" else "dense"]["kernel"] = np.eye(6, 2, dtype=np.float32)
    if bottleneck == "gaussian":
        layers["log_std"] = {"kernel": np.zeros((6, 2), np.float32), "bias": np.full(2, -3, np.float32)}
    params["decoder"]["dense_0"]["kernel"] = np.eye(2, 6, dtype=np.float32)
    return run


def near_and_far(n=400, distance=1.0, seed=0):
    """Near the plane with label 0 or 1, and `distance` off it with label 2."""
    x = vectors(n, seed=seed) * np.float32([1, 1, 0.1, 0.1, 0.1, 0.1])
    label = np.arange(n) % 3
    x[label == 2, 2:] += distance
    return x, label


@pytest.fixture(scope="module")
def plane():
    return plane_run(held_out=2)


@pytest.mark.slow
def test_a_class_far_away_is_told_apart_and_an_identical_one_is_not(plane):
    x, label = near_and_far()
    for distance, low, high in ((1.0, 0.999, 1), (0.0, 0.4, 0.6)):
        x, label = near_and_far(1200, distance)
        train = x[label != 2]
        found = anomaly.measure(subject_of(plane, x, train, label, label[label != 2]))
        assert set(found) == {"auroc_squared_error", "auroc_negative_elbo"}
        assert all(low <= m.value <= high for m in found.values())
        assert "label 2 of 1,200 examples of test (400) against the others" in found["auroc_squared_error"].protocol


def pairs(normal, anomalous):
    """The share of pairs in which the anomalous one is higher; ties count half."""
    return np.mean([(a > n) + 0.5 * (a == n) for a in anomalous for n in normal])


@pytest.mark.parametrize("seed", range(2))
def test_auroc_of_ones_own_arrays_is_the_share_of_ordered_pairs(plane, seed):
    x, label = near_and_far(120, 0.1, seed)
    normal, anomalous = x[label != 2], x[label == 2]
    found = anomaly.auroc(plane, normal, anomalous)
    scale = plane.density.optimal_scale(normal)
    known, strange = (anomaly.scores(plane, part, scale=scale) for part in (normal, anomalous))
    np.testing.assert_allclose(known["squared_error"], np.square(normal[:, 2:]).sum(1), rtol=1e-5)
    np.testing.assert_allclose(known["negative_elbo"], -plane.elbo(normal, scale=scale), rtol=1e-5)
    for name in ("squared_error", "negative_elbo"):
        assert found[name] == pytest.approx(pairs(known[name], strange[name]))
        assert 0.5 < found[name] < 1


@pytest.mark.slow
def test_what_a_run_cannot_have_is_skipped_and_says_how_to_have_it():
    x, label = near_and_far(60)
    found = anomaly.measure(subject_of(plane_run(), x, label=label))
    assert all("train with data.held_out=<label>" in m.reason for m in found.values())
    deterministic = plane_run(2, "squared_error", "dense")
    found = anomaly.measure(subject_of(deterministic, x, label=label))
    assert found["auroc_squared_error"].value == 1
    assert "without a density" in found["auroc_negative_elbo"].reason
    assert set(anomaly.auroc(deterministic, x[label != 2], x[label == 2])) == {"squared_error"}
    for other in (None, label * 0):
        found = anomaly.measure(subject_of(deterministic, x, label=other))
        assert "lacks examples of label 2 or of the others" in found["auroc_squared_error"].reason
    found = anomaly.measure(subject_of(plane_run(2, classes=3), x, label=label))
    assert all(isinstance(m, Skipped) and "classes=0" in m.reason for m in found.values())


# data.held_out.


def test_the_held_out_label_is_in_test_alone():
    x, label = np.arange(600, dtype=np.float32).reshape(300, 2), np.arange(300) % 3
    wholes = {"train": data.from_array(x, label)}
    everything, parts = data.split(wholes, section()), data.split(wholes, section(held_out=1))
    for name in ("train", "validation"):
        before, after = whole(getattr(everything, name)), whole(getattr(parts, name))
        kept = before["label"] != 1
        assert 0 < kept.sum() < len(kept)
        np.testing.assert_array_equal(after["x"], before["x"][kept])
        np.testing.assert_array_equal(after["label"], before["label"][kept])
    np.testing.assert_array_equal(whole(parts.test)["x"], whole(everything.test)["x"])
    assert 1 in whole(parts.test)["label"]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, r"data\.held_out needs labels and train.* has none; set it to -1"),
        (np.arange(90) % 3, r"data\.held_out=5: the test split has no such label; choose one of: 0, 1, 2"),
        (np.full(90, 5), r"the train split is empty"),
    ],
)
def test_a_label_that_cannot_be_held_out_is_refused(label, message):
    with pytest.raises(aejax.InputError, match=message):
        data.split({"train": data.from_array(vectors(90), label)}, section(held_out=5))


@pytest.mark.parametrize("held_out", [-2, 1.0, True])
def test_held_out_is_a_label(held_out):
    config = mlp()
    config.data = {**config.data, "held_out": held_out}
    with pytest.raises(aejax.InputError, match=r"data\.held_out must be a (label, or -1|whole number)"):
        config_lib.check(config)


def test_configs_older_than_the_key_still_work(plane):
    new = config_lib.lock(mlp())
    old = config_lib.to_dict(new)
    del old["data"]["held_out"]
    assert saved_config.find_conflicts(old, new) == []
    with new.unlocked():
        new.data.held_out = 3
    assert saved_config.find_conflicts(old, new) == ["data.held_out: -1 -> 3"]
    parts = data.split({"train": data.from_array(vectors(50))}, config_lib.from_dict(old).data)
    assert len(parts.train) == 40
    run = plane_run()
    before = config_lib.to_dict(run.config)
    del before["data"]["held_out"]
    object.__setattr__(run, "config", config_lib.from_dict(before))
    assert all(isinstance(m, Skipped) for m in anomaly.measure(subject_of(run, vectors(20))).values())
