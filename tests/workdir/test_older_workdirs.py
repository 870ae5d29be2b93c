"""Workdirs that version 0.1 wrote on its oldest stack, before its modules moved: loaded, resumed, evaluated."""

import json
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import one_device

import aejax
from aejax.workdir import checkpoint, metrics_log


@pytest.mark.filterwarnings("ignore:the checkpoint of step 20 is missing")
@pytest.mark.parametrize(
    "name", ["vae", pytest.param("vq", marks=pytest.mark.slow)]
)  # averaged parameters, Adam, a codebook with running statistics
def test_a_workdir_of_0_1_loads_resumes_and_evaluates(name, tmp_path):
    shutil.unpack_archive(Path(__file__).with_name("written_by_0_1.zip"), tmp_path)
    workdir = tmp_path / name
    last, before = checkpoint.find(workdir, 20), [r for r in metrics_log.read(workdir) if r["step"] == 20]
    written = json.loads((workdir / "config.json").read_text())
    run = aejax.load_run(workdir)
    assert run.step == 20
    np.testing.assert_allclose(run.reconstruct(run.inputs), run.reconstructions, atol=1e-5)
    validation = aejax.data.load(run.config.data).validation
    x = validation.take(np.arange(len(validation)))["x"]
    error = np.square(run.reconstruct(x) - run.in_users_units(x)).reshape(len(x), -1).sum(-1).mean()
    assert error == pytest.approx(before[-1]["validation/squared_error"], rel=1e-4)

    shutil.rmtree(workdir / "checkpoints/20")
    resumed = aejax.train(aejax.load_run(workdir).config, workdir, devices=one_device(), quiet=True)
    assert resumed.step == 20
    # Not in every bit: the processor that wrote it, and XLA with its optimizations, round ten steps differently.
    same = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    jax.tree.map(same, checkpoint.find(workdir, 20).state, last.state)
    for old, new in zip(before, [r for r in metrics_log.read(workdir) if r["step"] == 20], strict=True):
        old.pop("images_per_second", None), new.pop("images_per_second", None)
        assert new == pytest.approx(old, rel=1e-3)
    assert json.loads((workdir / "config.json").read_text()) == written
