"""Files of published models: every layout is read, what is written is read back bit for bit, and damage is one line."""

import dataclasses
import json
import sys

import numpy as np
import pytest
from cases import FOLDER, draw
from conftest import assert_trees_equal, mostly_slow
from scipy import stats
from test_published_parity import ABOUT, assert_close, code_and_decoded, publish

import aejax
from aejax import pretrained
from aejax.models import DenseBottleneck, KLDecoder, KLEncoder, VectorQuantizer
from aejax.models.layers import activate
from aejax.pretrained.settings import ACTIVATIONS

st = pytest.importorskip("safetensors.numpy")

WHOLE = "diffusion_pytorch_model.safetensors"


def variables(folder):
    return aejax.load_pretrained(folder, size=8).variables


@pytest.fixture(scope="module")
def vq(tmp_path_factory):
    """The folder of a small VQModel with attention, and its variables."""
    folder = publish("vq_attention", tmp_path_factory.mktemp("vq"))
    return folder, variables(folder)


def in_shards(folder, tensors):
    names = sorted(tensors)
    parts = {"diffusion_pytorch_model-00001-of-00002.safetensors": names[:9]}
    parts["diffusion_pytorch_model-00002-of-00002.safetensors"] = names[9:]
    for file, part in parts.items():
        st.save_file({name: tensors[name] for name in part}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / f"{WHOLE}.index.json").write_text(json.dumps(index))
    (folder / WHOLE).unlink()


def as_a_variant(folder, tensors):
    (folder / WHOLE).rename(folder / "diffusion_pytorch_model.fp32.safetensors")


def with_former_names(folder, tensors, shape=lambda a: a):
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, value in tensors.items():
        for now, before in former.items():
            if f".{now}." in name:
                name, value = name.replace(now, before), shape(value) if value.ndim == 2 else value
        renamed[name] = value
    assert len(renamed.keys() - tensors.keys()) == 8 * 5  # attention in the middle, twice, and in three blocks
    st.save_file(renamed, folder / WHOLE)


def with_former_names_and_convolutions(folder, tensors):
    with_former_names(folder, tensors, lambda a: np.ascontiguousarray(a[..., None, None]))


LAYOUTS = [in_shards, as_a_variant, with_former_names, with_former_names_and_convolutions]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_each_layout_is_read(layout, vq, tmp_path):
    publish("vq_attention", tmp_path)
    layout(tmp_path, draw(ABOUT["vq_attention"]["shapes"]))
    assert_trees_equal(variables(tmp_path), vq[1])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_widened_and_written_back_bit_for_bit(dtype, vq, tmp_path):
    tensors = {name: a.astype(pretrained.DTYPES[dtype]) for name, a in draw(ABOUT["vq_attention"]["shapes"]).items()}
    run = aejax.load_pretrained(publish("vq_attention", tmp_path / "half", tensors), size=8)
    codes = run.variables["params"]["bottleneck"]["codebook"]["codes"]
    assert codes.dtype == np.float32
    np.testing.assert_array_equal(codes, tensors["quantize.embedding.weight"].astype(np.float32))
    content = (run.save_pretrained(tmp_path / "again", dtype) / WHOLE).read_bytes()
    assert content == (tmp_path / "half" / WHOLE).read_bytes()


def test_a_file_of_the_deleted_flax_class_computes_what_it_did():
    run = aejax.load_pretrained(FOLDER / "flax")
    assert run.spec.shape == (16, 16, 3)  # its sample_size
    expected = np.load(FOLDER / "flax/expected.npz")
    code, decoded = code_and_decoded(run, expected["x"], expected["z"])
    assert_close(code.z, expected["mean"])
    assert_close(2 * code.posterior.log_std, expected["log_variance"])
    assert_close(decoded, expected["decoded"])


@pytest.mark.parametrize("case", mostly_slow(ABOUT, "kl_16_channels", "vq_attention", "tiny", "dc_batch_norm"))
def test_what_was_read_is_written_bit_for_bit(case, tmp_path):
    run = aejax.load_pretrained(publish(case, tmp_path / "there"), size=8)
    run.save_pretrained(tmp_path / "here")
    there, here = (json.loads((tmp_path / place / "config.json").read_text()) for place in ("there", "here"))
    assert {key: here[key] for key in there} == there  # the statistics of the latents, too
    here, there = (st.load_file(tmp_path / place / WHOLE) for place in ("here", "there"))
    assert here.keys() == there.keys()
    for name, value in there.items():
        assert here[name].dtype == value.dtype
        np.testing.assert_array_equal(here[name], value, err_msg=name)
    assert_trees_equal(aejax.load_pretrained(tmp_path / "here", size=8).variables, run.variables)


def change(folder, name=None, value=None, **settings):
    """Publishes `vq_attention` with another tensor, or without it, or with other settings."""
    tensors = draw(ABOUT["vq_attention"]["shapes"])
    if name is not None:
        tensors[name] = value
    publish("vq_attention", folder, {k: v for k, v in tensors.items() if v is not None}, **settings)


def replace(name, content):
    return lambda folder: (publish("vq_attention", folder), (folder / name).write_bytes(content))


def cut(folder):
    publish("vq_attention", folder)
    content = (folder / WHOLE).read_bytes()
    (folder / WHOLE).write_bytes(content[: len(content) // 2])


def only(name):
    return lambda folder: ((folder / "config.json").write_text('{"_class_name": "VQModel"}'), (folder / name).touch())


DAMAGE = {
    "an unknown class": (lambda f: change(f, _class_name="VQModle"), "'VQModle' is unknown; did you mean 'VQModel'?"),
    "no class": (replace("config.json", b"{}"), "names no class, got _class_name=None"),
    "no JSON": (replace("config.json", b"{"), "config.json is not a readable JSON object"),
    "a list": (lambda f: change(f, block_out_channels=8), "block_out_channels must be a list of int, got 8"),
    "a number": (lambda f: change(f, norm_num_groups="4"), "norm_num_groups must be of the kind of 32, got '4'"),
    "an activation": (lambda f: change(f, act_fn="tanh"), "act_fn 'tanh' is unknown; choose one of: gelu, mish"),
    "block types": (lambda f: change(f, up_block_types=["UpBlock2D"] * 2), "up_block_types 'UpBlock2D' is unknown"),
    "stages": (lambda f: change(f, up_block_types=["UpDecoderBlock2D"]), "up_block_types has 1 entries"),
    "spatial norms": (lambda f: change(f, norm_type="spatial"), "norm_type='spatial' is not supported"),
    "groups": (lambda f: change(f, norm_num_groups=5), "encoder.groups=5 does not divide the 8 channels"),
    "a missing tensor": (lambda f: change(f, "quant_conv.bias"), "; missing: quant_conv.bias$"),
    "a superfluous tensor": (lambda f: change(f, "loss.logvar", np.ones(1)), "; superfluous: loss.logvar$"),
    "another shape": (
        lambda f: change(f, "quant_conv.bias", np.ones(5, np.float32)),
        r"quant_conv.bias has the shape \(5,\), its config.json describes \(3,\)",
    ),
    "whole numbers": (lambda f: change(f, "quant_conv.bias", np.ones(3, int)), "quant_conv.bias is int64; convert it"),
    "a truncated file": (cut, "safetensors is damaged or cut short"),
    "no safetensors": (replace(WHOLE, b"PK\3\4" * 9), "safetensors is damaged or cut short"),
    "no weights": (only("README.md"), "holds no weights; put diffusion_pytorch_model.safetensors beside"),
    "a pickle": (
        only("diffusion_pytorch_model.bin"),
        r"model.bin is a pickle, .* python -c \"import torch, safetensors",
    ),
    "a file of torch": (
        only("vae.pth"),
        r"vae.pth is a pickle, .*torch.load\('.*vae.pth', map_location='cpu', weights_",
    ),
    "a checkpoint": (only("vae.ckpt"), r"vae.ckpt is a pickle, .*A.from_single_file\('.*vae.ckpt'\).save_pretrained"),
    "an empty folder": (
        lambda f: None,
        "holds no config.json; .* sparse autoencoder: sae_weights.safetensors with cfg.json, params.npz, sae.",
    ),
    "a pipeline": (lambda f: (f / "model_index.json").touch(), "holds a whole pipeline; name .*/vae$"),
    "no msgpack": (
        lambda f: (only("x")(f), (f / "diffusion_flax_model.msgpack").write_bytes(b"\x85\xa7de")),
        "diffusion_flax_model.msgpack is damaged or cut short",
    ),
    "an index that leads out": (
        lambda f: (only("x")(f), (f / f"{WHOLE}.index.json").write_text('{"weight_map": {"a": "../b"}}')),
        "leads out of",
    ),
    "a missing shard": (
        lambda f: (only("x")(f), (f / f"{WHOLE}.index.json").write_text('{"weight_map": {"a": "b.safetensors"}}')),
        "b.safetensors, a shard that .*index.json lists, is missing",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_line(damage, tmp_path):
    make, message = DAMAGE[damage]
    make(tmp_path)
    with pytest.raises(aejax.AejaxError, match=message) as caught:
        variables(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_activations_compute_what_those_of_their_names_do_in_pytorch():
    x = np.linspace(-3, 3, 41).astype(np.float32)
    softplus = np.log1p(np.exp(x))
    expected = {"silu": x / (1 + np.exp(-x)), "mish": x * np.tanh(softplus), "relu": np.maximum(x, 0)}
    expected |= {"swish": expected["silu"], "gelu": x * stats.norm.cdf(x)}
    assert set(expected) == set(ACTIVATIONS)
    for name, y in expected.items():
        np.testing.assert_allclose(activate(ACTIVATIONS[name], x), y, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_pickle_in_the_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "vae.pt").touch()
    with pytest.raises(
        aejax.InputError, match=r"vae.pt is a pickle, which may run code when it is read; convert it once"
    ):
        aejax.load_pretrained(tmp_path / "vae.pt")
    with pytest.raises(aejax.InputError, match=r"gone does not exist; name .* which holds config.* autoencoder: sae_w"):
        aejax.load_pretrained(tmp_path / "gone")


def test_without_the_package_the_error_names_it(vq, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(aejax.InputError, match=r"needs safetensors: pip install safetensors$"):
        aejax.load_pretrained(vq[0])


def test_other_sides_than_the_downsampling_divides_are_one_line(vq):
    run = aejax.load_pretrained(vq[0], size=8)
    with pytest.raises(
        aejax.InputError, match=r"images of 9x8 are not divisible by 2, the downsampling; crop them to 8x8"
    ):
        run.encode(np.zeros((1, 9, 8, 3)))
    with pytest.raises(aejax.InputError, match=r"images of 1x1 are smaller than 2x2 pixels, the downsampling; enl"):
        run.encode(np.zeros((1, 1, 1, 3)))
    with pytest.raises(
        aejax.InputError, match=r"reads images \[n, height, width, 3\], the input's shape is \(1, 16, 8, 4\)"
    ):
        run.encode(np.zeros((1, 16, 8, 4)))
    with pytest.raises(aejax.InputError, match=r"the input \(16, 8, 3\) is one example without its batch axis; give"):
        run.encode(np.zeros((16, 8, 3)))
    with pytest.raises(aejax.InputError, match=r"must be a whole number above 0, or \(height, width\), got \(8,\)"):
        aejax.load_pretrained(vq[0], size=(8,))


def test_what_half_precision_cannot_hold_is_one_line(vq, tmp_path):
    run = aejax.load_pretrained(vq[0], size=8)
    codes = {"codebook": {"codes": np.full((24, 3), 1e6, np.float32)}}
    params = {**run.variables["params"], "bottleneck": {**run.variables["params"]["bottleneck"], **codes}}
    run = dataclasses.replace(run, variables={"params": params})
    with pytest.raises(aejax.InputError, match=r"quantize.embedding.weight does not fit into float16: .* 1e\+06"):
        run.save_pretrained(tmp_path, "float16")
    with pytest.raises(aejax.InputError, match=r"dtype 'int8' is unknown; choose one of: bfloat16, float16, float32"):
        run.save_pretrained(tmp_path, "int8")


ENCODER = KLEncoder(channels=3, features=(8, 8), groups=4, blocks=1)
DECODER = KLDecoder((8, 8, 3), project=3, features=(8, 8), groups=4, blocks=2)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((ENCODER, DenseBottleneck(4), DECODER), "no class for the parts KLEncoder, DenseBottleneck, KLDecoder"),
        (
            (ENCODER, VectorQuantizer(metric="cosine"), DECODER),
            "would have bottleneck.metric='euclidean', the model has",
        ),
        (
            (ENCODER.clone(features=(4, 8)), VectorQuantizer(), DECODER),
            r"would have decoder.features=\(8, 4\), the model",
        ),
        ((ENCODER.clone(symmetric=False), VectorQuantizer(), DECODER), r"would have encoder.symmetric=True, the model"),
        ((ENCODER.clone(activation="tanh"), VectorQuantizer(), DECODER), r"act_fn 'tanh' is unknown; choose one of"),
    ],
)
def test_what_diffusers_has_no_class_for_is_one_line(parts, message):
    with pytest.raises(aejax.InputError, match=message):
        pretrained.describe_model(aejax.Autoencoder(*parts), 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"encoder_block_types": "Attention"},
            "encoder_block_types 'Attention' is unknown; choose one of: EfficientViTBlock, R",
        ),
        (
            {"decoder_block_types": ["ResBlock"]},
            "decoder_block_types must be one name, or one for each of the 4 stages",
        ),
        ({"decoder_block_types": 3}, "decoder_block_types must be a name or a list of names, got 3"),
        (
            {"decoder_norm_types": "layer_norm"},
            "decoder_norm_types 'layer_norm' is unknown; choose one of: batch_norm, r",
        ),
        ({"decoder_act_fns": ["silu"] * 3 + ["tanh"]}, "decoder_act_fns 'tanh' is unknown; choose one of: gelu, mish"),
        ({"decoder_conv_act_fn": "tanh"}, "decoder_conv_act_fn 'tanh' is unknown"),
        (
            {"downsample_block_type": "pool"},
            "downsample_block_type 'pool' is unknown; choose one of: Conv, conv, pixel_un",
        ),
        (
            {"upsample_block_type": "bilinear"},
            "upsample_block_type 'bilinear' is unknown; choose one of: interpolate, pi",
        ),
        ({"encoder_layers_per_block": [1, 0, 1, 1]}, r"encoder_layers_per_block=\(1, 0, 1, 1\) is not supported"),
        ({"encoder_layers_per_block": [1, 1]}, "encoder_layers_per_block has 2 entries, encoder_block_out_channels 4"),
        ({"encoder_qkv_multiscales": [5]}, "encoder_qkv_multiscales must be a list of lists of int"),
        ({"encoder_qkv_multiscales": [[], [], [4], [4]]}, r"encoder.windows must be odd numbers, or .* got \(4,\)"),
        ({"attention_head_dim": 64}, "encoder.head_features=64 is above the 16 channels of a stage"),
        ({"latent_channels": 5}, "encoder.features: 16 channels are not divisible by the 5 of encoder.channels"),
        (
            {"encoder_block_out_channels": [8, 8, 12, 16]},
            "encoder.features: 8 at 2x2 pixels: 32 channels are not divisible by the 12 of the next stage inwards",
        ),
        (
            {"encoder_block_out_channels": [3, 6, 8, 16], "downsample_block_type": "pixel_unshuffle"},
            "encoder.features: 6 channels are not divisible by the 4 of encoder.shuffle=True",
        ),
    ],
)
def test_settings_of_deep_compression_that_do_not_go_together_are_one_line(settings, message, tmp_path):
    with pytest.raises(aejax.InputError, match=message) as caught:
        aejax.load_pretrained(publish("dc", tmp_path, **settings), size=8)
    assert str(tmp_path) in str(caught.value)


def test_scaling_factors_that_are_left_out_are_those_of_diffusers(tmp_path):
    for case, factor in (("kl_16_channels", 0.18215), ("tiny", 1.0)):
        run = aejax.load_pretrained(publish(case, tmp_path / case), size=8)
        assert "scaling_factor" not in ABOUT[case]["config"]
        assert run.published["scaling_factor"] == factor
        assert (
            json.loads((run.save_pretrained(tmp_path / case) / "config.json").read_text())["scaling_factor"] == factor
        )


def test_a_workdir_is_not_written_over_and_another_size_is_named(vq, tmp_path):
    run = aejax.load_pretrained(vq[0], size=8)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(aejax.InputError, match=r"is the workdir of a run, whose config.json would be lost; choose ano"):
        run.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_text() == "{}"
    images = aejax.data.from_array(np.zeros((2, 16, 24, 3), np.uint8))
    with pytest.raises(
        aejax.InputError, match=r"array holds examples of \(16, 24, 3\); give load_pretrained size=\(16, 24"
    ):
        aejax.encode_split(run, images, tmp_path / "out.npz")


def test_settings_stay_as_they_were_written(vq, tmp_path):
    run = aejax.load_pretrained(publish("vq_attention", tmp_path, act_fn="swish", norm_num_groups=2), size=8)
    assert run.config.encoder.activation == "silu"
    assert json.loads((run.save_pretrained(tmp_path) / "config.json").read_text())["act_fn"] == "swish"
    run = dataclasses.replace(run, config=aejax.load_pretrained(vq[0], size=8).config)
    written = json.loads((run.save_pretrained(tmp_path) / "config.json").read_text())
    assert (written["act_fn"], written["norm_num_groups"]) == ("relu", 4)  # another model has its own
