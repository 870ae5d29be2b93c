"""Bounds of the likelihood against sums over scipy's densities, and against a model whose likelihood is known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from conftest import context, example_keys
from scipy.special import logsumexp, softmax

import aejax
from aejax.distributed.partition import Partition
from aejax.models.bottlenecks import GaussianBottleneck
from aejax.objectives import Objective
from aejax.objectives.bounds import BOUNDS
from aejax.objectives.likelihoods import Bernoulli, Gaussian
from aejax.training.step import Task, init, train_step

SCALE = 0.7  # of the decoder's Gaussian
X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
LABEL = jnp.array([1, 0, 1])
BOUND = {
    "iwae": {},
    "miwae": {"groups": 2},
    "ciwae": {"share": 0.3},
    "dreg": {},
    "piwae": {"groups": 2},
}


class Tiny:
    """A variational autoencoder of four values and two units, by default linear to the likelihood's mean."""

    def __init__(self, samples=4, encoder=(), decoder=(), likelihood=None, classes=0, weights=None, seed=1, **changes):
        self.likelihood = likelihood or Gaussian(SCALE)
        learned = getattr(self.likelihood, "variance", "") == "learned"
        self.model = aejax.Autoencoder(
            aejax.models.MLPEncoder(encoder, "tanh"),
            GaussianBottleneck(**{"features": 2, "samples": samples, "shape": (4,), "components": 3, **changes}),
            aejax.models.MLPDecoder((4,), decoder, "tanh"),
            classes,
            learned,
        )
        self.label = LABEL if classes else None
        self.weights = weights or {}
        rng = np.random.default_rng(seed)
        variables = jax.eval_shape(self.model.init, jax.random.key(0), X, label=self.label)
        self.params = jax.tree.map(lambda a: jnp.float32(rng.normal(0, 0.4, a.shape)), variables["params"])
        # q wider than the posterior: or the weights' variance would be large, even infinite.
        log_std = self.params["bottleneck"]["log_std"]
        log_std.update(kernel=jnp.zeros_like(log_std["kernel"]), bias=jnp.array([0.1, 0.3]))

    def context(self, params, keys, x=X):
        variables = {"params": params}
        output = self.model.apply(variables, x, keys=keys, label=self.label)
        fields = {"apply": self.model.apply, "variables": variables, "label": self.label, "keys": keys}
        c = context(x, output.decoded, output.code.z, log_scale=output.log_scale, **fields)
        return c.__class__(**{**vars(c), "output": output})

    def objective(self, name, **options):
        return Objective(self.likelihood, self.weights, bound={"name": name, **options})

    def terms(self, name, keys=None, x=X, **options):
        return self.all_terms([(name, options)], keys, x)[0]

    def all_terms(self, bounds, keys=None, x=X):
        """For each name and options of a bound, compiled as one program."""
        objectives = [self.objective(name, **options) for name, options in bounds]

        def run(params, keys, x):
            c = self.context(params, keys, x)
            return [objective(c) for objective in objectives]

        return jax.jit(run)(self.params, example_keys(len(x)) if keys is None else keys, x)

    def loss(self, params, keys, x, name, **options):
        return self.objective(name, **options)(self.context(params, keys, x))["loss"].mean()

    def grads(self, *bounds):
        """For each name and options of a bound, compiled as one program."""

        def run(params):
            return [jax.grad(self.loss)(params, example_keys(3), X, name, **options) for name, options in bounds]

        return jax.device_get(jax.jit(run)(self.params))

    def log_weights(self, beta=1.0, x=X):
        """[samples, batch] by scipy, for the standard normal prior, a diagonal posterior and a fixed scale."""
        output = jax.jit(lambda params: self.context(params, example_keys(len(x)), x).output)(self.params)
        output = jax.device_get(output)  # numpy indexes much faster
        q, log_w = output.code.posterior, np.zeros(output.code.z.shape[:2])
        for k, b in np.ndindex(log_w.shape):
            z = output.code.z[k, b]
            log_q = scipy.stats.norm.logpdf(z, q.mean[b], np.exp(q.log_std[b])).sum()
            log_p = scipy.stats.norm.logpdf(x[b], output.decoded[k, b], SCALE).sum()
            log_w[k, b] = log_p + beta * (scipy.stats.norm.logpdf(z).sum() - log_q)
        return log_w


def exact(samples):
    """The model with its own posterior as q: z given x is Gaussian where the decoder is linear."""
    tiny = Tiny(samples, posterior="full")
    w = np.float64(tiny.params["decoder"]["dense_0"]["kernel"])
    b = np.float64(tiny.params["decoder"]["dense_0"]["bias"])
    covariance = np.linalg.inv(np.eye(2) + w @ w.T / SCALE**2)
    factor = np.linalg.cholesky(covariance)
    gain = w.T @ covariance / SCALE**2
    layer = lambda kernel, bias: {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}  # noqa: E731
    tiny.params["bottleneck"] = {
        "mean": layer(gain, -b @ gain),
        "log_std": layer(np.zeros((4, 2)), np.log(np.diag(factor))),
        "off_diagonal": layer(np.zeros((4, 1)), factor[1:, 0]),
    }
    return tiny


def log_likelihood(tiny, x=X):
    """log p(x) of the linear model by scipy."""
    decoder = jax.tree.map(np.float64, tiny.params["decoder"]["dense_0"])
    w, b = decoder["kernel"], decoder["bias"]
    return scipy.stats.multivariate_normal.logpdf(x, b, w.T @ w + SCALE**2 * np.eye(4))


def close(a, b, **tolerance):
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, **{"rtol": 1e-4, "atol": 1e-5} | tolerance), a, b)


def differ(a, b):
    return max(np.abs(p - q).max() for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)) > 1e-3


def encoders(grads):
    return grads["encoder"], {k: grads["bottleneck"][k] for k in grads["bottleneck"] if not k.startswith("mixture")}


# Values.


def test_every_bound_is_the_likelihood_itself_where_q_is_the_posterior():
    tiny = exact(4)
    for name, terms in zip(BOUND, tiny.all_terms(BOUND.items()), strict=True):
        np.testing.assert_allclose(terms["bound"], -log_likelihood(tiny), rtol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_bounds_are_their_sums_over_weights(beta):
    tiny = Tiny(6, encoder=(3,), decoder=(3,), weights={"kl": beta})
    log_w = tiny.log_weights(beta)

    def mean_weight(log_w):
        return -np.log(np.exp(log_w).sum(0) / len(log_w))

    iwae, elbo = mean_weight(log_w), -log_w.mean(0)
    thirds = np.mean([mean_weight(log_w[[i, i + 3]]) for i in range(3)], 0)  # every third is one of three groups
    expected = (
        ("iwae", {}, iwae),
        ("dreg", {}, iwae),
        ("piwae", {"groups": 3}, iwae),
        ("miwae", {"groups": 1}, iwae),
        ("miwae", {"groups": 6}, elbo),
        ("miwae", {"groups": 3}, thirds),
        ("ciwae", {"share": 1.0}, elbo),
        ("ciwae", {"share": 0.0}, iwae),
        ("ciwae", {"share": 0.3}, 0.3 * elbo + 0.7 * iwae),
    )
    terms = tiny.all_terms([(name, options) for name, options, _ in expected])
    for (name, options, value), got in zip(expected, terms, strict=True):
        np.testing.assert_allclose(got["bound"], value, rtol=1e-4, err_msg=f"{name} {options}")


@pytest.mark.slow
def test_with_one_sample_every_bound_is_the_elbo_whose_kl_is_drawn():
    tiny = Tiny(1, prior="mixture", weights={"kl": 1.0})
    bounds = [(name, {"groups": 1} if "groups" in BOUND[name] else BOUND[name]) for name in BOUND]
    for terms in tiny.all_terms(bounds):
        np.testing.assert_allclose(terms["bound"], terms["reconstruction"] + terms["kl"], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(terms["loss"], terms["bound"])  # kl is in the bound already
    elbo = Objective(tiny.likelihood, tiny.weights)(tiny.context(tiny.params, example_keys(3)))
    np.testing.assert_allclose(elbo["loss"], terms["bound"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_weight_of_kl_follows_its_schedule_and_other_terms_are_added():
    tiny = Tiny(2)
    c = tiny.context(tiny.params, example_keys(3))
    objective = Objective(
        tiny.likelihood,
        {"kl": 0.6, "code_l2": 2.0},
        {"kl": {"name": "linear", "steps": 10}},
        bound={"name": "iwae"},
    )
    for step, beta in ((0, 0.0), (5, 0.3), (None, 0.6)):
        terms = objective(c.__class__(**{**vars(c), "step": None if step is None else jnp.array(step)}))
        log_w = tiny.log_weights(beta)
        bound = np.log(2) - logsumexp(log_w, 0)
        np.testing.assert_allclose(terms["bound"], bound, rtol=1e-4)
        l2 = np.square(c.output.code.z[0]).sum(1)  # twice half of it
        np.testing.assert_allclose(terms["loss"], bound + l2, rtol=1e-4)


@pytest.mark.slow
def test_more_samples_tighten_the_bound_on_average_and_never_pass_the_likelihood():
    n, losses, x = 4000, {}, np.repeat(X[:1], 4000, 0)
    for samples in (1, 2, 8):
        tiny = Tiny(samples, seed=3)
        losses[samples] = np.float64(tiny.terms("iwae", example_keys(n, samples), x)["bound"])
    truth = -log_likelihood(tiny)[0]
    error = {samples: loss.std() / np.sqrt(n) for samples, loss in losses.items()}
    for few, many in ((1, 2), (2, 8)):
        gained = losses[few].mean() - losses[many].mean()
        assert gained > 4 * np.hypot(error[few], error[many])
    assert losses[8].mean() > truth - 4 * error[8]
    for samples, loss in losses.items():  # the mean weight estimates p(x) without bias
        weights = np.exp(truth - loss)
        assert abs(weights.mean() - 1) < 5 * weights.std() / np.sqrt(n), samples


# Gradients.


@pytest.mark.slow
def test_dreg_has_the_gradient_of_the_paper_towards_the_encoder():
    """Tucker et al. 2019, equation 8: sum_k w_k^2 (d log w_k / d z_k) (d z_k / d phi), one sample after another."""
    for beta in (1.0, 0.4):
        tiny = Tiny(2, encoder=(3,), decoder=(3,), weights={"kl": beta}, seed=2)
        code = tiny.context(tiny.params, example_keys(3)).output.code
        noise = (code.z - code.posterior.mean) / jnp.exp(code.posterior.log_std)
        apart = {name: tiny.params[name] for name in ("encoder", "bottleneck")}

        def dense(layer, x):
            return x @ layer["kernel"] + layer["bias"]

        def gaussian(params, b):
            h = jnp.tanh(dense(params["encoder"]["dense_0"], jnp.asarray(X)[b]))
            return dense(params["bottleneck"]["mean"], h), dense(params["bottleneck"]["log_std"], h)

        def log_w(z, b, tiny=tiny, apart=apart, beta=beta):
            decoder = tiny.params["decoder"]
            decoded = dense(decoder["dense_1"], jnp.tanh(dense(decoder["dense_0"], z)))
            mean, log_std = gaussian(apart, b)  # constants
            log_q = -0.5 * (((z - mean) / jnp.exp(log_std)) ** 2).sum() - log_std.sum()
            return -0.5 * ((jnp.asarray(X)[b] - decoded) ** 2).sum() / SCALE**2 + beta * (-0.5 * (z**2).sum() - log_q)

        @jax.jit
        def one(b, z, noise, log_w=log_w, apart=apart):
            """log w_k, and (d log w_k / d z_k) (d z_k / d phi)."""

            def z_of(params):
                mean, log_std = gaussian(params, b)
                return mean + jnp.exp(log_std) * noise

            return log_w(z, b), jax.vjp(z_of, apart)[1](jax.grad(log_w)(z, b))[0]

        expected = jax.tree.map(jnp.zeros_like, apart)
        for b in range(3):
            logarithms, paths = zip(*(one(b, code.z[k, b], noise[k, b]) for k in range(2)), strict=True)
            for w, path in zip(softmax(logarithms), paths, strict=True):
                expected = jax.tree.map(lambda e, g, w=w: e - w**2 * g / 3, expected, path)
        grads = tiny.grads(("dreg", {}))[0]
        close({name: grads[name] for name in apart}, expected)


@pytest.mark.slow
def test_dreg_agrees_with_iwae_in_expectation_towards_the_encoder():
    tiny, n = Tiny(3, encoder=(2,), decoder=(2,), seed=4), 20_000

    def many(name):
        one = lambda key: jax.grad(tiny.loss)(tiny.params, key[None], X[:1], name=name)  # noqa: E731
        grads = jax.jit(jax.vmap(one))(example_keys(n))
        return np.concatenate([np.float64(leaf).reshape(n, -1) for leaf in jax.tree.leaves(encoders(grads))], 1)

    iwae, dreg = many("iwae"), many("dreg")
    error = (iwae - dreg).std(0) / np.sqrt(n)
    assert np.all(np.abs((iwae - dreg).mean(0)) < 5 * error)
    assert np.linalg.norm(iwae.mean(0)) > 20 * np.linalg.norm(error)  # enough keys to tell
    assert dreg.var(0).sum() < iwae.var(0).sum()  # what it is for


def test_dreg_has_no_gradient_towards_the_encoder_where_q_is_the_posterior():
    """The weights are all alike, and log w does not depend on z; the score of q would be noise."""
    tiny = exact(3)
    dreg, iwae = (grads["bottleneck"] for grads in tiny.grads(("dreg", {}), ("iwae", {})))
    close(dreg, jax.tree.map(np.zeros_like, iwae), atol=1e-4)
    assert differ(iwae, dreg)


VARIANTS = {
    "plain": {},
    "learned": {"likelihood": Gaussian(SCALE, "learned")},
    "optimal": {"likelihood": Gaussian(variance="optimal")},
    "mixture": {"prior": "mixture", "weights": {"kl": 0.5}},
    "conditional": {"classes": 2, "likelihood": Bernoulli()},
    "full": {"posterior": "full"},
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_gradients_are_iwaes_towards_decoder_prior_and_scale(variant):
    tiny = Tiny(4, encoder=(3,), decoder=(3,), **VARIANTS[variant])
    names = ("iwae", {}), ("miwae", {"groups": 2}), ("dreg", {}), ("piwae", {"groups": 2}), ("piwae", {"groups": 1})
    iwae, miwae, dreg, piwae, one_group = tiny.grads(*names)

    def others(grads):
        mixture = {k: v for k, v in grads["bottleneck"].items() if k.startswith("mixture")}
        return grads["decoder"], mixture, grads.get("log_scale")

    for grads in (dreg, piwae):
        close(others(grads), others(iwae))
        assert differ(encoders(grads), encoders(iwae))
    close(encoders(piwae), encoders(miwae))
    assert differ(others(iwae), others(miwae))
    close(one_group, iwae)


@pytest.mark.slow
def test_a_flow_posterior_works_with_piwae_but_not_with_dreg():
    tiny = Tiny(4, posterior="planar", depth=1)
    close(*tiny.grads(("piwae", {"groups": 1}), ("iwae", {})))
    with pytest.raises(aejax.InputError, match=r"bound.name=dreg needs bottleneck.posterior='diagonal' or 'full'"):
        tiny.terms("dreg")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dreg", "piwae"])  # iwae: test_configs.py
def test_four_devices_step_as_one(name):
    x = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    tiny, batch, after = Tiny(4), {"x": x, "index": np.arange(8)}, []
    for count in (1, 4):
        partition = Partition(jax.devices()[:count])
        objective = Objective(Gaussian(variance="optimal"), bound={"name": name})
        t = Task(tiny.model, objective, optax.sgd(0.1), lambda x: x, axis_name=partition.axis_name)

        def step(state, held, batch, reduce, t=t):
            return train_step(state, batch, jax.random.key(0), task=t, reduce=reduce)

        begun = jax.device_get(init(t, (4,), jax.random.key(1)))
        state, metrics = partition.compile(step)(partition.replicate(begun), {}, partition.share(batch))
        after.append(jax.device_get((state.params, metrics)))
    close(*after)
    assert differ(after[0][0], begun.params)


# What it cannot do.


def test_what_does_not_fit_is_named():
    tiny = Tiny(4)
    for name in ("miwae", "piwae"):
        for groups in (3, 8):
            with pytest.raises(aejax.InputError, match=rf"{name}.groups must divide the 4 samples, got {groups}"):
                tiny.terms(name, groups=groups)
        with pytest.raises(aejax.InputError, match=r"bound.groups must be a whole number above 0, got 0"):
            tiny.terms(name, groups=0)
    for share in (-0.1, 1.5):
        with pytest.raises(aejax.InputError, match=rf"ciwae.share must be in \[0, 1\], got {share}"):
            tiny.terms("ciwae", share=share)
    with pytest.raises(aejax.InputError, match=r"objective.bound: option 'group' is unknown; did you mean 'groups'"):
        tiny.terms("miwae", group=2)
    for name in BOUNDS:
        with pytest.raises(aejax.InputError, match=r"objective.bound needs a posterior and a prior"):
            Objective(Gaussian(), bound={"name": name})(context(X))
