"""Terms of sparse autoencoders against NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import context

import aejax
from aejax import config as config_lib
from aejax import models
from aejax.config import module
from aejax.models.bottlenecks import Units
from aejax.objectives import TERMS

SIZE, UNITS, BATCH = 5, 12, 7


def coded(bottleneck, tied=False, dead=None, **fields):
    """A context of a sparse autoencoder with random weights, x, and its parameters in NumPy."""
    config = config_lib.default()
    config.bottleneck = module(**{**bottleneck, "features": UNITS})
    config.decoder = module("dictionary", tied=tied)
    model = models.build(config, (SIZE,))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, SIZE)).astype(np.float32)
    variables = model.init(jax.random.key(0), x)
    params = jax.tree.map(lambda a: rng.normal(0, 0.5, a.shape).astype(np.float32), variables["params"])
    variables = {**variables, "params": params}
    output = model.apply(variables, x)
    if dead is not None:
        code = output.code
        units = Units(code.units.pre, jnp.float32(dead), code.units.threshold)
        output = output.replace(code=code.replace(units=units))
    c = dataclasses.replace(context(x), apply=model.apply, variables=variables, output=output, **fields)
    return c, x, params


def layers(params):
    encoder, decoder = params["bottleneck"]["dense"], params["decoder"]["dense_0"]
    return encoder["kernel"], encoder["bias"], decoder["kernel"], decoder["bias"]


@pytest.mark.parametrize("norms", [False, True])
def test_penalties_of_the_code(norms):
    c, x, params = coded({"name": "relu"})
    kernel, bias, rows, center = layers(params)
    z = np.maximum((x - center) @ kernel + bias, 0)
    weight = np.linalg.norm(rows, axis=1) if norms else np.ones(UNITS)
    np.testing.assert_allclose(TERMS["l1"](c, decoder_norms=norms), (z * weight).sum(1), rtol=1e-5)
    found = TERMS["tanh_sparsity"](c, scale=3.0, decoder_norms=norms)
    np.testing.assert_allclose(found, np.tanh(3 * z * weight).sum(1), rtol=1e-5)


def test_the_distance_from_a_target_l0():
    c, x, params = coded({"name": "jumprelu"})
    kernel, bias, _, center = layers(params)
    active = ((x - center) @ kernel + bias > np.exp(params["bottleneck"]["log_threshold"])).sum(1)
    np.testing.assert_allclose(TERMS["l0_target"](c, target=4.0), (active / 4 - 1) ** 2, rtol=1e-5)


@pytest.mark.parametrize("norms", [False, True])
def test_losses_of_gates(norms):
    c, x, params = coded({"name": "gated"})
    kernel, bias, rows, center = layers(params)
    shared = (x - center) @ kernel
    gates = np.maximum(shared + bias, 0)
    own = params["bottleneck"]
    z = (shared + bias > 0) * np.maximum(np.exp(own["log_scale"]) * shared + own["bias"], 0)
    np.testing.assert_allclose(c.z, z, rtol=1e-5, atol=1e-6)
    weight = np.linalg.norm(rows, axis=1) if norms else np.ones(UNITS)
    np.testing.assert_allclose(TERMS["gate_l1"](c, decoder_norms=norms), (gates * weight).sum(1), rtol=1e-5)
    expected = np.square(x - (gates @ rows + center)).sum(1)
    np.testing.assert_allclose(TERMS["gate_reconstruction"](c), expected, rtol=1e-5)


def test_the_decoder_is_frozen_in_the_reconstruction_of_gates():
    c, x, params = coded({"name": "gated"})

    def loss(params):
        variables = {**c.variables, "params": params}
        output = c.apply(variables, x)
        return TERMS["gate_reconstruction"](dataclasses.replace(c, variables=variables, output=output)).sum()

    grads = jax.grad(loss)(params)
    assert not np.any(grads["decoder"]["dense_0"]["kernel"])
    assert np.any(grads["bottleneck"]["dense"]["kernel"])
    assert not np.any(grads["bottleneck"]["log_scale"])


def test_prefixes_reconstruct_alone():
    c, x, params = coded({"name": "topk", "k": 4})
    *_, rows, center = layers(params)
    z = np.asarray(c.z)
    expected = sum(np.square(x - (z[:, :w] @ rows[:w] + center)).sum(1) for w in (2, 5, 9))
    np.testing.assert_allclose(TERMS["prefixes"](c, widths=(2, 5, 9)), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["topk", "batch_topk"])
def test_prefixes_of_kept_units_are_those_of_the_dense_code(name, monkeypatch):
    config = config_lib.default()
    config.bottleneck = module(name, features=256, k=3)
    config.decoder = module("dictionary")
    x = np.random.default_rng(0).normal(size=(6, SIZE)).astype(np.float32)
    model = models.build(config, (SIZE,))
    variables = model.init(jax.random.key(0), x)
    kept = model.apply(variables, x, train=True, mutable=["sparse"])[0].code.kept
    # Some kept units are the first after a prefix.
    widths = tuple(np.unique([20, 64, 200, *kept.indices[:, 0]]).tolist())

    def loss(params):
        given = {**variables, "params": params}
        output, _ = model.apply(given, x, train=True, mutable=["sparse"])
        c = dataclasses.replace(context(x), apply=model.apply, variables=given, output=output)
        return TERMS["prefixes"](c, widths=widths).sum()

    by_kept, grads = jax.value_and_grad(loss)(variables["params"])
    monkeypatch.setattr("aejax.objectives.sparsity.is_worthwhile", lambda features, k: False)
    by_dense, expected = jax.value_and_grad(loss)(variables["params"])
    np.testing.assert_allclose(by_kept, by_dense, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), grads, expected)


def test_ghost_gradients():
    dead = np.arange(UNITS) % 3 == 0
    c, x, params = coded({"name": "relu", "dead_after": 5}, dead=dead)
    kernel, bias, rows, center = layers(params)

    def ghosts(kernel, rows):
        return jnp.exp((x - center) @ kernel + bias)[:, dead] @ rows[dead]

    missed = x - np.asarray(c.output.decoded)
    length = np.linalg.norm(missed, axis=1)
    scale = length / (2 * np.linalg.norm(ghosts(kernel, rows), axis=1))
    found = TERMS["ghost"](c)
    np.testing.assert_allclose(found, length**2, rtol=1e-4)  # its value is the reconstruction's, its gradient is not
    errors = np.square(missed - scale[:, None] * ghosts(kernel, rows)).sum(1)

    def loss(rows):
        layer = {**params["decoder"]["dense_0"], "kernel": rows}
        variables = {**c.variables, "params": {**params, "decoder": {"dense_0": layer}}}
        return TERMS["ghost"](dataclasses.replace(c, variables=variables)).sum()

    def expected(rows):
        return (jnp.square(missed - scale[:, None] * ghosts(kernel, rows)).sum(1) * length**2 / errors).sum()

    np.testing.assert_allclose(jax.grad(loss)(rows), jax.grad(expected)(rows), rtol=1e-3, atol=1e-3)
    none, *_ = coded({"name": "relu", "dead_after": 5}, dead=0 * dead)
    assert not np.any(TERMS["ghost"](none))


def test_what_dead_units_lack():
    dead = np.arange(UNITS) % 3 == 0
    c, x, params = coded({"name": "jumprelu", "dead_after": 5}, dead=dead)
    kernel, bias, rows, center = layers(params)
    lacking = np.maximum(np.exp(params["bottleneck"]["log_threshold"]) - ((x - center) @ kernel + bias), 0) * dead
    expected = (lacking * np.linalg.norm(rows, axis=1)).sum(1)
    np.testing.assert_allclose(TERMS["pre_activation"](c), expected, rtol=1e-5)
    np.testing.assert_allclose(TERMS["pre_activation"](c, decoder_norms=False), lacking.sum(1), rtol=1e-5)


def test_norms_of_a_tied_decoder_are_those_of_its_atoms():
    c, _, params = coded({"name": "matching_pursuit", "k": 3}, tied=True)
    norms = np.linalg.norm(params["bottleneck"]["dense"]["kernel"], axis=0)
    np.testing.assert_allclose(TERMS["l1"](c, decoder_norms=True), (np.asarray(c.z) * norms).sum(1), rtol=1e-5)


RELU, TOPK = {"name": "relu"}, {"name": "topk", "k": 2}


@pytest.mark.parametrize(
    ("bottleneck", "term", "options", "message"),
    [
        (TOPK, "prefixes", {"widths": (3, 3)}, r"widths must rise from above 0 to below bottleneck\.features=12"),
        (TOPK, "prefixes", {"widths": (3, 12)}, r"below bottleneck\.features=12, got \(3, 12\)"),
        (TOPK, "prefixes", {"widths": (0, 3)}, r"must rise from above 0"),
        (TOPK, "prefixes", {}, r"must rise from above 0 to below bottleneck\.features=12, got \(\)"),
        (TOPK, "l0_target", {}, r"l0_target needs a bottleneck with an l0"),
        ({"name": "jumprelu"}, "l0_target", {"target": 0.0}, r"l0_target\.target must be above 0, got 0\.0"),
        (RELU, "ghost", {}, r"ghost needs bottleneck\.dead_after"),
        (RELU, "pre_activation", {}, r"pre_activation needs bottleneck\.name=jumprelu"),
        ({"name": "dense"}, "gate_l1", {}, r"gate_l1 needs gates: bottleneck\.name=gated; without, set l1"),
        (TOPK, "gate_l1", {}, r"gate_l1 needs gates"),
        (RELU, "gate_reconstruction", {}, r"gate_reconstruction needs gates"),
        ({"name": "dense"}, "ghost", {}, r"ghost needs a sparse bottleneck"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(bottleneck, term, options, message):
    c, *_ = coded(bottleneck)
    with pytest.raises(aejax.InputError, match=message) as caught:
        TERMS[term](c, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("bottleneck", "decoder", "message"),
    [
        ({"name": "matching_pursuit", "k": 13}, {}, r"bottleneck\.k must be from 1 to bottleneck\.features=12, got 13"),
        ({"name": "relu", "resample": 5}, {}, r"bottleneck\.resample needs bottleneck\.dead_after"),
        (TOPK, {"initial_bias": "median"}, r"decoder\.initial_bias 'median'"),
        ({"name": "gaussian"}, {"tied": True}, r"decoder\.tied needs a bottleneck with a kernel of \(5, 12\)"),
    ],
)
def test_models_that_do_not_fit_are_refused_in_a_line(bottleneck, decoder, message):
    config = config_lib.default()
    config.bottleneck = module(**{**bottleneck, "features": UNITS})
    config.decoder = module("dictionary", **decoder)
    with pytest.raises(aejax.InputError, match=message) as caught:
        models.build(config, (SIZE,))
    assert "\n" not in str(caught.value)
