"""Stores and streams of activations: formats, the buffer that mixes them, memory, and what is said of bad ones."""

import itertools
import json
import os
import shutil

import ml_dtypes
import numpy as np
import pytest
from array_record.python import array_record_module
from conftest import mlp, one_device

import aejax
from aejax import data
from aejax.config import module
from aejax.data import Order, stream_mixed, write_activations
from aejax.distributed.partition import Partition
from aejax.training import multistep

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
X = np.random.default_rng(0).normal(size=(1_300, 6)).astype(np.float32)


def section(name, **changes):
    found = aejax.config.default().data
    found.update({"name": str(name), **changes})
    return found


def config(name="", **changes):
    """A small TopK, whose store is streamed through a buffer of 4 batches."""
    config = mlp(**{"batch_size": 32, "steps": 14, "log_every": 2, "checkpoint_every": 4, **changes})
    config.encoder, config.decoder = module("mlp"), module("mlp")
    config.bottleneck, config.likelihood = module("topk", features=12, k=3), module("squared_error")
    config.data.update({"name": str(name), "memory_mb": 0, "buffer": 128})
    return config


def read_all(name):
    splits = data.load(section(name))
    return np.concatenate([data.read(part)["x"] for part in splits])


@pytest.fixture
def store(tmp_path):
    write_activations(tmp_path / "acts", [X], shard_rows=300)
    return tmp_path / "acts"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", ["npy", "safetensors", "array_record"])
def test_a_store_returns_what_was_written(tmp_path, format, dtype):
    parts = np.split(X.reshape(-1, 2, 3), [7, 7, 500])  # of any lengths
    written = write_activations(tmp_path, iter(parts), format=format, dtype=dtype, shard_rows=300)
    assert [file.name for file in written] == [f"train-{i:05d}.{format}" for i in range(5)]
    wanted = X.reshape(-1, 2, 3).astype(DTYPES[dtype]).astype(np.float32)
    np.testing.assert_array_equal(read_all(tmp_path), wanted)
    rows = np.random.default_rng(1).integers(1_000, size=200)  # in any order, and some twice
    found = data.find(section(tmp_path))["train"].take(rows)["x"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted[rows])
    assert {name: len(source) for name, source in data.find(section(tmp_path)).items()} == {
        "train": 1_040,
        "validation": 130,
        "test": 130,
    }


def test_other_libraries_write_stores_too(tmp_path):
    """Of NumPy, which writes bfloat16 as V2, and of safetensors."""
    numpy = pytest.importorskip("safetensors.numpy")
    low = X.astype(ml_dtypes.bfloat16)
    for i, part in enumerate(np.split(low, [100, 900])):
        np.save(tmp_path / f"layer3_{i}.npy", part)
        numpy.save_file({"activations": part, "tokens": np.arange(3)}, tmp_path / f"layer3_{i}.safetensors")
    for pattern in ("*.npy", "layer3_?.safetensors"):
        np.testing.assert_array_equal(read_all(f"{tmp_path}/{pattern}"), low.astype(np.float32))
    np.save(tmp_path / "all.npy", low)
    numpy.save_file({"anything": low}, tmp_path / "all.safetensors")
    for name in ("all.npy", "all.safetensors"):  # alone, without a folder
        np.testing.assert_array_equal(read_all(tmp_path / name), low.astype(np.float32))


def test_the_names_of_files_are_splits(tmp_path):
    for split, part in zip(("train", "val", "test"), np.split(X, [1_000, 1_200]), strict=True):
        write_activations(tmp_path, [part], split=split)
    splits = data.load(section(tmp_path))
    assert [len(part) for part in splits] == [1_000, 200, 100]
    np.testing.assert_array_equal(data.read(splits.validation)["x"], X[1_000:1_200])


@pytest.mark.parametrize(
    ("length", "batch", "buffer", "block"), [(1_000, 32, 128, 50), (997, 10, 64, 7), (64, 8, 5, 64)]
)
def test_the_buffer_deals_each_example_once_an_epoch(length, batch, buffer, block):
    source = data.Source("x", length, (1,), np.dtype(np.float32), lambda rows: {}, block=block)
    order, steps = Order(source, batch, 3, buffer), length // batch
    epochs = [np.concatenate([order(step) for step in range(i * steps, (i + 1) * steps)]) for i in range(2)]
    for rows in epochs:
        assert len(rows) == len(np.unique(rows)) == steps * batch
        assert rows.min() >= 0
        assert rows.max() < length
    assert np.any(epochs[0] != epochs[1])
    assert np.any(epochs[0] != np.concatenate([Order(source, batch, 4, buffer)(step) for step in range(steps)]))
    for step in (5, 1, 2 * steps - 1):  # a function of (seed, step) alone
        np.testing.assert_array_equal(
            Order(source, batch, 3, buffer)(step), np.concatenate(epochs).reshape(-1, batch)[step]
        )
    # A window reads whole blocks, but for those at its ends, and mixes them.
    span = order.span(0)
    window = np.concatenate([order(step) for step in span])
    assert len(np.unique(window // block)) <= len(window) // block + 2
    if len(span) > 1 and len(window) > 2 * block:
        assert min(len(np.unique(order(step) // block)) for step in span) > 1


@pytest.mark.parametrize("at_once", [1, 5])
def test_batches_of_the_buffer_are_those_of_its_order(store, at_once):
    source = data.load(section(store)).train
    order = Order(source, 32, 0, 128)
    own = slice(8, 24)  # of one process among several
    found = [*stream_mixed(source, order, own, at_once, 0, 60 // at_once)]
    for i, batch in enumerate(found):
        rows = np.concatenate([order(i * at_once + j)[own] for j in range(at_once)])
        np.testing.assert_array_equal(batch["index"], rows)
        np.testing.assert_array_equal(batch["x"], X[rows])
    late = [*stream_mixed(source, order, own, at_once, 10 // at_once, 60 // at_once)]  # as a run that resumes
    for a, b in zip(found[10 // at_once :], late, strict=True):
        np.testing.assert_array_equal(a["x"], b["x"])


def test_what_is_kept_on_device_has_the_same_batches(store):
    source, partition = data.load(section(store)).train, Partition(one_device())
    feeds = [data.Feed(source, budget, partition.replicate, buffer=128) for budget in (0, 2**30)]
    streamed, held = (multistep.batches(feed, 32, 0, partition, 2, range(40)) for feed in feeds)
    for a, b in zip(streamed, held, strict=True):
        np.testing.assert_array_equal(a["index"], b["index"])
        np.testing.assert_array_equal(a["x"], np.asarray(feeds[1].held["x"])[b["index"]])


def draw(start=0):
    """An endless stream, in parts of other lengths than its batches."""
    for i in itertools.count(start // 50):
        part = np.random.default_rng(i).normal(size=(50, 6))
        yield part[start % 50 :] if i == start // 50 else part


def draw_all():
    """The same, which can only begin at its beginning."""
    yield from draw()


def test_a_stream_is_read_from_where_it_is_needed():
    held = data.read(data.from_stream(draw)["validation"])["x"]
    wanted = np.concatenate([*itertools.islice(draw(), 400)]).astype(np.float32)
    np.testing.assert_array_equal(held, wanted[:4_096])
    for function in (draw, draw_all):
        train = data.from_stream(function)["train"]
        for rows in ([9_000, 8_990], [5], [9_001], [4_000, 5_000]):
            np.testing.assert_array_equal(train.take(np.array(rows))["x"], wanted[8_192 + np.array(rows)])


@pytest.mark.parametrize("which", ["store", "stream"])
def test_a_run_resumes_in_the_middle_of_the_buffer_bit_for_bit(store, tmp_path, which):
    def train(name, steps):
        if which == "store":
            made = config(store, steps=steps)
            return aejax.train(made, tmp_path / name, devices=one_device(), quiet=True)
        function = draw if name == "whole" else draw_all
        return aejax.fit(config(steps=steps), function, tmp_path / name, devices=one_device(), quiet=True)

    whole = train("whole", 14)
    train("parts", 6)  # a window has 4 steps
    parts = train("parts", 14)
    assert whole.step == parts.step == 14
    assert whole.fingerprint == parts.fingerprint
    assert parts.latent_statistics.mean


def test_memory_stays_flat_over_a_store_larger_than_it(tmp_path):
    """Of 4 GB, which the disk does not hold either: the files are sparse."""
    header = np.lib.format.header_data_from_array_1_0(np.empty((1, 256), np.float16)) | {"shape": (2**22, 256)}
    for i in range(2):
        with (tmp_path / f"{i}.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + 2**31)

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    source = data.load(section(tmp_path)).train
    assert len(source) == 2**23 - 2 * 8_192
    data.identify({"train": source})
    order, most = Order(source, 2_048, 0, 8_192), 0
    for batch in stream_mixed(source, order, slice(None), 1, 0, 200):  # 420 MB as float32
        assert batch["x"].shape == (2_048, 256)
        most = max(most, resident() - before)
    assert most < 150e6


def test_what_is_wrong_with_a_store_is_said_in_one_line(store, tmp_path):
    def message(match):
        with pytest.raises(aejax.InputError, match=match) as raised:
            read_all(store)
        assert "\n" not in str(raised.value)

    third = store / "train-00002.npy"
    good = third.read_bytes()
    np.save(third, X[:50, :5])
    message(r"train-00002.npy holds activations of width 5, and .*train-00000.npy of width 6; keep")
    np.save(third, X[:0])
    message(r"train-00002.npy is empty: its shape is \(0, 6\); write it again or remove it")
    np.save(third, X[:50, 0])
    message(
        r"train-00002.npy holds no readable activations .*its shape is \(50,\), and activations are \[n, features\]"
    )
    np.save(third, np.asfortranarray(X))
    message(r"train-00002.npy .*its rows are not contiguous")
    third.write_bytes(good[:-10])
    message(r"train-00002.npy .*the header says float32 of shape \(300, 6\), 7,200 bytes, and 7,190 follow")
    third.write_bytes(b"")
    message(r"train-00002.npy holds no readable activations")
    for value in (np.nan, np.inf, -np.inf):
        bad = X[:300].copy()
        bad[123, 4] = value
        np.save(third, bad)
        message(r"train-00002.npy, row 123, holds NaN or infinity in float32; mend it")
    np.save(third, np.full((300, 6), 1e38))  # whose sum alone is infinite
    assert len(read_all(store)) == 1_300
    with pytest.raises(aejax.InputError, match=r"nothing.*npy matches no file; check data.name"):
        data.load(section(f"{store}/nothing*.npy"))
    with pytest.raises(aejax.InputError, match=r"data.size=8 resizes images, and this is a store"):
        data.load(section(store, size=8))


def test_what_is_wrong_with_records_and_tensors_is_said(tmp_path):
    files = write_activations(tmp_path / "records", [X], format="array_record", shard_rows=700)
    layout = tmp_path / "records/activations.json"
    writer = array_record_module.ArrayRecordWriter(str(files[1]), "group_size:1,uncompressed")
    for row in (X[0], X[1, :5]):
        writer.write(row.tobytes())
    writer.close()
    with pytest.raises(
        aejax.InputError, match=r"train-00001.array_record, row 1 has 20 bytes, and activations.json says"
    ):
        read_all(tmp_path / "records")
    layout.write_text(json.dumps({"dtype": "float8", "shape": [6]}))
    with pytest.raises(aejax.InputError, match=r"train-00000.array_record holds no readable activations"):
        read_all(tmp_path / "records")
    (file,) = write_activations(tmp_path / "tensors", [X], format="safetensors")
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(aejax.InputError, match=r"F32 of shape \(1300, 6\) should end at byte .* and the file has"):
        read_all(tmp_path / "tensors")


@pytest.mark.parametrize("harm", ["nan", "cut"])
def test_the_run_goes_on_where_it_was_after_the_store_is_mended(store, tmp_path, harm):
    """Of a shard that is damaged once the run has opened it: the run ends, and resumes when it is mended."""
    third, calls = store / "train-00002.npy", itertools.count()
    good = third.read_bytes()

    def damage():
        if next(calls) == 12:
            with third.open("r+b") as opened:  # in place, as a file that is written anew is cut off for a moment
                if harm == "cut":
                    opened.truncate(len(good) // 2)
                else:
                    values = np.full_like(np.load(third), np.nan).tobytes()
                    opened.seek(len(good) - len(values))
                    opened.write(values)
        return False

    changed = config(store, steps=100, checkpoint_every=20)
    changed.data.buffer = 32  # so that later batches are not read yet
    wanted = aejax.train(changed, tmp_path / "short", devices=one_device(), quiet=True)
    match = (
        r"train-00002.npy ends in row \d+: it is shorter than before"
        if harm == "cut"
        else r"train-00002.npy, row \d+, holds NaN"
    )
    with pytest.raises(aejax.InputError, match=match):
        aejax.train(changed, tmp_path / "run", devices=one_device(), quiet=True, stop=damage)
    saved = aejax.load_run(tmp_path / "run").step
    assert 0 < saved < 100
    third.write_bytes(good)
    run = aejax.train(changed, tmp_path / "run", devices=one_device(), quiet=True)
    assert run.step == 100
    assert run.fingerprint == wanted.fingerprint


def test_what_is_wrong_with_a_stream_is_said():
    def fit(parts, **changes):
        aejax.fit(config(**changes), lambda: iter(parts), devices=one_device(), quiet=True)

    with pytest.raises(aejax.InputError, match=r"stream ended after 1,300 examples, and at least 8,192 are needed"):
        fit([X])
    with pytest.raises(aejax.InputError, match=r"stream ended after 13,000 examples, and at least"):
        fit([X] * 10, steps=200)
    with pytest.raises(aejax.InputError, match=r"stream yielded .* of \(1300, 5\); yield arrays of numbers \(n, 6\)"):
        fit([X, X[:, :5]])
    bad = X.copy()
    bad[7] = np.nan
    with pytest.raises(aejax.InputError, match=r"stream: example 1,307 holds NaN or infinity"):
        fit([X, bad])
    with pytest.raises(aejax.InputError, match=r"stream: a function that yields arrays .* not iterable"):
        aejax.fit(config(), lambda: 7, devices=one_device(), quiet=True)
    with pytest.raises(aejax.InputError, match="fit takes no label or target with a stream"):
        aejax.fit(config(), draw, label=[0])


@pytest.mark.parametrize(("term", "weight", "what"), [
    ("l1", 20.0, "a code of 0 is best"),
    ("l1", 1e-5, "it hardly counts beside the error"),
    ("l1", 0.1, None),
    ("l0", 20.0, "a code of 0 is best"),
    ("l0", 1e-2, None),
])  # fmt: skip
def test_a_penalty_that_the_norm_makes_meaningless_is_warned_of(recwarn, term, weight, what):
    """X has a squared norm of about 6: any code costs more than it can gain from 2 * 6**0.5, or 6, on."""
    source = data.from_array(X)
    data.warn_of_penalty(source, data.Spec(source.shape), {term: weight})
    messages = [str(warning.message) for warning in recwarn]
    assert [what in message and f"objective.weights.{term}={weight:g}" in message for message in messages] == [
        True
    ] * bool(what)


def test_the_writer_refuses_what_a_store_cannot_hold(tmp_path):
    for wrong, match in (
        ({"format": "csv"}, "format 'csv' is unknown"),
        ({"dtype": "int64"}, "dtype 'int64' is unknown"),
        ({"shard_rows": 0}, "shard_rows must be at least 1"),
    ):
        with pytest.raises(aejax.InputError, match=match):
            write_activations(tmp_path, [X], **wrong)
    with pytest.raises(aejax.InputError, match=r"activations must be \[n, ...\] of one shape, got \(1300, 5\)"):
        write_activations(tmp_path, [X, X[:, :5]])
    with pytest.raises(aejax.InputError, match="there are no activations to write"):
        write_activations(tmp_path, [])
    assert not [*tmp_path.iterdir()]
    write_activations(tmp_path, [X], shard_rows=300)
    write_activations(tmp_path, [X[:10]])  # replaces all shards of the split
    assert [file.name for file in tmp_path.iterdir()] == ["train-00000.npy"]
    shutil.rmtree(tmp_path)
