"""Exported programs against the run they came from, where neither aejax nor Flax can be imported."""

import datetime
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import command, config_of, mostly_slow, untrained

import aejax
from aejax.config import module
from aejax.data import Spec, load
from aejax.training.task import make_task

CONFIGS = sorted(p.stem for p in (Path(__file__).parents[2] / "configs").glob("*.py") if p.stem != "common")

ALONE = """
import sys
sys.modules["aejax"] = sys.modules["flax"] = None  # so that importing them fails
import json
import jax
import numpy as np
folder = sys.argv[1]
description = json.load(open(f"{folder}/programs.json"))
inputs, outputs = np.load(f"{folder}/inputs.npz"), {}
for name, program in description["programs"].items():
    loaded = jax.export.deserialize(bytearray(open(f"{folder}/{program['file']}", "rb").read()))
    for n in (1, 3, 7):
        given = [inputs[value["name"]][:n] for value in program["inputs"]]
        assert [[n, *value["shape"][1:]] for value in program["inputs"]] == [list(a.shape) for a in given]
        outputs[f"{name}_{n}"] = loaded.call(*given)
np.savez(f"{folder}/outputs.npz", **outputs)
"""


def standardised():
    config = config_of("stacked")
    return untrained(config, Spec((5,), mean=(1.0, 2.0, 3.0, 4.0, 5.0), deviation=(9.0, 7.0, 5.0, 3.0, 1.0)))


def batch_normalised():
    config = config_of("conv")
    config.encoder.normalisation = config.decoder.normalisation = "batch"
    config.likelihood = module("bernoulli")
    return untrained(config)


RUNS = {
    "mlp": standardised,
    "conv": batch_normalised,
    "vq": lambda: untrained(config_of("vq_vae")),
    "conditional": lambda: untrained(config_of("conditional_vae")),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_programs_alone_give_what_the_run_gives(name, tmp_path):
    run, rng = RUNS[name](), np.random.default_rng()
    x = rng.uniform(size=(7, *run.spec.shape)).astype(np.float32)
    label = rng.integers(run.config.classes, size=7).astype(np.int32) if run.config.classes else None
    z = run.encode(x, label) + rng.normal(size=(7, *run.latents.shape[1:])).astype(np.float32)
    assert run.export(tmp_path / "out") == tmp_path / "out"
    expected = {"encoder": run.encode(x, label), "decoder": run.decode(z, label)}
    inputs = {"x": x, "z": z} | ({} if label is None else {"label": label})
    if name == "vq":
        inputs["indices"] = rng.integers(run.model.bottleneck.size, size=run.indices(x).shape).astype(np.int32)
        expected |= {"indices": run.indices(x), "lookup": run.lookup(inputs["indices"])}
    np.savez(tmp_path / "out/inputs.npz", **inputs)
    subprocess.run([sys.executable, "-c", ALONE, tmp_path / "out"], check=True, cwd=tmp_path)
    with np.load(tmp_path / "out/outputs.npz") as arrays:
        found = dict(arrays)
    assert set(found) == {f"{program}_{n}" for program in expected for n in (1, 3, 7)}
    for key, value in found.items():
        program, n = key.split("_")
        np.testing.assert_allclose(value, expected[program][: int(n)], rtol=1e-5, atol=1e-5)
        assert np.ptp(expected[program]) > 0.01  # or it would say nothing


def test_the_description_says_shapes_units_and_labels(tmp_path):
    run = RUNS["conditional"]()
    run.export(tmp_path)
    description = json.loads((tmp_path / "programs.json").read_text())
    assert (description["data"], description["step"]) == ("digits", 0)
    assert datetime.date.today() - datetime.date.fromisoformat(description["written"]) <= datetime.timedelta(days=1)
    encoder = description["programs"]["encoder"]
    assert encoder["file"] == "encoder.stablehlo"
    assert encoder["inputs"] == [
        {"name": "x", "shape": ["batch", 8, 8, 1], "dtype": "float32", "meaning": "images in [0, 1]"},
        {"name": "label", "shape": ["batch"], "dtype": "int32", "meaning": "0 to 9"},
    ]
    assert encoder["output"]["shape"] == ["batch", *run.latents.shape[1:]]


def of_zeros(config):
    """A run whose variables have their shapes alone, for what is lowered and never computed."""
    spec = Spec({"plane": (3,), "sheet": (5,)}.get(config.data.name, (8, 8, 1)))
    if config.data.name in ("people", "voices", "waves"):  # no images
        spec = Spec.of(load(config.data).train, config.data.standardize)
        model = make_task(config, spec, 64).model
    else:
        model = aejax.models.build(config, spec.shape)
    x = np.zeros((1, *spec.shape), np.float32)
    label = np.zeros(1, np.int32) if config.classes else None
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), x, label=label))
    variables = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), variables)
    latents = aejax.models.abstract_output(model, spec.shape).code.z
    return aejax.Run(config, spec, 0, variables, np.zeros(latents.shape, np.float32), x, x)


def programs_of(run):
    """The programs that the run would export."""
    programs = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aejax.inference.export, "write", lambda folder, found, about: programs.update(found))
        run.export("nowhere")
    return programs


def test_indices_and_their_lookup_have_the_shapes_that_are_said():
    programs = programs_of(of_zeros(config_of("vq_vae")))
    assert set(programs) == {"encoder", "decoder", "indices", "lookup"}
    for program in programs.values():
        inputs = [jax.ShapeDtypeStruct((3, *value.shape), value.dtype) for value in program.inputs]
        assert jax.eval_shape(program.function, *inputs).shape == (3, *program.output.shape)


@pytest.mark.parametrize("name", mostly_slow(CONFIGS, "vae"))
def test_every_family_takes_any_batch(name):
    """Lowered for all platforms; a module that wants a number for the batch would raise."""
    for program in programs_of(of_zeros(config_of(name))).values():
        lowered = aejax.inference.export.lower(program)
        assert str(lowered.in_avals[0].shape[0]) == "batch"
        assert lowered.out_avals[0].shape[1:] == program.output.shape
        assert lowered.out_avals[0].dtype == program.output.dtype


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        aejax.StorageError, match=r"file cannot be written: a file is in its place; choose another folder"
    ):
        RUNS["mlp"]().export(tmp_path / "file")


def test_programs_are_not_mixed_with_the_files_of_a_run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(
        aejax.InputError, match=r"is the workdir of a run, whose files would be mixed with programs; ch"
    ):
        RUNS["mlp"]().export(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoints"]


@pytest.mark.slow
def test_the_command_writes_the_programs_or_says_why_not(tmp_path, monkeypatch, capsys):
    export = command("export")
    monkeypatch.setattr(aejax, "load_run", lambda workdir, step, trust: RUNS["mlp"]())
    monkeypatch.setattr(sys, "argv", ["export", "--workdir=w", "--step=newest", f"--out={tmp_path / 'out'}"])
    export.main()
    assert "decoder.stablehlo, encoder.stablehlo, programs.json" in capsys.readouterr().out
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["export", "--workdir=w", "--step=newest", f"--out={tmp_path / 'file'}"])
    with pytest.raises(SystemExit, match=r"^error: .*file cannot be written: .* choose another folder$"):
        export.main()
