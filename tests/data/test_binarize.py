"""Binarization: values are the probabilities of ones, and a draw is a function of what it is said to depend on."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import config_of, one_device

import aejax
from aejax.data import Spec, binarize_parts, draw_binary, from_array, load, read
from aejax.training.step import derive_keys, init, train_step
from aejax.training.task import make_task

LEVELS = np.array([0, 1, 64, 128, 254, 255], np.uint8)
GRAY = np.broadcast_to(LEVELS[:, None], (2_000, 6, 8))[..., None]  # each level 16,000 times


def drawn(way, x=GRAY, seed=0, part="train"):
    return read(binarize_parts({part: from_array(x, binary=False)}, way, seed)[part])["x"]


def check_means(x, one):
    """Means of 16,000 draws lie within 5 standard deviations of their probability, and those of 0 and 1 are exact."""
    assert set(np.unique(x).tolist()) == {0, one}
    p, means = LEVELS / 255, (x == one).mean((0, 2, 3))
    assert (np.abs(means - p) <= 5 * np.sqrt(p * (1 - p) / 16_000)).all(), means - p


@pytest.mark.parametrize("seed", [0, 7])
def test_static_draws_are_ones_with_the_probability_of_the_value(seed):
    check_means(drawn("static", seed=seed), 255)
    check_means(drawn("static", (GRAY / 255).astype(np.float32), seed), 1)


def test_dynamic_draws_are_ones_with_the_probability_of_the_value():
    keys = jax.random.split(jax.random.key(0), len(GRAY))
    x = np.asarray(draw_binary(keys, jnp.asarray(GRAY / 255, jnp.float32)))
    check_means(x, 1)
    assert abs(np.corrcoef(x[:, 3, 0::2].ravel(), x[:, 3, 1::2].ravel())[0, 1]) < 0.05  # two draws from one word
    odd = np.asarray(draw_binary(keys, jnp.full((len(GRAY), 3), 0.25)))
    assert odd.shape == (len(GRAY), 3)
    assert abs(odd.mean() - 0.25) < 5 * np.sqrt(0.1875 / odd.size)


def test_a_threshold_is_at_one_half():
    assert (drawn("threshold")[0, :, 0, 0] == [0, 0, 0, 255, 255, 255]).all()
    assert (drawn("threshold", np.array([[0.0, 0.49, 0.5, 1.0]], np.float32)) == [[0, 0, 1, 1]]).all()


def test_a_static_draw_depends_on_seed_part_and_row_alone():
    x = np.full((12, 4, 4), 128, np.uint8)
    source = binarize_parts({"test": from_array(x)}, "static", 3)["test"]
    rows = np.array([7, 2, 7])
    np.testing.assert_array_equal(source.take(rows)["x"], read(source)["x"][rows])
    whole = read(source)["x"]
    np.testing.assert_array_equal(whole, drawn("static", x, 3, "test"))
    for other in (drawn("static", x, 4, "test"), drawn("static", x, 3, "validation"), np.roll(whole, 1, 0)):
        assert (other != whole).any()


def test_dynamic_leaves_train_and_draws_the_other_parts_once():
    x = np.full((20, 4, 4), 100, np.uint8)
    parts = binarize_parts({name: from_array(x) for name in ("train", "validation", "test")}, "dynamic", 1)
    np.testing.assert_array_equal(read(parts["train"])["x"][..., 0], x)
    for name in ("validation", "test"):
        np.testing.assert_array_equal(read(parts[name])["x"], drawn("static", x, 1, name))


def test_a_step_trains_on_what_it_draws():
    """The step of a run that draws is that of one that is given the draws."""
    config = config_of("vae")
    config.data.binarize = "dynamic"
    splits = load(config.data)
    spec, key = Spec.of(splits.train, False), jax.random.key(5)
    task = make_task(config, spec, len(splits.train))
    state = init(task, spec.shape, jax.random.key(0))
    batch = {"x": read(splits.train.subset(np.arange(16), "part"))["x"], "index": np.arange(16, dtype=np.int32)}
    drawing, given_draws = (
        jax.jit(functools.partial(train_step, task=each)) for each in (task, dataclasses.replace(task, draws=False))
    )
    seen = []
    for step in (0, 1):
        state = state.replace(step=jnp.int32(step))
        found = drawing(state, batch, key)[1]
        keys = derive_keys(jax.random.fold_in(key, step), batch)
        x = draw_binary(jax.vmap(jax.random.fold_in, (0, None))(keys, 4), spec.prepare(batch["x"]))
        given = given_draws(state, {**batch, "x": x}, key)[1]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, given)
        seen.append(np.asarray(x))
    assert (seen[0] != seen[1]).any()


@pytest.mark.slow
def test_a_run_is_evaluated_on_binary_images(tmp_path):
    config = config_of("vae")
    config.data.binarize = "dynamic"
    run = aejax.train(config, tmp_path, devices=one_device(), quiet=True)
    assert set(np.unique(run.inputs).tolist()) == {0, 1}
    measured = run.evaluate(groups=["likelihood"], options={"likelihood": {"samples": 2}})["likelihood"]
    assert "binary values" in measured["log_likelihood"].protocol
    config.data.binarize = "static"
    with pytest.raises(aejax.InputError, match=r"data\.binarize"):
        aejax.train(config, tmp_path, devices=one_device(), quiet=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.binarize": "always"}, r"data\.binarize 'always' is unknown; choose one of: dynamic"),
        ({"data.binarize": "static", "data.standardize": True}, r"set data\.standardize=False"),
        ({"data.binarize_seed": -1}, r"data\.binarize_seed must not be negative"),
        ({"data.binarize": "dynamic", "data.name": "plane"}, r"takes values as probabilities, and .* holds -"),
    ],
)
def test_what_cannot_be_binarized_is_one_line(changes, message, tmp_path):
    config = config_of("vae").unlock()
    config.update_from_flattened_dict(changes)
    with pytest.raises(aejax.InputError, match=message):
        aejax.train(config, tmp_path, devices=one_device(), quiet=True)


@pytest.mark.parametrize("kind", ["vector", "sequence", "image", "volume"])
@pytest.mark.parametrize("bad", [-0.1, 1.5])
def test_no_kind_of_data_is_binarized_outside_the_unit_interval(kind, bad):
    x = np.full((4, *{"vector": (3,), "sequence": (3, 2), "image": (4, 4, 1), "volume": (4, 4, 4, 1)}[kind]), 0.5, "f4")
    for way in ("static", "dynamic", "threshold"):
        binarize_parts({"train": from_array(x, kind=kind)}, way)
    x[2, 1] = bad
    for way in ("static", "dynamic", "threshold"):
        with pytest.raises(aejax.InputError, match=r"takes values as probabilities, and .* holds (-0\.1|0\.5) to "):
            binarize_parts({"train": from_array(x, kind=kind)}, way)


def test_parts_and_seeds_have_their_names_and_range():
    source = from_array(np.zeros((2, 4, 4), np.uint8))
    with pytest.raises(aejax.InputError, match="part 'mine' is unknown; choose one of: test, train, validation"):
        binarize_parts({"mine": source}, "static")
    for seed in (-1, 1.5, 2**32):
        with pytest.raises(aejax.InputError, match="seed must be a whole number from 0"):
            binarize_parts({"train": source}, "static", seed)


def test_the_padding_of_sequences_is_not_binarized():
    source = from_array(np.full((2, 3, 2), 0.5, "f4"), kind="sequence", length=np.array([3, 1]))
    for way in ("static", "dynamic", "threshold"):
        with pytest.raises(aejax.InputError, match="holds NaN, as the padding of shorter sequences is; cut"):
            binarize_parts({"train": source}, way)


def test_images_that_are_cropped_at_random_cannot_be_drawn_once():
    source = from_array(np.zeros((2, 8, 8), np.uint8), size=4, fit="random")
    assert binarize_parts({"train": source}, "dynamic")["train"] is source
    for way in ("static", "threshold"):
        with pytest.raises(aejax.InputError, match="use dynamic"):
            binarize_parts({"train": source}, way)
