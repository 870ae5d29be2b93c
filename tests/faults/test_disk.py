"""The disk full, at any file that a run writes: one line, nothing complete lost, and the same command goes on."""

import contextlib
import os
import shutil
import subprocess

import numpy as np
import pytest
from conftest import mlp
from runs import assert_same_end, train

import aejax
from aejax.workdir import checkpoint, metrics_log

# What was being saved is missing, and is said to be; that a checkpoint cannot be read would be an error.
# TensorBoard's file may end early: that too is only said.
pytestmark = [
    pytest.mark.filterwarnings("ignore:the checkpoint of step .* is missing"),
    pytest.mark.filterwarnings("ignore:tracking by tensorboard failed .*No space left"),
    # Orbax ends a save at its first error; what its other writes say afterwards, commands keep to themselves.
    pytest.mark.filterwarnings("ignore:(?s).*Event loop is closed:pytest.PytestUnraisableExceptionWarning"),
]
SIZE = 2**20


@pytest.fixture
def disk(tmp_path):
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        shutil.which("mount")
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
    )
    if not mounted:
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def used(folder):
    return sum(p.stat().st_blocks * 512 for p in folder.rglob("*"))


@contextlib.contextmanager
def left(disk, space):
    """Fills the disk up to `space` bytes."""
    filler = disk / "filler"
    filler.write_bytes(b"x" * max(0, shutil.disk_usage(disk).free // 4096 * 4096 - space))
    yield
    filler.unlink()


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(disk, tmp_path):
    config = mlp(log_every=1, encoder__features=(100,))
    train(tmp_path / "whole", config)
    needed, failed = used(tmp_path / "whole"), []
    seed = int(np.random.default_rng().integers(2**31))
    print(f"seed {seed}")
    draws = np.random.default_rng(seed).integers(0, needed // 4096 + 8, size=5) * 4096
    for space in [0, 4096, 8192, *draws]:
        workdir, said = disk / "run", None
        workdir.mkdir(exist_ok=True)
        before = max(checkpoint.list_steps(workdir), default=0)
        with left(disk, space):
            try:
                train(workdir, config)
            except aejax.StorageError as error:
                said = str(error)
        print(space, said)
        if said:
            assert "\n" not in said
            assert "No space left" in said or "does not fit" in said, said
            failed.append(said)
        assert max(checkpoint.list_steps(workdir), default=0) >= before
        if found := checkpoint.load_newest(workdir):
            assert found.step >= before
        if not said:
            assert_same_end(workdir, tmp_path / "whole", board=False)
            shutil.rmtree(workdir)
    train(disk / "run", config)
    assert_same_end(disk / "run", tmp_path / "whole", board=False)
    assert len(failed) >= 3


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_full_disk_is_one_clear_error(tmp_path, monkeypatch):
    real = metrics_log.append

    def on_a_full_disk(file):
        opened = real(file)
        with open("/dev/full", "w") as full:
            os.dup2(full.fileno(), opened.fileno())
        return opened

    monkeypatch.setattr(metrics_log, "append", on_a_full_disk)
    with pytest.raises(aejax.StorageError, match="No space left"):
        train(tmp_path)


@pytest.mark.slow
def test_full_disk_is_said_before_a_checkpoint_is_begun(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(aejax.StorageError, match=r"checkpoint of [\d,]+ bytes does not fit.*no checkpoint is complete"):
        train(tmp_path)
