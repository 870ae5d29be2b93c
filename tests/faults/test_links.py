"""Links in a folder that another has made: nothing is written through them, over files elsewhere."""

import contextlib
import os
import shutil
import warnings

import pytest
from conftest import mlp, vectors
from runs import train

import aejax
from aejax import files, samplers
from aejax.cli.launching.job import start
from aejax.data import from_array
from aejax.evaluation import pictures
from aejax.inference.encode_split import encode_split


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(folder)
    return folder


@pytest.fixture(scope="module")
def run(trained):
    return aejax.load_run(trained)


def search(folder, run):
    pytest.importorskip("optuna")
    from aejax.ablation.study import Study

    with Study(folder, "minimize", {}) as study:
        study.claim(1)


def encode(suffix):
    return lambda folder, run: encode_split(run, from_array(vectors(8)), folder / f"codes.{suffix}")


# What writes, and what of it may be a link to a file or a folder elsewhere.
WRITERS = {
    "train": (lambda folder, run: train(folder, mlp(steps=12)), "config.json+metrics.jsonl+ended.txt .lock"),
    "train's folders": (
        lambda folder, run: train(folder, mlp(steps=12, keep=1)),
        "checkpoints/ checkpoints.broken/ checkpoints/4/ plugins/ plugins/profile/ wandb/",
    ),
    "study": (search, "study.lock study.db"),
    "log": (lambda folder, run: start(["-c", "print(3)"], folder / "run.log").wait(), "run.log"),
    "npz": (encode("npz"), "codes.npz.json+codes.npz.tmp codes.npz.partial/ codes.npz.partial/about.json"),
    "array_record": (encode("array_record"), "codes.array_record.json+codes.array_record.tmp"),
    "sampler": (lambda folder, run: samplers.save(samplers.fit("gaussian", vectors()), folder), "sampler.npz"),
    "export": (
        lambda folder, run: run.export(folder / "out"),
        "out/encoder.stablehlo+out/programs.json",
    ),
    "pictures": (
        lambda folder, run: pictures.save(run, folder),
        "evaluation/ evaluation/8/ evaluation/8/reconstructions.png+evaluation/8/curves.png",
    ),
}


@pytest.mark.parametrize(
    ("writer", "links"), [(key, name) for key, (_, names) in WRITERS.items() for name in names.split()]
)
def test_no_writer_follows_a_link(writer, links, trained, run, tmp_path):
    outside = tmp_path / "outside"
    folder = tmp_path / "folder"
    shutil.copytree(trained, folder)
    shutil.rmtree(folder / "evaluation", ignore_errors=True)
    outside.mkdir()
    (outside / "file").write_text("mine")
    for name in links.split("+"):
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(link) if link.is_dir() else link.unlink(missing_ok=True)
        link.symlink_to(outside / {"/": "", "b": "new"}.get(name[-1], "file"))  # SQLite would fill a new file
    if writer == "train's folders":  # some of them are written to in runs of other kinds alone
        refused = pytest.raises(aejax.InputError, match="leads out of")
    else:  # the log's callers make one line of it
        refused = contextlib.suppress(OSError if writer == "log" else aejax.AejaxError)
    with refused, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a checkpoint is missing
        WRITERS[writer][0](folder, run)
    assert {p.name: p.read_text() for p in outside.iterdir()} == {"file": "mine"}


def test_lines_are_not_appended_to_a_link_a_pipe_or_a_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, why in {
        "link": "is a link, which is not written through",
        "pipe": "No such",
        "folder": "directory",
    }.items():
        with pytest.raises(aejax.StorageError, match=why):
            files.append(tmp_path / name)
    assert not (tmp_path / "mine").exists()
    with pytest.raises(aejax.StorageError, match="no regular file"):
        files.read_bytes(tmp_path / "pipe")


def test_names_of_files_stay_in_their_folder(tmp_path):
    texts = [
        "/etc",
        "..",
        "../up=1",
        "/etc=1",
        "a\nb",
        "a,b",
        "$$",
        "=cmd",
        "x" * 300,
        "\ud800",
        ".hidden",
        "größe" * 30,
    ]
    names = [files.file_name(text) for text in texts]
    assert len(set(names)) == len(names)
    for name in names:
        assert files.inside(tmp_path, name).parent == tmp_path
        assert not name.startswith(".")
        assert len(name.encode()) <= 100
        assert name.isprintable()
        assert not set(name) & set("/\\,;$'\"")
