"""Principal component analysis as the initial function of an autoencoder of dense layers."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, PyTree


def initialize(components: Array, mean: Array, params: PyTree) -> PyTree:
    """Returns `params` changed so that the autoencoder encodes and decodes every input exactly as PCA does.

    Component k passes a relu layer as the pair relu(z_k) and relu(-z_k). The remaining units keep their incoming
    weights and get outgoing weights of 0, so that training continues from PCA.

    Args:
      components: orthonormal rows [n, features], where n is the width of the code.
      mean: mean of the data, [features].
      params: parameters of an mlp encoder, a dense bottleneck and an mlp decoder, without hidden layers or with relu
        layers of at least 2n units.
    """
    n = len(components)
    inputs, codes = components.T, jnp.eye(n)
    shift = -components @ mean
    layers = params.get("encoder", {})  # missing without hidden layers
    encoder = [*(layers[f"dense_{i}"] for i in range(len(layers))), params["bottleneck"]["dense"]]
    decoder = [params["decoder"][f"dense_{i}"] for i in range(len(params["decoder"]))]
    *encoder, bottleneck = _factorize(encoder, inputs, shift, codes, jnp.zeros(n))
    decoder = _factorize(decoder, codes, jnp.zeros(n), components, mean)
    changed = {"bottleneck": {"dense": bottleneck}, "decoder": {f"dense_{i}": p for i, p in enumerate(decoder)}}
    if encoder:
        changed["encoder"] = {f"dense_{i}": p for i, p in enumerate(encoder)}
    return {**params, **changed}


def _factorize(layers: list[Any], first: Array, shift: Array, last: Array, offset: Array) -> list[Any]:
    """Returns `layers` changed to compute `(x @ first + shift) @ last + offset`, with a relu after all but the last."""
    n = first.shape[1]
    if len(layers) == 1:
        return [{"kernel": first @ last, "bias": shift @ last + offset}]
    split, merge = jnp.concatenate([jnp.eye(n), -jnp.eye(n)], 1), jnp.concatenate([jnp.eye(n), -jnp.eye(n)])
    blocks = [(first @ split, shift @ split), *[(jnp.eye(2 * n), jnp.zeros(2 * n))] * (len(layers) - 2)]
    hidden = [_set_block(layer, *block) for layer, block in zip(layers, blocks, strict=False)]
    kernel = jnp.zeros_like(layers[-1]["kernel"]).at[: 2 * n].set(merge @ last)
    return [*hidden, {"kernel": kernel, "bias": offset}]


def _set_block(layer: Any, kernel: Array, bias: Array) -> Any:
    """Returns `layer` with its first units set to read only the first inputs, by `kernel` and `bias`."""
    rows, columns = kernel.shape
    new_kernel = layer["kernel"].at[:, :columns].set(0).at[:rows, :columns].set(kernel)
    return {"kernel": new_kernel, "bias": layer["bias"].at[:columns].set(bias)}
