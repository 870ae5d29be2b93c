"""Public functions under beartype, which compares every argument and result of aejax with its annotation.

A process of its own: jaxtyping's hook changes modules when they are imported. `test_shapes.py` starts it.
"""

import collections.abc
import doctest
import functools
import gc
import importlib
import pkgutil
import sys

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import TypeCheckError, install_import_hook
from ml_collections import ConfigDict


def main() -> None:
    install_import_hook("aejax", "beartype.beartype")
    collections.abc.Mapping.register(ConfigDict)  # which it is in all but name
    for module in ("losses", "evaluation", "models", "objectives", "training.step", "samplers"):
        importlib.import_module(f"aejax.{module}")
    gc.freeze()  # as in conftest.py
    gc.set_threshold(100_000)
    for cls in flax.struct.PyTreeNode.__subclasses__():
        if cls.__module__.startswith("aejax."):
            check_arrays_alone(cls)
    for check in (reject_wrong_shapes, run_the_examples_of_losses, trace_configs, use_runs):
        check()
        print(check.__name__)


def check_arrays_alone(cls: type) -> None:
    """Leaves out what JAX puts in place of arrays while it maps over a PyTree: shapes, axes, None."""
    checked, plain = cls.__init__, cls.__init__.__wrapped__

    @functools.wraps(plain)
    def init(self, *args, **kwargs):
        leaves = jax.tree.leaves((args, kwargs))
        arrays = leaves and all(isinstance(leaf, jax.Array | int) for leaf in leaves)
        (checked if arrays else plain)(self, *args, **kwargs)

    cls.__init__ = init


def reject_wrong_shapes() -> None:
    from aejax import Code, losses
    from aejax.models.distributions import DiagonalGaussian

    wrong = (
        lambda: losses.gaussian_kl(jnp.zeros((3, 2)), jnp.zeros((3, 1))),
        lambda: losses.elbo(jnp.zeros(3), jnp.zeros((3, 1))),  # which would broadcast to [3, 3]
        lambda: losses.iwae(jnp.zeros((), jnp.int32)),
        lambda: Code(z=jnp.zeros((3, 2)), losses={"kl": jnp.zeros((3, 2))}),
        lambda: DiagonalGaussian(jnp.zeros((3, 2)), jnp.zeros((3, 2))).log_prob(jnp.zeros((3, 4))),
    )
    for call in wrong:
        try:
            call()
        except TypeCheckError:
            continue
        raise AssertionError("a wrong shape has passed")


def run_the_examples_of_losses() -> None:
    from aejax import losses

    modules = [importlib.import_module(f"aejax.losses.{each.name}") for each in pkgutil.iter_modules(losses.__path__)]
    with np.printoptions(precision=3, suppress=True):
        found = [doctest.testmod(module, extraglobs={"jax": jax, "jnp": jnp}) for module in modules]
    assert sum(each.attempted for each in found) > 30
    assert not any(each.failed for each in found)


CONFIGS = (
    *("conv", "vae", "iwae", "beta_tcvae", "factor_vae", "dip_vae", "wae", "flow_vae", "vamp_vae", "vae_gan"),
    *("vq_vae", "vq_vae:ibq", "vq_vae:simvq", "vq_vae:grouped", "residual_vq", "fsq", "fsq:residual", "gumbel"),
    *("sae", "sae:matryoshka", "sae:jumprelu", "sae:gated", "sae:l1", "sae:matching_pursuit"),
    *("jumprelu", "mae", "resnet_vae", "conditional_vae", "kl_f8"),
)


def trace_configs() -> None:
    """Traces training and evaluation, without computing anything."""
    from aejax.data import Spec
    from aejax.training.step import init, train_step
    from aejax.training.task import make_task

    for name in CONFIGS:
        name, _, arg = name.partition(":")
        config = importlib.import_module(f"configs.{name}").get_config(f"tiny,{arg}")
        shape = {"plane": (3,), "sheet": (5,)}.get(config.data.name, (8, 8, 1))
        task = make_task(config, Spec(shape), 100)  # traces `eval_step`
        names = ("index", "label")
        batch = {"x": jnp.zeros((4, *shape)), **{name: jnp.arange(4) for name in names}}
        state = jax.eval_shape(lambda key, task=task, shape=shape: init(task, shape, key), jax.random.key(0))
        jax.eval_shape(functools.partial(train_step, task=task), state, batch, jax.random.key(0))


def use_runs() -> None:
    import aejax
    from aejax import models
    from aejax.objectives import Gaussian

    x, label = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32), np.arange(60) % 2
    given = {"steps": 2, "batch_size": 16, "log_every": 2, "checkpoint_every": 2, "quiet": True}
    parts = {"objective": aejax.Objective(Gaussian(), {"kl": 1.0}), "optimizer": optax.adam(1e-3)}
    encoder, decoder = models.MLPEncoder((5,)), models.MLPDecoder((6,), (5,))
    model = aejax.Autoencoder(encoder, models.GaussianBottleneck(2), decoder, classes=2)
    run = aejax.fit(data=x, label=label, model=model, **parts, **given)
    z = run.encode(x, label)
    assert run.decode(z, label).shape == run.reconstruct(x.tolist(), label).shape == (60, 6)
    assert run.elbo(x, label=label).shape == run.log_likelihood(x, 3, label=label).shape == (60,)
    run.sample_posterior(x, label=label)
    run.evaluate(x, label, groups=["reconstruction", "likelihood"], options={"likelihood": {"samples": 2}})
    sampler = aejax.samplers.fit("gaussian", z)
    assert run.generate(3, label=label[:3], sampler=sampler).shape == (3, 6)
    assert sampler.log_prob(z).shape == (60,)

    config = aejax.config.default()
    config.update(given | {"bottleneck": {"name": "vq", "codes": 4, "features": 3, "positions": 2}, "quiet": True})
    del config["quiet"]
    run = aejax.fit(config, x, quiet=True)
    assert run.lookup(run.indices(x)).shape == run.encode(jnp.asarray(x)).shape == (60, 2, 3)


if __name__ == "__main__":
    sys.exit(main())
