"""Codes whose separation of known factors is known: exact, turned, doubled, noise, and all between."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import config_of, mostly_slow, one_device
from sklearn.metrics import mutual_info_score

import aejax
from aejax.evaluation import Measure, Part, Skipped, Subject, evaluate
from aejax.evaluation import disentanglement as of


def grid(*values, times=1):
    """All combinations of factors with so many values each, float codes and int factors alike."""
    factors = np.indices(values).reshape(len(values), -1).T
    return np.tile(factors, (times, 1))


def scores(codes, factors, test_codes=None, test_factors=None, votes=500):
    test = (codes if test_codes is None else test_codes, factors if test_factors is None else test_factors)
    information = of.mutual_information(*test)
    return {
        "mig": of.mutual_information_gap(information, test[1]),
        "modularity": of.modularity(information),
        "sap": of.separated_attribute_predictability(codes, factors, *test),
        "factor_vae": of.factor_vae_score(codes, factors, *test, votes=votes),
        **of.dci(codes, factors, *test)._asdict(),
    }


# Mutual information


@pytest.mark.parametrize("seed", mostly_slow(range(3)))
def test_mutual_information_is_the_double_sum_over_the_table(seed):
    rng = np.random.default_rng(seed)
    codes, factors = rng.integers(0, 4, (300, 2)), rng.integers(0, 3, (300, 3))
    codes[:, 0] = (codes[:, 0] + factors[:, 1]) // 2
    found = of.mutual_information(codes.astype(float), factors)
    for i in range(2):
        for j in range(3):
            p = np.array([[np.mean((codes[:, i] == a) & (factors[:, j] == b)) for b in range(3)] for a in range(6)])
            q = p.sum(1, keepdims=True) * p.sum(0)
            assert found[i, j] == pytest.approx(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])), abs=1e-9)
            assert found[i, j] == pytest.approx(mutual_info_score(codes[:, i], factors[:, j]))


def test_mutual_information_of_a_noisy_channel():
    """A bit that is wrong once in four times tells log 2 - H(1/4)."""
    bit = np.repeat([0, 1], 400)
    seen = np.where(np.arange(800) % 4 == 0, 1 - bit, bit)
    expected = np.log(2) + 0.25 * np.log(0.25) + 0.75 * np.log(0.75)
    assert of.mutual_information(seen[:, None] * 0.3 + 7, bit[:, None])[0, 0] == pytest.approx(expected)


def test_bins_have_equal_width_and_the_largest_value_is_in_the_last():
    codes, factor = np.array([[0.0], [1.0], [4.9], [5.1], [10.0]]), np.arange(5)[:, None]
    parts = np.array([3, 2]) / 5
    assert of.mutual_information(codes, factor, bins=2)[0, 0] == pytest.approx(-np.sum(parts * np.log(parts)))
    assert of.mutual_information(codes, factor, bins=100)[0, 0] == pytest.approx(np.log(5))
    assert of.mutual_information(np.ones((5, 1)), factor)[0, 0] == pytest.approx(0)


# Codes that are known


@pytest.mark.parametrize("seed", mostly_slow(range(3)))
def test_a_code_that_is_the_factors_has_every_best_score(seed):
    """In any order and on any scale, beside units that never change."""
    rng = np.random.default_rng(seed)
    factors = grid(3, 4, 6, times=3)
    codes = np.insert(factors[:, rng.permutation(3)] * [-2.0, 0.7, 5.0] + [1, -4, 0], 1, 9.0, axis=1)
    found = scores(codes, factors)
    assert found.pop("sap") == pytest.approx(1 - np.mean([1 / 3, 1 / 4, 1 / 6]))
    assert found == pytest.approx(dict.fromkeys(found, 1.0))


def test_turning_the_code_by_45_degrees_mixes_two_factors():
    factors = grid(16, 16, times=4)
    found = scores(factors @ np.array([[1, 1], [1, -1]]) / np.sqrt(2), factors)
    assert found["mig"] < 0.02
    assert found["sap"] < 0.02
    assert found["modularity"] < 0.05
    assert found["disentanglement"] < 0.1
    assert found["completeness"] < 0.1
    assert found["factor_vae"] == pytest.approx(0.5, abs=0.1)
    assert found["informativeness"] > 0.95  # all is still there


def test_a_factor_in_two_units_is_modular_but_has_no_gap():
    factors = grid(4, 4, times=20)
    found = scores(np.concatenate([factors, factors], 1).astype(float), factors)
    assert found["mig"] == pytest.approx(0, abs=1e-9)
    assert found["sap"] == 0
    assert found["modularity"] == pytest.approx(1)
    assert found["disentanglement"] == pytest.approx(1)
    assert found["completeness"] == pytest.approx(0.5, abs=0.1)  # two units in four: 1 - log 2 / log 4
    assert found["informativeness"] == found["factor_vae"] == 1


def test_two_factors_in_one_unit_are_complete_but_not_modular():
    factors = grid(4, 4, times=20)
    codes = np.stack([4.0 * factors[:, 0] + factors[:, 1], np.zeros(len(factors))], 1)
    found = scores(codes, factors)
    assert [found[name] for name in ("mig", "completeness", "informativeness")] == pytest.approx([1, 1, 1])
    assert found["modularity"] == pytest.approx(0, abs=1e-9)
    assert found["disentanglement"] == pytest.approx(0)
    assert found["factor_vae"] < 0.65  # one majority for both


@pytest.mark.parametrize("seed", mostly_slow(range(2)))
def test_noise_separates_nothing(seed):
    factors, rng = grid(4, 4, 4, times=30), np.random.default_rng(seed)
    noise = rng.normal(size=(2, len(factors), 5))
    found = scores(noise[0], factors, noise[1], factors, votes=2_000)
    assert found["mig"] < 0.03
    assert found["sap"] < 0.05
    assert found["factor_vae"] == pytest.approx(1 / 3, abs=0.06)
    assert found["disentanglement"] < 0.05
    assert found["completeness"] < 0.05
    assert found["informativeness"] == pytest.approx(1 / 4, abs=0.05)


@pytest.mark.parametrize("seed", mostly_slow(range(2)))
def test_more_noise_gives_lower_scores(seed):
    factors = grid(4, 4, times=40)
    noise = np.random.default_rng(seed).normal(size=factors.shape)
    found = [scores(factors + level * noise, factors) for level in (0, 0.5, 1.5, 6)]
    for name in ("mig", "sap", "informativeness", "disentanglement", "completeness"):
        assert np.all(np.diff([f[name] for f in found]) < 0), name


def test_more_mixing_gives_lower_scores():
    factors = grid(8, 8, times=10)
    codes = [factors @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) for a in (0, 0.3, 0.6)]
    found = [scores(c, factors) for c in codes]
    for name in ("mig", "sap", "modularity", "disentanglement", "completeness"):
        assert np.all(np.diff([f[name] for f in found]) < 0), name


def test_what_is_fitted_on_some_examples_is_scored_on_others():
    """Units that change places between the two."""
    factors = grid(2, 2, times=50)
    swapped = scores(factors.astype(float), factors, factors[:, ::-1].astype(float), factors)
    assert swapped["factor_vae"] == 0
    assert swapped["informativeness"] == 0.5
    assert swapped["sap"] == 0


# Each metric's own


@pytest.mark.parametrize(
    ("importance", "expected"),
    [
        (np.eye(3), 1),
        (np.ones((2, 4)), 0),
        ([[3, 0], [1, 1]], 3 / 5),  # weights 3 and 2
        ([[1, 1, 0]], 1 - np.log(2) / np.log(3)),
        ([[0, 0], [0, 2]], 1),
        (np.zeros((2, 2)), 0),
    ],
)
def test_concentration_is_one_minus_the_weighted_entropy_of_the_rows(importance, expected):
    assert of.concentration(np.array(importance, float)) == pytest.approx(expected)


def test_gap_is_a_share_of_each_factors_own_entropy():
    factors = grid(2, 8)
    information = np.array([[0.3, 0.1], [0.1, 0.9], [0.0, 0.4]])
    expected = (0.2 / np.log(2) + 0.5 / np.log(8)) / 2
    assert of.mutual_information_gap(information, factors) == pytest.approx(expected)


def test_modularity_by_hand():
    information = np.array([[2.0, 1.0, 0.0], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
    assert of.modularity(information) == pytest.approx((1 - 1 / (4 * 2) + 1) / 2)
    assert of.modularity(np.zeros((2, 2))) == 0


def test_sap_counts_each_value_of_a_rare_factor_alike():
    """Always saying the frequent value is right nine times in ten, and half right in balanced accuracy."""
    factors = np.stack([np.arange(400) % 10 == 0, np.arange(400) // 200], 1).astype(int)
    codes = np.insert(factors.astype(float), 2, 0, axis=1)
    assert of.separated_attribute_predictability(codes, factors, codes, factors) == pytest.approx(0.5)


def test_sap_fits_its_thresholds_to_each_value_alike():
    """Above the threshold the frequent value is twice as frequent as the rare one, of which all are there."""
    factor = np.repeat([1, 0], [40, 360])
    unit = np.arange(400) < 120
    codes, factors = np.stack([unit, np.zeros(400)], 1), np.stack([factor, factor], 1)
    expected = (1 + 280 / 360) / 2 - 0.5
    assert of.separated_attribute_predictability(codes, factors, codes, factors) == pytest.approx(expected)


def test_factor_vae_score_is_free_of_scale_and_of_collapsed_units():
    factors, rng = grid(4, 4, times=20), np.random.default_rng(0)
    codes = factors + 0.4 * rng.normal(size=factors.shape)
    given = (factors, codes, factors)
    plain = of.factor_vae_score(codes, *given)
    assert plain > 0.95
    scale = np.array([1, 9.0])
    assert of.factor_vae_score(codes * scale, factors, codes * scale, factors) == plain
    dead = np.insert(codes, 0, 0.0, axis=1)
    dead[7, 0] = 0.2  # nearly never changes: it would win every vote
    assert of.factor_vae_score(dead, factors, dead, factors) == plain


# The group


def subject(x, factors, test_factors=None, split=0.75):
    """Of a run whose code is its input."""
    run = SimpleNamespace(latents=x[:4], encode=lambda x, label: x, config=SimpleNamespace(classes=0))
    cut = int(split * len(x))
    halves = (None, None) if factors is None else (factors[:cut], factors[cut:])
    test_factors = halves[1] if test_factors is None else test_factors
    train, test = Part(run, "train", x[:cut], None, halves[0]), Part(run, "test", x[cut:], None, test_factors)
    return Subject(run, train, test)


def shuffled(*values, times=10):
    return np.random.default_rng(0).permutation(grid(*values, times=times))


def test_factors_that_do_not_vary_are_left_out():
    factors = shuffled(3, 4)
    held = np.insert(factors, 1, 7, axis=1)
    measures, without = of.measure(subject(factors * 1.0, held)), of.measure(subject(factors * 1.0, factors))
    assert measures == without
    assert set(measures) == set(of.METRICS)
    assert measures["mig"].value > 0.9  # of few examples: the other factor seems to tell a little
    for name, metric in measures.items():
        assert isinstance(metric, Measure)
        assert "2 factors" in metric.protocol
        assert "30 examples of test" in metric.protocol
        fitted = name not in ("mig", "modularity")
        assert ("fitted on 90 examples of train" in metric.protocol) == fitted


def test_the_group_fits_on_train_and_scores_on_test():
    factors = shuffled(2, 2, times=40)
    codes = factors * 1.0
    codes[120:] = codes[120:, ::-1]  # the test part's units have changed places
    measures = of.measure(subject(codes, factors))
    assert measures["factor_vae_score"].value == 0
    assert measures["dci_disentanglement"].value == pytest.approx(1)
    assert measures["dci_informativeness"].value == pytest.approx(0.5, abs=0.2)


def test_examples_and_bins_are_those_asked_for():
    measures = of.measure(subject(shuffled(3, 4) * 1.0, shuffled(3, 4)), bins=7, examples=20, group=5, votes=9)
    assert "20 examples of test; 2 units" in measures["mig"].protocol
    assert "7 bins" in measures["mig"].protocol
    assert "9 votes each, of 5 examples" in measures["factor_vae_score"].protocol


@pytest.mark.parametrize(
    ("x", "factors", "reason"),
    [
        (np.zeros((40, 2)), None, "the data has no known factors"),
        (np.zeros((40, 2)), np.stack([np.arange(40) % 2, np.ones(40)], 1).astype(int), "fewer than two factors"),
        (np.zeros((24, 1)), shuffled(2, 3, times=4), "the number of units is 1;"),
        (np.zeros((24, 43, 3)), shuffled(2, 3, times=4), "the number of units is 129;"),
    ],
)
def test_what_cannot_be_measured_is_skipped(x, factors, reason):
    measures = of.measure(subject(x, factors))
    assert set(measures) == set(of.METRICS)
    assert all(isinstance(m, Skipped) and reason in m.reason for m in measures.values())


@pytest.mark.parametrize("option", [{"bins": 1}, {"examples": 1}, {"group": 1}, {"votes": 0}])
def test_senseless_options_are_named(option):
    with pytest.raises(aejax.InputError, match=f"{next(iter(option))} must be at least"):
        of.measure(subject(shuffled(2, 3) * 1.0, shuffled(2, 3)), **option)


def test_splits_with_different_numbers_of_factors_are_named():
    with pytest.raises(aejax.InputError, match=r"different numbers of factors: \[2, 3\]"):
        of.measure(subject(shuffled(2, 3) * 1.0, shuffled(2, 3), np.zeros((15, 3), int)))


@pytest.mark.slow
def test_a_constant_code_has_scores():
    factors = shuffled(3, 4)
    measures = of.measure(subject(np.ones((len(factors), of.LARGEST)), factors))
    for name in ("mig", "modularity", "sap", "dci_disentanglement", "dci_completeness"):
        assert measures[name].value == pytest.approx(0, abs=1e-9), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the code .* it can learn to copy")
def test_shapes_train_under_an_existing_config_and_are_measured(tmp_path):
    config = config_of("beta_vae")
    config.data.name = "shapes"
    run = aejax.train(config, tmp_path, devices=one_device())
    few = {name: {"examples": 300} for name in ("disentanglement", "representation")}
    found = dict(evaluate(Subject.of(run), few, few))
    assert all(isinstance(m, Measure) and np.isfinite(m.value) for ms in found.values() for m in ms.values())
    assert "5 factors" in found["disentanglement"]["mig"].protocol


def test_what_was_fitted_on_a_part_is_not_scored_on_it():
    factors = shuffled(3, 4)
    given = subject(factors.astype(np.float32), factors)
    measures = of.measure(Subject(given.run, given.train, given.train))
    assert [name for name, m in measures.items() if isinstance(m, Measure)] == ["mig", "modularity"]
