"""Latents of whole splits: what is in the file, what is in memory, and what a kill leaves."""

import json
import os
import re
import signal
import sys
import time
import tracemalloc
from pathlib import Path

import commands
import numpy as np
import pytest
from conftest import command, config_of, mlp, one_device, untrained, vectors

import aejax
from aejax.data import Source, Spec
from aejax.data.arrays import read_npy
from aejax.inference.encode_split import encode_split, find_split, read_latents

ROOT = Path(__file__).parents[2]
SUFFIXES = ("npz", "array_record")


@pytest.fixture(scope="module")
def plain():
    return measured(mlp())


def measured(config, seed=0):
    """A run whose latents were measured on an array."""
    run = untrained(config, Spec((6,)), seed)
    run.measure_latents(vectors(200, seed=5))
    return run


def normalized(run, x):
    return run.latent_statistics.normalize(run.encode(x))


def source_of(x, label=None, calls=None, stop=None):
    """A source over x that notes the rows it is asked for, and breaks at row `stop`."""
    calls = [] if calls is None else calls

    def take(rows):
        calls.append(rows)
        if stop is not None and stop in rows:
            raise KeyboardInterrupt
        return {"x": x[rows]} | ({} if label is None else {"label": label[rows]})

    return Source("x", len(x), x.shape[1:], x.dtype, take)


def assert_same_bytes(found, expected):
    assert list(found) == list(expected)
    for name, value in found.items():
        assert value.dtype == expected[name].dtype
        assert value.tobytes() == expected[name].tobytes(), name


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("length", "chunk"), [(1, 0), (40, 16), (48, 16), (300, 7)])
def test_every_example_is_there_once_and_in_order(plain, suffix, length, chunk, tmp_path):
    x, label = vectors(length, seed=length), np.arange(length, dtype=np.int32) * 3 % 11
    encode_split(plain, source_of(x, label), tmp_path / f"out.{suffix}", chunk)
    found = read_latents(tmp_path / f"out.{suffix}")
    assert list(found) == ["row", "label", "latents"]
    np.testing.assert_array_equal(found["row"], np.arange(length))
    np.testing.assert_array_equal(found["label"], label)
    np.testing.assert_allclose(found["latents"], normalized(plain, x), rtol=1e-5, atol=1e-6)
    assert {a.dtype.str for a in found.values()} == {"<i8", "<i4", "<f4"}
    assert {p.name for p in tmp_path.iterdir()} == {f"out.{suffix}", f"out.{suffix}.json"}
    rows = [length - 1, 0]
    assert_same_bytes(read_latents(tmp_path / f"out.{suffix}", rows), {k: v[rows] for k, v in found.items()})


def test_npz_is_one_that_numpy_reads_and_both_formats_are_equal(plain, tmp_path):
    for suffix in SUFFIXES:
        encode_split(plain, source_of(vectors(50)), tmp_path / f"out.{suffix}", 8)
    with np.load(tmp_path / "out.npz") as arrays:
        found = dict(arrays)
    assert_same_bytes(found, read_latents(tmp_path / "out.array_record"))
    assert found["latents"].shape == (50, 2)


@pytest.mark.slow
def test_discrete_codes_come_with_their_indices(tmp_path):
    run = untrained(config_of("residual_vq"))
    x = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1), np.uint8)
    encode_split(run, source_of(x), tmp_path / "out.array_record", 16)
    found = read_latents(tmp_path / "out.array_record")
    np.testing.assert_array_equal(found["indices"], run.indices(x))
    np.testing.assert_allclose(run.lookup(found["indices"]), found["latents"], rtol=1e-5, atol=1e-6)
    assert "label" not in found


@pytest.mark.slow
def test_a_conditional_run_reads_the_labels(tmp_path):
    run = untrained(config_of("conditional_vae"))
    x, label = np.random.default_rng(0).uniform(size=(16, 8, 8, 1)).astype(np.float32), np.arange(16) % 10
    run.measure_latents(x, label)
    encode_split(run, source_of(x, label), tmp_path / "out.npz", 16)
    np.testing.assert_allclose(
        run.latent_statistics.restore(read_latents(tmp_path / "out.npz")["latents"]),
        run.encode(x, label),
        rtol=1e-4,
        atol=1e-5,
    )
    with pytest.raises(aejax.InputError, match=r"the run is conditional \(classes=10\), and x has no labels"):
        encode_split(run, source_of(x), tmp_path / "without.npz", 8)


def test_splits_are_the_runs_parts_or_tfds_syntax_and_rows_are_the_data_sets(tmp_path):
    x = {"train": vectors(100, seed=1), "test": vectors(30, seed=2)}
    np.savez(tmp_path / "data.npz", **x)
    config = mlp()
    config.data.name, config.data.test = str(tmp_path / "data.npz"), "test[50%:]"
    run = untrained(config, Spec((6,)))
    expected = {
        "test": ("test", 15),
        "test[:10%]": ("test", 3),
        "train[90:]": ("train", 10),
        "validation": ("train", 10),
    }
    for spec, (whole, length) in expected.items():
        out = tmp_path / f"{spec.strip(']').replace('[', '-')}.npz"
        encode_split(run, find_split(run, spec), out)
        found = read_latents(out)
        assert len(found["row"]) == length
        np.testing.assert_allclose(found["latents"], normalized(run, x[whole][found["row"]]), rtol=1e-5, atol=1e-6)
    assert find_split(run, "test").take(np.arange(2))["row"].tolist() == [15, 16]
    for spec, message in {"tset": "splits here: train, test", "test[:0]": "is empty", "test[": "splits here"}.items():
        with pytest.raises(aejax.InputError, match=message):
            find_split(run, spec)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_is_bounded_whatever_the_size_of_the_split(suffix, tmp_path):
    """32 MB of inputs and of latents, in 2 MB chunks of which a few are read ahead."""
    config = mlp()
    config.encoder, config.bottleneck.features = aejax.config.module("mlp"), 64
    run = untrained(config, Spec((64,)))
    run.measure_latents(vectors(256, 64))
    length = 125_000 if suffix == "npz" else 40_000
    take = lambda rows: {"x": np.ones((len(rows), 64), np.float32)}  # noqa: E731
    source = Source("ones", length, (64,), np.dtype(np.float32), take)
    encode_split(run, source_of(np.ones((256, 64), np.float32)), tmp_path / f"first.{suffix}")  # compiles
    tracemalloc.start()
    encode_split(run, source, tmp_path / f"out.{suffix}", 512)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / f"out.{suffix}").stat().st_size > length * 64 * 4
    assert peak < 6e6


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("chunks", [1, 5])
def test_what_was_cut_off_goes_on_after_the_last_complete_chunk(plain, suffix, chunks, tmp_path):
    x = vectors(90)
    encode_split(plain, source_of(x), tmp_path / f"whole.{suffix}", 16)
    out, calls = tmp_path / f"out.{suffix}", []
    with pytest.raises(KeyboardInterrupt):
        encode_split(plain, source_of(x, stop=16 * chunks + 3), out, 16)
    assert not out.exists()
    encode_split(plain, source_of(x, calls=calls), out, 16)
    assert len(calls) == 1 + 6 - chunks  # one to look at the first example
    assert_same_bytes(read_latents(out), read_latents(tmp_path / f"whole.{suffix}"))
    assert out.read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes() or suffix == "array_record"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_cut_off_while_the_file_is_put_together_nothing_is_encoded_again(plain, suffix, tmp_path, monkeypatch):
    x, out, calls = vectors(40), tmp_path / f"out.{suffix}", []
    read = lambda path: read_npy(path) if "000001" not in str(path) else 1 / 0  # noqa: E731
    monkeypatch.setattr("aejax.inference.encode_split.read_npy", read)
    with pytest.raises(ZeroDivisionError):
        encode_split(plain, source_of(x), out, 16)
    monkeypatch.undo()
    assert not out.exists()
    encode_split(plain, source_of(x, calls=calls), out, 16)
    assert len(calls) == 1
    np.testing.assert_allclose(read_latents(out)["latents"], normalized(plain, x), rtol=1e-5, atol=1e-6)


def test_a_complete_file_is_left_alone_and_another_is_refused(plain, tmp_path):
    x, out = vectors(40), tmp_path / "out.npz"
    encode_split(plain, source_of(x), out, 16)
    written = out.stat().st_mtime_ns
    encode_split(plain, source_of(x), out, 16)
    assert out.stat().st_mtime_ns == written
    with pytest.raises(aejax.InputError, match=r"out.npz is of another command \(examples: 40 -> 30\); remove it or"):
        encode_split(plain, source_of(x[:30]), out, 16)


def test_partial_files_of_another_run_step_or_split_are_refused(plain, tmp_path):
    x, out = vectors(40), tmp_path / "out.npz"
    with pytest.raises(KeyboardInterrupt):
        encode_split(plain, source_of(x, stop=20), out, 16)
    later = measured(mlp())
    object.__setattr__(later, "step", 9)
    named = Source("y", 40, (6,), x.dtype, lambda rows: {"x": x[rows]})
    for run, source, chunk, message in (
        (measured(mlp(), seed=1), source_of(x), 16, r"parameters: \w+ -> \w+"),
        (later, source_of(x), 16, "step: 0 -> 9"),
        (plain, named, 16, "split: x -> y"),
        (plain, source_of(x), 8, "chunk: 16 -> 8"),
    ):
        with pytest.raises(aejax.InputError, match=rf"out.npz.partial is of another command \({message}\); remove it"):
            encode_split(run, source, out, chunk)


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        ("out.npy", aejax.InputError, r"out.npy: the suffix says the format; end it with .npz, .array_record or .csr"),
        ("mine.npz", aejax.InputError, r"mine.npz is there already and not by this command"),
        ("file/out.npz", aejax.StorageError, r"file cannot be written"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_is_read(plain, out, error, message, tmp_path):
    (tmp_path / "mine.npz").touch()
    (tmp_path / "file").touch()
    calls = []
    with pytest.raises(error, match=message):
        encode_split(plain, source_of(vectors(5), calls=calls), tmp_path / out)
    assert calls == []


def test_wrong_shapes_and_chunks_are_named(plain, tmp_path):
    with pytest.raises(aejax.InputError, match=r"reads examples of \(6,\), x holds examples of \(7,\)"):
        encode_split(plain, source_of(vectors(5, 7)), tmp_path / "out.npz")
    with pytest.raises(aejax.InputError, match="chunk must be at least 1 example, or 0, got -1"):
        encode_split(plain, source_of(vectors(5)), tmp_path / "out.npz", -1)
    with pytest.raises(
        aejax.InputError, match=r"source must be a Source, got ndarray; make one by aejax.data.from_arr"
    ):
        encode_split(plain, vectors(5), tmp_path / "out.npz")
    (tmp_path / "latents.npy").touch()
    with pytest.raises(aejax.InputError, match=r"latents.npy: files of latents end with .npz or .array_record"):
        read_latents(tmp_path / "latents.npy")


def test_a_full_disk_is_one_line_and_the_same_call_goes_on(plain, tmp_path, monkeypatch):
    out, calls = tmp_path / "out.npz", []

    def full(file, array):
        if len(calls):
            raise OSError(28, "No space left on device")
        calls.append(1)
        np.lib.format.write_array(file, array)

    with monkeypatch.context() as patch:
        patch.setattr("aejax.inference.encode_split.write_npy", full)
        with pytest.raises(aejax.StorageError, match=r"000001.npy cannot be written .*run the same command again"):
            encode_split(plain, source_of(vectors(40)), out, 16)
    chunk = tmp_path / "out.npz.partial/000000.npy"
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:-1])  # as a disk that lost its power may leave it
    encode_split(plain, source_of(vectors(40)), out, 16)
    assert len(read_latents(out)["row"]) == 40


@pytest.mark.parametrize("other", ["values of another kind", "an object", "a folder"])
def test_a_chunk_of_others_is_computed_again(plain, other, monkeypatch, tmp_path):
    out, chunk = tmp_path / "out.npz", tmp_path / "out.npz.partial/000000.npy"
    x = vectors(40)
    with monkeypatch.context() as patch:
        patch.setattr("aejax.inference.encode_split._write_npz", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            encode_split(plain, source_of(x), out, 16)
    records = np.load(chunk)
    chunk.unlink()
    if other == "a folder":
        chunk.mkdir()
        with pytest.raises(aejax.StorageError, match=r"000000.npy cannot be written"):
            encode_split(plain, source_of(x), out, 16)
        return
    np.save(chunk, records.astype([(n, "f4", records.dtype[n].shape) for n in records.dtype.names]))
    if other == "an object":
        np.save(chunk, np.array([None] * len(records)), allow_pickle=True)
    encode_split(plain, source_of(x), out, 16)
    np.testing.assert_allclose(read_latents(out)["latents"], normalized(plain, x), rtol=1e-6)


def test_a_broken_record_file_is_said(plain, tmp_path):
    out = tmp_path / "out.array_record"
    encode_split(plain, source_of(vectors(40)), out, 16)
    out.write_bytes(out.read_bytes()[:70_000])
    with pytest.raises(aejax.StorageError, match="is no array_record file"):
        read_latents(out)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_another_has_changed_is_one_line(plain, suffix, tmp_path):
    out = tmp_path / f"out.{suffix}"
    encode_split(plain, source_of(vectors(9)), out, 4)
    with pytest.raises(aejax.InputError, match="rows=99 do not fit 9 examples"):
        read_latents(out, 99)
    beside, about = tmp_path / f"out.{suffix}.json", json.loads((tmp_path / f"out.{suffix}.json").read_text())
    layouts = [None, 3, [["row", "|O"]], [["row", "<i8", [2, 99]]], [["row", "os:system"]], [[]]]
    for layout in layouts if suffix == "array_record" else ():
        beside.write_text(json.dumps(about | {"layout": layout}))
        with pytest.raises(aejax.StorageError, match="encode again"):
            read_latents(out)
    beside.write_text("[]")
    with pytest.raises(aejax.StorageError, match="not a readable JSON object"):
        encode_split(plain, source_of(vectors(9)), out, 4)
    for content in (b"", b"text", out.read_bytes()[:-40]):
        beside.write_text(json.dumps(about))
        out.write_bytes(content)
        with pytest.raises(aejax.AejaxError) as error:
            read_latents(out)
        assert "\n" not in str(error.value)
    out.unlink()
    with pytest.raises(aejax.InputError, match="no such file"):
        read_latents(out)


# The command


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    config = config_of("vae")
    config.steps = config.checkpoint_every = 2
    aejax.train(config, folder, devices=one_device())
    return folder


@pytest.mark.slow
def test_kill_9_and_the_same_command_ends_with_the_same_arrays(workdir, tmp_path):
    out, partial = tmp_path / "out.npz", tmp_path / "out.npz.partial"
    arguments = (f"--workdir={workdir}", "--split=train[:100%]", f"--out={out}", "--chunk=9")
    server, log = commands.server(), tmp_path / "log"
    process = server.begin("encode", *arguments, output=log, errors=log)
    deadline = time.monotonic() + 90
    while len(list(partial.glob("*.npy"))) < 3:
        assert not server.ends_within(0.002), log.read_text()
        assert time.monotonic() < deadline
    os.kill(process, signal.SIGKILL)
    assert server.end() == -signal.SIGKILL
    assert not out.exists()
    marked = np.load(partial / "000001.npy")
    marked["label"] = -1  # to be found in the result, if the command goes on rather than begins anew
    np.save(partial / "000001.npy", marked)
    (partial / "000180.npy.tmp").write_bytes(b"half of a chunk")  # what a kill leaves in the middle of writing
    status, output, errors = commands.run("encode", *arguments)
    assert status == 0, errors
    assert "1,797 examples of train[:100%], latents (16,), normalized by 1,439 examples of train, step 2" in output
    run = aejax.load_run(workdir)
    encode_split(run, find_split(run, "train[:100%]"), tmp_path / "whole.npz", 9)
    found, whole = read_latents(out), read_latents(tmp_path / "whole.npz")
    assert found["label"][:19].tolist() == [*whole["label"][:9], *9 * [-1], whole["label"][18]]
    found["label"][9:18] = whole["label"][9:18]
    assert_same_bytes(found, whole)
    assert json.loads((tmp_path / "out.npz.json").read_text())["examples"] == 1797
    partial.mkdir()  # a kill just before this was removed
    encode_split(run, find_split(run, "train[:100%]"), out, 9)
    assert not partial.exists()


@pytest.mark.slow
def test_what_was_encoded_is_called_as_it_was_asked_for(workdir, tmp_path, monkeypatch, capsys):
    encode, out = command("encode"), tmp_path / "out.npz"
    monkeypatch.setattr(sys, "argv", ["encode", f"--workdir={workdir}", "--split=test", f"--out={out}"])
    encode.main()
    assert (
        capsys.readouterr().out
        == f"{out}: 179 examples of test, latents (16,), normalized by 1,439 examples of train, step 2\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split=tset", "--out={}/out.npz"], "splits here: train; the run's own splits are train, validation, test"),
        (["--out={}/out.txt"], "the suffix says the format"),
        (["--out=/proc/nowhere/out.npz"], "cannot be written"),
        (["--out={}/out.npz", "--step=last"], "--step=last must be a whole number, newest or best"),
        (["--out={}/out.npz", "--step=77"], "no checkpoint of step 77; saved are 2"),
    ],
)
def test_a_slip_is_one_line(workdir, arguments, message, tmp_path, monkeypatch, capsys):
    encode = command("encode")
    given = [a.format(tmp_path) for a in arguments]
    monkeypatch.setattr(sys, "argv", ["encode", f"--workdir={workdir}", "--split=test", "--step=newest", *given])
    with pytest.raises(SystemExit) as left:
        encode.main()
    assert re.fullmatch(rf"error: .*{re.escape(message)}.*", left.value.code)
    assert not (tmp_path / "out.npz.partial").exists()
