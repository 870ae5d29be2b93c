"""Terms against closed forms, finite differences in float64 and sums written out in loops; four devices as one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
from conftest import context, example_keys, mostly_slow

import aejax
from aejax.distributed.partition import Partition
from aejax.models.bottlenecks import BOTTLENECKS, GaussianBottleneck
from aejax.models.distributions import (
    DiagonalGaussian,
    FlowPosterior,
    FullGaussian,
    GaussianMixture,
    StandardNormal,
    normal_log_prob,
)
from aejax.objectives import TERMS, Objective
from aejax.objectives.likelihoods import Bernoulli, Gaussian, Laplace, SquaredError
from aejax.training.step import Task, init, train_step


def values(seed=0, shape=(6, 3)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def posterior(seed=0, n=6, d=2):
    return DiagonalGaussian(jnp.asarray(values(seed, (n, d))), jnp.asarray(0.4 * values(seed + 100, (n, d))))


def coded(seed=0, n=6, d=2, prior=None, **fields):
    """A context with a diagonal posterior and a z drawn from it."""
    q = posterior(seed, n, d)
    z = q.sample(values(seed + 200, (n, d)))
    return context(np.zeros((n, 3)), z=z, posterior=q, prior=prior or StandardNormal(d), **fields)


def mixture(d=2):
    return GaussianMixture(jnp.asarray(values(7, (3,))), jnp.asarray(values(8, (3, d))), jnp.zeros((3, d)))


def modelled(encoder, bottleneck, decoder, x, scale=0.5, label=None, **fields):
    """A context with a model whose parameters, biases too, are of `scale`; and the parameters in float64."""
    model = aejax.Autoencoder(encoder, bottleneck, decoder, classes=0 if label is None else 3)
    variables = model.init(jax.random.key(0), x, label=label)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda a: jnp.float32(rng.normal(0, scale, a.shape)), variables)
    output = model.apply(variables, x, label=label)
    fields = {"apply": model.apply, "variables": variables, "label": label, **fields}
    c = context(x, output.decoded, output.code.z, **fields)
    return c, jax.tree.map(np.float64, variables["params"])


def dense(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def squared_jacobian(function, x, step=1e-6):
    """By central differences, one coordinate after another, in float64."""
    total = 0.0
    for i in range(x.size):
        e = np.zeros(x.size)
        e[i] = step
        e = e.reshape(x.shape)
        total += (((function(x + e) - function(x - e)) / (2 * step)) ** 2).sum()
    return total


# Penalties of the code.


def test_norms_are_sums_over_all_of_an_examples_units():
    z = values(shape=(4, 2, 3, 2))
    c = context(np.zeros((4, 3)), z=z)
    np.testing.assert_allclose(TERMS["l1"](c), [np.linalg.norm(row.ravel(), 1) for row in z], rtol=1e-5)
    np.testing.assert_allclose(TERMS["code_l2"](c), [np.linalg.norm(row) ** 2 / 2 for row in z], rtol=1e-5)


@pytest.mark.parametrize("target", [0.05, 0.4])
def test_kl_sparsity_is_the_entropy_of_bernoullis_relative_to_the_mean_activations(target):
    for seed in range(3):
        z = scipy.special.expit(values(seed, (6, 4)))
        expected = sum(scipy.stats.entropy([target, 1 - target], [m, 1 - m]) for m in z.mean(0))
        got = TERMS["kl_sparsity"](context(np.zeros((6, 3)), z=z), target=target)
        assert float(got) == pytest.approx(expected, rel=1e-4)
    c = context(np.zeros((6, 3)), z=np.full((6, 4), target))
    assert float(TERMS["kl_sparsity"](c, target=target)) == pytest.approx(0, abs=1e-6)
    for saturated in (0.0, 1.0):
        c = context(np.zeros((6, 3)), z=np.full((6, 4), saturated))
        assert np.isfinite(TERMS["kl_sparsity"](c, target=target))


@pytest.mark.slow
def test_decoder_l2_is_of_the_decoders_kernels_alone():
    mlp = aejax.models.MLPEncoder((4,)), BOTTLENECKS["dense"](2), aejax.models.MLPDecoder((3,), (5,))
    c, params = modelled(*mlp, values())
    expected = sum(np.square(params["decoder"][name]["kernel"]).sum() for name in ("dense_0", "dense_1")) / 2
    assert float(TERMS["decoder_l2"](c)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("width", [2, 7])  # fewer and more than the inputs: by rows and by columns
def test_contractive_is_the_closed_form_of_a_sigmoid_layer(width):
    """Rifai et al. 2011, section 3.2: sum_j (h_j (1 - h_j))^2 sum_i W_ij^2."""
    layers = aejax.models.MLPEncoder((width,), "sigmoid"), BOTTLENECKS["identity"](), aejax.models.MLPDecoder((4,))
    c, params = modelled(*layers, values(shape=(5, 4)), scale=1.0)
    layer = params["encoder"]["dense_0"]
    h = scipy.special.expit(dense(layer, c.x))
    expected = [(np.square(row * (1 - row)) * np.square(layer["kernel"]).sum(0)).sum() for row in h]
    np.testing.assert_allclose(TERMS["contractive"](c), expected, rtol=1e-4)


@pytest.mark.slow
def test_contractive_is_the_jacobian_by_differences_with_labels_too():
    label = jnp.array([0, 2, 1, 1, 0])
    layers = aejax.models.MLPEncoder((5,), "tanh"), GaussianBottleneck(2), aejax.models.MLPDecoder((2, 2, 1))
    c, params = modelled(*layers, values(shape=(5, 2, 2, 1)), label=label)
    hot = np.eye(3)[label]

    def mean(x, hot):
        h = np.tanh(dense(params["encoder"]["dense_0"], np.concatenate([x.ravel(), hot])))
        return dense(params["bottleneck"]["mean"], h)

    expected = [squared_jacobian(lambda v, b=b: mean(v, hot[b]), np.float64(c.x[b])) for b in range(5)]
    np.testing.assert_allclose(TERMS["contractive"](c), expected, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("pixels", [2, 5])
def test_gradient_penalty_is_the_jacobian_of_the_decoded_mean_by_differences(pixels):
    label = jnp.array([0, 2, 1, 1, 0])
    layers = aejax.models.MLPEncoder((4,)), BOTTLENECKS["dense"](3), aejax.models.MLPDecoder((pixels,), (6,), "tanh")
    x = values(shape=(5, pixels))
    c, params = modelled(*layers, x, scale=1.0, label=label, mean=Bernoulli().mean)
    hot = np.eye(3)[label]

    def mean(z, hot):
        h = np.tanh(dense(params["decoder"]["dense_0"], np.concatenate([z, hot])))
        return scipy.special.expit(dense(params["decoder"]["dense_1"], h))

    expected = [squared_jacobian(lambda v, b=b: mean(v, hot[b]), np.float64(c.z[b])) for b in range(5)]
    np.testing.assert_allclose(TERMS["gradient_penalty"](c), expected, rtol=1e-3)


def test_revival_of_two_units_and_of_none():
    def apply(variables, z, method):
        return z / 2

    code = jnp.array([[1.0, 0.0], [0.0, 0.0]])  # no unit of the second example is dead
    c = context(np.ones((2, 2)), np.zeros((2, 2)), revival=code, apply=apply)
    np.testing.assert_allclose(TERMS["revival"](c), [0.5**2 + 1, 0])


@pytest.mark.slow
def test_revival_is_the_error_of_the_dead_units_in_explaining_what_is_missed():
    w, b = values(3, (4, 5)), values(4, (5,))
    x, decoded, z = values(shape=(3, 5)), values(1, (3, 5)), values(2, (3, 4))
    code = np.abs(values(5, (3, 4))) * [1, 0, 1, 0]
    code[1] = 0  # none of its units is dead

    def revival(decoded, w):
        def apply(variables, z, method):
            assert method == "decode"
            return z @ variables["w"] + b

        return TERMS["revival"](context(x, decoded, z, revival=jnp.asarray(code), apply=apply, variables={"w": w}))

    expected = np.zeros(3)
    for i in (0, 2):
        for pixel in range(5):
            missed = float(x[i, pixel]) - float(decoded[i, pixel])
            expected[i] += (missed - sum(code[i, j] * w[j, pixel] for j in range(4))) ** 2
    np.testing.assert_allclose(revival(decoded, w), expected, rtol=1e-4)
    to_decoded, to_w = jax.grad(lambda *a: revival(*a).sum(), (0, 1))(jnp.asarray(decoded), jnp.asarray(w))
    np.testing.assert_array_equal(to_decoded, 0)  # the live units are not to leave something for the dead ones
    assert np.all(np.abs(to_w[::2]).min(1) > 0)
    with pytest.raises(
        aejax.InputError, match=r"weights.revival needs a sparse bottleneck with revive and dead_after above"
    ):
        TERMS["revival"](context(x))


# Of Gaussian posteriors.


def test_capacity_is_the_distance_of_the_mean_kl_from_a_growing_target():
    kl = np.array([1.0, 2.0, 6.0], np.float32)
    for step, target in ((0, 0.0), (50, 2.0), (100, 4.0), (999, 4.0), (None, 4.0)):
        c = context(np.zeros((3, 2)), losses={"kl": kl}, step=None if step is None else jnp.array(step))
        assert float(TERMS["capacity"](c, nats=4.0, steps=100)) == pytest.approx(abs(3 - target))
    with pytest.raises(aejax.InputError, match=r"weights.capacity needs a bottleneck with a kl"):
        TERMS["capacity"](context(np.zeros((3, 2))))


@pytest.mark.slow
def test_free_bits_count_what_a_unit_has_above_them_on_average_over_the_batch():
    for seed in range(3):
        q = posterior(seed, d=4)
        c = context(np.zeros((6, 3)), posterior=q, prior=StandardNormal(4))
        m, s = np.float64(q.mean), np.exp(np.float64(q.log_std))
        by_unit = (0.5 * (m**2 + s**2 - 1) - np.log(s)).mean(0)
        assert float(TERMS["free_bits"](c, nats=0.0)) == pytest.approx(float(q.kl().mean()), rel=1e-5)
        nats = float(np.sort(by_unit)[1:3].mean())  # two units below and two above
        expected = sum(max(nats, unit) for unit in by_unit)
        assert float(TERMS["free_bits"](c, nats=nats)) == pytest.approx(expected, rel=1e-4)
        assert float(TERMS["free_bits"](c, nats=50.0)) == pytest.approx(4 * 50)
    for fields in (
        {},
        {"posterior": FullGaussian(q.mean, jnp.eye(4)[None]), "prior": StandardNormal(4)},
        {"posterior": q, "prior": mixture(4)},
    ):
        with pytest.raises(aejax.InputError, match="free_bits needs a diagonal posterior and the standard normal"):
            TERMS["free_bits"](context(np.zeros((6, 3)), **fields))


def decomposition(c):
    """log q(z|x), log q(z), sum_j log q(z_j) and log p(z), q the mean over the batch, in loops over scipy."""
    q, z = c.output.code.posterior, np.float64(c.z)
    mean, std = np.float64(q.mean), np.exp(np.float64(q.log_std))
    n, d = mean.shape
    conditional, joint, units = np.zeros(n), np.zeros(n), np.zeros(n)
    for i in range(n):
        conditional[i] = scipy.stats.norm.logpdf(z[i], mean[i], std[i]).sum()
        densities = [
            np.prod([scipy.stats.norm.pdf(z[i, k], mean[j, k], std[j, k]) for k in range(d)]) for j in range(n)
        ]
        joint[i] = np.log(sum(densities) / n)
        for k in range(d):
            of_unit = sum(scipy.stats.norm.pdf(z[i, k], mean[j, k], std[j, k]) for j in range(n))
            units[i] += np.log(of_unit / n)
    return conditional, joint, units, scipy.stats.norm.logpdf(z).sum(1)


@pytest.mark.parametrize("seed", range(3))
def test_decomposition_of_the_kl_is_the_double_sum_over_the_batch(seed):
    c = coded(seed, d=3)
    conditional, joint, units, log_p = decomposition(c)
    terms = [TERMS[name](c) for name in ("mutual_information", "total_correlation", "dimension_kl")]
    np.testing.assert_allclose(terms[0], conditional - joint, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(terms[1], joint - units, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(terms[2], units - log_p, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(sum(terms), conditional - log_p, rtol=1e-4, atol=1e-4)


def linear(correlation, std, n=1024):
    """A context with codes N(mean, std^2), the means so drawn that their aggregate has unit variances."""
    rng, scale = np.random.default_rng(0), (1 - std**2) * np.array([[1, correlation], [correlation, 1]])
    mean, log_std = rng.multivariate_normal([0, 0], scale, n), np.full((n, 2), np.log(std))
    q = DiagonalGaussian(jnp.float32(mean), jnp.float32(log_std))
    return context(np.zeros((n, 3)), z=q.sample(rng.normal(size=(n, 2))), posterior=q, prior=StandardNormal(2))


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.8])
@pytest.mark.parametrize("std", [0.3, 0.9])
def test_the_decomposition_is_the_closed_form_of_gaussian_codes(correlation, std):
    c = linear(correlation, std)
    off = correlation * (1 - std**2)
    correlated = -0.5 * np.log(1 - off**2)  # the total correlation; each unit has unit variance, so a KL of 0
    expected = {
        "mutual_information": -2 * np.log(std) - correlated,
        "total_correlation": correlated,
        "dimension_kl": 0.0,
    }
    for name, value in expected.items():
        assert float(TERMS[name](c).mean()) == pytest.approx(value, abs=0.08)


@pytest.mark.slow
def test_the_decomposition_at_the_ends():
    """Codes that know nothing of the input have neither information nor correlation; those that know it all reach the
    bound, the log of the batch."""
    n, noise = 64, values(1, (64, 5))
    q = DiagonalGaussian(jnp.zeros((n, 5)), jnp.zeros((n, 5)))
    c = context(np.zeros((n, 3)), z=q.sample(noise), posterior=q, prior=StandardNormal(5))
    for name in ("mutual_information", "total_correlation", "dimension_kl"):
        np.testing.assert_allclose(TERMS[name](c), 0, atol=1e-4)
    certain = linear(0.8, 1e-4, n)
    np.testing.assert_allclose(TERMS["mutual_information"](certain), np.log(n), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mutual_information", "total_correlation", "dimension_kl"])
def test_the_decomposition_has_the_gradients_of_minibatch_weighted_sampling(name):
    """Bit for bit, so that runs stay what they were (Chen et al. 2018, equation 3: by N M where ours divides by M)."""
    noise, examples, n = values(3, (6, 3)), 60_000, 6

    def of(q, z):
        return context(np.zeros((n, 3)), z=z, posterior=q, prior=StandardNormal(3))

    def weighted(q, z):
        each = normal_log_prob(z[:, None, :, None], q.mean[None, :, :, None], q.log_std[None, :, :, None])
        joint = jax.nn.logsumexp(each.sum(-1), 1) - np.log(examples * n)
        units = (jax.nn.logsumexp(each, 1) - np.log(examples * n)).sum(-1)
        parts = {
            "mutual_information": q.log_prob(z) - joint,
            "total_correlation": joint - units,
            "dimension_kl": units - StandardNormal(3).log_prob(z),
        }
        return parts[name]

    q = posterior(0, n, 3)
    ours, theirs = (
        jax.value_and_grad(lambda q, f=f: f(q, q.sample(noise)).mean())(q)
        for f in (lambda q, z: TERMS[name](of(q, z)), weighted)
    )
    for a, b in zip(jax.tree.leaves(ours[1]), jax.tree.leaves(theirs[1]), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.abs(a).max() > 0.01
    shift = {"mutual_information": 1, "total_correlation": 3 - 1, "dimension_kl": -3}[name] * np.log(examples)
    assert float(theirs[0] - ours[0]) == pytest.approx(shift, rel=1e-5)


@pytest.mark.slow
def test_the_decomposition_with_weights_of_one_is_the_loss_of_a_vae():
    """Of a VAE whose kl is drawn: under a mixture prior."""
    c = coded(prior=mixture(), examples=50)
    kl = c.output.code.posterior.log_prob(c.z) - mixture().log_prob(c.z)
    parts = Objective(SquaredError(), {"mutual_information": 1.0, "total_correlation": 1.0, "dimension_kl": 1.0})
    vae = Objective(SquaredError(), {"kl": 1.0})(coded(prior=mixture(), losses={"kl": kl}))
    np.testing.assert_allclose(parts(c)["loss"], vae["loss"], rtol=1e-4, atol=1e-4)


def test_the_decomposition_of_several_samples_is_that_of_the_first():
    c = coded(examples=50)
    z = jnp.stack([c.z, c.z + 1])
    several = context(np.zeros((6, 3)), z=z, samples=2, posterior=posterior(), prior=StandardNormal(2), examples=50)
    for name in ("mutual_information", "total_correlation", "dimension_kl"):
        np.testing.assert_allclose(TERMS[name](several), TERMS[name](c), rtol=1e-6)


@pytest.mark.parametrize("name", ["mutual_information", "total_correlation", "dimension_kl"])
def test_the_decomposition_needs_a_diagonal_posterior(name):
    with pytest.raises(aejax.InputError, match=f"weights.{name} needs a posterior"):
        TERMS[name](context(np.zeros((2, 3)), examples=5))
    q = FullGaussian(jnp.zeros((2, 2)), jnp.eye(2)[None])
    with pytest.raises(aejax.InputError, match=f"weights.{name} needs bottleneck.posterior='diagonal'"):
        TERMS[name](context(np.zeros((2, 3)), posterior=q, prior=StandardNormal(2), examples=5))


def dip_of(covariance, diagonal):
    return sum(
        (diagonal * (covariance[i, j] - 1) ** 2 if i == j else covariance[i, j] ** 2)
        for i in range(len(covariance))
        for j in range(len(covariance))
    )


@pytest.mark.parametrize("diagonal", [10.0, 0.3])
def test_dip_is_the_distance_of_the_covariance_from_the_identity(diagonal):
    for seed in range(3):
        q, n = posterior(seed, d=3), 6
        mean, variance = np.float64(q.mean), np.exp(2 * np.float64(q.log_std))
        c = context(np.zeros((n, 3)), z=values(9), posterior=q, prior=StandardNormal(3))
        first = np.cov(mean.T, bias=True)
        assert float(TERMS["dip"](c, kind=1, diagonal=diagonal)) == pytest.approx(dip_of(first, diagonal), rel=1e-4)
        second = first + np.diag(variance.mean(0))
        assert float(TERMS["dip"](c, kind=2, diagonal=diagonal)) == pytest.approx(dip_of(second, diagonal), rel=1e-4)
        assert float(TERMS["dip"](c)) == pytest.approx(dip_of(first, 10.0), rel=1e-4)


def test_the_second_dip_is_of_the_codes_that_are_drawn():
    scale = np.tril(values(2, (6, 3, 3)))
    q = FullGaussian(jnp.asarray(values()), jnp.asarray(scale))
    n = 50_000
    noise = np.random.default_rng(0).normal(size=(n, 6, 3))
    drawn = (np.float64(q.mean) + np.einsum("bij,sbj->sbi", scale, noise)).reshape(-1, 3)
    got = TERMS["dip"](context(np.zeros((6, 3)), posterior=q, prior=StandardNormal(3)), kind=2)
    # A covariance of 300,000 draws is known to about 1/500, and the term is made of its squares.
    assert float(got) == pytest.approx(dip_of(np.cov(drawn.T), 10.0), rel=0.02)


@pytest.mark.slow
def test_dip_names_what_it_cannot_do():
    q = posterior()
    flow = FlowPosterior(q.mean, q, jnp.zeros(6))
    c = context(np.zeros((6, 3)), posterior=flow, prior=StandardNormal(2))
    assert np.isfinite(TERMS["dip"](c))
    with pytest.raises(aejax.InputError, match=r"dip.kind=2 needs a diagonal or full posterior"):
        TERMS["dip"](c, kind=2)
    with pytest.raises(aejax.InputError, match=r"dip.kind must be 1 or 2, got 3"):
        TERMS["dip"](c, kind=3)
    with pytest.raises(aejax.InputError, match=r"weights.dip needs a posterior"):
        TERMS["dip"](context(np.zeros((6, 3))))


def kernel(name, a, b, scale):
    squared, d = sum((p - q) ** 2 for p, q in zip(a, b, strict=True)), len(a)
    if name == "rbf":
        return np.exp(-squared / (2 * d * scale**2))
    return sum(2 * d * scale**2 * s / (2 * d * scale**2 * s + squared) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))


@pytest.mark.parametrize("scale", mostly_slow([1.0, 0.5], 0.5))
@pytest.mark.parametrize("name", ["rbf", "imq"])
def test_mmd_is_the_double_sum_over_codes_and_samples_of_the_prior(name, scale):
    for prior in (StandardNormal(2), mixture(), None):
        n, z, keys = 5, values(3, (5, 2)), example_keys(5)
        draws = np.float64((prior or StandardNormal(2)).sample(keys))
        expected = 0.0
        for i in range(n):
            for j in range(n):
                if i != j:
                    expected += kernel(name, z[i], z[j], scale) / (n * (n - 1))
                    expected += kernel(name, draws[i], draws[j], scale) / (n * (n - 1))
                expected -= 2 * kernel(name, z[i], draws[j], scale) / n**2
        c = context(np.zeros((n, 3)), z=z, prior=prior, keys=keys)
        assert float(TERMS["mmd"](c, kernel=name, scale=scale)) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    flat = TERMS["mmd"](context(np.zeros((n, 3)), z=z, keys=keys), kernel=name, scale=scale)
    image = TERMS["mmd"](context(np.zeros((n, 3)), z=z.reshape(n, 1, 1, 2), keys=keys), kernel=name, scale=scale)
    assert float(flat) == pytest.approx(float(image), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rbf", "imq"])
def test_mmd_is_zero_on_average_for_codes_of_the_prior_and_grows_with_their_distance(name):
    mmd = jax.jit(lambda z, keys: TERMS["mmd"](context(np.zeros((8, 3)), z=z, keys=keys), kernel=name))
    runs = [(values(seed, (8, 2)), example_keys(8, seed)) for seed in range(300)]
    null = np.array([mmd(z, keys) for z, keys in runs])
    assert abs(null.mean()) < 4 * null.std() / np.sqrt(300)  # unbiased: some are below zero
    assert null.min() < 0
    means = [np.mean([mmd(z + shift, keys) for z, keys in runs[:50]]) for shift in (0.0, 0.5, 1.0, 2.0, 4.0)]
    assert np.all(np.diff(means) > 0)
    if name == "rbf":  # far away only the samples' own similarities are left: E k(a, a') = (1 + 2 / d)^(-d / 2) = 1/2
        far = np.array([mmd(z + 100.0, keys) for z, keys in runs])
        assert abs(far.mean() - 1) < 4 * far.std() / np.sqrt(300) + 1e-3  # float32 at a squared distance of 20,000


def test_mmd_names_what_it_cannot_do():
    c = context(np.zeros((6, 3)))
    with pytest.raises(aejax.InputError, match=r"mmd.kernel 'rfb' is unknown"):
        TERMS["mmd"](c, kernel="rfb")
    with pytest.raises(aejax.InputError, match=r"mmd.scale must be above 0, got 0"):
        TERMS["mmd"](c, scale=0)
    with pytest.raises(aejax.InputError, match=r"kl_sparsity.target must be between 0 and 1, got 1"):
        TERMS["kl_sparsity"](c, target=1)


# In training, on one device and on four.


def task(weights, axis_name=None, likelihood=None, encoder=(), bottleneck=None, options=None):
    model = aejax.Autoencoder(
        aejax.models.MLPEncoder(encoder, "sigmoid"),
        bottleneck or GaussianBottleneck(2, axis_name=axis_name),
        aejax.models.MLPDecoder((3,)),
    )
    objective = Objective(likelihood or SquaredError(), weights, options=options or {})
    return Task(model, objective, optax.sgd(0.1), lambda x: x, examples=100, axis_name=axis_name)


ALONE = {"reconstruction": 0.0}  # the term alone, so that its gradient is seen
BATCH_LEVEL = {
    "kl_sparsity": {"encoder": (4,), "bottleneck": BOTTLENECKS["identity"]()},
    "capacity": {"options": {"capacity": {"nats": 9.0, "steps": 1}}},
    "free_bits": {"options": {"free_bits": {"nats": 0.02}}},
    "mutual_information": {},
    "total_correlation": {},
    "dimension_kl": {},
    "dip": {},
    "dip2": {"weights": {"dip": 1.0}, "options": {"dip": {"kind": 2}}},
    "mmd": {},
    "optimal": {"weights": {"reconstruction": 1.0}, "likelihood": Gaussian(variance="optimal")},
    "optimal_laplace": {"weights": {"reconstruction": 1.0}, "likelihood": Laplace(variance="optimal")},
}


@pytest.mark.parametrize("name", mostly_slow(BATCH_LEVEL))
def test_four_devices_step_as_one(name):
    given = {"weights": {name: 1.0}, **BATCH_LEVEL[name]}
    given["weights"] = ALONE | given["weights"]
    x = values(0, (8, 3)) * np.linspace(0.3, 1.2, 8, dtype=np.float32)[:, None]  # the devices' shares differ
    batch, after = {"x": x, "index": np.arange(8)}, []
    begun = jax.device_get(init(task(**given), (3,), jax.random.key(1)))
    for count in (1, 4):
        partition = Partition(jax.devices()[:count])
        t = task(axis_name=partition.axis_name, **given)

        def step(state, held, batch, reduce, t=t):
            return train_step(state, batch, jax.random.key(0), task=t, reduce=reduce)

        state = partition.replicate(begun.replace(step=np.int32(1)))
        after.append(jax.device_get(partition.compile(step)(state, {}, partition.share(batch))))
    (one, metrics), (four, others) = after
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), metrics, others)
    moves = [jax.tree.map(lambda a, b: a - b, state.params, begun.params) for state in (one, four)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *moves)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(moves[0])) > 1e-3


@pytest.mark.slow
def test_samples_for_mmd_are_not_those_of_the_code():
    """With a posterior equal to the prior the discrepancy is zero on average; with common samples it would not be."""
    t = task({"mmd": 1.0})
    state = init(t, (3,), jax.random.key(1))
    state = state.replace(params=jax.tree.map(jnp.zeros_like, state.params))
    batch = {"x": jnp.zeros((8, 3)), "index": jnp.arange(8)}
    step = jax.jit(lambda key: train_step(state, batch, key, task=t)[1]["mmd"])
    got = np.array([step(jax.random.key(seed)) for seed in range(200)])
    assert abs(got.mean()) < 4 * got.std() / np.sqrt(200)
