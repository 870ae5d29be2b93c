"""Data that raises in the middle, is slow or hangs."""

import dataclasses
import re
import signal
import threading
import time

import commands
import numpy as np
import pytest
from conftest import conv, mlp, one_device, vectors
from PIL import Image
from runs import assert_same_end, start, train

import aejax
from aejax import data
from aejax.workdir import checkpoint

STREAMED = {"data__memory_mb": 0}


def splits(config, take=lambda rows, real: real(rows)):
    """Vectors, read by `take`; the training part is asked for its rows again and again, being streamed."""
    parts = data.split({"train": data.from_array(vectors())}, config.data)
    real = parts.train.take
    return parts._replace(train=dataclasses.replace(parts.train, take=lambda rows: take(rows, real)))


@pytest.mark.slow
def test_a_source_that_raises_in_the_middle_is_named_and_mended_it_goes_on(tmp_path):
    config = mlp(**STREAMED, steps=40)
    asked = []

    def broken(rows, real):
        asked.append(rows)
        if len(asked) > 10:
            raise OSError("the tape is torn")
        return real(rows)

    with pytest.raises(
        aejax.InputError,
        match=r"^train.* one of the examples \d+, .* cannot be read \(OSError: the tape is torn\); mend",
    ) as error:
        train(tmp_path / "run", config, data=splits(config, broken))
    assert "\n" not in str(error.value)
    assert checkpoint.list_steps(tmp_path / "run")
    train(tmp_path / "run", config)
    train(tmp_path / "whole", config)
    assert_same_end(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_an_image_spoilt_in_the_middle_is_named_and_mended_it_goes_on(tmp_path):
    """Spoilt after the run has begun or resumed: what is looked at before its first step cannot tell."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(256, size=(60, 8, 8), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    config = conv(**STREAMED, data__name=str(folder), batch_size=8, steps=24, checkpoint_every=12)
    file = folder / "30.png"
    whole = file.read_bytes()
    aejax.train(config, tmp_path / "whole", devices=one_device(), quiet=True)
    for damage, content in {"removed": None, "emptied": b"", "truncated": whole[:60], "text": b"no image"}.items():

        def spoil(content=content):
            file.unlink(missing_ok=True)
            if content is not None:
                file.write_bytes(content)
            return False

        with pytest.raises(aejax.InputError, match=r"30\.png") as error:
            aejax.train(config, tmp_path / "run", devices=one_device(), quiet=True, stop=spoil)
        assert "\n" not in str(error.value), damage
        file.write_bytes(whole)
    aejax.train(config, tmp_path / "run", devices=one_device(), quiet=True)
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def test_a_truncated_array_is_named_before_the_first_step(tmp_path):
    file = tmp_path / "data.npy"
    np.save(file, vectors())
    file.write_bytes(file.read_bytes()[:-400])
    with pytest.raises(aejax.InputError, match=r"data\.npy: not a readable array"):
        aejax.train(mlp(data__name=str(file)), tmp_path / "run", devices=one_device(), quiet=True)


@pytest.mark.slow
def test_a_slow_source_slows_the_run_by_no_more_than_it_takes(tmp_path):
    """Read ahead by threads: 24 batches of 50 ms each, as if they took turns at the worst."""
    config = mlp(**STREAMED, steps=24, log_every=12, checkpoint_every=24)
    train(tmp_path / "warm", config)

    def slow(rows, real):
        time.sleep(0.05)
        return real(rows)

    begun = time.monotonic()
    train(tmp_path / "quick", config)
    quick, begun = time.monotonic() - begun, time.monotonic()
    train(tmp_path / "slow", config, data=splits(config, slow))
    assert time.monotonic() - begun < 2 * quick + 24 * 0.05 + 1
    assert_same_end(tmp_path / "slow", tmp_path / "quick")


@pytest.mark.slow
def test_a_slow_source_does_not_keep_a_stop_waiting(tmp_path):
    config = mlp(**STREAMED, steps=4000, log_every=2, checkpoint_every=4000)
    asked = threading.Event()

    def slow(rows, real):
        time.sleep(0.05)
        return real(rows)

    threading.Timer(2.0, asked.set).start()
    run = train(tmp_path, config, data=splits(config, slow), stop=asked.is_set)
    assert 0 < run.step < 4000


SOURCE = """
import dataclasses, sys, threading, time
import aejax, aejax.data
from aejax.config import module
from aejax.data import array_files as sources

HANG = {hang}
real, count = sources.from_file, [0]

def from_file(*arguments):
    (part,) = real(*arguments).values()
    def take(rows):
        count[0] += len(rows) >= 16
        if count[0] > 60:
            print("hangs", file=sys.stderr, flush=True)
            threading.Event().wait()
        return part.take(rows)
    return {{"train": dataclasses.replace(part, take=take)}}

if HANG:
    sources.from_file = from_file
    for m in list(sys.modules.values()):
        if getattr(m, "from_file", None) is real:
            m.from_file = from_file

def get_config(arg=""):
    config = aejax.config.default()
    config.data.name, config.data.memory_mb = {file!r}, 0
    config.encoder = module("mlp", features=(5,))
    config.bottleneck = module("dense", features=2)
    config.decoder = module("mlp", features=(5,))
    config.update({{"steps": 100, "batch_size": 16, "log_every": 2, "checkpoint_every": 10}})
    return aejax.config.lock(config)
"""


@pytest.mark.slow
def test_a_source_that_hangs_does_not_keep_sigterm_waiting(tmp_path):
    """Nothing can be saved then: it ends all the same, and the same command goes on from the newest checkpoint."""
    np.save(tmp_path / "data.npy", vectors())
    config, workdir = tmp_path / "config.py", tmp_path / "run"
    config.write_text(SOURCE.format(hang=True, file=str(tmp_path / "data.npy")))
    given = (f"--config={config}", f"--workdir={workdir}")
    code = "from aejax.cli import command, train; command._PATIENCE = 2; train.main()"
    with start("-c", code, *given) as process:
        try:
            assert any(line == "hangs\n" for line in process.stderr)
            time.sleep(1)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 75
    assert re.search(
        "^error: no step was done for 2 s after SIGTERM: does the data hang.*newest checkpoint$", errors, re.M
    )
    assert "Traceback" not in errors
    assert checkpoint.list_steps(workdir)
    config.write_text(SOURCE.format(hang=False, file=str(tmp_path / "data.npy")))
    assert commands.run("train", *given)[0] == 0
    assert commands.run("train", f"--config={config}", f"--workdir={tmp_path / 'whole'}")[0] == 0
    assert_same_end(workdir, tmp_path / "whole")
