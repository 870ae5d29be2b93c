"""Training that would drop something without a word: draws without keys, and what is learned beside the parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import aejax
from aejax.models import MLPDecoder, MLPEncoder, ViTEncoder
from aejax.models.bottlenecks import BOTTLENECKS
from aejax.models.layers import NORMALIZATIONS, Normalization

KEYS = jax.random.split(jax.random.key(0), 2)
FLAT, IMAGE = (2, 6), (2, 4, 4, 3)
SCALES = (IMAGE, (2, 2, 2, 3))
BOTH = {"keys", "codebook"}

# Of each module, what training needs: keys, and the collections that it changes.
MODULES = [
    (BOTTLENECKS["identity"](), FLAT, set()),
    (BOTTLENECKS["dense"](3), FLAT, set()),
    (BOTTLENECKS["conv"](3), IMAGE, set()),
    (BOTTLENECKS["spatial_gaussian"](3), IMAGE, {"keys"}),
    (BOTTLENECKS["spherical"](3), FLAT, set()),
    (BOTTLENECKS["masked"](3), (2, 5, 4), set()),
    *((BOTTLENECKS["gaussian"](3, posterior), FLAT, {"keys"}) for posterior in ("diagonal", "full", "iaf", "planar")),
    (BOTTLENECKS["gaussian"](3, samples=4, prior="mixture"), FLAT, {"keys"}),
    (BOTTLENECKS["hierarchical"]((3, 2), ((4,),)), FLAT, {"keys"}),
    (BOTTLENECKS["ladder"]((1, 2), (2, 3)), SCALES, {"keys"}),
    (BOTTLENECKS["library"](3), FLAT, {"keys"}),
    (BOTTLENECKS["two_level"]((3, 2), hidden=4, components=2, shape=FLAT[1:]), FLAT, {"keys"}),
    (BOTTLENECKS["topk"](5, k=2), FLAT, set()),
    (BOTTLENECKS["topk"](5, k=2, dead_after=3), FLAT, {"sparse"}),
    (BOTTLENECKS["batch_topk"](5, k=2), FLAT, {"sparse"}),
    (BOTTLENECKS["jumprelu"](5), FLAT, set()),
    (BOTTLENECKS["jumprelu"](5, dead_after=3), FLAT, {"sparse"}),
    (BOTTLENECKS["relu"](5), FLAT, set()),
    (BOTTLENECKS["gated"](5), FLAT, set()),
    (BOTTLENECKS["gated"](5, dead_after=3, revive=2), FLAT, {"sparse"}),
    (BOTTLENECKS["matching_pursuit"](5, k=2), FLAT, set()),
    (BOTTLENECKS["vq"](5, 3), FLAT, {"codebook"}),
    (BOTTLENECKS["vq"](5, 3, kmeans=True), FLAT, BOTH),
    (BOTTLENECKS["vq"](5, 3, revive_after=2), FLAT, BOTH),
    (BOTTLENECKS["vq"](5, 3, update="gradient"), FLAT, set()),
    (BOTTLENECKS["residual_vq"](5, 3), FLAT, {"codebook"}),
    (BOTTLENECKS["residual_vq"](5, 3, revive_after=2), FLAT, BOTH),
    (BOTTLENECKS["fsq"](), FLAT, set()),
    (BOTTLENECKS["lfq"](3), FLAT, set()),
    (BOTTLENECKS["bsq"](3), FLAT, set()),
    (BOTTLENECKS["ibq"](5, 3), FLAT, set()),
    (BOTTLENECKS["simvq"](5, 3), FLAT, set()),
    (BOTTLENECKS["residual"](BOTTLENECKS["lfq"](3)), FLAT, set()),
    (BOTTLENECKS["residual"](BOTTLENECKS["vq"](5, 3, kmeans=True)), FLAT, BOTH),
    (BOTTLENECKS["grouped"](BOTTLENECKS["vq"](5, 3)), FLAT, {"codebook"}),
    (BOTTLENECKS["grouped"](BOTTLENECKS["vq"](5, 3, revive_after=2), shared=True), FLAT, BOTH),
    (BOTTLENECKS["ordered"](BOTTLENECKS["lfq"](3)), FLAT, {"keys"}),
    (BOTTLENECKS["ordered"](BOTTLENECKS["vq"](5, 3)), FLAT, BOTH),
    (BOTTLENECKS["gumbel"](5), FLAT, {"keys"}),
    (BOTTLENECKS["gumbel"](5, anneal_steps=9), FLAT, BOTH),
    *((Normalization(kind), IMAGE, {"batch_stats"} if "batch" in kind else set()) for kind in NORMALIZATIONS),
    (MLPDecoder((6,), spectral=True), FLAT, {"batch_stats"}),
    (ViTEncoder(2, 8, 1, 2), IMAGE, set()),
    (ViTEncoder(2, 8, 1, 2, mask_ratio=0.5), IMAGE, {"keys"}),
]


@pytest.mark.parametrize(("module", "shape", "needs"), MODULES, ids=lambda value: type(value).__name__)
def test_training_asks_for_what_it_needs_and_for_nothing_else(module, shape, needs):
    x = tuple(map(jnp.zeros, shape)) if shape is SCALES else jnp.zeros(shape)
    given = (x, x) if isinstance(module, BOTTLENECKS["two_level"]) else (x,)  # as its pseudo-inputs
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), *given, train=True))  # asks for neither

    def apply(has, **options):
        options |= {"keys": KEYS} if "keys" in has else {}
        options |= {"mutable": sorted(has - {"keys"})} if has - {"keys"} else {}
        return jax.eval_shape(lambda v: module.apply(v, *given, **options), variables)

    apply(set())  # nor does evaluation
    apply(needs, train=True)
    for need in needs:
        cure = "give keys=" if need == "keys" else rf"collection '{need}'.*mutable=\['{need}'\]"
        with pytest.raises(aejax.InputError, match=cure) as error:
            apply(needs - {need}, train=True)
        assert "\n" not in str(error.value)


def test_every_bottleneck_is_among_them():
    assert set(BOTTLENECKS.values()) <= {type(module) for module, *_ in MODULES}


@pytest.mark.slow
def test_an_autoencoder_reads_keys_and_not_flax_rngs():
    parts = MLPEncoder((4,), normalisation="batch"), BOTTLENECKS["gaussian"](2), MLPDecoder((6,))
    model, x = aejax.Autoencoder(*parts), np.ones(FLAT, np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    with pytest.raises(aejax.InputError, match=r"for each example.*rngs= is not read"):
        model.apply(variables, x, train=True, rngs={"sample": jax.random.key(1)}, mutable=["batch_stats"])
    step = jax.jit(lambda v: model.apply(v, x, train=True, keys=KEYS, mutable=["batch_stats"]))
    output, updated = step(variables)
    assert np.any(output.code.z != output.code.posterior.mean)
    assert np.any(updated["batch_stats"]["encoder"]["norm_0"]["batch"]["mean"] != 0)
    code = jax.jit(lambda v: model.apply(v, x, method="encode"))(variables)
    np.testing.assert_array_equal(code.z, code.posterior.mean)
