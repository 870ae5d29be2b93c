"""A config edited between two runs: by hand in config.json, in its file, by a flag."""

import json
import shutil

import commands
import pytest
from conftest import mlp, vectors
from runs import after, assert_same_end, train

import aejax


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(folder, stop=after(2))
    return folder


@pytest.fixture
def workdir(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "copy")


def files(workdir):
    return {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}


def edited(workdir, change):
    file = workdir / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["optim"].update(lr=0.5), r"optim\.lr: 0\.5 -> 0\.001"),
        (lambda c: c.update(seed=7), r"seed: 7 -> 0"),
        (lambda c: c["encoder"].update(features=[5, 5]), r"encoder\.features: \[5, 5\] -> \[5\]"),
        (lambda c: c["optim"].pop("clip"), r"optim\.clip: \(absent\) -> 0\.0"),
        (lambda c: c.update(temperature=3), r"temperature: 3 -> \(absent\)"),
        (lambda c: c.pop("data"), "is no config; restore it"),
        (lambda c: c.update(data=3), "is no config; restore it"),
        (lambda c: c.update(optim=None), r"optim: None -> \(absent\)"),
    ],
)
def test_an_edited_config_json_is_refused_by_key_and_both_values(workdir, change, message):
    edited(workdir, change)
    before = files(workdir)
    with pytest.raises(aejax.InputError, match=message) as error:
        train(workdir)
    assert "\n" not in str(error.value)
    assert files(workdir) == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b'"text"', b"\x80\x04", b"\xff\xfe"])
def test_a_config_json_that_is_none_is_named(workdir, content):
    (workdir / "config.json").write_bytes(content)
    with pytest.raises(
        aejax.InputError, match=r"config\.json is no (JSON|config).*; restore it, or remove it"
    ) as error:
        train(workdir)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_lost_config_json_is_written_again(workdir, tmp_path):
    (workdir / "config.json").unlink()
    with pytest.raises(aejax.InputError, match=r"optim\.lr: 0\.001 -> 0\.5"):  # the checkpoint tells, too
        train(workdir, mlp(optim__lr=0.5))
    train(workdir)
    train(tmp_path / "whole")
    assert_same_end(workdir, tmp_path / "whole")
    assert (workdir / "config.json").read_text() == (tmp_path / "whole/config.json").read_text()


def test_a_config_json_without_a_checkpoint_is_heeded(workdir):
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(aejax.InputError, match="another config"):
        train(workdir, mlp(optim__lr=0.5))


def test_another_config_or_data_is_refused_and_nothing_is_touched(workdir):
    before = files(workdir)
    with pytest.raises(aejax.InputError, match=r"another config \(optim.lr: 0.001 -> 0.5\); choose another workdir"):
        train(workdir, mlp(optim__lr=0.5))
    with pytest.raises(aejax.InputError, match=r"seed: 0 -> 1"):
        train(workdir, mlp(seed=1))
    with pytest.raises(aejax.InputError, match=r"trained on examples of \(6,\), the data now holds \(5,\)"):
        train(workdir, x=vectors(features=5))
    assert files(workdir) == before


@pytest.mark.slow
def test_flags_and_files_of_the_command_line(tmp_path):
    file, workdir = tmp_path / "config.py", tmp_path / "run"
    text = """
import aejax
def get_config(arg=""):
    config = aejax.config.default()
    config.data.name = "plane"
    config.encoder = aejax.config.module("mlp", features=(4,))
    config.bottleneck = aejax.config.module("dense", features=2)
    config.decoder = aejax.config.module("mlp", features=(4,))
    aejax.config.shrink(config)
    return aejax.config.lock(config)
"""
    file.write_text(text)
    given = (f"--config={file}", f"--workdir={workdir}")
    assert commands.run("train", *given)[0] == 0
    code, _, errors = commands.run("train", *given, "--config.seed=3")
    assert (code, len(errors.splitlines())) == (1, 1), errors
    assert "seed: 0 -> 3" in errors
    file.write_text(text.replace("(4,)", "(5,)"))
    code, _, errors = commands.run("train", *given)
    assert (code, len(errors.splitlines())) == (1, 1), errors
    assert "decoder.features: [4] -> [5]; encoder.features: [4] -> [5]" in errors


@pytest.mark.slow
def test_the_command_takes_a_change_and_the_report_shows_it(tmp_path):
    given = ("--config=configs/basic.py:tiny", f"--workdir={tmp_path}")
    assert commands.run("train", *given)[0] == 0
    code, output, errors = commands.run("train", *given, "--config.steps=8", "--change=steps")
    assert (code, "step 8: latents" in output) == (0, True), errors
    code, output, errors = commands.run("train", *given)
    assert (code, "step 8: latents" in output) == (0, True), errors
    assert commands.run("evaluate", f"--workdir={tmp_path}", "--groups=reconstruction")[0] == 0
    report = (tmp_path / "evaluation/8/report.html").read_text()
    assert "<dt>Changes</dt><dd>steps: 4 -&gt; 8 from step 4</dd>" in report
