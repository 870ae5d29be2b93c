"""Folders of .wav files: segments, splits, labels, and one line for what cannot be read."""

import struct
import sys

import numpy as np
import pytest
from conftest import section, whole

import aejax
from aejax import data

soundfile = pytest.importorskip("soundfile")
RATE = 16_000


def sound(samples, seed=0):
    return np.random.default_rng(seed).integers(-(2**15), 2**15, samples).astype(np.int16)


def write(path, samples, rate=RATE, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(str(path), samples, rate, **options)


@pytest.fixture
def folder(tmp_path):
    for speaker, files in {"a": (250, 100), "b": (330,)}.items():
        for i, samples in enumerate(files):
            write(tmp_path / f"sounds/{speaker}/{i}.wav", sound(samples, seed=samples))
    return tmp_path / "sounds"


def test_segments_follow_each_other_and_the_rest_of_a_file_is_left_out(folder):
    found = data.find(section(name=str(folder), size=100))["train"]
    parts = whole(found)
    expected = [sound(250, 250)[:100], sound(250, 250)[100:200], sound(100, 100)]
    expected += [sound(330, 330)[100 * i : 100 * i + 100] for i in range(3)]
    np.testing.assert_array_equal(parts["x"][..., 0] * 2**15, expected)
    np.testing.assert_array_equal(parts["label"], [0, 0, 0, 1, 1, 1])
    assert (found.kind, found.shape, found.kinds, len(found)) == ("sequence", (100, 1), ("a", "b"), 6)
    np.testing.assert_array_equal(found.take(np.array([4, 1]))["x"], parts["x"][[4, 1]])


def test_folders_of_splits_are_splits_and_short_files_are_counted(folder):
    for name in ("train", "val", "test"):
        write(folder.parent / f"split/{name}/x/long.wav", sound(300))
    write(folder.parent / "split/test/y/short.wav", sound(50))
    with pytest.warns(UserWarning, match="1 of 2 files are shorter than data.size=100 and left out"):
        splits = data.load(section(name=str(folder.parent / "split"), size=100))
    assert [len(part) for part in splits] == [3, 3, 3]


def test_a_run_reads_segments_and_resumes(folder, tmp_path):
    config = aejax.config.default()
    config.data.update(name=str(folder), size=32)
    config.encoder, config.bottleneck = aejax.config.module("mlp"), aejax.config.module("dense", features=2)
    config.update({"steps": 4, "batch_size": 4, "log_every": 2, "checkpoint_every": 2})
    aejax.train(config, tmp_path / "run", quiet=True)
    run = aejax.load_run(tmp_path / "run")
    assert run.spec.kind == "sequence"
    assert run.reconstruct(sound(64).reshape(2, 32) / 2**15).shape == (2, 32, 1)
    assert run.evaluate(groups=["reconstruction"])["reconstruction"]["squared_error"].value > 0


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (
            lambda path: write(path, sound(200), 8_000),
            {},
            r"has 8000 samples per second, and data.rate=16000; resample",
        ),
        (lambda path: write(path, sound(200)), {"rate": 44_100}, r"has 16000 samples .* data.rate=44100"),
        (lambda path: write(path, sound(200).reshape(100, 2)), {}, r"has 2 channels; mix them to one"),
        (lambda path: path.write_bytes(b"RIFF no sound"), {}, r"not a readable .wav file \(LibsndfileError"),
        (lambda path: write(path, sound(200)), {"size": 0}, r"data.size is 0; set it to the samples of a segment"),
        (
            lambda path: write(path, sound(200)),
            {"size": 201},
            r"longest of 1 files has 200 samples; lower data.size=201",
        ),
        (
            lambda path: write(path, np.full(200, np.nan, np.float32), subtype="FLOAT"),
            {},
            r"x.wav holds no 100 finite samples from 0 on",
        ),
    ],
)
def test_what_cannot_be_read_is_one_line(make, changes, message, tmp_path):
    (tmp_path / "x").mkdir()
    make(tmp_path / "x/x.wav")
    with pytest.raises(aejax.InputError, match=message) as raised:
        whole(data.find(section(**{"name": str(tmp_path / "x"), "size": 100, **changes}))["train"])
    assert "\n" not in str(raised.value)


def test_a_file_cut_short_after_it_was_listed_is_named(folder):
    source = data.find(section(name=str(folder), size=100))["train"]
    file = folder / "b/0.wav"
    content = file.read_bytes()
    file.write_bytes(content[:40] + struct.pack("<I", 2 * 120) + content[44 : 44 + 2 * 120])
    with pytest.raises(aejax.InputError, match=r"b/0.wav holds no 100 finite samples from 200 on"):
        source.take(np.array([5]))


def test_soundfile_is_asked_for(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(aejax.InputError, match=r"read by soundfile .*pip install 'aejax\[audio\]'"):
        data.find(section(name=str(folder), size=100))
