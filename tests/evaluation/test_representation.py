"""Probes, neighbours and clusters against brute force and on codes whose structure is known."""

from types import SimpleNamespace

import numpy as np
import pytest

import aejax
from aejax.evaluation import Measure, Part, Skipped, Subject
from aejax.evaluation import representation as of

OF_LABELS = ("linear_probe_accuracy", "knn_accuracy", "adjusted_rand_index", "normalised_mutual_information")


def blobs(n, centres, seed=0, spread=0.1):
    """Points around `centres` [k, d], and the number of the centre of each."""
    rng = np.random.default_rng(seed)
    label = rng.integers(len(centres), size=n)
    return np.asarray(centres)[label] + spread * rng.normal(size=(n, len(centres[0]))), label


# Labels


@pytest.mark.parametrize("seed", range(3))
def test_what_a_plane_divides_a_linear_probe_finds(seed):
    """On any scale of the units, among three classes."""
    scale = np.array([1e-4, 1e3])
    train, test = (blobs(200, [[0, 0], [3, 0], [0, 3]], s) for s in (seed, seed + 10))
    assert of.linear_probe(train[0] * scale, train[1], test[0] * scale, test[1]) == 1
    turned = (test[1] + 1) % 3
    assert of.linear_probe(train[0] * scale, train[1], test[0] * scale, turned) == 0  # fitted on the first


def test_what_no_plane_divides_neighbours_find():
    corners = [[0, 0], [1, 1], [0, 1], [1, 0]]
    (train, a), (test, b) = blobs(400, corners), blobs(400, corners, 1)
    assert of.linear_probe(train, a // 2, test, b // 2) < 0.75
    assert of.nearest_neighbours(train, a // 2, test, b // 2) == 1


@pytest.mark.parametrize("neighbours", [1, 3, 7])
def test_neighbours_vote_as_by_brute_force(neighbours):
    rng = np.random.default_rng(neighbours)
    train, test = rng.normal(size=(80, 3)), rng.normal(size=(50, 3))
    label, truth = (train[:, 0] > 0).astype(int), (test[:, 0] + 0.5 * rng.normal(size=50) > 0).astype(int)
    nearest = np.argsort(np.square(test[:, None] - train).sum(-1), 1)[:, :neighbours]
    voted = (label[nearest].mean(1) > 0.5).astype(int)
    assert of.nearest_neighbours(train, label, test, truth, neighbours) == pytest.approx(np.mean(voted == truth))


def test_clusters_are_the_labels_or_have_nothing_to_do_with_them():
    codes, label = blobs(600, 5 * np.eye(4))
    assert of.clustering(codes, label) == pytest.approx((1, 1))
    assert of.clustering(codes, np.array([7, 3, 9, 5])[label]) == pytest.approx((1, 1))
    rand, information = of.clustering(codes, np.random.default_rng(1).permutation(label))
    assert abs(rand) < 0.02
    assert information < 0.02
    assert of.clustering(np.ones((600, 2)), label) == pytest.approx((0, 0), abs=1e-9)


def test_clusters_that_join_two_of_four_labels():
    """Two distinct codes, each of two labels: a mutual information of log 2 between entropies log 2 and log 4."""
    rand, information = of.clustering(np.repeat([[0.0], [5.0]], 40, 0), np.repeat([0, 1, 2, 3], 20))
    assert information == pytest.approx(np.log(2) / (1.5 * np.log(2)))
    together, chance = 4 * 190, 4 * 190 * 2 * 780 / 3160  # pairs alike in both; expected by chance
    assert rand == pytest.approx((together - chance) / ((4 * 190 + 2 * 780) / 2 - chance))


# Neighbourhoods


def brute(space, other, k):
    """1 - penalty of those of the k neighbours in `space` that are none in `other`, by how far off they are there."""

    def ranks(points):
        distances = np.linalg.norm(points[:, None] - points, axis=-1)
        np.fill_diagonal(distances, -1)
        return distances.argsort(1).argsort(1)  # 0 is the point itself

    here, there, n = ranks(space), ranks(other), len(space)
    penalty = sum(there[i, j] - k for i in range(n) for j in range(n) if 1 <= here[i, j] <= k < there[i, j])
    return 1 - 2 / (n * k * (2 * n - 3 * k - 1)) * penalty


def subject(inputs, codes, label=None, train=None):
    """Of a run that reads `inputs` as `codes`: the first three quarters, or `train`, to fit on, the rest to score."""

    def encode(x, label):
        return codes[x[:, 0].astype(int)]

    def in_users_units(x):
        return inputs[x[:, 0].astype(int)]

    config = SimpleNamespace(classes=0)
    run = SimpleNamespace(latents=codes[:4], encode=encode, in_users_units=in_users_units, config=config)
    rows, cut = np.arange(len(inputs), dtype=float)[:, None], 3 * len(inputs) // 4 if train is None else train
    labels = (None, None) if label is None else (label[:cut], label[cut:])
    return Subject(run, Part(run, "train", rows[:cut], labels[0]), Part(run, "test", rows[cut:], labels[1]))


@pytest.mark.parametrize("neighbours", [1, 4])
@pytest.mark.parametrize("seed", range(2))
def test_trustworthiness_and_continuity_are_those_of_brute_force(seed, neighbours):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(60, 2, 2, 1))
    codes = inputs.reshape(60, 4)[:, :2] + 0.3 * rng.normal(size=(60, 2))
    measures = of.measure(subject(inputs, codes, train=20), neighbours=neighbours)
    x, z = inputs[20:].reshape(40, 4), codes[20:]
    assert measures["trustworthiness"].value == pytest.approx(brute(z, x, neighbours))
    assert measures["continuity"].value == pytest.approx(brute(x, z, neighbours))


def test_folding_breaks_trust_and_tearing_breaks_continuity():
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 160)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    folded = of.measure(subject(circle, circle[:, :1], train=60))
    torn = of.measure(subject(circle, angle[:, None], train=60))
    assert folded["trustworthiness"].value < 0.9 < 0.97 < folded["continuity"].value
    assert torn["continuity"].value < torn["trustworthiness"].value
    same = of.measure(subject(circle, 3 * circle @ np.array([[0, 1], [-1, 0]]), train=60))
    assert same["trustworthiness"].value == same["continuity"].value == 1


# The group


def test_spatial_codes_are_flattened_and_protocols_count():
    x, label = blobs(400, 5 * np.eye(4))
    flat = of.measure(subject(x, x, label), examples=50)
    assert of.measure(subject(x, x.reshape(400, 2, 2, 1), label), examples=50) == flat
    assert all(isinstance(m, Measure) for m in flat.values())
    assert "fitted on 50 examples of train, scored on 50 examples of test" in flat["knn_accuracy"].protocol
    assert "5 nearest neighbors" in flat["knn_accuracy"].protocol
    assert "4 clusters, as many as labels, on 50 examples of test" in flat["adjusted_rand_index"].protocol
    assert "5 neighbors among 50 examples of test" in flat["continuity"].protocol
    assert flat["linear_probe_accuracy"].value == flat["knn_accuracy"].value == 1


def test_clusters_are_of_the_test_part_and_probes_are_fitted_on_train():
    x, label = blobs(400, 5 * np.eye(4))
    label[:300] = (label[:300] + 1) % 4
    label[:300:2] = 0
    measures = of.measure(subject(x, x, label))
    assert measures["adjusted_rand_index"].value == pytest.approx(1)
    assert measures["normalised_mutual_information"].value == pytest.approx(1)
    assert measures["linear_probe_accuracy"].value < 0.5
    assert measures["knn_accuracy"].value < 0.5


def test_large_codes_are_read_from_fewer_examples(monkeypatch):
    monkeypatch.setattr(of, "NUMBERS", 120)
    monkeypatch.setattr(of, "RANKED", 70)
    x, label = blobs(400, 5 * np.eye(4))
    measures = of.measure(subject(x, x, label))
    assert "fitted on 30 examples of train, scored on 30 examples" in measures["linear_probe_accuracy"].protocol
    assert "among 70 examples" in measures["trustworthiness"].protocol


@pytest.mark.parametrize(
    ("label", "reason"), [(None, "the data has no labels"), (np.zeros(100, int), "all examples have one label")]
)
def test_without_labels_the_neighbourhoods_are_still_measured(label, reason):
    x = np.random.default_rng(0).normal(size=(100, 3))
    measures = of.measure(subject(x, x, label))
    assert {name: measures.pop(name) for name in OF_LABELS} == dict.fromkeys(OF_LABELS, Skipped(reason))
    assert [m.value for m in measures.values()] == [1, 1]


def test_neighbours_are_fewer_than_examples_or_skipped_before_anything_is_computed():
    x = np.random.default_rng(0).normal(size=(40, 2))
    given = subject(x, x, np.arange(40) % 2)
    given.run.encode = None
    for options, least in (({"neighbours": 10}, 10), ({"neighbours": 100}, 30), ({"examples": 5}, 5)):
        measures = of.measure(given, **options)
        reason = f"neighbours={options.get('neighbours', 5)} is not below the {least} examples; lower it"
        assert set(measures.values()) == {Skipped(reason)}
        assert len(measures) == 6
    with pytest.raises(aejax.InputError, match="neighbours must be at least 1, got 0"):
        of.measure(given, neighbours=0)


def test_too_few_examples_to_rank_leave_the_probes():
    x = np.random.default_rng(0).normal(size=(40, 2))
    measures = of.measure(subject(x, x, np.arange(40) % 2), neighbours=5)  # of 10 test examples
    assert (
        measures["trustworthiness"].reason == "neighbours=5 needs more than 10 examples, there are 10 examples of test"
    )
    assert isinstance(measures["continuity"], Skipped)
    assert isinstance(measures["knn_accuracy"], Measure)


def test_what_was_fitted_on_a_part_is_not_scored_on_it():
    x = np.random.default_rng(0).normal(size=(100, 3))
    given = subject(x, x, np.arange(100) % 2)
    measures = of.measure(Subject(given.run, given.train, given.train))
    reason = Skipped("it is fitted on the train part and needs another part to be scored on")
    assert {name for name, m in measures.items() if m == reason} == set(OF_LABELS)
    assert measures["trustworthiness"].value == 1
