"""Checkpoints whose files are damaged: what is read is what was saved, or the one before and a line that says so."""

import json
import shutil
import warnings

import jax
import numpy as np
import pytest
from conftest import assert_trees_equal, conv, mlp
from runs import after, assert_same_end, train

import aejax
from aejax.workdir import checkpoint


def flipped(content, rng):
    changed = bytearray(content)
    changed[rng.integers(len(content))] ^= 1 << rng.integers(8)
    return bytes(changed)


def overwritten(content, rng):
    start = rng.integers(len(content))
    length = rng.integers(1, 100)
    return content[:start] + rng.bytes(min(length, len(content) - start)) + content[start + length :]


DAMAGES = {
    "flipped": flipped,
    "overwritten": overwritten,
    "truncated": lambda content, rng: content[: rng.integers(len(content))],
    "emptied": lambda content, rng: b"",
    "removed": lambda content, rng: None,
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Two checkpoints, whose arrays are small enough to lie among tensorstore's own data, and too large for that."""
    folder = tmp_path_factory.mktemp("run")
    train(folder, mlp(encoder__features=(300,), decoder__features=(300,)))
    return folder


def files_of(workdir, step):
    return sorted(p for p in (workdir / "checkpoints" / str(step)).rglob("*") if p.is_file() and p.stat().st_size)


def read(workdir):
    """The newest checkpoint and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = checkpoint.load_newest(workdir)
    return found, [str(w.message) for w in caught]


def assert_right(workdir, good, capfd):
    """Whether the newest checkpoint was left for the one before."""
    found, said = read(workdir)
    newest = max(good)
    if found.step == newest:
        assert said == []
    else:
        (line,) = said
        assert f"checkpoints/{newest} cannot be read (" in line
        assert "falling back" in line
        assert "\n" not in line
        assert found.broken == (newest,)
    assert found.metadata == good[found.step].metadata
    assert_trees_equal(found.state, good[found.step].state)
    assert_trees_equal(found.samples, good[found.step].samples)
    assert capfd.readouterr().err == ""  # no traceback of a thread either
    return found.step != newest


def fuzz(workdir, kinds, files, seed, capfd):
    """Each damage to each file in turn; how often the one before was taken."""
    good = {step: checkpoint.find(workdir, step) for step in checkpoint.list_steps(workdir)}
    fell_back = 0
    for number, (kind, file) in enumerate(zip(kinds, files, strict=True)):
        content = file.read_bytes()
        damaged = DAMAGES[kind](content, np.random.default_rng((seed, number)))
        try:
            file.unlink() if damaged is None else file.write_bytes(damaged)
            fell_back += assert_right(workdir, good, capfd)
        except Exception as error:
            raise AssertionError(f"{file} {kind}, number {number} of seed {seed}") from error
        finally:
            file.write_bytes(content)
    assert not assert_right(workdir, good, capfd)
    return fell_back


@pytest.mark.slow
def test_damaged_files_are_noticed(workdir, capfd):
    """Each file once, by one damage after the other; `test_many_damages` does all to all."""
    files, rng = files_of(workdir, 8), np.random.default_rng()
    kinds = np.roll(np.resize(list(DAMAGES), len(files)), rng.integers(len(DAMAGES)))
    assert fuzz(workdir, kinds, files, int(rng.integers(2**31)), capfd) >= 4


@pytest.mark.slow
def test_a_flipped_byte_of_an_array_is_noticed(workdir, capfd, monkeypatch):
    """Of the values, by far the largest file: without sums they are read as other numbers, where they are compressed
    so that the bit matters."""
    file = max(files_of(workdir, 8), key=lambda p: p.stat().st_size)
    whole, content = checkpoint.load_newest(workdir).state, file.read_bytes()
    seed, others = int(np.random.default_rng().integers(2**31)), 0
    with monkeypatch.context() as without:
        without.setattr(checkpoint, "_check_sums", lambda *_: None)
        for number in range(8):
            file.write_bytes(flipped(content, np.random.default_rng((seed, number))))
            same = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), read(workdir)[0].state, whole)
            others += not all(jax.tree.leaves(same))
    file.write_bytes(content)
    capfd.readouterr()
    assert fuzz(workdir, ["flipped"] * 8, [file] * 8, seed, capfd) == others > 4


@pytest.mark.slow
@pytest.mark.parametrize("partition", ["pmap", "sharded"])
def test_many_damages(tmp_path, partition, capfd):
    config = conv(ema=0.9, partition__name=partition)
    train(tmp_path, config, np.random.default_rng(0).random((100, 8, 8, 1), np.float32), devices=jax.devices())
    seed = int(np.random.default_rng().integers(2**31))
    rng = np.random.default_rng(seed)
    files = files_of(tmp_path, 8)
    kinds = rng.choice(list(DAMAGES), 40)
    assert fuzz(tmp_path, kinds, [files[i] for i in rng.integers(len(files), size=40)], seed, capfd) > 8


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["state", "samples", "_CHECKPOINT_METADATA"])
def test_missing_parts_are_noticed_and_the_broken_one_is_put_aside(workdir, tmp_path, missing):
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    target = tmp_path / "checkpoints/8" / missing
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.warns(UserWarning, match=r"checkpoints/8 cannot be read .*falling back"):
        train(tmp_path, mlp(encoder__features=(300,), decoder__features=(300,)))
    assert_same_end(tmp_path, workdir)
    assert [p.name for p in (tmp_path / "checkpoints.broken").iterdir()] == ["8.0"]


@pytest.mark.parametrize("part", ["state", "samples"])
def test_the_arrays_of_another_checkpoint_are_noticed(workdir, tmp_path, part):
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints/8" / part)
    shutil.copytree(tmp_path / "checkpoints/4" / part, tmp_path / "checkpoints/8" / part)
    found, (line,) = read(tmp_path)
    assert found.step == 4
    assert f"of its arrays are not what was saved, the first is {part}/" in line


def test_another_config_in_a_checkpoint_is_noticed(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "checkpoints/8/_CHECKPOINT_METADATA"
    file.write_text(file.read_text().replace('"activation": "tanh"', '"activation": "relu"'))
    found, (line,) = read(tmp_path)
    assert found.step == 4
    assert "its config or spec is not what was saved" in line


def test_checkpoints_from_before_the_sums_are_read(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "checkpoints/8/_CHECKPOINT_METADATA"
    metadata = json.loads(file.read_text())
    del metadata["custom_metadata"]["sums"], metadata["custom_metadata"]["crc"]
    file.write_text(json.dumps(metadata))
    assert read(tmp_path)[0].step == 8


def test_none_readable_is_an_error_and_none_at_all_is_none(workdir, tmp_path):
    assert checkpoint.load_newest(tmp_path) is None
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    for step in (4, 8):
        for file in files_of(tmp_path, step):
            file.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="cannot be read"),
        pytest.raises(aejax.StorageError, match=r"none of the checkpoints in .* can be read; restore one"),
    ):
        aejax.load_run(tmp_path)
    with pytest.raises(aejax.StorageError, match=r"checkpoints/8 cannot be read .*; load another step"):
        aejax.load_run(tmp_path, 8)


@pytest.mark.slow
def test_missing_newest_checkpoint_is_warned_of(tmp_path):
    train(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints/8")
    with pytest.warns(UserWarning, match=r"checkpoint of step 8 is missing.*falling back to step 4"):
        assert aejax.load_run(tmp_path).step == 4
    with pytest.warns(UserWarning, match=r"step 8 is missing"):
        assert train(tmp_path).step == 8


@pytest.mark.slow
def test_every_damage_ends_the_same(tmp_path):
    """Damaged three times while it goes on: it ends as if nothing had been, and what was damaged lies aside."""
    config, rng = mlp(steps=16), np.random.default_rng()
    train(tmp_path / "whole", config)
    train(tmp_path / "run", config, stop=after(4))
    for number, stop in enumerate((after(4), after(6), lambda: False)):
        newest = checkpoint.list_steps(tmp_path / "run")[-1]
        for file in files_of(tmp_path / "run", newest):
            if "_METADATA" in file.name:
                file.write_bytes(DAMAGES[("truncated", "emptied", "truncated")[number]](file.read_bytes(), rng))
        with pytest.warns(UserWarning, match=f"checkpoints/{newest} cannot be read"):
            train(tmp_path / "run", config, stop=stop)
    assert_same_end(tmp_path / "run", tmp_path / "whole")
    assert len(list((tmp_path / "run/checkpoints.broken").iterdir())) == 3
