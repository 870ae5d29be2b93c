"""Quantizers against vector-quantize-pytorch (`make_quantizer_references.py`), closed forms and brute force."""

import functools
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from conftest import fresh, mlp, mostly_slow, one_device, subject_of, vectors
from scipy.spatial.distance import cdist

import aejax
from aejax import models
from aejax.config import module
from aejax.evaluation import codes as evaluation
from aejax.inference.parts import describe_parts
from aejax.models.bottlenecks import BOTTLENECKS
from aejax.models.bottlenecks.bsq import BSQ
from aejax.models.bottlenecks.composed import GroupedCodes, ResidualCodes
from aejax.models.bottlenecks.discrete import FSQ, LFQ
from aejax.models.bottlenecks.ibq import IBQ
from aejax.models.bottlenecks.quantizer import find_least
from aejax.models.bottlenecks.simvq import SimVQ
from aejax.models.bottlenecks.vector_quantizer import ResidualQuantizer, VectorQuantizer
from aejax.objectives import SquaredError

LEARNED = functools.partial(VectorQuantizer, update="gradient")


@pytest.fixture(scope="module", autouse=True)
def _compile_quickly():
    """Small arrays: compiling takes far longer than computing."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def references():
    return dict(np.load(Path(__file__).with_name("quantizers.npz")))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def start(quantizer, x):
    """Variables with which the features are the vectors."""
    variables = jax.jit(quantizer.init)(jax.random.key(3), x)
    width = x.shape[-1]
    variables["params"]["dense"] = {"kernel": np.eye(width, dtype="f"), "bias": np.zeros(width, "f")}
    return variables


@functools.partial(jax.jit, static_argnums=0)
def evaluate(quantizer, variables, x):
    return quantizer.apply(variables, x)


@functools.partial(jax.jit, static_argnums=0)
def step(quantizer, variables, x, keys=None):
    return quantizer.apply(variables, x, keys=keys, train=True, mutable=["codebook"])


@functools.partial(jax.jit, static_argnums=0)
def lookup(quantizer, variables, indices):
    return quantizer.apply(variables, indices, method="lookup")


def pull(quantizer, variables, x, weights=0.0, **losses):
    """Gradients of (weights * z).sum() and of the losses, weighted, with respect to parameters and x."""

    def total(params, x):
        code = quantizer.apply({**variables, "params": params}, x)
        return (weights * code.z).sum() + sum(weight * code.losses[name].sum() for name, weight in losses.items())

    return jax.jit(jax.grad(total, (0, 1)))(variables["params"], x)


# Against vector-quantize-pytorch.


def of(references, name):
    return {key.partition("/")[2]: value for key, value in references.items() if key.partition("/")[0] == name}


def reverse_bits(indices, bits):
    """Indices whose first bit is the lowest, of such whose first bit is the highest."""
    return (indices[..., None] >> np.arange(bits)[::-1] & 1) @ (1 << np.arange(bits))


def assert_same(quantizer, variables, x, z, indices):
    code = evaluate(quantizer, variables, x)
    np.testing.assert_array_equal(code.indices, indices)
    np.testing.assert_allclose(code.z, z, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(lookup(quantizer, variables, code.indices), code.z)
    return code


def test_symmetric_scalars(references):
    it = of(references, "fsq")
    quantizer = FSQ((4, 2, 5), symmetric=True)
    variables = start(quantizer, it["x"])
    assert_same(quantizer, variables, it["x"], it["z"], it["indices"])
    gradient = pull(quantizer, variables, it["x"], it["weights"])[1]
    np.testing.assert_allclose(gradient, it["gradient"], rtol=1e-4, atol=1e-6)


def test_residual_and_grouped_scalars(references):
    it = of(references, "residual_fsq")
    quantizer = ResidualCodes(FSQ((8, 5, 2), symmetric=True), levels=3)
    assert_same(quantizer, start(quantizer, it["x"]), it["x"], it["z"], it["indices"])

    it = of(references, "grouped_residual_fsq")
    quantizer = GroupedCodes(ResidualCodes(FSQ((8, 5, 2), symmetric=True), levels=2))
    indices = np.concatenate(it["indices"], -1)  # the levels of the first group, then those of the second
    assert_same(quantizer, start(quantizer, it["x"]), it["x"], it["z"], indices)


def test_residual_signs(references):
    it = of(references, "residual_lfq")
    quantizer = ResidualCodes(LFQ(4), levels=3)
    code = assert_same(quantizer, start(quantizer, it["x"]), it["x"], it["z"], reverse_bits(it["indices"], 4))
    # There each level has the mean over all values.
    np.testing.assert_allclose(code.losses["commitment"].sum(), it["commitment"].sum() * it["x"].size, rtol=1e-5)


def test_binary_spherical_codes(references):
    it = of(references, "bsq")
    quantizer = BSQ(4, temperature=0.5)  # an inverse temperature of 2
    variables = start(quantizer, it["x"])
    code = assert_same(quantizer, variables, it["x"], it["z"], reverse_bits(it["indices"], 4))
    np.testing.assert_allclose(code.losses["commitment"].sum(), it["commitment"] * it["x"].size, rtol=1e-5)
    np.testing.assert_allclose(code.losses["sample_entropy"].mean() / 5, it["sample_entropy"], rtol=1e-4)
    gradient = pull(quantizer, variables, it["x"], it["weights"])[1]
    np.testing.assert_allclose(gradient, it["gradient"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gradient", ["straight_through", "rotation"])
def test_a_linear_map_of_a_constant_codebook(references, gradient):
    it = of(references, "simvq_rotation" if gradient == "rotation" else "simvq")
    quantizer = SimVQ(11, 3, gradient=gradient)
    variables = start(quantizer, it["x"])
    variables["codebook"]["frozen"], variables["params"]["transform"] = it["frozen"], it["transform"]
    code = assert_same(quantizer, variables, it["x"], it["z"], it["indices"])
    loss = (0.25 * code.losses["commitment"] + code.losses["codebook"]).sum() / it["x"].size
    np.testing.assert_allclose(loss, it["loss"], rtol=1e-5)
    per_value = 1 / it["x"].size
    params, x = pull(quantizer, variables, it["x"], it["weights"], commitment=0.25 * per_value, codebook=per_value)
    np.testing.assert_allclose(x, it["gradient"], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(params["transform"], it["transform_gradient"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["grouped_vq", "multi_head_vq"])
def test_groups_and_heads(references, name):
    it = of(references, name)
    quantizer = GroupedCodes(LEARNED(7, 2), groups=3, shared=name == "multi_head_vq")
    variables = start(quantizer, it["x"])
    for group, table in enumerate(it["codes"]):
        variables["params"][f"copies_{group}"] = {"codebook": {"codes": table}}
    assert_same(quantizer, variables, it["x"], it["z"], it["indices"])


# Index backpropagation.


def test_indices_propagate_gradients_to_all_codes():
    quantizer, x, weights = IBQ(6, 3), normal(5, 2, 3), normal(5, 2, 3, seed=1)
    variables = start(quantizer, x)
    table = np.asarray(variables["params"]["codes"], np.float64)
    code = evaluate(quantizer, variables, x)
    params, gradient = pull(quantizer, variables, x, weights)
    expected, of_codes = np.zeros_like(x), np.zeros_like(table)
    for place in np.ndindex(5, 2):
        logits = [float(x[place] @ c) for c in table]
        best = max(range(6), key=logits.__getitem__)
        assert code.indices[place] == best
        np.testing.assert_allclose(code.z[place], table[best], rtol=1e-6)
        p = scipy.special.softmax(logits)
        pulls = p * ((table - p @ table) @ weights[place])  # of the logits
        expected[place] = pulls @ table
        of_codes += np.outer(pulls, x[place])
        of_codes[best] += weights[place]
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(params["codes"], of_codes, rtol=1e-4, atol=1e-5)
    single = pull(quantizer, variables, x[:1, :1], weights[:1, :1])[0]["codes"]
    assert np.all(np.abs(single).max(1) > 1e-4)  # of one vector alone, every code has one


def test_the_double_quantization_loss_and_the_entropies():
    quantizer, x = IBQ(6, 3, temperature=0.5), normal(5, 2, 3)
    variables = start(quantizer, x)
    table = np.asarray(variables["params"]["codes"])
    losses = evaluate(quantizer, variables, x).losses
    error = np.square(x - table[(x @ table.T).argmax(-1)]).sum((1, 2))
    for name in ("quantization", "commitment", "codebook"):
        np.testing.assert_allclose(losses[name], error, rtol=1e-5)
    p = scipy.special.softmax(x @ table.T / 0.5, -1)
    np.testing.assert_allclose(losses["sample_entropy"], scipy.stats.entropy(p, axis=-1).sum(1), rtol=1e-4)
    np.testing.assert_allclose(losses["codebook_entropy"], np.full(5, -scipy.stats.entropy(p.mean((0, 1)))), rtol=1e-5)

    z = table[(x @ table.T).argmax(-1)]
    of_z, of_x = pull(quantizer, variables, x, 2 * (z - x)), 2 * (x - z)
    params, gradient = pull(quantizer, variables, x, quantization=1.0)  # through z, and of x itself
    np.testing.assert_allclose(params["codes"], of_z[0]["codes"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient, of_z[1] + of_x, rtol=1e-4, atol=1e-5)
    params, gradient = pull(quantizer, variables, x, commitment=1.0)
    np.testing.assert_allclose(gradient, of_x, rtol=1e-5, atol=1e-6)
    assert not np.any(params["codes"])
    params, gradient = pull(quantizer, variables, x, codebook=1.0)
    assert not np.any(gradient)
    expected = [(2 * (z - x))[(x @ table.T).argmax(-1) == k].sum(0) for k in range(6)]
    np.testing.assert_allclose(params["codes"], expected, rtol=1e-4, atol=1e-5)


# Binary spherical codes.


@pytest.mark.parametrize(("bits", "temperature"), [(3, 0.3), (12, 0.05)])
def test_spherical_entropies_by_enumeration_of_all_codes(bits, temperature):
    quantizer, x = BSQ(bits, temperature=temperature), normal(4, 3, bits)
    code = evaluate(quantizer, start(quantizer, x), x)
    u = np.asarray(x, np.float64) / np.linalg.norm(x, axis=-1, keepdims=True)
    table = np.array(list(itertools.product([-1, 1], repeat=bits)))[:, ::-1] / bits**0.5
    p = scipy.special.softmax(-cdist(u.reshape(-1, bits), table, "sqeuclidean") / temperature, -1)
    nearest = p.argmax(-1).reshape(4, 3)
    np.testing.assert_array_equal(code.indices, nearest)
    np.testing.assert_allclose(code.z, table[nearest], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(code.z, axis=-1), 1, rtol=1e-6)
    entropy = scipy.stats.entropy(p, axis=-1).reshape(4, 3).sum(1)
    np.testing.assert_allclose(code.losses["sample_entropy"], entropy, rtol=1e-4)
    ones = [p.mean(0)[table[:, i] > 0].sum() for i in range(bits)]
    bound = sum(scipy.stats.entropy([q, 1 - q]) for q in ones)
    assert bound > scipy.stats.entropy(p.mean(0))
    np.testing.assert_allclose(code.losses["codebook_entropy"], np.full(4, -bound), rtol=1e-4)
    assert code.metrics["codebook_entropy_upper_bound"] == pytest.approx(bound, rel=1e-4)


def test_the_gradient_of_a_spherical_code_is_that_of_the_length():
    quantizer, x, weights = BSQ(3), normal(5, 2, 3), normal(5, 2, 3, seed=1)
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    u = x / length
    expected = (weights - u * (u * weights).sum(-1, keepdims=True)) / length
    gradient = pull(quantizer, start(quantizer, x), x, weights)[1]
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


# A linear map of a constant codebook.


def test_one_vector_moves_all_codes_of_a_linear_map_and_the_constant_stays():
    quantizer, x = SimVQ(9, 3), normal(1, 1, 3)
    variables = start(quantizer, x)
    frozen = variables["codebook"]["frozen"]
    assert float(np.std(start(SimVQ(4000, 4), normal(1, 1, 4))["codebook"]["frozen"])) == pytest.approx(0.5, rel=0.05)
    code, updated = step(quantizer, variables, x)
    np.testing.assert_array_equal(updated["codebook"]["frozen"], frozen)
    params, _ = pull(quantizer, variables, x, codebook=1.0)
    np.testing.assert_allclose(params["transform"], np.outer(frozen[code.indices[0, 0]], 2 * (code.z - x)), rtol=1e-4)
    assert np.all(np.abs(frozen @ params["transform"]).max(1) > 1e-4)
    assert not np.any(pull(quantizer, variables, x, normal(1, 1, 3))[0]["transform"])  # z is passed on to x alone


# Residual levels.


@pytest.mark.parametrize("options", mostly_slow([{"revive_after": 1}, {"kmeans": True}, {"gradient": "rotation"}]))
def test_residual_levels_of_vq_are_residual_vq_bit_for_bit(options):
    x = normal(30, 2, 3)
    known, quantizer = ResidualQuantizer(8, 3, levels=3, **options), ResidualCodes(VectorQuantizer(8, 3, **options), 3)
    names = ("codebook", "deeper_0", "deeper_1")
    expected = start(known, x)
    state = {f"copies_{i}": {"codebook": expected["codebook"][name]} for i, name in enumerate(names)}
    variables = {"params": expected["params"], "codebook": state}
    for number in range(3):
        code_of_known, updated = step(known, expected, x, keys(30, number))
        code, updated_too = step(quantizer, variables, x, keys(30, number))
        jax.tree.map(np.testing.assert_array_equal, code, code_of_known)
        expected, variables = {**expected, **updated}, {**variables, **updated_too}
        for i, name in enumerate(names):
            found = variables["codebook"][f"copies_{i}"]["codebook"]
            jax.tree.map(np.testing.assert_array_equal, found, expected["codebook"][name])
    weights = normal(30, 2, 3, seed=1)
    gradients = [pull(q, v, x, weights, commitment=1.0) for q, v in ((known, expected), (quantizer, variables))]
    jax.tree.map(np.testing.assert_array_equal, *gradients)


@pytest.mark.parametrize("fsq", [FSQ((5, 3)), FSQ((4, 2), symmetric=True)])
def test_levels_of_scalars_are_one_fine_scale_and_the_gradient_passes_once(fsq):
    """3 levels of n values are one of n^3 evenly spaced values, those of an odd n with 0 among them."""
    quantizer, n = ResidualCodes(fsq, levels=3), np.array(fsq.levels)
    x = np.linspace(-3, 3, 4001, dtype=np.float32)[:, None, None].repeat(2, 2)
    variables = start(quantizer, x)
    spacing = 2 / (n - 1) / n**2
    squashed = np.tanh(x) * (1 if fsq.symmetric else 1.001)
    steps = squashed / spacing
    fine = np.where(n % 2, np.round(steps), np.floor(steps) + 0.5) * spacing
    code = evaluate(quantizer, variables, x)
    assert np.mean(np.abs(code.z - fine) > 1e-5) < 2e-3  # but for ties
    assert np.abs(code.z - squashed).max() < spacing.max() / 2 + 1e-6
    weights = normal(*x.shape)
    expected = weights * (1 - np.tanh(x) ** 2) * (1 if fsq.symmetric else 1.001)
    np.testing.assert_allclose(pull(quantizer, variables, x, weights)[1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("quantizer", "step_of_level"), [(ResidualCodes(BSQ(3), 3), 0.5), (ResidualCodes(SimVQ(7, 3), 3), 1.0)]
)
def test_each_level_takes_the_nearest_of_its_codes_by_brute_force(quantizer, step_of_level):
    x = normal(20, 2, 3)
    variables = start(quantizer, x)
    code = evaluate(quantizer, variables, x)
    rest = x / np.linalg.norm(x, axis=-1, keepdims=True) if isinstance(quantizer.quantizer, BSQ) else x
    bounded, error = rest, 0.0
    for level in range(3):
        one = {k: v.get(f"copies_{level}", {}) for k, v in variables.items()}
        table = step_of_level**level * lookup(quantizer.quantizer, one, np.arange(quantizer.size))
        best = np.square(rest[..., None, :] - table).sum(-1).argmin(-1)
        np.testing.assert_array_equal(code.indices[..., level], best)
        rest = rest - table[best]
        error += np.square(rest).sum((1, 2))
    np.testing.assert_allclose(code.z, bounded - rest, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(code.losses["commitment"], error, rtol=1e-4)


def test_levels_that_pass_their_own_gradients_take_the_levels_before_them_as_constants():
    quantizer, x, weights = ResidualCodes(IBQ(6, 3), levels=2), normal(5, 2, 3), normal(5, 2, 3, seed=1)
    variables = start(quantizer, x)
    params, gradient = pull(quantizer, variables, x, weights, quantization=1.0)
    rest, expected = x, 0.0
    for level in ("copies_0", "copies_1"):
        own = {"params": variables["params"][level] | {"dense": variables["params"]["dense"]}}
        of_level, of_rest = pull(quantizer.quantizer, own, rest, weights, quantization=1.0)
        np.testing.assert_allclose(params[level]["codes"], of_level["codes"], rtol=1e-4, atol=1e-5)
        expected += of_rest
        rest = rest - evaluate(quantizer.quantizer, own, rest).z
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


# Groups.


def test_groups_are_quantizers_side_by_side():
    x, quantizer = normal(20, 2, 4), GroupedCodes(VectorQuantizer(5, 2), groups=2)
    variables = start(quantizer, x)
    code, updated = step(quantizer, variables, x, keys(20))
    single = VectorQuantizer(5, 2)
    for group in range(2):
        part = x[..., 2 * group : 2 * group + 2]
        own = start(single, part) | {"codebook": variables["codebook"][f"copies_{group}"]}
        alone, updated_alone = step(single, own, part, keys(20))
        np.testing.assert_array_equal(code.indices[..., group], alone.indices)
        np.testing.assert_array_equal(code.z[..., 2 * group : 2 * group + 2], alone.z)
        jax.tree.map(np.testing.assert_array_equal, updated["codebook"][f"copies_{group}"], updated_alone["codebook"])
    counts = [np.bincount(np.asarray(code.indices)[..., group].ravel(), minlength=5) for group in range(2)]
    perplexity = np.mean([np.exp(scipy.stats.entropy(count)) for count in counts])
    assert code.metrics["perplexity"] == pytest.approx(perplexity, rel=1e-5)
    error = np.square(x - code.z).sum((1, 2))
    np.testing.assert_allclose(code.losses["commitment"], error, rtol=1e-5)


def test_heads_share_a_codebook_and_its_statistics():
    x, quantizer = normal(20, 2, 6), GroupedCodes(VectorQuantizer(5, 2, decay=0.5), groups=3, shared=True)
    variables = start(quantizer, x)
    assert set(variables["codebook"]) == {"copies_0"}
    code, updated = step(quantizer, variables, x, keys(20))
    single, rows = VectorQuantizer(5, 2, decay=0.5), x.reshape(20, 6, 2)
    alone, updated_alone = step(single, start(single, rows) | {"codebook": variables["codebook"]["copies_0"]}, rows)
    np.testing.assert_array_equal(code.indices, alone.indices.reshape(20, 2, 3))
    jax.tree.map(np.testing.assert_array_equal, updated["codebook"]["copies_0"], updated_alone["codebook"])
    for name in ("perplexity", "dead_codes"):
        np.testing.assert_array_equal(code.metrics[name], alone.metrics[name])
    gradient = pull(quantizer, variables, x, weights := normal(20, 2, 6, seed=1))[1]
    np.testing.assert_allclose(gradient, weights, rtol=1e-6)


NESTED = [
    (GroupedCodes(ResidualCodes(FSQ((5, 3)), 3), 2), 4, (6,)),
    (GroupedCodes(ResidualCodes(LFQ(2), 3), 2, shared=True), 4, (2, 3)),
    (ResidualCodes(GroupedCodes(FSQ((5, 3)), 2), 3), 4, (6,)),
    (ResidualCodes(GroupedCodes(IBQ(5, 2), 2, shared=True), 3), 4, (2, 3)),
    (GroupedCodes(ResidualQuantizer(5, 2, levels=3), 2), 4, (6,)),
    (ResidualCodes(ResidualCodes(FSQ((5, 3)), 2), 2), 2, (4,)),
]


def test_levels_of_levels_are_levels():
    x, fsq = normal(7, 2, 2), FSQ((5, 3))
    nested, flat = ResidualCodes(ResidualCodes(fsq, 2), 2), ResidualCodes(fsq, 4)
    found, expected = (evaluate(quantizer, start(quantizer, x), x) for quantizer in (nested, flat))
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.z, expected.z, rtol=1e-6)


@pytest.mark.parametrize(("quantizer", "width", "last"), mostly_slow(NESTED, NESTED[0], NESTED[3]))
def test_levels_and_groups_nest(quantizer, width, last):
    x = normal(7, 2, width)
    variables = start(quantizer, x)
    code = evaluate(quantizer, variables, x)
    assert code.indices.shape == (7, 2, *last)
    assert quantizer.codebooks == last[-1]
    np.testing.assert_array_equal(lookup(quantizer, variables, code.indices), code.z)


# Errors, configs and runs.


@pytest.mark.parametrize(
    ("quantizer", "message"),
    [
        (
            ResidualCodes(BOTTLENECKS["gumbel"](4)),
            "bottleneck.quantizer must be a quantizer of vectors, .*; got Gumbel",
        ),
        (GroupedCodes(FSQ(positions=3)), "bottleneck.quantizer.positions must be 1, got 3; set bottleneck.positions"),
        (ResidualCodes(FSQ((8, 5))), r"residual levels of fsq need odd levels or symmetric=True; got levels=\(8, 5\)"),
        (ResidualCodes(LEARNED(4, 3, metric="cosine")), "residual levels of vq need metric='euclidean'"),
        (SimVQ(gradient="rotate"), "bottleneck.gradient 'rotate' is unknown; did you mean 'rotation'"),
        (IBQ(temperature=0.0), "bottleneck.temperature must be above 0, e.g. 1.0; got 0.0"),
    ],
)
def test_what_does_not_compose_is_named(quantizer, message):
    with pytest.raises(aejax.InputError, match=message):
        jax.eval_shape(quantizer.init, jax.random.key(0), jnp.zeros((1, 2, 5)))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({}, "bottleneck 'residual' needs bottleneck.quantizer"),
        ({"quantizer": "fsq"}, "bottleneck.quantizer must be a section of keys, .*got 'fsq'"),
        ({"quantizer": {"levels": (5, 5)}}, "bottleneck.quantizer.name None is unknown"),
        ({"quantizer": module("fsqq")}, "bottleneck.quantizer.name 'fsqq' is unknown; did you mean 'fsq'"),
        (
            {"quantizer": module("fsq", levles=(5, 5))},
            "bottleneck.quantizer 'fsq': option 'levles' is unknown; did you",
        ),
        ({"quantizer": module("lfq", bits=0)}, "bottleneck.quantizer.bits must be a whole number above 0, got 0"),
    ],
)
def test_sections_of_quantizers_are_checked(section, message):
    with pytest.raises(aejax.InputError, match=message):
        models.build(mlp(bottleneck=module("residual", **section)), (6,))


def test_objects_are_described_by_the_config_that_makes_them():
    quantizer = GroupedCodes(ResidualCodes(FSQ((5, 3)), levels=2), groups=3, positions=2)
    model = aejax.Autoencoder(models.MLPEncoder((5,)), quantizer, models.MLPDecoder((6,)))
    section = describe_parts(model, aejax.Objective(SquaredError()), (6,))["bottleneck"]
    nested = {"name": "residual", "quantizer": {"name": "fsq", "levels": (5, 3)}, "levels": 2}
    assert section == {"name": "grouped", "quantizer": nested, "groups": 3, "positions": 2}

    class Own(FSQ):
        """One that no config can import."""

    model = model.clone(bottleneck=ResidualCodes(Own((5, 3))))
    assert describe_parts(model, aejax.Objective(SquaredError()), (6,))["bottleneck"]["name"] == "own"


SECTIONS = [
    module("residual", quantizer=module("fsq", levels=(5, 3)), levels=2, positions=2),
    module("grouped", quantizer=module("vq", codes=5, features=2, kmeans=True, revive_after=3), positions=2),
    module("grouped", quantizer=module("simvq", codes=5, features=2), shared=True, positions=2),
    module("ibq", codes=5, features=3, positions=2),
    module("bsq", bits=3, positions=2),
]


@pytest.mark.parametrize("section", mostly_slow(SECTIONS), ids=lambda section: section.name)
def test_a_run_serves_its_codes(section, tmp_path):
    aejax.fit(mlp(bottleneck=section), x := vectors(40), tmp_path, devices=one_device(), quiet=True)
    run = aejax.load_run(tmp_path)
    indices = run.indices(x)
    np.testing.assert_allclose(run.lookup(indices), run.encode(x), rtol=1e-6)
    sampler = aejax.samplers.fit("autoregressive", indices, size=run.codebook_size, steps=2, width=8, layers=1)
    assert run.generate(3, sampler=sampler).shape == run.generate(3).shape == (3, 6)
    run.export(tmp_path / "programs")
    assert (tmp_path / "programs/lookup.stablehlo").exists()


@pytest.mark.parametrize(
    ("name", "options"), mostly_slow([("grouped", {"shared": True}), ("grouped", {}), ("residual", {"levels": 2})])
)
def test_usage_is_of_each_codebook(name, options):
    """Of levels and groups one each, of heads one for all."""
    x, quantizer = vectors(60), module("vq", codes=8, features=2)
    run = fresh(mlp(bottleneck=module(name, quantizer=quantizer, positions=3, **options)), x)
    indices = run.indices(x)
    assert indices.shape == (60, 3, 2)
    parts = [indices] if options.get("shared") else [indices[..., 0], indices[..., 1]]
    found = evaluation.measure(subject_of(run, x))
    expected = [np.exp(scipy.stats.entropy(np.bincount(part.ravel()))) for part in parts]
    assert found["perplexity"].value == pytest.approx(np.mean(expected))
    assert ("perplexity_level_1" in found) == (len(parts) > 1)


def test_the_least_value_is_found_at_its_first_index():
    x = np.random.default_rng().integers(0, 5, (40, 3, 7)).astype(np.float32)  # with many ties
    x[0] = np.inf
    np.testing.assert_array_equal(find_least(jnp.asarray(x)), x.argmin(-1))
    x[1, 2, 3] = np.nan
    assert 0 <= find_least(jnp.asarray(x))[1, 2] < 7
