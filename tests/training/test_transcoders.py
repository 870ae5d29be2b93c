"""Transcoders, skip transcoders and crosscoders: their losses by brute force, their data, and their runs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import context, mlp, one_device

import aejax
from aejax import data
from aejax.config import module
from aejax.data import Spec, write_activations
from aejax.distributed.partition import Partition
from aejax.evaluation import Skipped, Subject, generation, interactive, latent_page
from aejax.evaluation.pictures import of_subject as pictures
from aejax.evaluation.reconstruction import squared_errors
from aejax.objectives import TERMS
from aejax.training import multistep
from aejax.training.step import derive_keys, eval_step, init
from aejax.training.task import make_task

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(400, 6)) + 3).astype(np.float32)
Y = (np.maximum(X @ RNG.normal(size=(6, 4)), 0) + X.sum(1, keepdims=True)).astype(np.float32)


def config(**changes):
    config = mlp(**{"batch_size": 32, "steps": 8, "log_every": 2, "checkpoint_every": 4, **changes})
    config.encoder, config.decoder = module("mlp"), module("mlp")
    config.bottleneck, config.likelihood = module("topk", features=12, k=3), module("squared_error")
    return config


@pytest.mark.parametrize("skip", [False, True])
def test_the_loss_is_that_of_the_formula(skip):
    """sum over values of (W_dec TopK(W_enc x + b_enc) + b_dec + W_skip x - y)^2 (Dunefsky 2024; Paulo 2025)."""
    task = make_task(config(skip=skip), Spec((6,), target=(4,)))
    state = init(task, (6,), jax.random.key(0))
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), state.params)
    batch = {"x": jnp.asarray(X[:5]), "target": jnp.asarray(Y[:5]), "index": jnp.arange(5), "weight": jnp.ones(5)}

    def loss(params):
        output = task.apply({"params": params}, batch["x"], batch, None)
        keys = derive_keys(jax.random.key(0), batch)
        return task.losses(task.context({"params": params}, batch["x"], batch, output, keys, None, None))["loss"].sum()

    def formula(params):
        dense, decoder, total = params["bottleneck"]["dense"], params["decoder"]["dense_0"], 0.0
        for x, y in zip(X[:5], Y[:5], strict=True):
            units = jnp.maximum(x @ dense["kernel"] + dense["bias"], 0)
            kept = jnp.where(units >= jnp.sort(units)[-3], units, 0)
            decoded = kept @ decoder["kernel"] + decoder["bias"]
            total += jnp.square(decoded + (x @ params["skip_map"]["kernel"] if skip else 0) - y).sum()
        return total

    np.testing.assert_allclose(loss(params), formula(params), rtol=1e-5)
    for ours, theirs in zip(*(jax.tree.leaves(jax.grad(f)(params)) for f in (loss, formula)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    measured = eval_step(dataclasses.replace(state, params=params), batch, task=task)
    np.testing.assert_allclose(measured["squared_error"], formula(params), rtol=1e-5)


def test_a_transcoder_starts_at_both_means():
    """Its units read x - mean(x), as with a pre-encoder bias, and the decoder's bias is the target's mean."""
    begun = config(steps=1)
    begun.optim.lr = 1e-30
    run = aejax.fit(begun, X, target=Y, devices=one_device(), quiet=True)
    train = run.train_split
    rows = train.take(np.arange(len(train)))
    params = run.variables["params"]
    kernel = params["bottleneck"]["dense"]["kernel"]
    np.testing.assert_allclose(params["decoder"]["dense_0"]["bias"], rows["target"].mean(0), rtol=1e-5)
    np.testing.assert_allclose(params["bottleneck"]["dense"]["bias"], -rows["x"].mean(0) @ kernel, rtol=1e-4, atol=1e-5)
    assert not run.model.pre_bias


def test_a_skip_transcoder_learns_a_linear_map_that_a_narrow_code_cannot(tmp_path):
    def train(skip, folder):
        made = config(skip=skip, steps=400, checkpoint_every=200, log_every=20)
        made.bottleneck.features, made.bottleneck.k, made.optim.lr = 2, 1, 0.01
        linear = (X - X.mean(0)) @ np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
        run = aejax.fit(made, X, folder, target=linear, devices=one_device(), quiet=True)
        return run, np.square(run.reconstruct(X) - linear).sum(1).mean() / linear.var(0).sum()

    run, unexplained = train(True, tmp_path / "skip")
    assert unexplained < 0.05
    assert train(False, tmp_path / "plain")[1] > 0.3
    loaded = aejax.load_run(tmp_path / "skip")
    np.testing.assert_array_equal(loaded.reconstruct(X), run.reconstruct(X))
    np.testing.assert_array_equal(loaded.encode(X), run.encode(X))
    code = run.decode(run.encode(X))  # without the map, which needs x
    kernel = np.asarray(run.variables["params"]["skip_map"]["kernel"])
    np.testing.assert_allclose(code + X @ kernel, run.reconstruct(X), rtol=1e-4, atol=1e-4)
    folder = run.export(tmp_path / "programs")
    program = jax.export.deserialize(bytearray((folder / "decoder.stablehlo").read_bytes()))
    decoded = program.call(jnp.asarray(run.encode(X[:3])), jnp.asarray(X[:3]))
    np.testing.assert_allclose(decoded, run.reconstruct(X[:3]), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    write_activations(folder / "in", [X], shard_rows=150)
    write_activations(folder / "out", [Y], shard_rows=170, format="safetensors")  # divided otherwise
    return folder


def stored(stores, **changes):
    made = config(**changes)
    made.data.update({"name": f"{stores}/in", "target": f"{stores}/out", "memory_mb": 0, "buffer": 64})
    return made


def test_targets_stay_beside_their_inputs_in_the_buffer(stores):
    made, partition = stored(stores), Partition(one_device())
    train = data.load(made.data).train
    feeds = [data.Feed(train, budget, partition.replicate, buffer=64) for budget in (0, 2**30)]
    for batch in multistep.batches(feeds[0], 32, 0, partition, 2, range(20)):
        np.testing.assert_array_equal(batch["x"], X[batch["index"]])
        np.testing.assert_array_equal(batch["target"], Y[batch["index"]])
    np.testing.assert_array_equal(feeds[1].held["target"], Y[:320])


def test_a_transcoder_of_stores_resumes_and_is_measured_against_its_targets(stores, tmp_path):
    options = {"devices": one_device(), "quiet": True}
    whole = aejax.train(stored(stores), tmp_path / "whole", **options)
    aejax.train(stored(stores, steps=4), tmp_path / "parts", **options)
    parts = aejax.train(stored(stores), tmp_path / "parts", **options)
    assert whole.fingerprint == parts.fingerprint
    found = whole.evaluate(groups=["reconstruction"])["reconstruction"]
    test = data.load(stored(stores).data).test.take(np.arange(40))
    wanted = np.square(whole.reconstruct(test["x"]) - test["target"]).sum(1).mean()
    np.testing.assert_allclose(found["squared_error"].value, wanted, rtol=1e-5)
    np.testing.assert_allclose(found["squared_error_per_value"].value, wanted / 4, rtol=1e-5)
    found = whole.evaluate(groups=["sparse"])["sparse"]
    total = np.square(test["target"] - test["target"].mean(0)).sum(1).mean()
    np.testing.assert_allclose(found["unexplained"].value, wanted / total, rtol=1e-5)
    assert found["mcc"].reason == "the target has no known features"
    subject = Subject.of(whole)
    pairs = [*subject.test.pair()]  # computed batch by batch
    latents = latent_page.describe(subject.test)
    assert {latent.direction.shape for latent in latents} == {(4,)}
    assert all("transcoder generates targets" in each.reason for each in generation.measure(subject).values())
    _, page, numbers = interactive.view(subject)
    errors = squared_errors(test["target"], whole.reconstruct(test["x"]))
    np.testing.assert_allclose(np.float64(numbers["errors"]), errors, rtol=1e-3)
    assert "<th>Target</th>" in page
    for (wanted, decoded), (kept, again) in zip(pairs, subject.test.pair(), strict=True):
        np.testing.assert_array_equal(wanted, test["target"])
        np.testing.assert_array_equal(wanted, kept)
        np.testing.assert_allclose(decoded, again, rtol=1e-5)
    assert not isinstance(pictures.reconstructions(subject), Skipped)
    with pytest.raises(
        aejax.InputError, match=r"the run decodes targets of \(4,\), and the given data has none; give target="
    ):
        whole.evaluate(X)
    given = whole.evaluate(test["x"], target=test["target"], groups=["reconstruction"])["reconstruction"]
    wanted = np.square(whole.reconstruct(test["x"]) - test["target"]).sum(1).mean()
    np.testing.assert_allclose(given["squared_error"].value, wanted, rtol=1e-5)
    for arguments, options, message in (
        ((X,), {"target": Y[:, :3]}, r"the run decodes targets of \(4,\), but the given data holds \(3,\)"),
        ((X,), {"target": Y[:3]}, "x has 400 examples and data.target has 3"),
        ((), {"target": Y}, "label and target belong to x"),
    ):
        with pytest.raises(aejax.InputError, match=message):
            whole.evaluate(*arguments, **options)


@pytest.mark.parametrize("layers", [1, 3])
def test_the_penalty_of_crosscoders_adds_up_the_lengths_of_each_layer(layers):
    """sum_j |z_j| sum_l |W_dec,j^l| (Lindsey 2024, equation 3), in loops."""
    rng = np.random.default_rng(2)
    kernel, z = rng.normal(size=(5, layers * 2)).astype(np.float32), rng.normal(size=(4, 5)).astype(np.float32)
    x = np.zeros((4, layers, 2) if layers > 1 else (4, 2), np.float32)
    wanted = np.zeros(4)
    for i, j, layer in np.ndindex(4, 5, layers):
        wanted[i] += abs(z[i, j]) * np.sqrt(sum(kernel[j, 2 * layer + k] ** 2 for k in range(2)))
    c = context(z=jnp.asarray(z), x=jnp.asarray(x), variables={"params": {"decoder": {"dense_0": {"kernel": kernel}}}})
    np.testing.assert_allclose(TERMS["crosscoder_l1"](c), wanted, rtol=1e-5)


def test_a_crosscoder_encodes_the_sum_over_layers_and_decodes_each(tmp_path):
    x = X.reshape(-1, 3, 2)
    made = config(steps=40)
    made.data.layers, made.objective.weights.crosscoder_l1 = 3, 0.01
    run = aejax.fit(made, x, tmp_path / "run", devices=one_device(), quiet=True)
    params = jax.tree.map(np.asarray, run.variables["params"])
    bias, dense = params["decoder"]["dense_0"]["bias"].reshape(3, 2), params["bottleneck"]["dense"]
    encoders = dense["kernel"].reshape(3, 2, 12)
    units = sum((x[:, layer] - bias[layer]) @ encoders[layer] for layer in range(3)) + dense["bias"]
    units = np.maximum(units, 0)
    z = np.where(units >= np.sort(units, 1)[:, -3:-2], units, 0)
    np.testing.assert_allclose(run.encode(x), z, rtol=1e-4, atol=1e-4)
    decoders = params["decoder"]["dense_0"]["kernel"].reshape(12, 3, 2)
    decoded = np.stack([z @ decoders[:, layer] + bias[layer] for layer in range(3)], 1)
    np.testing.assert_allclose(run.reconstruct(x), decoded, rtol=1e-4, atol=1e-4)
    assert aejax.load_run(tmp_path / "run").measure_latents(x).mean


def test_what_does_not_fit_is_said_in_one_line(stores, tmp_path):
    with pytest.raises(aejax.InputError, match=r"skip=True is for transcoders without classes; set data.target"):
        aejax.fit(config(skip=True), X, devices=one_device())
    made = config()
    made.data.standardize = True
    with pytest.raises(aejax.InputError, match=r"data.standardize scales x alone, and a transcoder has a target"):
        aejax.fit(made, X, target=Y, devices=one_device())
    made.data.update({"standardize": False, "normalize": "per_token"})
    with pytest.raises(aejax.InputError, match=r"data.normalize scales x alone, and a transcoder has a target"):
        aejax.fit(made, X, target=Y, devices=one_device())
    with pytest.raises(
        aejax.InputError, match=r"has 400 examples and data.target has 399; give the activations of the"
    ):
        aejax.fit(config(), X, target=Y[1:], devices=one_device())
    made = config()
    made.data.layers = 2
    with pytest.raises(aejax.InputError, match=r"shape \(400, 3, 2\), and data.layers=2 means \[n, 2, features\]"):
        aejax.fit(made, X.reshape(-1, 3, 2), devices=one_device())
    made = stored(stores)
    made.data.layers = 3
    with pytest.raises(aejax.InputError, match=r"holds examples of \(6,\), and data.layers=3; set it"):
        aejax.train(made, tmp_path, devices=one_device())
    made = config(bottleneck=module("topk", features=12, k=3))
    made.decoder.features, made.objective.weights.crosscoder_l1 = (7,), 1.0
    with pytest.raises(aejax.InputError, match="crosscoder_l1 needs a decoder of one linear layer"):
        aejax.fit(made, X, devices=one_device())
