"""Weights of examples: a weight of 2 is the example twice, a weight of 0 is none."""

import jax
import numpy as np
import pytest
from conftest import mlp, one_device, vectors

import aejax
from aejax.config import module
from aejax.data import Spec, from_array, split
from aejax.training.step import eval_step, init, train_step
from aejax.training.task import make_task

CONFIG = mlp(bottleneck=module("gaussian", features=2), objective__weights={"kl": 1.0})


def fit(x, weights=None, config=CONFIG, **options):
    return aejax.fit(config, x, weights=weights, quiet=True, devices=one_device(), **options)


def test_a_batch_with_weights_is_one_of_repeated_examples():
    """Weights 3, 1, 0, 2 of mean 1.5 are six examples: keys are those of the example, so that its copies are equal."""
    x, weights = vectors(4), np.array([3, 1, 0, 2])
    task = make_task(CONFIG, Spec((6,)), 4)
    state = init(task, (6,), jax.random.key(0))
    rows = np.repeat(np.arange(4), weights)
    weighted = {"x": x, "index": np.arange(4), "sample_weight": (weights / weights.mean()).astype(np.float32)}
    repeated = {"x": x[rows], "index": rows}
    step = jax.jit(lambda state, batch: train_step(state, batch, jax.random.key(1), task=task))
    (a, left), (b, right) = (step(state, batch) for batch in (weighted, repeated))
    for name in ("loss", "kl", "reconstruction", "grad_norm"):
        np.testing.assert_allclose(left[name], right[name], rtol=1e-5)
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-4, atol=1e-6), a.params, b.params)
    validate = jax.jit(lambda state, batch: eval_step(state, batch, task=task))
    found, wanted = (
        validate(state, {**batch, "weight": np.ones(len(batch["index"]), np.float32)}) for batch in (weighted, repeated)
    )
    for name in wanted:
        if name != "weight":
            np.testing.assert_allclose(found[name] / found["weight"], wanted[name] / wanted["weight"], rtol=1e-5)


def test_splits_scale_weights_by_the_mean_of_train():
    weights = np.random.default_rng(0).random(100)
    parts = split({"train": from_array(vectors()).weigh(weights)}, {**CONFIG.data.to_dict(), "train": "train[:60]"})
    np.testing.assert_allclose(parts.train.weights, weights[:60] / weights[:60].mean())
    rest = np.concatenate([parts.validation.weights, parts.test.weights]) * weights[:60].mean()
    np.testing.assert_allclose(np.sort(rest), np.sort(weights[60:]))
    both = {**CONFIG.data.to_dict(), "train": "train[:10]+train[90:]"}
    chosen = weights[np.r_[:10, 90:100]]
    joined = split({"train": from_array(vectors()).weigh(weights)}, both).train.weights
    np.testing.assert_allclose(joined, chosen / chosen.mean())


@pytest.mark.parametrize("memory_mb", [1_024, 0])
def test_examples_of_weight_0_change_no_parameter_and_equal_weights_none(memory_mb):
    config = aejax.config.updated(CONFIG, {"data.memory_mb": memory_mb})
    x, weights = vectors(), np.where(np.arange(100) % 3 == 0, 0.0, 2.0)
    strange = np.where(weights[:, None] == 0, 50, x).astype(np.float32)
    first, second = fit(x, weights, config), fit(strange, weights, config)
    jax.tree.map(np.testing.assert_array_equal, first.variables, second.variables)
    plain, equal = fit(x, None, config), fit(x, np.full(100, 7.0), config)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # noqa: E731
    jax.tree.map(close, plain.variables, equal.variables)
    assert plain.fingerprint != first.fingerprint


@pytest.mark.slow
def test_files_hold_weights(tmp_path):
    x, weights = vectors(), np.random.default_rng(0).random(100)
    np.savez(tmp_path / "x.npz", x=x, w=weights)
    np.savez(tmp_path / "split.npz", train=x, train_w=weights, test=x[:20])
    config = aejax.config.updated(CONFIG, {"data.name": str(tmp_path / "x.npz"), "data.weights": "w"})
    found = aejax.train(config, tmp_path / "run", quiet=True, devices=one_device())
    wanted = fit(x, weights)
    jax.tree.map(np.testing.assert_array_equal, found.variables, wanted.variables)
    of_split = aejax.data.load(aejax.config.updated(config, {"data.name": str(tmp_path / "split.npz")}).data)
    assert of_split.train.weights.mean() == pytest.approx(1)
    assert of_split.test.weights is None
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(x, columns=list("abcdef")).assign(w=weights)
    table = aejax.config.updated(CONFIG, {"data.weights": "w"}).unlock()
    table.likelihood = module("mixed")
    run = fit(frame, None, table)
    assert [column.name for column in run.spec.columns] == list("abcdef")


@pytest.mark.parametrize(
    ("weights", "config", "message"),
    [
        (np.ones(99), CONFIG, r"100 examples, and the weights \(99,\); give one for each"),
        (np.where(np.arange(100) == 4, -1, 1), CONFIG, r"the weight of example 4 is -1.0; give finite ones from 0"),
        (np.where(np.arange(100) == 4, np.nan, 1), CONFIG, "the weight of example 4 is nan"),
        (np.zeros(100), CONFIG, "all examples of the .* split have the weight 0"),
        (None, aejax.config.updated(CONFIG, {"data.weights": "w"}), r"data\.weights=w is for .npz"),
        (
            np.ones(100),
            mlp(adversary=module("aae"), bottleneck=module("gaussian", features=2)),
            "not for a discriminator",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(weights, config, message):
    with pytest.raises(aejax.InputError, match=message) as error:
        fit(vectors(), weights, config)
    assert "\n" not in str(error.value)
