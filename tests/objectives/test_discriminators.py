"""Discriminators: what they see and learn, and that neither side's gradient reaches the other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from conftest import assert_trees_equal, context, example_keys, shared_among
from flax import serialization
from scipy.special import log_expit

import aejax
from aejax.distributed.partition import Partition
from aejax.models.bottlenecks import BOTTLENECKS, GaussianBottleneck
from aejax.models.distributions import GaussianMixture, StandardNormal
from aejax.objectives import DISCRIMINATORS, Objective
from aejax.objectives.discriminators import VAEGAN, AdversarialAutoencoder, FactorVAE
from aejax.objectives.likelihoods import Bernoulli, SquaredError
from aejax.training.step import Task, eval_step, init, train_step

TERMS = {"factor_vae": ("density_ratio",), "aae": ("adversarial",), "vae_gan": ("feature_error", "adversarial")}


def values(seed=0, shape=(6, 3)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def seen_by(cls):
    """A discriminator that is the sum of what it reads, which it also keeps."""
    seen = []

    class Seeing(cls):
        def judge(self, critic, x):
            seen.append(x)
            return x.reshape(len(x), -1).sum(1), x.reshape(len(x), -1)

    return Seeing(), seen


def task(name, weights=None, bottleneck=None, axis_name=None, likelihood=None, discriminator=None, optimizer=None):
    model = aejax.Autoencoder(
        aejax.models.MLPEncoder((4,), "tanh"),
        bottleneck or GaussianBottleneck(2, axis_name=axis_name),
        aejax.models.MLPDecoder((3,)),
    )
    weights = {"reconstruction": 0.0, **dict.fromkeys(TERMS[name], 1.0)} if weights is None else weights
    return Task(
        model,
        Objective(likelihood or SquaredError(), weights),
        optimizer or optax.sgd(0.1),
        lambda x: x,
        discriminator=discriminator or DISCRIMINATORS[name](features=(5,), lr=0.01),
        examples=100,
        axis_name=axis_name,
    )


def begun(t, seed=1):
    """The state with noise on every parameter, the model's and the discriminator's."""
    rng = np.random.default_rng(seed)
    state = init(t, (3,), jax.random.key(seed))
    stir = lambda tree: jax.tree.map(lambda a: a + jnp.float32(rng.normal(0, 0.3, a.shape)), tree)  # noqa: E731
    return state.replace(params=stir(state.params), critic={**state.critic, "params": stir(state.critic["params"])})


def batch(n=8, seed=0):
    return {"x": jnp.asarray(values(seed, (n, 3))), "index": jnp.arange(n)}


def largest(tree):
    return max(np.abs(leaf).max() for leaf in jax.tree.leaves(tree))


def context_of(t, params, critic, given):
    keys = example_keys(len(given["x"]))
    output = t.model.apply({"params": params}, given["x"], keys=keys)
    return t.context(
        {"params": params}, t.prepare(given["x"]), given, output, example_keys(len(given["x"]), seed=5), None, critic
    )


@pytest.mark.parametrize("name", TERMS)
def test_a_name_stands_for_its_terms(name):
    def terms():
        t = task(name)
        state = init(t, (3,), jax.random.key(0))
        return t.discriminator.terms(
            state.critic["params"], context_of(t, state.params, state.critic["params"], batch())
        )

    assert set(jax.eval_shape(terms)) == set(TERMS[name])


# The two sides.


@pytest.mark.slow
@pytest.mark.parametrize("name", TERMS)
def test_neither_sides_gradient_reaches_the_other(name):
    t = task(name)
    state = begun(t)

    @jax.jit
    def gradients(params, critic):
        def for_model(params, critic):
            return sum(v.sum() for v in t.discriminator.terms(critic, context_of(t, params, critic, batch())).values())

        def for_critic(params, critic):
            return t.discriminator.loss(critic, context_of(t, params, critic, batch())).sum()

        return jax.grad(for_model, (0, 1))(params, critic), jax.grad(for_critic, (0, 1))(params, critic)

    (model, from_terms), (from_loss, critic) = gradients(state.params, state.critic["params"])
    assert largest(from_terms) == largest(from_loss) == 0
    assert largest(model) > 1e-3
    assert all(np.abs(layer["kernel"]).max() > 1e-4 for layer in critic.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", TERMS)
def test_the_discriminator_has_its_own_adam_and_learns_from_the_state_before_the_step(name):
    t = task(name, discriminator=DISCRIMINATORS[name](features=(5,), lr=0.01, b1=0.3))
    state = begun(t)
    step = jax.jit(lambda state: train_step(state, batch(), jax.random.key(0), task=t))
    after, _ = step(state)
    assert int(after.critic["opt_state"][0].count) == 1
    assert largest(jax.tree.map(lambda a, b: a - b, after.params, state.params)) > 1e-4
    moves = jax.tree.map(lambda a, b: np.asarray(a - b), after.critic["params"], state.critic["params"])
    # Adam's first step has the length of its rate, downhill; and its first moment is (1 - b1) of the gradient.
    moments = jax.tree.map(np.asarray, after.critic["opt_state"][0].mu)
    for move, moment in zip(jax.tree.leaves(moves), jax.tree.leaves(moments), strict=True):
        clear = np.abs(moment) > 1e-5
        np.testing.assert_allclose(move[clear], -0.01 * np.sign(moment[clear]), rtol=0.02)
    still = task(name, discriminator=t.discriminator, optimizer=optax.sgd(0.0))
    assert_trees_equal(
        after.critic, jax.jit(lambda s: train_step(s, batch(), jax.random.key(0), task=still))(state)[0].critic
    )
    # Without a weight, the terms leave the autoencoder alone: its parameters are those without an discriminator.
    weights = {"kl": 1.0, "reconstruction": 1.0}
    with_it, _ = train_step(state, batch(), jax.random.key(0), task=task(name, weights))
    plain = Task(t.model, Objective(SquaredError(), weights), optax.sgd(0.1), lambda x: x)
    without, metrics = train_step(state.replace(critic={}), batch(), jax.random.key(0), task=plain)
    assert_trees_equal(with_it.params, without.params)
    assert without.critic == {}
    assert "critic_loss" not in metrics


@pytest.mark.slow
@pytest.mark.parametrize("name", TERMS)
def test_a_still_autoencoder_is_told_apart_better_and_better(name):
    t = task(name, discriminator=DISCRIMINATORS[name](features=(16,), lr=0.01), optimizer=optax.sgd(0.0))
    state, given = begun(t), batch(64)

    @jax.jit
    def run(state):
        return jax.lax.scan(lambda s, _: train_step(s, given, jax.random.key(0), task=t), state, None, 200)[1]

    loss = run(state)["critic_loss"]
    assert loss[-20:].mean() < loss[:20].mean() - 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", TERMS)
def test_evaluation_reports_the_discriminators_terms(name):
    t = task(name)
    state = begun(t)
    sums = eval_step(state, {**batch(), "weight": jnp.array([1.0] * 5 + [0.0] * 3)}, task=t)
    part = eval_step(state, {**{k: v[:5] for k, v in batch().items()}, "weight": jnp.ones(5)}, task=t)
    for term in TERMS[name]:
        np.testing.assert_allclose(sums[term], part[term], rtol=1e-5)
        assert sums[term] != 0
    np.testing.assert_allclose(sums["loss"], sum(sums[term] for term in TERMS[name]), rtol=1e-5)
    other = state.replace(critic={**state.critic, "params": jax.tree.map(lambda a: 2 * a, state.critic["params"])})
    moved = eval_step(other, {**batch(), "weight": jnp.ones(8)}, task=t)
    assert all(moved[term] != sums[term] for term in TERMS[name])


@pytest.mark.slow
def test_the_state_round_trips_through_bytes_and_goes_on_alike():
    t = task("factor_vae")
    step = jax.jit(lambda state: train_step(state, batch(), jax.random.key(0), task=t))
    state, _ = step(begun(t))
    restored = serialization.from_bytes(init(t, (3,), jax.random.key(9)), serialization.to_bytes(state))
    assert_trees_equal(restored, state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert_trees_equal(step(restored)[0], step(state)[0])
    assert set(serialization.to_state_dict(state)["critic"]) == {"params", "opt_state"}


@pytest.mark.slow
@pytest.mark.parametrize("name", TERMS)
def test_four_devices_step_as_one(name):
    after, given = [], {"x": values(0, (8, 3)) * np.linspace(0.5, 2, 8, dtype=np.float32)[:, None]}
    given["index"] = np.arange(8)
    # Plain gradient descent on both sides: Adam would hide the gradient's size.
    cls = type("Descending", (DISCRIMINATORS[name],), {"optimizer": property(lambda self: optax.sgd(0.1))})
    state = jax.device_get(begun(task(name, discriminator=cls(features=(5,)))))
    for count in (1, 4):
        partition = Partition(jax.devices()[:count])
        t = task(name, axis_name=partition.axis_name, discriminator=cls(features=(5,)))

        def step(state, held, given, reduce, t=t):
            return train_step(state, given, jax.random.key(0), task=t, reduce=reduce)

        out = partition.compile(step)(partition.replicate(state), {}, partition.share(given))
        after.append(jax.device_get(out))
    (one, metrics), (four, others) = after
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), metrics, others)
    for pick in (lambda s: s.params, lambda s: s.critic["params"]):
        moves = [jax.tree.map(lambda a, b: a - b, pick(s), pick(state)) for s in (one, four)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *moves)
        assert largest(moves[0]) > 1e-3


# FactorVAE.


@pytest.mark.slow
def test_shuffled_codes_keep_each_units_values_and_lose_their_pairs():
    discriminator, seen = seen_by(FactorVAE)
    z = values(0, (64, 3))
    loss = discriminator.loss(None, context(np.zeros((64, 2)), z=z, keys=example_keys(64)))
    codes, shuffled = (next(np.asarray(a) for a in seen if np.array_equal(a, z) == same) for same in (True, False))
    np.testing.assert_array_equal(np.sort(shuffled, 0), np.sort(z, 0))
    origin = np.stack([np.argmax(shuffled[:, j, None] == z[:, j], 1) for j in range(3)], 1)  # of each value
    assert np.mean(origin[:, 0] == origin[:, 1]) < 0.1  # each unit is shuffled on its own
    assert np.mean(origin == np.arange(64)[:, None]) < 0.1
    # Kim and Mnih 2018, algorithm 2: half of each; D is the sigmoid of the sum here.
    expected = -0.5 * (log_expit(codes.sum(1)).mean() + log_expit(-shuffled.sum(1)).mean())
    assert float(loss.mean()) == pytest.approx(expected, rel=1e-4)
    discriminator.loss(None, context(np.zeros((64, 2)), z=z, keys=example_keys(64, seed=1)))
    assert not any(np.array_equal(a, shuffled) for a in seen[2:])  # another order at another step


@pytest.mark.slow
def test_codes_are_shuffled_over_the_batch_of_all_devices():
    discriminator, seen = seen_by(FactorVAE)
    z, keys = jnp.asarray(values(0, (16, 2))), example_keys(16)

    def loss(z, keys):
        seen.clear()
        loss = discriminator.loss(None, context(jnp.zeros((4, 2)), z=z, keys=keys, axis_name="devices"))
        return loss, max(seen, key=len)

    losses, shuffled = jax.pmap(loss, axis_name="devices")(*shared_among(4, (z, keys)))
    assert shuffled.shape == (4, 16, 2)
    for device in shuffled:
        np.testing.assert_array_equal(device, shuffled[0])
    np.testing.assert_array_equal(np.sort(shuffled[0], 0), np.sort(z, 0))
    one = discriminator.loss(None, context(jnp.zeros((16, 2)), z=z, keys=keys))
    np.testing.assert_allclose(losses.ravel(), one, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.9])
def test_density_ratio_learns_the_total_correlation(correlation):
    """Of a Gaussian with unit variances it is -log(1 - correlation^2) / 2 (Kim and Mnih 2018, equation 3)."""
    discriminator, n = FactorVAE(features=(32, 32), lr=3e-3, b1=0.9), 256
    factor = jnp.linalg.cholesky(jnp.array([[1.0, correlation], [correlation, 1.0]]))

    def given(key):
        z = jax.random.normal(jax.random.fold_in(key, 1), (n, 2)) @ factor.T
        return context(jnp.zeros((n, 1)), z=z, keys=jax.random.split(key, n))

    critic = discriminator.init(jax.random.key(0), given(jax.random.key(0)).output)

    @jax.jit
    def run(critic):
        def step(carry, key):
            critic, opt_state = carry
            grads = jax.grad(lambda critic: discriminator.loss(critic, given(key)).mean())(critic)
            updates, opt_state = discriminator.optimizer.update(grads, opt_state)
            critic = optax.apply_updates(critic, updates)
            return (critic, opt_state), discriminator.terms(critic, given(jax.random.fold_in(key, 2)))["density_ratio"]

        carry = critic, discriminator.optimizer.init(critic)
        return jax.lax.scan(step, carry, jax.random.split(jax.random.key(1), 500))[1]

    expected = -0.5 * np.log(1 - correlation**2)
    # 500 steps of a small network: the estimate lacks some of the ratio's tails, and Adam keeps moving it.
    assert float(run(critic)[-150:].mean()) == pytest.approx(expected, abs=0.03 + 0.15 * expected)


# The adversarial autoencoder.


@pytest.mark.parametrize("kind", ["standard", "mixture", "none"])
def test_aae_tells_samples_of_the_prior_from_codes(kind):
    far = GaussianMixture(jnp.zeros(2), jnp.array([[50.0, -50.0], [40.0, -40.0]]), jnp.zeros((2, 2)))
    prior = {"standard": StandardNormal(2), "mixture": far, "none": None}[kind]
    discriminator, seen = seen_by(AdversarialAutoencoder)
    z, keys = values(0, (200, 2)) + 3, example_keys(200)
    c = context(np.zeros((200, 2)), z=z, prior=prior, keys=keys)
    loss = discriminator.loss(None, c)
    drawn = np.asarray(seen[0])
    assert np.array_equal(seen[1], z)
    if kind == "mixture":
        np.testing.assert_array_equal(drawn, far.sample(keys))
    else:
        assert scipy.stats.kstest(drawn.ravel(), "norm").pvalue > 1e-4
        assert abs(np.corrcoef(drawn.T)[0, 1]) < 5 / np.sqrt(200)
    np.testing.assert_allclose(loss, -log_expit(drawn.sum(1)) - log_expit(-z.sum(1)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(discriminator.terms(None, c)["adversarial"], -log_expit(z.sum(1)), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_aae_draws_codes_to_the_prior():
    """Codes that begin around 3 end around 0, where the prior is, for the adversarial term alone."""
    discriminator, n = AdversarialAutoencoder(features=(16,), lr=0.01), 64
    noise = jnp.asarray(values(0, (n, 1)))

    def given(shift, key):
        return context(jnp.zeros((n, 1)), z=noise + shift, keys=jax.random.split(key, n))

    critic = discriminator.init(jax.random.key(0), given(0.0, jax.random.key(0)).output)

    @jax.jit
    def run(critic):
        def step(carry, key):
            shift, critic, opt_state = carry
            grads = jax.grad(lambda critic: discriminator.loss(critic, given(shift, key)).mean())(critic)
            updates, opt_state = discriminator.optimizer.update(grads, opt_state)
            critic = optax.apply_updates(critic, updates)
            downhill = jax.grad(lambda s: discriminator.terms(critic, given(s, key))["adversarial"].mean())(shift)
            return (shift - 0.05 * downhill, critic, opt_state), shift

        carry = jnp.float32(3), critic, discriminator.optimizer.init(critic)
        return jax.lax.scan(step, carry, jax.random.split(jax.random.key(1), 600))[1]

    assert abs(float(run(critic)[-200:].mean())) < 0.7  # the two sides keep circling


# VAE-GAN.


@pytest.mark.slow
def test_vae_gan_tells_inputs_from_what_the_decoder_makes_of_codes_and_of_the_prior():
    discriminator, seen = seen_by(VAEGAN)
    t = task("vae_gan", likelihood=Bernoulli())
    params = begun(t).params
    c = context_of(t, params, None, batch())
    loss, dense = discriminator.loss(None, c), jax.tree.map(np.asarray, params["decoder"]["dense_0"])
    expit = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
    decoded = [expit(np.asarray(z) @ dense["kernel"] + dense["bias"]) for z in (c.z, StandardNormal(2).sample(c.keys))]
    assert len(seen) == 3
    real, *fakes = (np.asarray(a) for a in seen)
    np.testing.assert_array_equal(real, batch()["x"])
    for fake, expected in zip(fakes, decoded, strict=True):  # the discriminator reads means, not logits
        np.testing.assert_allclose(fake, expected, rtol=1e-4, atol=1e-5)
    expected = -log_expit(real.sum(1)) - sum(log_expit(-fake.sum(1)) for fake in decoded)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    terms = discriminator.terms(None, c)
    np.testing.assert_allclose(terms["adversarial"], -sum(log_expit(fake.sum(1)) for fake in decoded), rtol=1e-4)
    # The last hidden layer is what it reads, here: half the squared error.
    np.testing.assert_allclose(terms["feature_error"], 0.5 * np.square(decoded[0] - real).sum(1), rtol=1e-4)


@pytest.mark.slow
def test_vae_gans_adversarial_term_is_for_the_decoder_alone():
    t = task("vae_gan", bottleneck=GaussianBottleneck(2, prior="mixture", components=3))
    state = begun(t)

    @jax.jit
    def gradients(params, critic):
        def total(params, term):
            return t.discriminator.terms(critic, context_of(t, params, critic, batch()))[term].sum()

        return {term: jax.grad(total)(params, term) for term in ("adversarial", "feature_error")}

    grads = gradients(state.params, state.critic["params"])
    assert largest((grads["adversarial"]["encoder"], grads["adversarial"]["bottleneck"])) == 0
    assert largest(grads["adversarial"]["decoder"]) > 1e-3
    for part in ("encoder", "decoder"):
        assert largest(grads["feature_error"][part]) > 1e-3
    for unit in ("mean", "log_std"):
        assert largest(grads["feature_error"]["bottleneck"][unit]) > 1e-3


# Shapes.


@pytest.mark.slow
@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("samples", [1, 3])
def test_terms_and_loss_are_per_example_with_importance_samples_too(name, samples):
    t = task(name, bottleneck=GaussianBottleneck(2, samples=samples))
    state = begun(t)
    c = context_of(t, state.params, state.critic["params"], batch())
    assert t.discriminator.loss(c.discriminator, c).shape == (8,)
    terms = t.discriminator.terms(c.discriminator, c)
    assert set(terms) == set(TERMS[name])
    assert {v.shape for v in terms.values()} == {(8,)}


@pytest.mark.slow
def test_images_pass_convolutions_that_halve_them_and_maps_of_codes_too():
    t = task("vae_gan")
    image = jnp.asarray(values(0, (2, 8, 8, 1)))
    discriminator = VAEGAN(features=(4, 6))
    output = aejax.Output(aejax.Code(z=jnp.zeros((2, 3))), image)
    critic = discriminator.init(jax.random.key(0), output)
    assert critic["conv_1"]["kernel"].shape == (4, 4, 4, 6)
    logit, hidden = discriminator.judge(critic, image)
    assert (logit.shape, hidden.shape) == ((2,), (2, 2 * 2 * 6))
    assert "dense_0" in t.discriminator.init(jax.random.key(0), aejax.Output(aejax.Code(z=image), image[:, 0, :, 0]))


@pytest.mark.slow
def test_a_deterministic_code_is_judged_too():
    t = task("aae", bottleneck=BOTTLENECKS["dense"](2))
    state, metrics = train_step(begun(t), batch(), jax.random.key(0), task=t)
    assert np.isfinite(metrics["critic_loss"])
    assert int(state.step) == 1


def test_the_rate_must_be_above_zero():
    for rate in (0.0, -1.0, float("nan")):
        with pytest.raises(aejax.InputError, match=r"adversary.lr must be above 0, got"):
            FactorVAE(lr=rate)
