"""Published models in commands: their data is named, and nothing is written beside them."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest
from conftest import command, mlp, one_device, vectors
from PIL import Image
from test_published_parity import assert_close, publish

import aejax
from aejax.pretrained import is_published

pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A published model, the workdir of a run, and a folder of images."""
    folder = tmp_path_factory.mktemp("published")
    publish("tiny", folder / "tiny", scaling_factor=0.5)
    aejax.fit(mlp(steps=1), vectors(40), folder / "run", devices=one_device(), quiet=True)
    (folder / "images").mkdir()
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (30, 24, 16, 3), np.uint8)):
        Image.fromarray(image).save(folder / f"images/{i:02}.png")
    return folder


@pytest.fixture
def run(place, monkeypatch, capsys):
    """Runs a command in the folder; its exit status."""
    before = jax.config.jax_compilation_cache_dir

    def run(name, *arguments):
        module = command(name)
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", [name, *arguments, f"--compilation_cache={before}"])
        try:
            module.main()
        except SystemExit as error:
            return error.code
        return 0

    yield run
    jax.config.update("jax_compilation_cache_dir", before)


DATA = ("--data.name=images", "--data.size=16", "--data.fit=stretch", "--data.train=train[:20]")


def test_a_split_is_encoded(run, place, tmp_path):
    out = tmp_path / "out.npz"
    assert run("encode", "--workdir=tiny", *DATA, "--split=train", f"--out={out}") == 0
    tiny = aejax.load_pretrained(place / "tiny", size=16)
    images = [Image.open(file).resize((16, 16), Image.Resampling.BICUBIC) for file in sorted(place.glob("images/*"))]
    assert_close(aejax.read_latents(out)["latents"], 0.5 * tiny.encode(np.stack([*map(np.asarray, images)])[:20]))


def test_figures_are_those_of_the_named_data_and_features_those_of_another_published_model(run, place, tmp_path):
    flags = ("--groups=reconstruction,fidelity", "--rfid_features=run:tiny", "--nofigures", f"--out={tmp_path}")
    before = set((place / "tiny").rglob("*"))
    assert run("evaluate", "--workdir=tiny", *DATA, "--split=train", *flags) == 0
    found = json.loads((tmp_path / "metrics.json").read_text())
    tiny = aejax.load_pretrained(place / "tiny", size=16)
    section = tiny.config.data
    section.update({"name": str(place / "images"), "size": 16, "fit": "stretch", "train": "train[:20]"})
    x = aejax.data.read(aejax.data.load(section).train)["x"]
    error = np.square(x / np.float32(255) - tiny.reconstruct(x)).sum((1, 2, 3)).mean()
    assert found["reconstruction"]["squared_error"]["value"] == pytest.approx(error, rel=1e-4)
    assert found["fidelity"]["frechet_distance"]["value"] > 0
    assert (
        "features latents of a published model, step 0, parameters" in found["fidelity"]["frechet_distance"]["protocol"]
    )
    assert before == set((place / "tiny").rglob("*"))


def test_programs_need_no_data(run, place, tmp_path):
    assert run("export", "--workdir=tiny", f"--out={tmp_path}") == 0
    x = np.random.default_rng(0).uniform(size=(1, 256, 256, 3)).astype(np.float32)
    program = jax.export.deserialize(bytearray((tmp_path / "encoder.stablehlo").read_bytes()))
    assert_close(np.asarray(program.call(x)), aejax.load_pretrained(place / "tiny").encode(x))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "encode --workdir=tiny --out=o.npz",
            "tiny holds a published model without data; set --data.name, and --data.s",
        ),
        ("encode --workdir=tiny --out=o.npz --data.name=gone", "'gone'"),
        ("encode --workdir=tiny --out=o.npz --data.name=images --data.fit=no", "data.fit 'no' is unknown"),
        ("encode --workdir=tiny --out=o.npz --data.nam=images", "Unknown command line flag 'data.nam'"),
        ("encode --workdir=tiny --out=o.npz --step=3", "tiny holds a published model, which has no checkpoints; leave"),
        (
            "encode --workdir=run --out=o.npz --data.name=images",
            "run is the workdir of a run, which has data of its own",
        ),
        ("evaluate --workdir=tiny --data.name=images", "beside which nothing is written; set --out"),
        ("sample --workdir=tiny --out=o.npz", "tiny holds a published model, which does not generate by itself"),
    ],
)
def test_what_does_not_fit_is_one_line(line, message, run):
    status = run(*line.split())
    assert status.startswith("error: ")
    assert message in status
    assert "\n" not in status


def test_a_folder_is_a_published_model_or_a_run_by_what_its_config_says(place, tmp_path):
    assert is_published(place / "tiny")
    assert not is_published(place / "run")
    with pytest.raises(aejax.InputError, match="tiny holds a published model, not a run; load it by load_pretrained"):
        aejax.load_run(place / "tiny")
    shutil.copytree(place / "tiny", tmp_path / "tiny")
    (tmp_path / "tiny/checkpoints").mkdir()
    assert is_published(tmp_path / "tiny")
    shutil.copytree(place / "run", tmp_path / "begun", ignore=shutil.ignore_patterns("checkpoints"))
    assert not is_published(tmp_path / "begun")  # stopped before its first checkpoint
    for name in ("encoder", "decoder"):
        (tmp_path / f"{name}.safetensors").touch()
        (place / f"run/{name}.safetensors").touch()
    assert is_published(tmp_path)
    assert not is_published(place / "run")
    (tmp_path / "tiny/config.json").write_text("{")
    assert not is_published(tmp_path / "tiny")
