"""Synthetic series and sounds: what the docstrings say of them is in their values."""

import numpy as np
import pytest
from conftest import section, whole

from aejax import data
from aejax.data.voices import RATE, make_voices
from aejax.data.waves import ANOMALOUS, make_waves


@pytest.fixture(scope="module")
def waves():
    return {name: whole(source) for name, source in make_waves().items()}


def test_only_test_holds_anomalies_and_each_kind_is_there(waves):
    assert {name: set(np.unique(part["label"])) for name, part in waves.items()} == {
        "train": {0, 1, 2},
        "validation": {0, 1, 2},
        "test": {0, 1, 2, ANOMALOUS},
    }
    assert (waves["test"]["label"] == ANOMALOUS).sum() == 200


def test_the_second_sensor_sees_the_first_a_quarter_of_a_period_later(waves):
    """But not where the lag is lost: sines and their lagged copies make a circle, whose radius is the amplitude."""
    part = waves["train"]
    first, second = ((part["x"][part["label"] == 0] - 20) / 5).transpose(2, 0, 1)
    radius = np.sqrt((first**2 + second**2).mean(1))
    np.testing.assert_allclose(np.sqrt(first**2 + second**2), np.repeat(radius[:, None], 128, 1), atol=0.6)
    assert 0.45 < radius.min() < radius.max() < 1.55


def test_periods_are_those_of_the_spectrum(waves):
    part = waves["train"]
    x = part["x"][part["label"] == 0][..., 0] - 20
    peak = np.abs(np.fft.rfft(x - x.mean(1, keepdims=True), 4096)).argmax(1) / 4096
    assert 1 / 41 < peak.min() < peak.max() < 1 / 15.5


def test_the_same_seed_gives_the_same_windows_of_any_length():
    np.testing.assert_array_equal(whole(make_waves()["test"])["x"], whole(make_waves()["test"])["x"])
    assert make_waves(32)["train"].shape == (32, 2)
    splits = data.load(section(name="waves", held_out=ANOMALOUS, kind="sequence"))
    assert splits.train.shape == (128, 2)
    assert [part.kind for part in splits] == ["sequence"] * 3


def test_voices_have_harmonics_below_their_formants():
    part = whole(make_voices(4_096)["validation"])
    x, label = part["x"][..., 0], part["label"]
    assert np.abs(x).max() < 1
    power = np.square(np.abs(np.fft.rfft(x))).reshape(len(x), -1)
    frequency = np.fft.rfftfreq(4_096, 1 / RATE)
    voiced = power / power.sum(1, keepdims=True)
    low = voiced[:, (frequency > 80) & (frequency < 1_300)].sum(1)
    assert np.median(low) > 0.8  # vowels carry most of the power
    first = [frequency[power[label == k].mean(0).argmax()] for k in range(5)]
    np.testing.assert_allclose(first, [270, 530, 730, 570, 300], atol=130)
    assert data.load(section(name="voices", size=512)).test.shape == (512, 1)
