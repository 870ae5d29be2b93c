"""`remat` of encoders and decoders: the same parameters, outputs and gradients from a step that needs less memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mlp, mostly_slow

import aejax
from aejax.data import Spec
from aejax.models import summary
from aejax.models.decoders import DECODERS
from aejax.models.encoders import ENCODERS
from aejax.training.step import init, train_step
from aejax.training.task import make_task
from aejax.workdir import saved_config

SHAPE = (8, 8, 1)
DC = {"blocks": (1, 1), "head_features": 4}
PARTS = {
    "mlp encoder": (ENCODERS["mlp"], {"features": (8, 8), "activation": "gelu", "normalisation": "batch"}),
    "conv encoder": (ENCODERS["conv"], {"features": (8, 8), "normalisation": "batch"}),
    "resnet encoder": (ENCODERS["resnet"], {"features": (8, 8), "normalisation": "batch"}),
    "vit encoder": (ENCODERS["vit"], {"features": 16, "layers": 2}),
    "kl encoder": (ENCODERS["kl"], {"features": (4, 8), "blocks": 1, "groups": 2, "attention_stages": (2,)}),
    "taesd encoder": (ENCODERS["taesd"], {"features": 4, "blocks": (1, 2), "pooled": True}),
    "dc encoder": (ENCODERS["dc"], DC | {"channels": 4, "features": (4, 8), "attention_stages": (2,)}),
    "pyramid encoder": (ENCODERS["pyramid"], {"features": (4, 8), "strides": (2, 4)}),
    "mlp decoder": (DECODERS["mlp"], {"features": (8, 8), "spectral": True, "normalisation": "batch"}),
    "conv decoder": (DECODERS["conv"], {"features": (8, 8), "normalisation": "batch"}),
    "resnet decoder": (DECODERS["resnet"], {"features": (8, 8)}),
    "vit decoder": (DECODERS["vit"], {"features": 16, "layers": 2}),
    "kl decoder": (DECODERS["kl"], {"features": (8, 4), "blocks": 1, "groups": 2, "project": 2}),
    "taesd decoder": (DECODERS["taesd"], {"features": 4, "blocks": (2, 1)}),
    "pyramid decoder": (DECODERS["pyramid"], {"blocks": 2}),
    "dc decoder": (DECODERS["dc"], DC | {"features": (8, 4), "attention_stages": (1,), "normalisation": "batch"}),
}
CODES = dict.fromkeys(("kl decoder", "taesd decoder", "pyramid decoder"), (4, 4, 4, 3))  # others read flat ones
CODES["dc decoder"] = (4, 4, 4, 4)


@pytest.mark.parametrize("part", mostly_slow(PARTS, "conv encoder"))
def test_remat_changes_neither_parameters_nor_gradients(part):
    module, options = PARTS[part]
    given = {"shape": SHAPE} if "decoder" in part else {}
    x = jax.random.normal(jax.random.key(0), CODES.get(part, (4, 6)) if given else (4, *SHAPE))
    plain, saving = (module(**given, **options, remat=remat) for remat in (False, True))
    variables = jax.jit(plain.init)(jax.random.key(1), x)
    assert jax.tree.structure(jax.eval_shape(saving.init, jax.random.key(1), x)) == jax.tree.structure(variables)
    state = {name: tree for name, tree in variables.items() if name != "params"}

    def loss(params, model):
        y, updated = model.apply({"params": params, **state}, x, train=True, mutable=list(state))
        return sum(jnp.square(scale).sum() for scale in jax.tree.leaves(y)), updated

    grads = [
        jax.jit(jax.grad(partial(loss, model=model), has_aux=True))(variables["params"]) for model in (plain, saving)
    ]
    # Sums round as their largest terms do.
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=max(1e-5, 1e-6 * abs(b).max()))  # noqa: E731
    jax.tree.map(close, *grads)
    traced = [str(jax.make_jaxpr(partial(loss, model=model))(variables["params"])) for model in (plain, saving)]
    assert ["policy=None" in jaxpr for jaxpr in traced] == [False, True]  # an argument of jax.checkpoint
    assert summary(saving, x.shape[1:]) == summary(plain, x.shape[1:])


def test_remat_may_change_when_a_run_resumes():
    old = mlp()
    new = mlp()
    new.encoder.remat = new.decoder.remat = True
    assert saved_config.find_conflicts(aejax.config.to_dict(old), new) == []


MODELS = {
    "mlp": ({"features": (16,) * 6, "activation": "gelu"}, 4096),
    "conv": ({"features": (8, 8)}, 64),
    "resnet": ({"features": (8,), "blocks": 2}, 64),
    "vit": ({"features": 16, "layers": 2}, 64),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_step_with_remat_needs_less_memory_and_does_the_same(name):
    options, size = MODELS[name]
    config = mlp(likelihood__name="bernoulli", optim__name="sgd")
    batch = {"x": jax.random.uniform(jax.random.key(0), (size, *SHAPE)), "index": jnp.arange(size)}
    needed, states, begun = [], [], None
    for remat in (False, True):
        config.encoder = aejax.config.module(name, **options, remat=remat)
        config.decoder = aejax.config.module(name, **options, remat=remat)
        task = make_task(config, Spec(SHAPE), size)
        begun = begun or jax.jit(partial(init, task, SHAPE))(jax.random.key(1))
        step = jax.jit(partial(train_step, task=task)).lower(begun, batch, jax.random.key(0)).compile()
        needed.append(step.memory_analysis().temp_size_in_bytes)
        states.append(step(begun, batch, jax.random.key(0))[0])
    assert needed[1] < 0.8 * needed[0], needed
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *(state.params for state in states)
    )
