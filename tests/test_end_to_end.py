"""The main job as a user runs it: the commands, the signals, and what the textbooks promise."""

import json
import os
import queue
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import MEANT, MNIST, config_of, mostly_slow, needs_mnist, one_device
from conftest import command as define_flags_anew

import aejax
from aejax.evaluation import as_json
from aejax.workdir import checkpoint, metrics_log

ROOT = Path(__file__).parents[1]


def command(module, *arguments):
    return [sys.executable, "-m", f"experiments.{module}", *arguments]


def launch(module, *arguments, devices=1, **kwargs):
    flags = re.sub(r"device_count=\d+", f"device_count={devices}", os.environ["XLA_FLAGS"])
    environment = {**os.environ, "XLA_FLAGS": flags}
    return subprocess.Popen(
        command(module, *arguments),
        cwd=ROOT,
        env=environment,
        text=True,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def finish(process):
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def wait_for(condition, process, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def run_here(module, arguments, monkeypatch, capsys):
    """What `python -m experiments.{module}` prints, run by this process, which has imported all that it needs."""
    define_flags_anew(module)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys.modules["__main__"], "__doc__", "")  # of which the command makes its own
    monkeypatch.setenv("GLIBC_TUNABLES", "")  # it would start another process for its settings
    capsys.readouterr()
    runpy.run_module(f"experiments.{module}", run_name="__main__")
    return capsys.readouterr().out


def test_the_main_job_leaves_checkpoint_curves_and_pictures(tmp_path, monkeypatch, capsys):
    workdir = tmp_path / "conv"
    flags = ("--config.encoder.activation=gelu", "--config.objective.weights.l1=1e-3")  # keys the file leaves out
    code, output, errors = finish(launch("train", "--config=configs/conv.py:tiny", f"--workdir={workdir}", *flags))
    assert code == 0, errors
    config = json.loads((workdir / "config.json").read_text())
    assert (config["encoder"]["activation"], config["objective"]["weights"]) == ("gelu", {"l1": 1e-3})
    assert "encoder/conv_0" in errors  # the table of parameters
    assert re.search(r"^total\s+[\d,]+$", errors, re.MULTILINE)
    assert checkpoint.list_steps(workdir) == [2, 4]
    assert [file.parent.name for file in workdir.rglob("latents.json")] == ["4"]
    assert {p.name for p in (workdir / "evaluation/4").iterdir()} == {"curves.png", "reconstructions.png"}
    run = aejax.load_run(workdir)
    assert run.latents.shape[1:] == (2, 2, 8)

    output = run_here("evaluate", [f"--workdir={workdir}"], monkeypatch, capsys)
    metrics = json.loads((workdir / "evaluation/4/metrics.json").read_text())
    error = metrics["reconstruction"]["squared_error"]["value"]
    assert re.search(rf"^reconstruction/squared_error +{re.escape(f'{error:.5g}')}$", output, re.MULTILINE), output
    assert re.search("^skipped disentanglement/mig, .*: the data has no known factors", output, re.MULTILINE), output
    assert "reconstruction/ssim:" not in output
    assert (workdir / "evaluation/4/report.html").stat().st_size > 10_000
    measured = as_json(run.evaluate(groups=["reconstruction", "anomaly"]))
    assert measured == {group: metrics[group] for group in ("reconstruction", "anomaly")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    mostly_slow(
        [
            (["--config=configs/conv.py:tinny"], r"config argument 'tinny' is unknown .*; choose among: tiny, mnist"),
            (["--config=configs/nope.py"], r"--config=configs/nope.py: there is no such file; check its path"),
            (["--config=configs/conv.py", "--config.optim.lrr=3"], r"Did you mean \"lr\""),
            (["--config=configs/conv.py", "--config.data.name=mnsit"], r"'mnsit' is unknown; did you mean 'mnist'"),
            (["--config=configs/conv.py", "--config.encoder.kernle=5"], r"did you mean 'kernel'"),
            (["--config=configs/conv.py", "--wrkdir=x"], r"Unknown command line flag 'wrkdir'"),
        ]
    ),
)
def test_a_slip_is_one_clear_line(arguments, message, tmp_path):
    code, _, errors = finish(launch("train", *arguments, f"--workdir={tmp_path / 'w'}"))
    lines = [line for line in errors.splitlines() if not line.startswith("warning: the code")]
    assert code == 1
    assert len(lines) == 1, errors
    assert re.match(rf"error: .*{message}", lines[0]), errors
    assert not (tmp_path / "w/config.json").exists()


LONG = (
    "--config=configs/stacked.py:tiny",
    "--config.steps=20000",
    "--config.checkpoint_every=200",
    "--config.log_every=100",
    "--config.keep=1000",
)


def test_signals_are_asked_for_and_the_second_ctrl_c_interrupts():
    from aejax.cli.command import until_signal

    before = signal.getsignal(signal.SIGINT)
    for number in (signal.SIGTERM, signal.SIGINT):
        with until_signal() as asked:
            assert not asked()
            signal.raise_signal(number)
            assert asked()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_what_hangs_after_sigterm_is_left_without_saving(monkeypatch):
    from aejax.cli import command

    left = queue.Queue()
    monkeypatch.setattr(command, "_PATIENCE", 0.05)
    monkeypatch.setattr(os, "_exit", left.put)
    with command.until_signal():
        signal.raise_signal(signal.SIGINT)  # which a second one answers
        time.sleep(0.1)
    with command.until_signal() as asked:
        signal.raise_signal(signal.SIGTERM)
        asked()
        time.sleep(0.1)
    assert left.empty()
    with command.until_signal():
        signal.raise_signal(signal.SIGTERM)
        assert left.get(timeout=60) == 75


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_sigterm_saves_and_exits_cleanly_and_the_same_command_goes_on(tmp_path, devices):
    workdir = tmp_path / "run"
    arguments = (*LONG, f"--workdir={workdir}")
    process = launch("train", *arguments, devices=devices)
    wait_for(lambda: len(checkpoint.list_steps(workdir)) > 0, process)
    process.send_signal(signal.SIGTERM)
    code, output, errors = finish(process)
    assert code == 75, errors
    stopped = checkpoint.list_steps(workdir)[-1]
    assert f"saved at step {stopped:,} of 20,000" in output
    assert int(checkpoint.load_newest(workdir).state["step"]) == stopped
    again = launch("train", *arguments, devices=devices)
    wait_for(lambda: checkpoint.list_steps(workdir)[-1] > stopped, again)
    again.send_signal(signal.SIGTERM)
    assert finish(again)[0] == 75
    steps = [r["step"] for r in metrics_log.read(workdir) if "train/loss" in r]
    assert steps == sorted(set(steps))


def angle_to_pca(x, decoder_kernel):
    """Largest principal angle, in degrees, between the decoder's plane and PCA's."""
    basis = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][: len(decoder_kernel)]
    plane = np.linalg.qr(np.asarray(decoder_kernel, np.float64).T)[0]
    cosines = np.linalg.svd(basis @ plane, compute_uv=False)
    return np.degrees(np.arccos(np.clip(cosines.min(), 0, 1)))


@pytest.mark.parametrize("draw", mostly_slow(range(3)))
def test_linear_basic_finds_the_subspace_of_pca(draw, tmp_path):
    seed = int(np.random.default_rng().integers(2**31)) if draw else 0
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    x = (rng.normal(size=(1000, 3)) * (1.0, 0.6, 0.05) @ axes).astype(np.float32)
    config = config_of("basic", "")
    config.seed = seed
    config.data.train, config.data.validation, config.data.test = "train", "train", "train"
    config.checkpoint_every = config.steps
    run = aejax.fit(config, x, devices=one_device())
    angle = angle_to_pca(x, run.variables["params"]["decoder"]["dense_0"]["kernel"])
    assert angle < 1, f"{angle:.3f} degrees with seed {seed}"


def test_angle_measures_what_it_says():
    x = np.random.default_rng(0).normal(size=(500, 3)) * (1.0, 0.8, 0.01)
    tilt = np.radians(20)
    kernel = np.array([[1, 0, 0], [0, np.cos(tilt), np.sin(tilt)]])
    assert angle_to_pca(x, kernel) == pytest.approx(20, abs=0.5)


@pytest.mark.slow
@needs_mnist
@pytest.mark.filterwarnings(MEANT)
def test_stacked_learns_mnist(tmp_path):
    """A quick sign; experiments/results/ holds the full figure against PCA-30."""
    config = config_of("stacked", "mnist")
    config.update({"steps": 150, "checkpoint_every": 150})
    config.data.update({"data_dir": str(MNIST), "train": "train[:20%]", "validation": "train[20%:25%]"})
    config.encoder.features, config.decoder.features = (256, 64), (64, 256)
    aejax.train(config, tmp_path, devices=one_device())
    assert metrics_log.read(tmp_path)[-1]["validation/squared_error"] < 43.64  # two components of PCA reach this


@pytest.mark.slow
def test_required_set_holds_neither_tensorflow_nor_pytorch():
    code = "import sys, aejax, aejax.evaluation.pictures; sys.exit(bool({'tensorflow', 'torch'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
