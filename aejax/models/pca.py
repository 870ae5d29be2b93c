"""Starts an autoencoder of dense layers as the principal component analysis of its data."""

from typing import Any

import jax.numpy as jnp
from jax import Array


def start(components: Array, mean: Array, params: Any) -> Any:
    """Returns parameters with which an autoencoder encodes and decodes as PCA does, everywhere and not only nearby.

    Component k passes a layer of relus as the pair relu(z_k) and relu(-z_k). The other units keep the incoming weights
    they have and start with outgoing weights of 0, so that training goes on from PCA.

    Args:
      components: orthonormal rows [n, features], n the width of the code.
      mean: of the data, [features].
      params: of an mlp encoder and decoder, with relus at least 2n wide or without hidden layers, and a dense
        bottleneck.
    """
    n = len(components)
    inputs, codes = components.T, jnp.eye(n)
    shift = -components @ mean
    layers = params.get("encoder", {})  # none without hidden layers
    encoder = [*(layers[f"dense_{i}"] for i in range(len(layers))), params["bottleneck"]["dense"]]
    decoder = [params["decoder"][f"dense_{i}"] for i in range(len(params["decoder"]))]
    *hidden, code = _chain(encoder, inputs, shift, codes, jnp.zeros(n))
    decoded = _chain(decoder, codes, jnp.zeros(n), components, mean)
    named = lambda layers: {f"dense_{i}": layer for i, layer in enumerate(layers)}  # noqa: E731
    start = {**params, "bottleneck": {"dense": code}, "decoder": named(decoded)}
    return start | ({"encoder": named(hidden)} if hidden else {})


def _chain(layers: list[Any], first: Array, shift: Array, last: Array, offset: Array) -> list[Any]:
    """Returns layers that compute `(x @ first + shift) @ last + offset`, with relus between them."""
    n = first.shape[1]
    if len(layers) == 1:
        return [{"kernel": first @ last, "bias": shift @ last + offset}]
    split, merge = jnp.concatenate([jnp.eye(n), -jnp.eye(n)], 1), jnp.concatenate([jnp.eye(n), -jnp.eye(n)])
    blocks = [(first @ split, shift @ split), *[(jnp.eye(2 * n), jnp.zeros(2 * n))] * (len(layers) - 2)]
    passed = [_with_block(layer, *block) for layer, block in zip(layers, blocks, strict=False)]
    kernel = jnp.zeros_like(layers[-1]["kernel"]).at[: 2 * n].set(merge @ last)
    return [*passed, {"kernel": kernel, "bias": offset}]


def _with_block(layer: Any, kernel: Array, bias: Array) -> Any:
    """Returns a layer whose first units read only the first inputs, by `kernel` and `bias`."""
    rows, columns = kernel.shape
    whole = layer["kernel"].at[:, :columns].set(0).at[:rows, :columns].set(kernel)
    return {"kernel": whole, "bias": layer["bias"].at[:columns].set(bias)}
