"""Files of sparse autoencoders: each layout computes what its project computes, is written bit for bit, and damage is
one line.
"""

import json
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import assert_trees_equal, mostly_slow, one_device
from sae_cases import CASES, CHECKPOINTS, FOLDER, INPUTS, LATENTS, METADATA, SAELENS, K, compute, load

import aejax
from aejax.config import module

st = pytest.importorskip("safetensors.numpy")

X = np.load(FOLDER / "standard/expected.npz")["x"]


def read(folder):
    """The tensors in a folder."""
    files = [*folder.glob("*.safetensors")]
    tensors = {f"{file.name}:{name}": a for file in files for name, a in st.load_file(file).items()}
    npz = folder / "params.npz"
    return tensors | (dict(np.load(npz)) if npz.exists() else {})


def assert_close(a, b):
    """Within 1e-6 of the largest value."""
    assert a.dtype == np.float32
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(b).max())


def assert_computes(run, x, expected):
    assert_close(run.encode(x), expected["z"])
    assert_close(run.reconstruct(x), expected["decoded"])
    np.testing.assert_array_equal(run.encode(x) > 0, expected["z"] > 0)


@pytest.mark.parametrize("case", CASES)
def test_it_computes_what_its_project_computes(case):
    run = aejax.load_pretrained(FOLDER / case)
    assert_computes(run, X, np.load(FOLDER / case / "expected.npz"))
    assert run.spec.shape == (INPUTS,)
    if case.endswith("transcoder"):
        assert run.model.target == np.load(FOLDER / case / "expected.npz")["decoded"].shape[1:]
        assert run.model.skip == ("skip" in case or case == "sparsify_transcoder")
    assert run.sae.metadata.get("hook_name", METADATA["hook_name"]) == METADATA["hook_name"]


@pytest.mark.parametrize("case", CASES)
def test_what_was_read_is_written_bit_for_bit(case, tmp_path):
    run = aejax.load_pretrained(FOLDER / case)
    dtype = SAELENS[case][2] if case in SAELENS else "float32"
    run.save_pretrained(tmp_path, dtype)
    there, here = read(FOLDER / case), read(tmp_path)
    assert here.keys() == there.keys()
    for name, value in there.items():
        assert here[name].dtype == value.dtype
        assert here[name].tobytes() == value.tobytes(), name
    assert_trees_equal(aejax.load_pretrained(tmp_path).variables, run.variables)
    if not case.startswith("gemma_scope"):
        assert json.loads((tmp_path / "cfg.json").read_text()) == json.loads((FOLDER / case / "cfg.json").read_text())


@pytest.mark.parametrize(
    ("case", "layout"),
    [
        *(("jumprelu", "gemma_scope"), ("standard", "gemma_scope"), ("topk", "sparsify"), ("topk_float16", "sparsify")),
        *(("gemma_scope", "saelens"), ("sparsify", "saelens"), ("standard_bfloat16", "saelens")),
        *(("transcoder", "gemma_scope"), ("jumprelu_transcoder", "gemma_scope"), ("gemma_scope_transcoder", "saelens")),
    ],
)
def test_one_layout_becomes_another_that_computes_the_same(case, layout, tmp_path):
    run = aejax.load_pretrained(FOLDER / case)
    run.save_pretrained(tmp_path, format=layout, metadata={} if layout == "gemma_scope" else {"hook_name": "here"})
    again = aejax.load_pretrained(tmp_path)
    assert again.sae.layout == layout
    assert_computes(again, X, np.load(FOLDER / case / "expected.npz"))
    if layout != "gemma_scope":
        assert again.sae.metadata["hook_name"] == "here"
        assert again.sae.metadata.get("model_name") == run.sae.metadata.get("model_name")


def test_a_trained_batch_top_k_autoencoder_of_standardized_data_is_written_as_jumprelu(tmp_path):
    """Its threshold is that of a unit: it is kept at the threshold here, and only above it there."""
    x = np.random.default_rng(0).normal(3, [0.1, 1, 10] * 4, size=(80, INPUTS)).astype(np.float32)
    config = aejax.config.default()
    config.bottleneck = aejax.config.module("batch_topk", features=LATENTS, k=K, decay=0.0)
    config.update({"steps": 1, "batch_size": 64, "samples": 4, "log_every": 1, "checkpoint_every": 1})
    config.data.standardize = True
    run = aejax.fit(config, x, devices=one_device(), quiet=True)
    assert run.model.pre_bias
    assert run.variables["sparse"]["bottleneck"]["threshold"] > 0
    run.save_pretrained(tmp_path, metadata=METADATA)
    again = aejax.load_pretrained(tmp_path)
    assert again.sae.metadata["model_name"] == "gpt2-small"
    assert again.sae.metadata["training_architecture"] == "batchtopk"
    z = run.encode(x)
    assert 0 < (z > 0).sum(1).mean() < LATENTS / 2
    np.testing.assert_allclose(again.encode(x), z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(again.reconstruct(x), run.reconstruct(x), rtol=1e-4, atol=1e-3)


def test_a_unit_equal_to_the_threshold_of_batch_top_k_is_kept_in_the_file(tmp_path):
    run = aejax.load_pretrained(FOLDER / "topk")
    z = run.encode(X)
    threshold = np.sort(z[z > 0])[20]
    config = run.config.copy_and_resolve_references()
    config.bottleneck = aejax.config.module("batch_topk", features=LATENTS, k=K)
    variables = {**run.variables, "sparse": {"bottleneck": {"threshold": threshold}}}
    run = aejax.Run(config, run.spec, 0, variables, run.latents, run.reconstructions, run.inputs)
    expected = run.encode(X)
    assert (expected == threshold).sum() == 1
    run.save_pretrained(tmp_path)
    np.testing.assert_array_equal(aejax.load_pretrained(tmp_path).encode(X), expected)


def test_thresholds_of_published_models_are_trained_from(tmp_path):
    run = aejax.load_pretrained(FOLDER / "jumprelu")
    config = run.config
    config.update({"steps": 1, "batch_size": 8, "samples": 4, "log_every": 1, "checkpoint_every": 1})
    config.optim.lr = 1e-3
    config.bottleneck.bandwidth = 1.0
    trained = aejax.fit(config, X, init_from=run, devices=one_device(), quiet=True)
    there, here = (each.variables["params"]["bottleneck"]["threshold"] for each in (run, trained))
    assert 0 < np.abs(here - there).max() < 2e-3
    trained.save_pretrained(tmp_path, metadata=run.sae.metadata)
    again = aejax.load_pretrained(tmp_path)
    np.testing.assert_array_equal(again.encode(X), trained.encode(X))
    assert again.sae.metadata["hook_name"] == METADATA["hook_name"]


@pytest.mark.parametrize("case", ["standard", "topk", "batchtopk", "gated"])
def test_it_is_a_run_in_all_that_runs_do(case, tmp_path):
    run = aejax.load_pretrained(FOLDER / case)
    measures = run.evaluate(X, groups=["reconstruction"])
    error = np.square(X - run.reconstruct(X)).sum(1).mean()
    assert measures["reconstruction"]["squared_error"].value == pytest.approx(error, rel=1e-4)
    program = jax.export.deserialize(bytearray((run.export(tmp_path) / "encoder.stablehlo").read_bytes()))
    assert_close(np.asarray(program.call(X)), run.encode(X))
    with pytest.raises(aejax.InputError, match=r"reads examples of \(12,\), the input holds examples of \(13,\)"):
        run.encode(np.zeros((2, 13)))


def test_the_sparsity_is_kept(tmp_path):
    run = aejax.load_pretrained(FOLDER / "standard")
    np.testing.assert_allclose(run.sae.sparsity, np.linspace(-10, -1, LATENTS), rtol=1e-6)
    run.save_pretrained(tmp_path, format="saelens")
    np.testing.assert_array_equal(aejax.load_pretrained(tmp_path).sae.sparsity, run.sae.sparsity)


@pytest.mark.parametrize("case", mostly_slow(CHECKPOINTS, "matryoshka"))
def test_checkpoints_of_a_training_are_trained_on(case, tmp_path):
    """With batch top-k, its threshold and the widths of nested prefixes, where files for inference have thresholds."""
    run = aejax.load_pretrained(FOLDER / f"{case}_checkpoint")
    assert_computes(run, X, np.load(FOLDER / case / "expected.npz"))
    assert (run.config.bottleneck.name, run.config.bottleneck.k) == ("batch_topk", K)
    options = run.config.objective.options.to_dict()
    assert options == ({} if case == "batchtopk" else {"prefixes": {"widths": (8, 16)}})
    config = run.config
    config.update({"steps": 1, "batch_size": 8, "samples": 4, "log_every": 1, "checkpoint_every": 1})
    trained = aejax.fit(config, X, init_from=run, devices=one_device(), quiet=True)
    there, here = (each.variables["sparse"]["bottleneck"]["threshold"] for each in (run, trained))
    assert 0 < abs(here - there) < 0.1 * there
    run.save_pretrained(tmp_path)
    again = aejax.load_pretrained(tmp_path)
    assert_computes(again, X, np.load(FOLDER / case / "expected.npz"))
    assert again.sae.metadata == run.sae.metadata


@pytest.mark.slow
def test_a_transcoder_is_trained_from(tmp_path):
    run = aejax.load_pretrained(FOLDER / "skip_transcoder")
    y = np.random.default_rng(0).normal(size=(len(X), 10)).astype(np.float32)
    config = run.config
    config.update({"steps": 1, "batch_size": 8, "samples": 4, "log_every": 1, "checkpoint_every": 1})
    config.optim.lr = 1e-30
    trained = aejax.fit(config, X, target=y, init_from=run, devices=one_device(), quiet=True)
    trained.save_pretrained(tmp_path, metadata=METADATA)
    here, there = read(tmp_path), read(FOLDER / "skip_transcoder")
    assert here.keys() == there.keys()
    for name, value in there.items():
        np.testing.assert_allclose(here[name], value, rtol=1e-6, err_msg=name)


@pytest.mark.slow
def test_a_command_starts_from_a_folder(tmp_path):
    run = aejax.load_pretrained(FOLDER / "topk")
    config = run.config
    config.update({"steps": 1, "batch_size": 8, "samples": 4, "log_every": 1, "checkpoint_every": 1})
    config.optim.lr, config.init_from.workdir = 1e-30, str(FOLDER / "topk")
    trained = aejax.fit(config, X, devices=one_device(), quiet=True)
    np.testing.assert_allclose(trained.encode(X), run.encode(X), rtol=1e-6)


def test_decoder_rows_of_other_norms_are_folded(tmp_path):
    """As SAELens rescales activations by them: the selection is by the product with the norm."""
    shutil.copytree(FOLDER / "topk_trained", tmp_path, dirs_exist_ok=True)
    tensors = st.load_file(tmp_path / "sae_weights.safetensors")
    scale = np.exp(np.random.default_rng(0).normal(size=LATENTS)).astype(np.float32)
    tensors |= {"W_dec": tensors["W_dec"] * scale[:, None], "b_enc": tensors["b_enc"] / scale}
    tensors["W_enc"] = tensors["W_enc"] / scale
    st.save_file(tensors, tmp_path / "sae_weights.safetensors")
    assert_computes(aejax.load_pretrained(tmp_path), X, np.load(FOLDER / "topk_trained/expected.npz"))
    settings = json.loads((tmp_path / "cfg.json").read_text()) | {"rescale_acts_by_decoder_norm": False}
    (tmp_path / "cfg.json").write_text(json.dumps(settings))
    z = aejax.load_pretrained(tmp_path).encode(X)
    assert ((z > 0) != (np.load(FOLDER / "topk_trained/expected.npz")["z"] > 0)).any()


def test_the_scale_of_a_training_is_folded(tmp_path):
    shutil.copytree(FOLDER / "jumprelu", tmp_path, dirs_exist_ok=True)
    (tmp_path / "activation_scaler.json").write_text('{"scaling_factor": 0.5}')
    expected = np.load(FOLDER / "jumprelu/expected.npz")
    assert_computes(
        aejax.load_pretrained(tmp_path), X / 0.5, {"z": expected["z"], "decoded": expected["decoded"] / 0.5}
    )


def test_weights_in_shards_are_read(tmp_path):
    shutil.copytree(FOLDER / "jumprelu", tmp_path, dirs_exist_ok=True)
    whole = tmp_path / "sae_weights.safetensors"
    tensors = st.load_file(whole)
    whole.unlink()
    weight_map = {name: f"part-{'W' in name}.safetensors" for name in tensors}
    for file in set(weight_map.values()):
        st.save_file({n: a for n, a in tensors.items() if weight_map[n] == file}, tmp_path / file)
    (tmp_path / f"{whole.name}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_computes(aejax.load_pretrained(tmp_path), X, np.load(FOLDER / "jumprelu/expected.npz"))


def draw_dictionary(name):
    """The tensors and config.json of a class of dictionary_learning, which stores layers of PyTorch."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    shared = {"k": np.array(K, np.int32), "threshold": np.array(1.5, np.float32)}
    layers = {"encoder.weight": draw(LATENTS, INPUTS), "encoder.bias": draw(LATENTS)}
    layers["decoder.weight"] = draw(INPUTS, LATENTS)
    plain = {"W_enc": layers["encoder.weight"].T, "b_enc": layers["encoder.bias"], "b_dec": draw(INPUTS)}
    plain["W_dec"] = layers["decoder.weight"].T
    tensors = {
        "AutoEncoder": layers | {"bias": plain["b_dec"]},
        "AutoEncoderNew": layers | {"decoder.bias": plain["b_dec"]},
        "AutoEncoderTopK": layers | {"b_dec": plain["b_dec"]} | shared,
        "BatchTopKSAE": layers | {"b_dec": plain["b_dec"]} | shared,
        "MatryoshkaBatchTopKSAE": plain | shared | {"group_sizes": np.array([8, 24])},
        "GatedAutoEncoder": {"encoder.weight": layers["encoder.weight"], "decoder.weight": layers["decoder.weight"]}
        | {
            "decoder_bias": plain["b_dec"],
            "gate_bias": plain["b_enc"],
            "mag_bias": draw(LATENTS),
            "r_mag": draw(LATENTS),
        },
        "JumpReluAutoEncoder": plain | {"threshold": abs(draw(LATENTS))},
    }[name]
    trainer = {
        "dict_class": name,
        "activation_dim": INPUTS,
        "dict_size": LATENTS,
        "k": K,
        "lm_name": "pythia",
        "layer": 3,
    }
    tensors = {key: np.asarray(value, order="C") for key, value in tensors.items()}  # scalars keep their shape
    return tensors, {"trainer": trainer, "buffer": {}}, {key: value.astype(np.float64) for key, value in plain.items()}


DICTIONARIES = ["AutoEncoder", "AutoEncoderNew", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"]
DICTIONARIES += ["JumpReluAutoEncoder", "GatedAutoEncoder"]


@pytest.mark.parametrize("name", DICTIONARIES)
def test_classes_of_dictionary_learning_compute_their_formulas(name, tmp_path):
    tensors, config, plain = draw_dictionary(name)
    st.save_file(tensors, tmp_path / "ae.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    shift = 0 if name in ("AutoEncoderNew", "JumpReluAutoEncoder") else plain["b_dec"]
    units = np.maximum((X - shift) @ plain["W_enc"] + plain["b_enc"], 0)
    if name == "GatedAutoEncoder":
        gates, scale = (X - shift) @ plain["W_enc"], np.exp(tensors["r_mag"].astype(np.float64))
        units = (gates + plain["b_enc"] > 0) * np.maximum(scale * gates + tensors["mag_bias"], 0)
    elif name == "AutoEncoderTopK":
        units *= units >= np.sort(units, 1)[:, [-K]]
    elif "threshold" in tensors:
        units *= units > tensors["threshold"]
    decoded = units @ plain["W_dec"] + plain["b_dec"]
    if name == "AutoEncoder":  # which scales the decoder's rows to length 1
        units *= np.linalg.norm(plain["W_dec"], axis=1)
    run = aejax.load_pretrained(tmp_path)
    assert_computes(run, X, {"z": units, "decoded": decoded})
    assert run.sae.metadata["model_name"] == "pythia"
    run.save_pretrained(tmp_path / "out")
    again = aejax.load_pretrained(tmp_path / "out")
    np.testing.assert_array_equal(again.encode(X), run.encode(X))
    assert again.sae.metadata["layer"] == 3


@pytest.mark.slow
def test_the_command_that_converts_a_pickle_makes_a_file_that_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    tensors, config, _ = draw_dictionary("BatchTopKSAE")
    tensors = {name: torch.from_numpy(a) for name, a in tensors.items()}
    tensors["decoder.weight"] = tensors["decoder.weight"].T.contiguous().T  # as it is in theirs
    torch.save(tensors, tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps(config))
    for place in (tmp_path, tmp_path / "ae.pt"):
        with pytest.raises(aejax.InputError, match="is a pickle") as caught:
            aejax.load_pretrained(place)
    code = re.search(r'python -c "(.*)"$', str(caught.value)).group(1)
    subprocess.run([sys.executable, "-c", code], check=True)
    run = aejax.load_pretrained(tmp_path)
    np.testing.assert_array_equal(run.variables["params"]["decoder"]["dense_0"]["kernel"], tensors["decoder.weight"].T)


def settings(case, *without, **changes):
    """Changes the folder's cfg.json."""

    def change(folder):
        shutil.copytree(FOLDER / case, folder, dirs_exist_ok=True)
        config = json.loads((folder / "cfg.json").read_text()) | changes
        (folder / "cfg.json").write_text(json.dumps({k: v for k, v in config.items() if k not in without}))

    return change


def tensor(case, name, value):
    """Changes a tensor in the folder, or removes it."""

    def change(folder):
        shutil.copytree(FOLDER / case, folder, dirs_exist_ok=True)
        (file,) = [
            f for f in folder.iterdir() if f.name in ("sae_weights.safetensors", "sae.safetensors", "params.npz")
        ]
        tensors = dict(np.load(file)) if file.suffix == ".npz" else st.load_file(file)
        former = tensors.pop(name, None)
        made = value(former) if callable(value) else value
        tensors |= {} if made is None else {name: made}
        np.savez(file, **tensors) if file.suffix == ".npz" else st.save_file(tensors, file)

    return change


def with_nan(a):
    a = a.copy()
    a[3, 5] = np.nan
    return a


def content(case, name, change):
    def cut(folder):
        shutil.copytree(FOLDER / case, folder, dirs_exist_ok=True)
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return cut


def half(content):
    return content[: len(content) // 2]


def files(*names):
    return lambda folder: [(folder / name).write_text("{}") for name in names]


DAMAGE = {
    "an unknown architecture": (
        settings("topk", architecture="jumprellu"),
        r"cfg.json: architecture 'jumprellu' is unknown; did you mean 'jumprelu'\?",
    ),
    "no width": (settings("topk", "d_sae"), "cfg.json has no d_sae; add it"),
    "no k": (settings("topk", "k"), "cfg.json has no k; add it"),
    "half a unit": (settings("topk", k=2.5), "cfg.json: k must be a whole number above 0, got 2.5"),
    "k above the width": (settings("topk", k=33), "bottleneck.k must be from 1 to bottleneck.features=32, got 33"),
    "a width that is text": (settings("topk", d_in="12"), "d_in must be a whole number above 0, got '12'"),
    "another width": (
        settings("topk", d_in=13),
        r"W_enc has the shape \(12, 32\), not \[d_in, d_sae\] with d_in=13, d_sae=32",
    ),
    "a norm of each input": (settings("topk", normalize_activations="layer_norm"), "'layer_norm' is not supported"),
    "an unknown norm": (settings("topk", normalize_activations="l2"), "normalize_activations='l2' is unknown; set it"),
    "a bias that is text": (settings("topk", apply_b_dec_to_input="yes"), "must be true or false, got 'yes'"),
    "an activation": (
        settings("topk_of_version_3", activation_fn_str="tanh-relu"),
        "activation_fn='tanh-relu' is not supported; only 'relu' and 'topk' are",
    ),
    "no config": (
        lambda folder: (settings("topk")(folder), (folder / "cfg.json").unlink()),
        "holds no cfg.json beside sae_weights.safetensors",
    ),
    "no JSON": (content("topk", "cfg.json", half), "cfg.json is not a readable JSON object"),
    "a missing tensor": (tensor("topk", "b_enc", None), "; missing: b_enc$"),
    "a superfluous tensor": (tensor("topk", "threshold", np.ones(32, np.float32)), "; superfluous: threshold$"),
    "another shape": (
        tensor("jumprelu", "threshold", np.ones(31, np.float32)),
        r"threshold has the shape \(31,\), not",
    ),
    "not a number": (tensor("topk", "W_enc", with_nan), r"W_enc holds nan at \[3, 5\]; copy or download it again"),
    "whole numbers": (tensor("topk", "b_enc", np.ones(32, np.int64)), "b_enc is int64; convert it to float16"),
    "cut weights": (content("topk", "sae_weights.safetensors", half), "safetensors is damaged or cut short"),
    "no sparsity": (content("standard", "sparsity.safetensors", half), "sparsity.safetensors is damaged or cut short"),
    "cut parameters": (content("gemma_scope", "params.npz", half), "params.npz"),
    "no threshold": (tensor("gemma_scope", "threshold", None), "must hold the tensors .*; missing: threshold$"),
    "no encoder": (tensor("gemma_scope", "W_enc", None), "; missing: W_enc$"),
    "a matrix of three axes": (tensor("gemma_scope", "W_enc", lambda a: a[None]), "W_enc has the shape"),
    "infinity": (tensor("gemma_scope", "b_dec", np.full(12, np.inf, np.float32)), r"b_dec holds inf at \[0\]"),
    "a pickle in params.npz": (
        tensor("gemma_scope", "threshold", np.array([{}] * 32)),
        "params.npz",
    ),
    "whitening": (
        lambda f: (settings("topk")(f), (f / "activation_whitening.safetensors").touch()),
        "activation_whitening.safetensors whitens the input, and is not folded",
    ),
    "a scale of 0": (
        lambda f: (settings("topk")(f), (f / "activation_scaler.json").write_text('{"scaling_factor": 0}')),
        "scaling_factor=0 cannot be folded into the weights",
    ),
    "a skip connection": (settings("sparsify", skip_connection=True), "supported with transcode=True alone"),
    "a transcoder that is text": (settings("sparsify", transcode="no"), "transcode must be true or false, got 'no'"),
    "a transcoder without a size": (settings("transcoder", "d_out"), "cfg.json has no d_out; add it"),
    "a transcoder of another size": (
        settings("transcoder", d_out=11),
        r"W_dec has the shape \(32, 10\), not \[d_sae, d_out\] with d_sae=32, d_out=11",
    ),
    "a bias of another space": (
        settings("transcoder", apply_b_dec_to_input=True),
        "must be false for a transcoder, whose b_dec is of its output",
    ),
    "no linear map": (tensor("skip_transcoder", "W_skip", None), "; missing: W_skip$"),
    "a list of architectures": (settings("topk", architecture=["topk"]), "architecture .* is unknown; choose one of"),
    "groups": (settings("sparsify", activation="groupmax"), "activation='groupmax' is not supported; only 'topk' is"),
    "another width of sparsify": (settings("sparsify", num_latents=0, expansion_factor=2), r"\(32, 12\), not \[d_sae"),
    "no weights": (files("cfg.json"), "holds cfg.json and no weights; put sae_weights.safetensors or sae.safetensors"),
    "a pickle": (
        files("ae.pt", "config.json"),
        r"ae.pt is a pickle of dictionary_learning, .* python -c \"import torch",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_line(damage, tmp_path):
    make, message = DAMAGE[damage]
    make(tmp_path)
    with pytest.raises(aejax.AejaxError, match=message) as caught:
        aejax.load_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("outputs", "hint"), [(4, "format='sparsify'"), (3, "bottleneck.name=batch_topk")])
def test_a_topk_transcoder_is_told_what_holds_it(outputs, hint, tmp_path):
    """SAELens has no class for it."""
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    config = aejax.config.default()
    config.update({"steps": 1, "checkpoint_every": 1, "batch_size": 8})
    config.bottleneck, config.decoder = module("topk", features=6, k=2), module("dictionary")
    run = aejax.fit(config, x, target=x[:, :outputs], quiet=True)
    with pytest.raises(aejax.InputError, match=f"saelens has no topk transcoders, only standard, jumprelu; .*{hint}"):
        run.save_pretrained(tmp_path / "sae", format="saelens")
    if outputs == 4:
        again = aejax.load_pretrained(run.save_pretrained(tmp_path / "sae", format="sparsify"))
        np.testing.assert_allclose(again.reconstruct(x), run.reconstruct(x), rtol=1e-5, atol=1e-5)


def test_what_a_layout_does_not_have_is_one_line(tmp_path):
    run = aejax.load_pretrained(FOLDER / "topk")
    for options, message in [
        ({"format": "gemma_scope"}, "the layout gemma_scope has no topk autoencoders, only jumprelu; choose another"),
        ({"format": "saelense"}, "format 'saelense' is unknown; did you mean 'saelens'?"),
        ({"format": "diffusers"}, "diffusers has no class for the parts"),
        ({"dtype": "int8"}, "dtype 'int8' is unknown"),
    ]:
        with pytest.raises(aejax.InputError, match=re.escape(message)):
            run.save_pretrained(tmp_path, **options)
    with pytest.raises(aejax.InputError, match="holds a sparse autoencoder, which reads vectors; leave size out"):
        aejax.load_pretrained(FOLDER / "topk", size=8)
    jump = aejax.load_pretrained(FOLDER / "gemma_scope")
    scaled = aejax.load_pretrained(FOLDER / "topk_per_token")
    with pytest.raises(aejax.InputError, match=r"the layout sparsify has no data\.normalize=per_token"):
        scaled.save_pretrained(tmp_path, format="sparsify")
    with pytest.raises(aejax.InputError, match="gemma_scope has no metadata, and float32 alone"):
        jump.save_pretrained(tmp_path, metadata=METADATA)
    large = {"params": {**run.variables["params"], "decoder": {"dense_0": {"bias": np.full(12, 1e6, np.float32)}}}}
    large["params"]["decoder"]["dense_0"]["kernel"] = run.variables["params"]["decoder"]["dense_0"]["kernel"]
    run = aejax.Run(run.config, run.spec, 0, large, run.latents, run.reconstructions, run.inputs)
    with pytest.raises(aejax.InputError, match=r"b_dec does not fit into float16: its largest value is 1e\+06"):
        run.save_pretrained(tmp_path, "float16")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("encoder", {"features": (8,)}, "the model has the encoder MLPEncoder with layers"),
        ("decoder", {"features": (8,)}, "the model has the decoder MLPDecoder that is not one linear layer"),
        ("bottleneck", {"name": "identity"}, "the model has the bottleneck IdentityBottleneck"),
        ("bottleneck", {"name": "dense", "features": 32, "activation": "gelu"}, "has bottleneck.activation='gelu'"),
        ("likelihood", {"name": "bernoulli"}, "has the likelihood Bernoulli, whose mean is another than what"),
    ],
)
def test_a_model_that_is_no_sparse_autoencoder_is_one_line(section, change, message, tmp_path):
    run = aejax.load_pretrained(FOLDER / "topk")
    config = run.config.copy_and_resolve_references().unlock()
    config[section] = aejax.config.module(**{"name": "mlp", **change})
    run = aejax.Run(config, run.spec, 0, run.variables, run.latents, run.reconstructions, run.inputs)
    with pytest.raises(aejax.InputError, match=message):
        run.save_pretrained(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", SAELENS)
def test_saelens_itself_computes_the_same_of_what_is_written(case, tmp_path):
    """With its metadata, where it is installed."""
    pytest.importorskip("sae_lens", minversion="6.54")
    run = aejax.load_pretrained(FOLDER / case)
    x = np.random.default_rng(1).normal(size=(500, INPUTS)).astype(np.float32)
    for dtype in ("float32", SAELENS[case][2]):
        run.save_pretrained(tmp_path / dtype, dtype, metadata={"neuronpedia_id": "mine"})
        there = load(tmp_path / dtype)
        assert_computes(run, x, compute(there, x))
        assert there.cfg.metadata["hook_name"] == METADATA["hook_name"]
        assert there.cfg.metadata["neuronpedia_id"] == "mine"
        assert there.cfg.dtype == "float32"  # in which it was asked to load


@pytest.mark.slow
@pytest.mark.parametrize("case", ["topk", "sparsify", "sparsify_transcoder"])
def test_sparsify_itself_computes_the_same_of_what_is_written(case, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSIFY_DISABLE_TRITON", "1")
    torch, sparsify = pytest.importorskip("torch"), pytest.importorskip("sparsify")
    run = aejax.load_pretrained(FOLDER / case)
    run.save_pretrained(tmp_path, format="sparsify")
    x = np.random.default_rng(1).normal(size=(500, INPUTS)).astype(np.float32)
    with torch.no_grad():
        there = sparsify.SparseCoder.load_from_disk(tmp_path)
        found = there.encode(torch.from_numpy(x))
        z = torch.zeros(len(x), LATENTS).scatter_(1, found.top_indices, found.top_acts)
        decoded = there(torch.from_numpy(x)).sae_out
    assert_computes(run, x, {"z": z.numpy(), "decoded": decoded.numpy()})
