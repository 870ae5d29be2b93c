"""Autoencoders that start as PCA, by layers written out."""

import itertools

import jax
import numpy as np
import pytest

from aejax.models import pca


def layers_of(widths, rng):
    shapes = itertools.pairwise(widths)
    return [{"kernel": rng.normal(size=shape), "bias": rng.normal(size=shape[1])} for shape in shapes]


def computed(layers, x):
    """The output of dense layers with relus between them."""
    for i, layer in enumerate(layers):
        x = np.maximum(x, 0) if i else x
        x = x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
    return x


@pytest.mark.parametrize(("encoder", "decoder"), [((), ()), ((4, 6, 5), (9, 4))])
def test_codes_are_the_coordinates_and_reconstructions_the_projections(encoder, decoder):
    rng = np.random.default_rng(0)
    components, mean = np.linalg.qr(rng.normal(size=(5, 2)))[0].T, rng.normal(size=5)
    *hidden, last = layers_of((5, *encoder, 2), rng)
    params = {"bottleneck": {"dense": last}}
    params["decoder"] = {f"dense_{i}": layer for i, layer in enumerate(layers_of((2, *decoder, 5), rng))}
    if hidden:
        params["encoder"] = {f"dense_{i}": layer for i, layer in enumerate(hidden)}
    made = jax.jit(pca.initialize)(components, mean, params)
    x = rng.normal(size=(20, 5))
    z = computed([*made.get("encoder", {}).values(), made["bottleneck"]["dense"]], x)
    np.testing.assert_allclose(z, (x - mean) @ components.T, atol=1e-5)
    np.testing.assert_allclose(computed(list(made["decoder"].values()), z), z @ components + mean, atol=1e-5)
