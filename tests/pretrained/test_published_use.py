"""Published models in use: real weights, images of any size, training, evaluation, programs, and diffusers itself."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from cases import CASES, build, compute, inputs
from conftest import assert_trees_equal, one_device
from test_published_parity import assert_close, assert_computes, code_and_decoded, publish

import aejax

pytest.importorskip("safetensors")

TAEF2 = Path(__file__).parents[3] / "shared/data/taef2"
needs_taef2 = pytest.mark.skipif(not TAEF2.is_dir(), reason="no weights of TAEF2 in ../shared/data/taef2")


@needs_taef2
def test_real_weights_compute_what_pytorch_computes():
    run = aejax.load_pretrained(TAEF2)
    reference = np.load(TAEF2 / "reference.npz")
    np.testing.assert_allclose(run.decode(reference["latents"]), reference["decoded"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(run.encode(reference["images"]), reference["latents"], rtol=0, atol=1e-4)


@needs_taef2
def test_real_weights_are_written_bit_for_bit(tmp_path):
    """In the two files in which they were published, as diffusers has no class for them."""
    aejax.load_pretrained(TAEF2).save_pretrained(tmp_path, "float16")
    for name in ("encoder.safetensors", "decoder.safetensors"):
        here, there = (st_load(folder / name) for folder in (tmp_path, TAEF2))
        assert here.keys() == there.keys()
        for key, value in there.items():
            assert here[key].dtype == value.dtype == np.float16
            np.testing.assert_array_equal(here[key], value)


def st_load(file):
    from safetensors.numpy import load_file

    return load_file(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return publish("tiny", tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tiny(folder):
    return aejax.load_pretrained(folder, size=16)


def test_images_of_any_size_are_encoded_and_decoded(tiny):
    for shape in ((1, 16, 16, 3), (3, 8, 20, 3)):
        x = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
        code, _ = code_and_decoded(tiny, x, z := tiny.encode(x))
        assert_close(z, code.z)
        assert z.shape == (shape[0], shape[1] // 4, shape[2] // 4, 4)
        assert tiny.reconstruct(x).shape == shape
    np.testing.assert_allclose(tiny.encode((x * 255).astype(np.uint8)), z, atol=0.02)


def test_in_tiles_it_is_that_of_the_whole_away_from_their_edges(tiny):
    """No pixel is more than 12 of the code's pixels within reach: 4 + 5 convolutions there and what is outside."""
    x = np.random.default_rng(0).uniform(size=(2, 288, 16, 3)).astype(np.float32)
    z, tiles = tiny.encode(x), {"tile": (192, 16), "overlap": 0}  # from rows 0 and 96
    codes, images = (z, tiny.encode(x, **tiles)), (tiny.decode(z), tiny.decode(z, **tiles))
    for scale, (whole, tiled) in ((1, codes), (4, images)):
        away = np.r_[0 : 12 * scale, 60 * scale : 72 * scale]
        np.testing.assert_allclose(tiled[:, away], whole[:, away], rtol=0, atol=1e-5)
        assert np.abs(tiled - whole).max() > 1e-2


def test_codes_in_tiles_are_codes(tmp_path):
    run = aejax.load_pretrained(publish("vq_attention", tmp_path), size=16)
    x = np.random.default_rng(0).uniform(size=(2, 24, 40, 3)).astype(np.float32)
    code = run.code(x, tile=16, overlap=8)
    np.testing.assert_array_equal(code["z"], run.lookup(code["indices"]))
    assert code["indices"].shape == (2, 12, 20)
    np.testing.assert_array_equal(code["indices"][:, :6, :6], run.indices(x[:, :16, :16])[:, :6, :6])


def test_bfloat16_computes_about_the_same_with_the_same_parameters(folder, tiny):
    run = aejax.load_pretrained(folder, size=16, dtype="bfloat16")
    assert run.model.encoder.dtype == run.model.decoder.dtype == "bfloat16"
    assert_trees_equal(run.variables, tiny.variables)
    x = np.random.default_rng(0).uniform(size=(2, 16, 16, 3)).astype(np.float32)
    (code, decoded), (exact, image) = (code_and_decoded(each, x, tiny.encode(x)) for each in (run, tiny))
    assert 0 < np.abs(code.z - exact.z).max() < 0.1 * exact.z.std()
    assert 0 < np.abs(decoded - image).max() < 0.1 * image.std()


def test_it_is_a_run_in_all_that_runs_do(tiny, tmp_path):
    x = np.random.default_rng(0).uniform(size=(8, 16, 16, 3)).astype(np.float32)
    program = jax.export.deserialize(bytearray((tiny.export(tmp_path) / "encoder.stablehlo").read_bytes()))
    assert_close(np.asarray(program.call(x)), tiny.encode(x))
    measures = tiny.evaluate(x, groups=["reconstruction"])
    error = np.square(x - tiny.reconstruct(x)).sum((1, 2, 3)).mean()
    assert measures["reconstruction"]["squared_error"].value == pytest.approx(error, rel=1e-4)
    with pytest.raises(aejax.InputError, match=r"data.name is empty; give a data set"):
        tiny.evaluate()


def test_training_starts_from_it_and_what_is_trained_is_published_again(folder, tiny, tmp_path):
    """With the standard deviation of its own latents, as the published one is of the latents before."""
    x = np.random.default_rng(0).uniform(size=(24, 16, 16, 3)).astype(np.float32)
    config = tiny.config
    config.update({"steps": 1, "batch_size": 8, "samples": 4, "log_every": 1, "checkpoint_every": 1})
    config.optim.lr, config.init_from.workdir = 1e-30, str(folder)
    run = aejax.fit(config, x, devices=one_device(), quiet=True)
    jax.tree.map(np.testing.assert_allclose, run.variables["params"], tiny.variables["params"])
    run.save_pretrained(tmp_path)
    again = aejax.load_pretrained(tmp_path)
    assert_close(again.encode(run.inputs), run.latents)
    assert run.train_split is not None
    z = run.encode(run.train_split.take(np.arange(len(run.train_split)))["x"])
    assert again.published["scaling_factor"] == pytest.approx(1 / z.std(), rel=1e-5)
    assert again.published["shift_factor"] == pytest.approx(z.mean(), rel=1e-4)
    assert again.spec.shape == (16, 16, 3)


@pytest.mark.slow
def test_running_statistics_are_taken_over_trained_on_four_devices_and_published(tmp_path):
    run = aejax.load_pretrained(publish("dc_batch_norm", tmp_path / "there"), size=16)
    x = np.random.default_rng(0).uniform(size=(24, 16, 16, 3)).astype(np.float32)
    config = run.config
    config.update({"steps": 2, "batch_size": 8, "samples": 4, "log_every": 2, "checkpoint_every": 2})
    config.optim.lr = 1e-30
    trained = aejax.fit(config, x, init_from=run, quiet=True)
    trained.save_pretrained(tmp_path / "here")
    there, here = (st_load(tmp_path / place / "diffusion_pytorch_model.safetensors") for place in ("there", "here"))
    assert here.keys() == there.keys()
    for name, value in there.items():
        if name.endswith("num_batches_tracked"):
            assert (here[name], here[name].dtype) == (value + 2, np.int64)
        elif "running" in name:
            assert not np.allclose(here[name], value)
        else:
            np.testing.assert_allclose(here[name], value, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_diffusers_itself_computes_the_same_and_loads_what_is_written(case, tmp_path):
    """With the parameters that it starts with, moved, where it is installed."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers", minversion="0.42")
    torch.manual_seed(1)
    model = build(case)
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(1 + 0.2 * torch.randn_like(value))
    model.save_pretrained(tmp_path / "there")
    run = aejax.load_pretrained(tmp_path / "there", size=16)
    for shape in ((1, 32, 16), (2, 8, 40), (5, 24, 24)):
        assert_computes(run, case, shape, compute(model, *inputs(case, shape)))
    run.save_pretrained(tmp_path / "here")
    again, about = type(model).from_pretrained(tmp_path / "here", output_loading_info=True)
    assert not any(about.values())
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    here, there = (json.loads((tmp_path / place / "config.json").read_text()) for place in ("here", "there"))
    assert here == there


@pytest.mark.parametrize(
    "factors", [{"scaling_factor": 0.3611, "shift_factor": 0.1159}, {"latents_mean": [1, 2, 3, 4]}]
)
def test_written_latents_have_the_published_scale(factors, tmp_path):
    if "latents_mean" in factors:
        factors = factors | {"latents_std": [0.5, 1.0, 1.5, 2.0], "scaling_factor": 0.5}
        mean, deviation = np.array([1, 2, 3, 4]), np.array([1.0, 2.0, 3.0, 4.0])
    else:
        mean, deviation = np.full(4, 0.1159), np.full(4, 1 / 0.3611)
    run = aejax.load_pretrained(publish("kl", tmp_path / "kl", **factors), size=16)
    x = np.random.default_rng(0).uniform(size=(5, 16, 16, 3)).astype(np.float32)
    aejax.encode_split(run, aejax.data.from_array(x), tmp_path / "out.npz")
    written = aejax.read_latents(tmp_path / "out.npz")["latents"]
    np.testing.assert_allclose(written, (run.encode(x) - mean) / deviation, rtol=1e-4, atol=1e-5)
    assert_close(run.decode(written), run.reconstruct(x))
    about = json.loads((run.save_pretrained(tmp_path / "again") / "config.json").read_text())
    assert {key: about[key] for key in factors} == factors
    same = aejax.load_pretrained(tmp_path / "again", size=16)
    assert_close(same.decode(written), run.reconstruct(x))  # of the same parameters
