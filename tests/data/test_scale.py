"""What the train split's values say before training starts."""

import dataclasses
import warnings

import numpy as np
import pytest
from conftest import mlp, vectors

import aejax
from aejax.data import Spec, compute_mean, from_array, warn_of_scale
from aejax.data.scale import needs_standardizing

HINT = r"root mean squares from {} to {}, far from 1, .*data\.standardize=True would train on"


def test_the_mean_is_in_the_units_that_the_model_reads():
    source = from_array(np.full((9, 2, 2, 1), 51, np.uint8))
    np.testing.assert_allclose(compute_mean(source, Spec.of(source, False)), np.full((2, 2, 1), 0.2), rtol=1e-6)
    source = from_array(vectors(5000) * 3 + 1)
    np.testing.assert_allclose(compute_mean(source, Spec.of(source, False)), 1, atol=0.2)
    np.testing.assert_allclose(compute_mean(source, Spec.of(source, True)), 0, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "least", "most"),
    [
        (np.tile([[1.0, -1000.0], [1.0, 1000.0]], (50, 1)), "1", r"1e\+03"),
        (np.tile([[0.0, 32.0], [0.0, 32.0]], (50, 1)), "32", "32"),  # a feature of zeros has no scale
        (np.full((5, 3), 0.01), "0.01", "0.01"),
    ],
)
def test_a_scale_far_from_one_is_warned_of_in_one_line(x, least, most):
    source = from_array(x.astype(np.float32))
    with pytest.warns(UserWarning, match=HINT.format(least, most)) as caught:
        warn_of_scale(source, Spec.of(source, False))
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)


@pytest.mark.parametrize(
    ("x", "standardize"),
    [
        (vectors(), False),
        (1000 * vectors(), True),
        (np.zeros((5, 3), np.float32), False),
        (np.zeros((5, 4, 4, 1), np.float32), False),
    ],
)
def test_other_data_is_not(x, standardize):
    source = from_array(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_scale(source, Spec.of(source, standardize))


def test_the_scale_is_read_of_few_rows_all_over_the_data():
    source, read = from_array(np.repeat(np.float32([[1.0], [1e3]]), 50_000, 0)), []
    counted = dataclasses.replace(source, take=lambda rows: read.append(rows) or source.take(rows))
    with pytest.warns(match="root mean squares"):
        warn_of_scale(counted, Spec((1,)))
    assert sum(map(len, read)) <= 1024
    assert read[0][-1] == 99_999


@pytest.mark.slow
def test_training_starts_with_the_warning_and_resumes_without(tmp_path):
    with pytest.warns(match="root mean squares"):
        aejax.fit(mlp(steps=4, optim__schedule="constant"), 100 * vectors(), tmp_path, quiet=True)
    aejax.fit(mlp(steps=8, optim__schedule="constant"), 100 * vectors(), tmp_path, quiet=True)


@pytest.mark.parametrize(
    ("scale", "expected"), [(1, False), (0.01, True), (100, True), ([0.2, 0.2, 0.2, 0.2, 0.2, 5], True)]
)
def test_unusual_scales_and_scales_that_differ_need_standardizing(scale, expected):
    assert needs_standardizing(vectors() * scale) == expected


def test_the_mean_of_many_examples_is_that_of_evenly_spaced_ones():
    x = np.arange(20, dtype=np.float32)[:, None] * [1, 10]
    source = from_array(x)
    assert compute_mean(source, Spec((2,))).tolist() == [9.5, 95]
    assert compute_mean(source, Spec((2,)), rows=3) == pytest.approx([28 / 3, 280 / 3])
