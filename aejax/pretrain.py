"""Greedy layer-wise pretraining of a stack of dense layers (Bengio et al. 2007; Vincent et al. 2010).

Each layer of the encoder, from the input inwards, is trained with its mirror in the decoder as an
autoencoder of its own, on the codes of the layers before it, which stay fixed. The pairs then make
the initial parameters of the whole, which is trained as usual.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from aejax import optim
from aejax.data import Feed, Spec, rows
from aejax.errors import InputError
from aejax.models import Autoencoder, IdentityBottleneck, MLPDecoder, MLPEncoder
from aejax.objectives import Objective
from aejax.partition import Partition
from aejax.step import Task, gather, init, train_step


def pretrain(config: ConfigDict, spec: Spec, feed: Feed, partition: Partition, params: Any) -> Any:
    """`params` of the autoencoder that `config` describes, each layer trained for `pretrain.steps`."""
    encoder, bottleneck, decoder = config.encoder, config.bottleneck, config.decoder
    if (encoder.name, decoder.name) != ("mlp", "mlp") or bottleneck.name not in ("dense", "identity"):
        raise InputError("pretrain.steps needs an mlp encoder and decoder and a dense or identity bottleneck")
    layers = [(width, encoder.get("activation", "relu")) for width in encoder.get("features", ())]
    if bottleneck.name == "dense":
        layers.append((bottleneck.features, bottleneck.get("activation", "linear")))
    widths = [width for width, _ in layers]
    if list(decoder.get("features", ())) != widths[-2::-1]:
        raise InputError(
            f"pretrain.steps needs a decoder that mirrors the encoder: decoder.features={tuple(widths[-2::-1])}, "
            f"not {tuple(decoder.get('features', ()))}"
        )

    params = jax.tree.map(jnp.asarray, params)
    held = partition.replicate(feed.held)
    below: Callable[[Array], Array] = spec.prepare
    for k, (width, activation) in enumerate(layers):
        first = k == 0
        shape = spec.shape if first else (widths[k - 1],)
        output = decoder.get("output", "linear") if first else decoder.get("activation", "relu")
        pair = Autoencoder(
            MLPEncoder((width,), activation),
            IdentityBottleneck(),
            MLPDecoder(shape, output=output, tied=decoder.get("tied", False)),
        )
        task = Task(
            model=pair,
            objective=Objective(config.objective.reconstruction if first else "squared_error", {}),
            optimizer=optim.build(config.optim, config.pretrain.steps),
            prepare=below,
        )
        trained = _train_pair(task, shape, config, feed, partition, held, k)
        inner = ("encoder", f"dense_{k}") if k < len(encoder.get("features", ())) else ("bottleneck", "dense")
        params[inner[0]][inner[1]] = trained["encoder"]["dense_0"]
        params["decoder"][f"dense_{len(layers) - 1 - k}"] = trained["decoder"]["dense_0"]
        below = _then(below, pair.encoder, trained["encoder"])
    return params


def _train_pair(
    task: Task, shape: tuple[int, ...], config: ConfigDict, feed: Feed, partition: Partition, held: Any, k: int
) -> Any:
    key = jax.random.fold_in(jax.random.key(config.seed), k)

    def step(state, held, batch, reduce):
        return train_step(state, gather(held, batch), key, task=task, reduce=reduce)[0]

    compiled = partition.compile(step)
    state = partition.replicate(init(task, shape, key))
    batches = feed.batches(
        lambda i: rows(len(feed.source), config.batch_size, config.seed, i), 0, config.pretrain.steps
    )
    for batch in batches:
        state = compiled(state, held, partition.share(batch))
    return jax.device_get(state.params)


def _then(below: Callable[[Array], Array], encoder: Any, params: Any) -> Callable[[Array], Array]:
    return lambda x: encoder.apply({"params": params}, below(x))
