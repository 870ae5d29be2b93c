"""Samplers against closed forms, integrals, sums over all sequences and constructed codes; their files."""

import itertools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mostly_slow, vectors
from scipy.stats import multivariate_normal
from sklearn.datasets import make_moons

import aejax
from aejax import samplers
from aejax.samplers.autoregressive import CausalTransformer, _log_prob
from aejax.samplers.flow import Coupling, CouplingFlow, _apply
from aejax.samplers.likelihood import maximize

SMALL = {"width": 16, "layers": 1, "heads": 2, "steps": 200, "batch_size": 32, "lr": 1e-2}
K, LENGTH = 5, 6


def moons(n, seed):
    return make_moons(n, noise=0.1, random_state=seed)[0].astype(np.float32)


@pytest.fixture(scope="module")
def flow():
    return samplers.fit("flow", moons(1000, 0), width=32, depth=4, steps=400, lr=5e-3)


@pytest.fixture(scope="module")
def counting():
    """Fitted on codes of 3x2 in which each is the one before + 1 mod 5."""
    first = np.arange(100)[:, None]
    return samplers.fit("autoregressive", ((first + np.arange(LENGTH)) % K).reshape(-1, 3, 2), size=K, **SMALL)


def noisy(params, scale):
    """Away from the zeros and small numbers that networks begin with."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: np.asarray(a) + rng.normal(scale=scale, size=a.shape).astype(np.float32), params)


def everything(size, length):
    return np.array(list(itertools.product(range(size), repeat=length)), np.int32)


# Gaussian and mixture


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("n", [4, 5, 6, 300])  # fewer, as many and more examples than numbers
def test_the_gaussian_has_the_latents_mean_and_covariance(n, seed):
    rng = np.random.default_rng(seed)
    z = (rng.normal(size=(n, 5)) @ rng.normal(size=(5, 5)) + 3).astype(np.float32)
    fitted = samplers.fit("gaussian", z)
    factor = fitted.params["factor"]
    np.testing.assert_allclose(factor.T @ factor, np.cov(z.T), rtol=1e-4, atol=1e-4)
    drawn = fitted.sample(100_000, seed)
    assert drawn.dtype == np.float32
    deviation = z.std(0)
    np.testing.assert_allclose(drawn.mean(0), z.mean(0), atol=0.02 * deviation.max())
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(z.T), atol=0.04 * deviation.max() ** 2)
    if n > 5:
        theirs = multivariate_normal(z.mean(0), np.cov(z.T)).logpdf(z)
        np.testing.assert_allclose(fitted.log_prob(z), theirs, rtol=1e-3)
    else:
        with pytest.raises(aejax.InputError, match="has no density: its examples span fewer than the 5 dimensions"):
            fitted.log_prob(z)


def test_a_unit_that_never_moves_is_drawn_as_it_is():
    z = vectors(50)
    z[:, 2] = 7
    fitted = samplers.fit("gaussian", z)
    np.testing.assert_allclose(fitted.sample(20)[:, 2], 7, atol=1e-4)
    with pytest.raises(aejax.InputError, match="has no density"):
        fitted.log_prob(z)


def test_the_mixture_keeps_units_that_are_small_beside_others():
    z = np.random.default_rng(0).normal(size=(2_000, 2)) * [1, 1e-4]
    drawn = samplers.fit("mixture", z, components=2).sample(20_000)
    np.testing.assert_allclose(drawn.std(0), z.std(0), rtol=0.03)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_the_mixture_finds_two_far_clusters(unit):
    rng = np.random.default_rng(0)
    tilted = np.array([[1, 0.9], [0, 0.3]])
    left, right = rng.normal(size=(300, 2)) - 10, rng.normal(size=(100, 2)) @ tilted + 10
    z = unit * np.concatenate([left, right]).astype(np.float32)
    fitted = samplers.fit("mixture", z, components=2)
    drawn = fitted.sample(40_000, seed=3) / unit
    small = drawn[:, 0] > 0
    assert small.mean() == pytest.approx(0.25, abs=0.01)
    for side, cluster in ((drawn[small], right), (drawn[~small], left)):
        np.testing.assert_allclose(side.mean(0), cluster.mean(0), atol=0.05)
        np.testing.assert_allclose(np.cov(side.T), np.cov(cluster.T, bias=True), atol=0.06)
    parts = ((0.75, left), (0.25, right))
    theirs = np.log(
        sum(w * multivariate_normal(unit * c.mean(0), unit**2 * np.cov(c.T, bias=True)).pdf(z[::7]) for w, c in parts)
    )
    np.testing.assert_allclose(fitted.log_prob(z[::7]), theirs, rtol=1e-2, atol=0.02)


# Flow


@pytest.mark.slow
def test_the_flows_density_integrates_to_one(flow):
    side = np.linspace(-4, 5, 400)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    area = (side[1] - side[0]) ** 2
    assert np.exp(flow.log_prob(grid).astype(np.float64)).sum() * area == pytest.approx(1, abs=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("d", [1, 3, 8])
def test_couplings_are_inverted_and_their_determinant_is_that_of_the_jacobian(d):
    model = CouplingFlow(width=8, depth=6)
    z = np.random.default_rng(d).normal(size=(4, d)).astype(np.float32)
    layers = jax.jit(model.init)(jax.random.key(d), z)["params"]
    np.testing.assert_array_equal(_apply(model, layers, z)[0], z)  # begins as the identity
    layers = noisy(layers, 0.3)
    noise, log_det = _apply(model, layers, z)
    back, back_log_det = _apply(model, layers, noise, True)
    np.testing.assert_allclose(back, z, atol=1e-4)
    np.testing.assert_allclose(back_log_det, -log_det, atol=1e-4)
    jacobian = jax.jit(jax.vmap(jax.jacobian(lambda v: _apply(model, layers, v[None])[0][0])))(z)
    np.testing.assert_allclose(np.linalg.slogdet(jacobian)[1], log_det, atol=1e-4)
    # Every unit reaches every other within six layers (of up to eight units).
    assert (np.abs(jacobian) > 1e-7).all(0).all()


@pytest.mark.slow
@pytest.mark.parametrize("d", [2, 5, 8])
def test_couplings_move_every_unit_and_tell_any_two_apart(d):
    z, kept = np.ones((1, d), np.float32), []
    for place in range(6):
        coupling = Coupling(width=4, place=place)
        params = noisy(jax.jit(coupling.init)(jax.random.key(0), z), 0.3)
        kept.append(np.asarray(coupling.apply(params, z)[0] == z)[0])
    kept = np.array(kept)
    assert not kept.all(0).any()
    assert len(np.unique(kept, axis=1).T) == d


@pytest.mark.slow
def test_the_flow_fits_moons_better_than_a_gaussian_and_draws_what_it_says(flow):
    held_out = moons(1000, 1)
    gaussian = samplers.fit("gaussian", moons(1000, 0))
    assert flow.log_prob(held_out).mean() > gaussian.log_prob(held_out).mean() + 0.4
    # Its own draws are as likely as it says: minus the entropy, up to noise, whichever way it is computed.
    side = np.linspace(-4, 5, 400)
    log_p = flow.log_prob(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)).astype(np.float64)
    minus_entropy = (np.exp(log_p) * log_p).sum() * (side[1] - side[0]) ** 2
    drawn = flow.log_prob(flow.sample(4000, seed=5))
    assert drawn.mean() == pytest.approx(minus_entropy, abs=5 * float(drawn.std()) / 4000**0.5)


@pytest.mark.slow
def test_the_flow_reads_any_unit():
    """Also of a unit that never moves."""
    unit, place = np.array([1e-3, 1e4, 1]), np.array([0.005, -1e5, 0])
    z = np.c_[moons(500, 0), np.full(500, 7)].astype(np.float32)
    plain, scaled = (samplers.fit("flow", x, width=8, depth=2, steps=50) for x in (z, z * unit + place))
    np.testing.assert_allclose((scaled.sample(99) - place) / unit, plain.sample(99), atol=0.05)
    assert plain.params["deviation"][2] == 1  # not 0, which nothing could be divided by
    change = np.log(np.prod(unit))
    np.testing.assert_allclose(scaled.log_prob(z * unit + place), plain.log_prob(z) - change, atol=0.1)


# Autoregressive


@pytest.mark.slow
def test_no_place_reads_a_later_one_by_gradient():
    model = CausalTransformer(size=4, length=5, width=8, layers=2, heads=2)
    before = np.array([[4, 0, 3, 1, 2]])
    params = jax.jit(model.init)(jax.random.key(0), before)

    def logits(nudge):
        def add(next_call, args, kwargs, context):
            out = next_call(*args, **kwargs)
            embedding = isinstance(context.module, nn.Embed) and context.method_name == "__call__"
            return out + nudge if embedding else out

        with nn.intercept_methods(add):
            return model.apply(params, before)[0][0]

    reads = np.abs(jax.jit(jax.jacobian(logits))(jnp.zeros((5, 8)))).sum((1, 3))  # [place, place before it]
    np.testing.assert_array_equal(reads > 0, np.tri(5, dtype=bool))


@pytest.mark.slow
def test_probabilities_of_all_sequences_sum_to_one():
    model = CausalTransformer(size=3, length=4, width=8, layers=2, heads=2)
    params = jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 4), jnp.int32))["params"]
    params = noisy(params, 0.5)
    log_p = np.asarray(_log_prob(model, params, everything(3, 4)), np.float64)
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-5)
    assert np.ptp(log_p) > 1
    apply = jax.jit(model.apply)
    # By hand: each place's softmax given the codes before it, the start code in front.
    for codes in everything(3, 4)[[0, 26, 77]]:
        before = jnp.array([[3, *codes[:-1]]])
        shares = jax.nn.softmax(apply({"params": params}, before)[0][0])
        assert np.exp(_log_prob(model, params, codes[None])[0]) == pytest.approx(
            np.prod([shares[i, c] for i, c in enumerate(codes)]), rel=1e-4
        )


@pytest.mark.slow
def test_draws_have_the_probabilities_that_the_transformer_tells():
    """Through the cache, of a transformer that is far from uniform: the shares of all 27 sequences."""
    fitted = samplers.fit("autoregressive", everything(3, 3), size=3, **{**SMALL, "steps": 1})
    fitted = samplers.Sampler(fitted.name, fitted.kind, fitted.shape, noisy(fitted.params, 0.5))
    p = np.exp(fitted.log_prob(everything(3, 3)))
    assert p.max() / p.min() > 10
    num = 20_000
    counts = np.bincount(fitted.sample(num, seed=1) @ [9, 3, 1], minlength=27)
    assert np.square(counts / num - p).sum() < 3 / num  # its expectation is below 1 / num
    assert np.square((counts - num * p) / np.sqrt(num * p)).sum() < 60  # chi-squared of 26 degrees of freedom


@pytest.mark.slow
def test_the_pattern_of_the_codes_is_learned_and_drawn(counting):
    drawn = counting.sample(300, seed=1)
    assert drawn.shape == (300, 3, 2)
    assert drawn.dtype == np.int32
    follows = np.diff(drawn.reshape(300, -1), axis=1) % K == 1
    assert follows.all(1).mean() > 0.97
    assert np.bincount(drawn[:, 0, 0], minlength=K).min() > 30  # all of the first codes, of 60 each
    log_p = counting.log_prob((np.arange(K)[:, None] + np.arange(LENGTH)).reshape(-1, 3, 2) % K)
    np.testing.assert_allclose(log_p, -np.log(K), atol=0.2)


@pytest.mark.slow
def test_a_draw_depends_on_its_own_number_alone(counting):
    np.testing.assert_array_equal(counting.sample(300, seed=2)[:3], counting.sample(3, seed=2))
    assert np.any(counting.sample(20, seed=2) != counting.sample(20, seed=3))
    assert np.any(counting.sample(300, seed=2)[:44] != counting.sample(300, seed=2)[256:])


# Fitting


@pytest.mark.slow
def test_maximum_likelihood_of_a_gaussian_is_its_mean():
    x = np.sort(vectors(512, 3), 0) + np.float32(2)  # a part of the rows has another mean
    log_prob = lambda mean, batch: -0.5 * jnp.square(batch - mean).sum(-1)  # noqa: E731
    found = maximize(log_prob, jnp.zeros(3), x, seed=0, steps=500, batch_size=256, lr=0.05)
    np.testing.assert_allclose(found, x.mean(0), atol=0.03)
    with pytest.raises(aejax.DivergedError, match=r"diverged before step 50; lower sampler.lr, now 0.05"):
        maximize(lambda p, b: log_prob(p, b) * jnp.nan, jnp.zeros(3), x, seed=0, steps=60, batch_size=8, lr=0.05)


@pytest.mark.parametrize("name", mostly_slow(list(samplers.SAMPLERS), "gaussian", "mixture"))
def test_the_same_seed_gives_the_same_bits_and_files_keep_them(name, tmp_path):
    codes, options = some(name)
    fitted = samplers.fit(name, codes, seed=1, **options)
    samplers.save(fitted, tmp_path / "a" / "b")
    samplers.save(fitted, tmp_path / "a" / "b")  # over the first
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["sampler.npz"]
    loaded = samplers.load(tmp_path / "a" / "b")
    assert (loaded.name, loaded.kind, loaded.shape) == (name, fitted.kind, codes.shape[1:])
    again = samplers.fit(name, codes, seed=1, **options)
    for other in (loaded, again):
        np.testing.assert_array_equal(other.sample(5, seed=4), fitted.sample(5, seed=4))
        np.testing.assert_array_equal(other.log_prob(codes), fitted.log_prob(codes))
    assert np.any(fitted.sample(5, seed=4) != fitted.sample(5, seed=5))


def some(name):
    """Codes and quick options for a sampler."""
    if name == "autoregressive":
        return np.random.default_rng(0).integers(0, 8, (40, 2, 3)), {"size": 8, **SMALL, "steps": 2}
    return vectors(60).reshape(60, 2, 3), {
        "mixture": {"components": 2},
        "flow": {"width": 4, "depth": 2, "steps": 2},
    }.get(name, {})


@pytest.mark.parametrize(
    ("name", "codes", "options", "message"),
    [
        ("gausian", vectors(), {}, r"sampler 'gausian' is unknown; did you mean 'gaussian'"),
        ("os:system", vectors(), {}, r"sampler 'os:system' is unknown"),
        ("flow", vectors(), {"wdth": 3}, r"sampler 'flow': option 'wdth' is unknown; did you mean 'width'"),
        ("flow", vectors(), {"steps": 0}, r"sampler.steps must be a whole number above 0, got 0"),
        ("flow", vectors(), {"lr": -1.0}, r"sampler.lr must be above 0, got -1"),
        ("flow", np.zeros((4, 3), int), {}, r"'flow' is for continuous codes .* are discrete; choose: autoregressive"),
        ("autoregressive", vectors(), {"size": 8}, r"are continuous; choose: gaussian, mixture, flow"),
        ("autoregressive", np.zeros((4, 3), int), {}, r"sampler 'autoregressive' needs sampler.size"),
        ("autoregressive", np.full((4, 3), 8), {"size": 8}, r"codes must be from 0 to 7, got 8 to 8"),
        ("autoregressive", np.zeros((4, 3), int) - 1, {"size": 8}, r"codes must be from 0 to 7, got -1 to -1"),
        ("autoregressive", np.zeros((4, 3), int), {"size": 2**20}, r"up to 16,384 codes; the run has 1,048,576"),
        ("autoregressive", np.zeros((4, 3), int), {"size": 8, "heads": 3}, r"heads=3 cannot share sampler.width=64"),
        ("gaussian", np.where(np.arange(100)[:, None] == 7, np.nan, vectors()), {}, r"latent 7 of 100 holds NaN"),
        ("gaussian", vectors()[:0], {}, r"one code or more; got float32 \(0, 6\)"),
        ("gaussian", np.zeros(5), {}, r"numbers \[n, ...\], one code or more; got float64 \(5,\)"),
        ("gaussian", np.array([["a", "b"]]), {}, r"codes: give numbers"),
        ("mixture", vectors(5), {}, r"sampler.components=10 is more than the 5 latents; lower it"),
        ("mixture", np.zeros((20, 5000), np.float32), {}, r"10 covariances of 5,000 dimensions do not fit in memory"),
        ("flow", np.zeros((20, 5000), np.float32), {}, r"up to 2,048 units, these have 5,000; choose the gaussian"),
    ],
)
def test_what_cannot_be_fitted_is_one_clear_line(name, codes, options, message):
    with pytest.raises(aejax.InputError, match=message) as caught:
        samplers.fit(name, codes, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_what_cannot_be_drawn_or_scored_is_one_clear_line(counting):
    with pytest.raises(aejax.InputError, match="num of at least 1, got 0"):
        counting.sample(0)
    with pytest.raises(aejax.InputError, match=r"codes are \(n, \*\(3, 2\)\), the given ones \(4, 6\)"):
        counting.log_prob(np.zeros((4, 6), int))
    with pytest.raises(aejax.InputError, match="codes must be from 0 to 4"):
        counting.log_prob(np.full((1, 3, 2), 5))


# Files


def test_no_file_is_loaded_that_could_run_anything_or_is_damaged(tmp_path):
    with pytest.raises(aejax.InputError, match="no sampler here"):
        samplers.load(tmp_path)
    samplers.save(samplers.fit("gaussian", vectors()), tmp_path)
    file = tmp_path / "sampler.npz"
    whole = file.read_bytes()
    with np.load(file) as held:
        arrays = dict(held)

    def refused(message):
        with pytest.raises(aejax.StorageError, match=rf"cannot be read \({message}"):
            samplers.load(tmp_path)

    np.savez(file, **{**arrays, "params/mean": np.array([print], object)})
    refused(r"InputError: .*ValueError: the dtype is object")
    np.savez(file, **{**arrays, "description": np.array(["x"], object)})
    refused(r"InputError: .*ValueError: the dtype is object")
    described = json.loads(str(arrays["description"])) | {"name": "subprocess:Popen"}
    np.savez(file, **{**arrays, "description": np.array(json.dumps(described))})
    refused("InputError: sampler 'subprocess:Popen' is unknown")
    file.write_bytes(whole[: len(whole) // 2])
    refused("InputError: .*BadZipFile")
    np.savez(file, x=np.zeros(3))
    refused("KeyError")
    file.write_bytes(whole)
    assert samplers.load(tmp_path).sample(2).shape == (2, 6)


@pytest.mark.parametrize("name", mostly_slow(samplers.SAMPLERS, "gaussian"))
def test_arrays_that_do_not_belong_together_are_refused_where_they_are_loaded(name, tmp_path):
    codes, options = some(name)
    samplers.save(samplers.fit(name, codes, **options), tmp_path)
    file = tmp_path / "sampler.npz"
    with np.load(file) as held:
        arrays = dict(held)
    key = next(key for key, value in arrays.items() if value.ndim > 1)
    np.savez(file, **{**arrays, key: arrays[key][..., 1:]})
    with pytest.raises(aejax.StorageError, match=r"sampler.npz cannot be read .*; fit the sampler anew$") as caught:
        samplers.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_save_that_fails_leaves_the_one_before(tmp_path, monkeypatch):
    samplers.save(samplers.fit("gaussian", vectors()), tmp_path)
    before = (tmp_path / "sampler.npz").read_bytes()

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(aejax.StorageError, match=r"cannot be written \(.*No space left on device"):
        samplers.save(samplers.fit("gaussian", vectors() + 1), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["sampler.npz"]
    assert (tmp_path / "sampler.npz").read_bytes() == before
    blocked = tmp_path / "sampler.npz" / "under-a-file"
    with pytest.raises(aejax.StorageError, match="cannot be written"):
        samplers.save(samplers.fit("gaussian", vectors()), blocked)
