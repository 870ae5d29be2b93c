"""Greedy layer-wise pretraining of a stack of dense layers (Bengio et al. 2007; Vincent et al. 2010).

Each layer of the encoder, from the input inwards, is trained with its mirror in the decoder as an autoencoder of its
own, on the codes of the layers before it, which stay fixed. The trained pairs are the initial parameters of the whole
model, which is then trained as usual.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict
from tqdm import tqdm

from aejax.data import Feed
from aejax.distributed.partition import Partition
from aejax.errors import DivergedError, InputError, StoppedError
from aejax.models import Autoencoder, IdentityBottleneck, MLPDecoder, MLPEncoder
from aejax.objectives import Objective
from aejax.objectives.likelihoods import SquaredError
from aejax.training import optimizers
from aejax.training.multistep import batches, compile_steps, steps_at_once
from aejax.training.step import Task, TrainState, eval_variables, init


def list_layers(config: ConfigDict) -> list[tuple[int, str]]:
    """Returns width and activation of each layer up to the code. Raises InputError if the model is no such stack."""
    encoder, bottleneck, decoder = config.encoder, config.bottleneck, config.decoder
    if config.classes:
        raise InputError("pretrain.steps is for models without labels; set classes=0")
    if (encoder.name, decoder.name) != ("mlp", "mlp") or bottleneck.name not in ("dense", "identity"):
        raise InputError("pretrain.steps needs an mlp encoder and decoder and a dense or identity bottleneck")
    layers = [(width, encoder.get("activation", "relu")) for width in encoder.get("features", ())]
    if bottleneck.name == "dense":
        layers.append((bottleneck.features, bottleneck.get("activation", "linear")))
    given, mirrored = tuple(decoder.get("features", ())), tuple(width for width, _ in layers[-2::-1])
    if given != mirrored:
        raise InputError(f"decoder.features={given} must be {mirrored} for pretrain.steps, which mirrors the encoder")
    return layers


def pretrain(
    config: ConfigDict,
    task: Task,
    feed: Feed,
    partition: Partition,
    params: PyTree,
    stop: Callable[[], bool] = lambda: False,
    quiet: bool = False,
) -> PyTree:
    """Trains each layer and its mirror for `pretrain.steps` steps; returns the whole model's parameters.

    The first pair has the likelihood of the whole model, the others squared error. All have its corruption and
    optimizer. Raises StoppedError when `stop` returns True, in all processes together, and DivergedError if a metric
    is not finite.
    """
    layers, decoder, steps = list_layers(config), config.decoder, config.pretrain.steps
    at_once = steps_at_once(task, steps)

    def dispatches(name: str) -> Iterator[Any]:
        with tqdm(desc=f"pretraining {name}", total=steps, disable=quiet or None) as bar:
            for batch in batches(feed, config.batch_size, config.seed, partition, at_once, range(steps)):
                if stop():
                    raise StoppedError("stopped in pretraining, before any checkpoint; the same command begins anew")
                yield batch
                bar.update(at_once)

    params = jax.tree.map(jnp.asarray, params)
    below: Callable[[Array], Array] = task.prepare
    for k, (width, activation) in enumerate(layers):
        first = k == 0
        shape = feed.source.shape if first else (layers[k - 1][0],)
        output = decoder.get("output", "linear") if first else decoder.get("activation", "relu")
        pair = Autoencoder(
            MLPEncoder((width,), activation, dtype=config.dtype),
            IdentityBottleneck(),
            MLPDecoder(shape, output=output, tied=decoder.get("tied", False), dtype=config.dtype),
        )
        pair_task = dataclasses.replace(
            task,
            model=pair,
            objective=Objective(task.objective.likelihood if first else SquaredError()),
            optimizer=optimizers.build(config.optim, steps),
            prepare=below,
            ema=0.0,
            frozen=(),
            discriminator=None,
        )
        key = jax.random.fold_in(jax.random.key(config.seed), k)
        inner = ("encoder", f"dense_{k}") if k < len(config.encoder.get("features", ())) else ("bottleneck", "dense")
        trained = _train(pair_task, init(pair_task, shape, key), key, feed.held, partition, dispatches("/".join(inner)))
        params[inner[0]][inner[1]] = trained["encoder"]["dense_0"]
        params["decoder"][f"dense_{len(layers) - 1 - k}"] = trained["decoder"]["dense_0"]
        below = _append_layer(below, pair.encoder, trained["encoder"])
    return params


def _train(
    task: Task, state: TrainState, key: Array, held: PyTree, partition: Partition, batches: Iterator[PyTree]
) -> dict[str, Any]:
    """Trains one pair on the batches and returns its parameters. Raises DivergedError if a metric is not finite."""
    compiled = compile_steps(task, key, partition)
    state = partition.place(state)
    metrics: PyTree = {}
    for batch in batches:
        state, metrics = compiled(state, held, batch)
    if not all(np.isfinite(value[-1]) for value in jax.device_get(metrics).values()):
        raise DivergedError("pretraining diverged; lower optim.lr or set optim.clip")
    return jax.device_get(eval_variables(state)["params"])


def _append_layer(below: Callable[[Array], Array], encoder: Any, params: PyTree) -> Callable[[Array], Array]:
    """Returns the function that applies `below` and then the trained layer."""
    return lambda x: encoder.apply({"params": params}, below(x))
