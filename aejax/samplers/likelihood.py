"""Maximum likelihood estimation by gradient ascent, for the samplers that are networks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree
from tqdm import tqdm

from aejax.errors import DivergedError, InputError

_CHUNK = 50  # steps after which the loss is read


def maximize(
    log_prob: Callable[[PyTree, Array], Array],
    params: PyTree,
    x: np.ndarray,
    seed: int,
    steps: int,
    batch_size: int,
    lr: float,
) -> PyTree:
    """Maximizes mean(log_prob(params, batch)) by Adam and returns the trained `params` as numpy arrays.

    Samples batches from x [n, d] with replacement. The learning rate rises to `lr` in the first twentieth of the steps
    and falls to 0 along a cosine. Raises DivergedError if the loss is not finite, InputError if `lr` is not above 0.
    """
    if not 0 < lr < float("inf"):
        raise InputError(f"sampler.lr must be above 0, got {lr}")
    schedule = optax.warmup_cosine_decay_schedule(0.0, lr, steps // 20, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    key = jax.random.key(seed)

    def step(i: Array, carry: PyTree, x: Array) -> Any:
        params, state, _ = carry
        batch = x[jax.random.randint(jax.random.fold_in(key, i), (batch_size,), 0, len(x))]
        loss, grads = jax.value_and_grad(lambda params: -log_prob(params, batch).mean())(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    @jax.jit
    def run(carry: PyTree, x: Array, start: int, stop: int) -> Any:
        return jax.lax.fori_loop(start, stop, lambda i, carry: step(i, carry, x), carry)

    carry, x = (params, optimizer.init(params), jnp.zeros(())), jax.device_put(x)
    with tqdm(total=steps, desc="fitting", unit=" steps", dynamic_ncols=True, disable=None) as bar:
        for start in range(0, steps, _CHUNK):
            stop = min(start + _CHUNK, steps)
            carry = run(carry, x, start, stop)
            loss = float(carry[2])
            if not np.isfinite(loss):
                raise DivergedError(f"fitting the sampler diverged before step {stop}; lower sampler.lr, now {lr:g}")
            bar.update(stop - start)
            bar.set_postfix_str(f"{loss:.4g} nats")
    return jax.device_get(carry[0])
