"""The comparisons of series and of sound: their parts, the commands, and the figures that configs quote."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from conftest import command

from experiments import series

RESULTS = Path(__file__).parents[2] / "experiments/results"
SETS = json.loads((RESULTS / "series.json").read_text())["sets"]
AUDIO = json.loads((RESULTS / "audio.json").read_text())


def documented(name):
    return " ".join(importlib.import_module(f"configs.{name}").__doc__.split())


def test_series_of_a_file_have_their_channels_and_classes():
    x, label = series.read_ts("@problemName a\n@data\n1,2,3:4,5,6:left\n7,8,9:10,11,12:right\n")
    np.testing.assert_array_equal(x, [[[1, 4], [2, 5], [3, 6]], [[7, 10], [8, 11], [9, 12]]])
    assert label == ["left", "right"]


def test_a_window_is_anomalous_if_one_of_its_steps_is():
    x, label = series.cut(np.arange(10.0)[:, None], np.arange(10) == 5, 4, 2)
    np.testing.assert_array_equal(x[..., 0], [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [6, 7, 8, 9]])
    np.testing.assert_array_equal(label, [0, 1, 1, 0])


def test_pca_tells_what_leaves_its_plane_and_reads_what_lies_in_it():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    plane = lambda n: rng.normal(size=(n, 2)) @ basis[:2]  # noqa: E731
    train, test = plane(200), plane(60)
    test[40:] += 0.5 * basis[5]
    label = lambda x: np.int32(x @ basis[0] > 0)  # noqa: E731
    arrays = {"train": train[..., None], "train_label": label(train), "test": test[..., None]}
    arrays["test_label"] = np.concatenate([label(test[:40]), np.full(20, 3)])
    found = series.measure_pca(arrays, 2, 3)
    assert found["auroc"] == 1
    assert found["probe"] > 0.9


@pytest.mark.parametrize("name", series.CONFIGS)
def test_configs_say_what_was_measured_on_waves(name):
    ours, pca = SETS["waves"][name], SETS["waves"][f"pca of {name}"]
    text = documented(name)
    assert (
        f"AUROC {ours['auroc']:.2f} of planted anomalies, where PCA of as many components has {pca['auroc']:.2f}"
        in text
    )
    assert f"{ours['probe']:.0%} of linear probes of the kind are right, where PCA has {pca['probe']:.0%}" in text


def test_the_codec_says_what_was_measured_and_gets_better_with_each_level():
    ratios = AUDIO["si_sdr_by_level"]
    assert np.all(np.diff(ratios) > 0)
    assert AUDIO["chunks"]["largest_difference"] < 1e-5
    said = f"SI-SDR {ratios[0]:.1f} dB by one level, {ratios[2]:.1f} by three and {ratios[7]:.1f} by all eight"
    assert said in documented("audio_rvq")
    assert f"About {AUDIO['training_cpu_seconds']:.0f} seconds" in documented("audio_rvq")


@pytest.mark.slow
def test_the_commands_write_their_figures(tmp_path, monkeypatch):
    module = command("series", "experiments")
    flags.FLAGS(["s", f"--series_out={tmp_path}/s.json", "--series_arg=tiny", "--series_seeds=1", "--series=waves"])
    module.main()
    found = json.loads((tmp_path / "s.json").read_text())["sets"]["waves"]
    assert found["pca of lstm_vae"] == pytest.approx(SETS["waves"]["pca of lstm_vae"], abs=1e-6)
    module = command("audio", "experiments")
    flags.FLAGS(["a", f"--audio_out={tmp_path}/a.json", "--audio_arg=tiny", "--audio_sentences=2"])
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    module.main()
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["data"] == "voices"
    assert len(found["si_sdr_by_level"]) == 2
