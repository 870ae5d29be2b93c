"""Paths that users name, files that are written whole, and TFDS data that names code."""

import json
import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import mlp, vectors

import aejax
from aejax import ablation, data, files, samplers
from aejax.data.arrays import write_npy
from aejax.data.tfds_prepare import FEATURES, load_builder
from aejax.evaluation import pictures
from aejax.inference import export
from aejax.inference.encode_split import check_out, read_latents
from aejax.workdir import metrics_log


@pytest.mark.parametrize("remote", ["gs://bucket/run", "s3://x", Path("gs://bucket/run")])
def test_remote_paths_are_refused_at_once(remote, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = mlp()
    doors = [
        lambda: aejax.train(config, remote),
        lambda: aejax.load_run(remote),
        lambda: export.write(remote, {}, {}),
        lambda: load_builder("mnist", str(remote)),
        lambda: data.load(mlp(data__name=str(remote)).data),
        lambda: data.load(mlp(data__name="mnist", data__data_dir=str(remote)).data),
        lambda: read_latents(remote),
        lambda: check_out(f"{remote}.npz"),
        lambda: samplers.load(remote),
        lambda: samplers.save(samplers.fit("gaussian", vectors()), remote),
        lambda: pictures.of_logs(remote),
        lambda: ablation.collect([remote]),
    ]
    for door in doors:
        with pytest.raises(aejax.InputError, match="is remote; name a folder of this machine"):
            door()
    assert list(tmp_path.iterdir()) == []


def test_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.local("~/x,y") == tmp_path / "x,y"
    for wrong in ("", "a\0b", 3, None, "~nobody-of-this-name/x"):
        with pytest.raises(aejax.InputError):
            files.local(wrong)


def fail(replacing):
    with replacing as opened:
        opened.write(b"half")
        raise OSError(28, "No space left on device")


def test_a_file_is_whole_or_as_it_was_and_links_are_replaced(tmp_path):
    mine, file = tmp_path / "mine", tmp_path / "file"
    mine.write_text("mine")
    file.symlink_to(mine)
    with pytest.raises(aejax.StorageError, match="No space"):
        fail(files.replacing(file))
    assert file.read_text() == "mine"
    files.write_whole(file, "new")
    assert (file.read_text(), mine.read_text(), file.is_symlink()) == ("new", "mine", False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "mine"]


def test_the_error_of_what_cannot_be_written_has_reason_and_cures():
    error = files.make_write_error(Path("x"), OSError(28, "No space left on device"), "remove the link")
    cure = "free some space or rights, or remove the link, and run the same command again"
    assert str(error) == f"x cannot be written (No space left on device); {cure}"
    assert str(files.make_write_error("x", "full")).endswith(
        "(full); free some space or rights and run the same command again"
    )


def test_what_a_kill_left_is_removed_by_a_later_write(tmp_path):
    names = {".x.json.aa.tmp": True, ".x.json.bb.tmp": False, ".y.json.cc.tmp": True, "x.json.tmp": True}
    for name, old in names.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - 4000 * old,) * 2)
    files.write_whole(tmp_path / "x.json", "{}")
    assert {p.name for p in tmp_path.iterdir()} == {"x.json", *names} - {".x.json.aa.tmp"}


@pytest.mark.parametrize("size", [10, 100_000])
def test_arrays_are_written_whole_or_not_at_all(tmp_path, size):
    """np.save hands arrays to C's stdio, and no error comes back of what does not fit on the disk."""
    before, file = resource.getrlimit(resource.RLIMIT_FSIZE), tmp_path / "x.npy"
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, before[1]))
    try:
        with pytest.raises(aejax.StorageError, match="File too large"), files.replacing(file) as opened:
            write_npy(opened, np.arange(size))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
    with files.replacing(file) as opened:
        write_npy(opened, np.arange(size))
    np.testing.assert_array_equal(np.load(file), np.arange(size))


def test_links_lead_out_of_no_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/checkpoints").symlink_to(tmp_path)
    with pytest.raises(aejax.InputError, match="leads out of"):
        aejax.fit(mlp(), [[0.0] * 6] * 40, tmp_path / "in", quiet=True)


def test_a_check_of_a_place_leaves_nothing(tmp_path):
    files.check_writable(tmp_path / "a/b")
    (tmp_path / "file").touch()
    with pytest.raises(aejax.StorageError, match="a file is in its place"):
        files.check_writable(tmp_path / "file/b")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "line",
    [b'{"step": Infinity}', b'{"step": 1, "validation/loss": null}', b"[" * 99_999, b"[]", b'{"step": true, "x": []}'],
)
def test_damaged_records_are_left_out(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_bytes(line + b'\n{"step": 2, "train/loss": 1.0}\n')
    with pytest.warns(UserWarning, match="line 1, is no record"):
        assert metrics_log.read(tmp_path) == [{"step": 2, "train/loss": 1.0}]


@pytest.mark.parametrize(
    "features",
    [
        {"pythonClassName": "poison.Feature"},
        {"python_class_name": "poison.Feature"},
        {"type": "poison.Feature", "content": {}},
        {"type": ["poison.Feature"], "content": {}},
        {"featuresDict": {"features": {"x": {"pythonClassName": "poison.Feature"}}}},
    ],
)
def test_a_prepared_data_set_imports_nothing(tmp_path, monkeypatch, features):
    (tmp_path / "poison.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "mine/1.0.0"
    folder.mkdir(parents=True)
    (folder / "features.json").write_text(json.dumps(features))
    with pytest.raises(aejax.InputError, match=r"names .*poison.Feature.*, code that is not TFDS's"):
        data.load(mlp(data__name="mine", data__data_dir=str(tmp_path)).data)


def test_features_of_tfds_are_known_and_namespaces_are_not():
    names = ("features_dict.FeaturesDict", "image_feature.Image", "class_label_feature.ClassLabel", "scalar.Scalar")
    assert {f"tensorflow_datasets.core.features.{name}" for name in names} <= FEATURES
    refused = {"huggingface:mnist": "Hugging Face", "kaggle:x/y": "namespace", "mnist/..:1.0.0": "no data set"}
    for name, why in refused.items():
        with pytest.raises(aejax.InputError, match=why):
            load_builder(name, None)
