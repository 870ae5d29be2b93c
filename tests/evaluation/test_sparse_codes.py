"""Metrics of sparse codes against closed forms, and the group of metrics on runs."""

import math

import numpy as np
import pytest
from conftest import fresh, subject_of
from sklearn.metrics import r2_score

import aejax
from aejax import data
from aejax.config import default, module
from aejax.data.features import SparseFeatures
from aejax.evaluation import Measure, Skipped, Subject, evaluate, sparse, truth

OPTIONS = "features=24,dims=10,roots=3,examples=400"


def config_of(bottleneck):
    config = default()
    config.data.name, config.data.options = "sparse_features", OPTIONS
    config.encoder, config.decoder = module("mlp", features=()), module("mlp", features=())
    config.bottleneck = bottleneck
    return config


def test_unexplained_variance_is_about_the_mean_of_the_batch():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5)) * [1, 2, 3, 4, 5] + 50
    y = x + rng.normal(size=x.shape)
    found = sparse.unexplained(x, y)
    assert 1 - found.overall == pytest.approx(r2_score(x, y, multioutput="variance_weighted"))
    each = [np.sum((a - b) ** 2) / np.sum((a - x.mean(0)) ** 2) for a, b in zip(x, y, strict=True)]
    assert found.per_token == pytest.approx(np.mean(each))
    assert sparse.unexplained(x, np.broadcast_to(x.mean(0), x.shape)) == pytest.approx((1, 1))
    # An error that all examples share is unexplained, although its variance is 0.
    off = sparse.unexplained(x, x + 1)
    assert off.overall == pytest.approx(5 / np.square(x - x.mean(0)).sum(1).mean())


def test_an_example_at_the_mean_is_left_out_of_the_mean_per_token():
    x, y = np.array([[1.0], [0.0], [-1.0]]), np.array([[0.5], [0.5], [-1.0]])
    assert sparse.unexplained(x, y) == pytest.approx((0.25, 0.125))
    assert all(map(math.isnan, sparse.unexplained(np.ones((3, 2)), np.ones((3, 2)))))


def test_the_histogram_counts_every_latent_that_is_not_dead():
    z = np.zeros((1_000, 5))
    z[:1, 0], z[:10, 1], z[:100, 2], z[:, 3] = 1, 2, 3, 4
    often = sparse.frequencies(z)
    assert often.tolist() == [0.001, 0.01, 0.1, 1, 0]
    counts, edges = sparse.frequency_histogram(often, 1_000, bins=1)
    assert counts.sum() == 4
    assert edges.tolist() == [-3, -2, -1, 0]
    assert counts[-1] == 2  # 0.1 and 1


@pytest.mark.parametrize("chunk", [3, 100])
def test_nearest_directions_are_found_in_any_chunks(chunk, monkeypatch):
    monkeypatch.setattr(sparse, "_CHUNK", chunk)
    directions = np.random.default_rng(0).normal(size=(11, 4))
    found, which = sparse.nearest(directions, 2)
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    for i in range(11):
        others = sorted(((unit[i] @ unit[j], j) for j in range(11) if j != i), reverse=True)[:2]
        assert found[i] == pytest.approx([cosine for cosine, _ in others], rel=1e-5)
        assert which[i].tolist() == [j for _, j in others]


def test_the_loss_recovered_is_the_part_of_what_ablation_costs():
    x = np.array([[1.0, 3.0], [3.0, 5.0]])
    weights = np.array([1.0, -1.0])

    def loss(a):  # of a model that wants the sum of a @ weights to be 10
        return np.mean((a @ weights - 10) ** 2)

    found = sparse.loss_recovered(loss, x, lambda x: x * [1.0, 0.5])
    clean, ours, zero = 144.0, np.mean([(1 - 1.5 - 10) ** 2, (3 - 2.5 - 10) ** 2]), 100.0
    assert found[:4] == pytest.approx((clean, ours, zero, 144.0))
    assert found.from_zero == pytest.approx((zero - ours) / (zero - clean))
    assert math.isnan(found.from_mean)  # the mean costs this model nothing
    perfect = sparse.loss_recovered(lambda a: np.square(a - x).sum(), x, lambda x: x.copy())
    assert (perfect.from_zero, perfect.from_mean) == (1, 1)
    nothing = sparse.loss_recovered(lambda a: np.square(a - x).sum(), x, lambda x: 0 * x + x.mean(0))
    assert nothing.from_mean == 0
    with pytest.raises(aejax.InputError, match=r"reconstruct returned \(2, 1\) for activations of \(2, 2\)"):
        sparse.loss_recovered(loss, x, lambda x: x[:, :1])


def test_directions_are_the_rows_of_a_linear_decoder_in_the_users_units():
    config = config_of(module("topk", features=30, k=3))
    config.data.standardize = True
    x = np.random.default_rng(0).normal(size=(50, 10)) * np.arange(1, 11) + 3
    run = fresh(config, x.astype(np.float32))
    directions = sparse.find_directions(run, run.encode(x))
    deviation = np.array(run.spec.deviation) if run.spec.deviation else np.ones(10)
    kernel = np.asarray(run.variables["params"]["decoder"]["dense_0"]["kernel"])
    np.testing.assert_allclose(directions, kernel * deviation, atol=1e-4)


def test_codes_that_are_dense_or_decoded_by_layers_have_no_such_metrics():
    x = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32)
    dense = fresh(config_of(module("dense", features=4)), x)
    found = sparse.measure(subject_of(dense, x))
    assert set(map(str, found.values())) == {"Skipped(reason='the code is not sparse: no latent is ever 0')"}
    config = config_of(module("topk", features=30, k=3))
    config.decoder.features = (8,)
    found = sparse.measure(subject_of(fresh(config, x), x))
    assert found["f1"].reason == "the decoder is not linear: a latent has no direction of its own"
    run = fresh(config_of(module("topk", features=30, k=3)), x)
    found = sparse.measure(subject_of(run, x))
    assert found["f1"] == Skipped("the data has no known features")
    assert isinstance(found["unexplained"], Measure)
    with pytest.raises(aejax.InputError, match="dense_above must be a frequency from 0 to 1, got 2"):
        sparse.measure(subject_of(run, x), dense_above=2)


def test_the_group_measures_a_run_on_the_examples_that_it_names():
    known = SparseFeatures.parse(OPTIONS)
    config = config_of(module("topk", features=30, k=3))
    run = fresh(config, known.take(np.arange(400))["x"])
    subject = Subject.of(run, data.load(config.data))
    ((_, found),) = evaluate(subject, ["sparse"], {"sparse": {"dense_above": 0.2, "dead_below": 0.01}})
    rows = np.arange(440, 480)  # those of the test split
    assert subject.test.rows.tolist() == rows.tolist()
    x, active = known.take(rows)["x"], known.activations(rows)
    z = run.encode(x)
    often = (z > 0).mean(0)
    assert found["dead_latents"].value == (often <= 0.01).mean()
    assert found["dense_latents"].value == (often > 0.2).mean()
    assert found["true_l0"].value == active.count_nonzero() / 40
    kernel = np.asarray(run.variables["params"]["decoder"]["dense_0"]["kernel"])
    similarity = truth.cosines(kernel, known.directions)
    assert found["mcc"].value == pytest.approx(truth.mean_correlation_coefficient(similarity), rel=1e-4)
    assert found["unexplained"].value == pytest.approx(sparse.unexplained(x, run.reconstruct(x)).overall, rel=1e-4)
    part = subject.test.take(7)
    assert known.take(part.rows)["x"] == pytest.approx(part.x)
