"""Anything given to `from_array`, `fit` or a `Run` as an array, a number or labels."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import conv, mlp, one_device, untrained
from door import JSON, NUMBERS, WORDS, many_cases, mostly, try_all
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import aejax
from aejax.data import Spec, from_array
from aejax.training import loop
from aejax.training.task import make_task

KINDS = list(
    map(np.dtype, ("f4", "f8", "f2", "g", "u1", "i8", "u8", "?", "c8", "O", ">f4", "S3", "U3", "M8[s]", "m8[s]", "V2"))
)


def arrays(shapes):
    """NumPy arrays of all kinds, some of them masked, of another order or in a subclass; or JAX's."""
    elements = {np.dtype("O"): JSON, np.dtype("V2"): st.just(b"ab")}
    numbers = st.sampled_from(KINDS).flatmap(lambda kind: hnp.arrays(kind, shapes, elements=elements.get(kind)))
    floats = hnp.arrays(np.float32, shapes, elements=st.floats(0, 1, width=32))
    masked = lambda x: np.ma.array(x, mask=np.arange(x.size).reshape(x.shape) % 2 == 0)  # noqa: E731
    changed = [
        np.asfortranarray,
        lambda x: x[::-1] if x.ndim else x,
        masked,
        np.ma.asarray,
        np.ndarray.tolist,
        lambda x: jnp.asarray(x, jnp.bfloat16),
        jnp.asarray,
        memoryview,
    ]
    return mostly(floats, st.one_of(numbers, st.builds(lambda x, f: f(x), floats, st.sampled_from(changed))))


SHAPES = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)
ODD = st.one_of(
    arrays(SHAPES),
    JSON,
    st.lists(st.lists(NUMBERS, max_size=3), max_size=3),
    st.sampled_from([object(), b"bytes", range(3), {1, 2}, {"x": 1}, np.float32, len, 1j, np.datetime64("now")]),
)
COUNTS = mostly(st.integers(0, 3), st.one_of(NUMBERS, WORDS, st.none(), st.booleans(), ODD))
WHOLE = st.one_of(st.integers(1, 4).map(np.arange), hnp.arrays(np.int64, st.integers(1, 4), fill=st.nothing()))
LABELS = mostly(st.none(), mostly(WHOLE, ODD))


def rows_of(*shape):
    """Arrays [n, *shape], most of them."""
    return mostly(arrays(st.tuples(st.integers(0, 4), *map(st.just, shape))), ODD)


@many_cases
def test_from_array(cases):
    def door(x, label, size):
        source = from_array(x, label, size=size)
        taken = source.take(np.arange(len(source)))
        assert not np.ma.is_masked(x)
        assert taken["x"].shape == (len(source), *source.shape)
        assert taken["x"].dtype == source.dtype
        assert np.all(np.isfinite(taken["x"]))
        if not size:
            given = np.asarray(x).astype(source.dtype).reshape(taken["x"].shape)
            np.testing.assert_array_equal(taken["x"], given)
        if label is not None:
            np.testing.assert_array_equal(taken["label"].astype(object), np.asarray(label).astype(object).reshape(-1))

    sizes = st.one_of(st.just(0), st.integers(0, 5))
    try_all(cases, door, x=st.one_of(rows_of(3), rows_of(4, 5), rows_of(4, 4, 3)), label=LABELS, size=sizes)


FIT = mlp(steps=1, log_every=1, checkpoint_every=1, batch_size=2, samples=2)
GIVEN = {"x": mostly(arrays(st.just((12, 6))), ODD), "label": LABELS}


@many_cases
def test_fit(cases):
    """Fewer of them: those that are right are trained on."""

    def door(x, label):
        run = aejax.fit(FIT, x, label=label, devices=one_device(), quiet=True)
        assert np.all(np.isfinite(run.encode(x)))

    try_all(max(cases // 50, 5), door, **GIVEN)


class ReachedTraining(Exception):
    """Raised in place of the first step."""


@many_cases
def test_fit_until_it_would_train(cases, monkeypatch):
    reached = 0

    def train(*_, **__):
        raise ReachedTraining

    def door(x, label, classes):
        nonlocal reached
        config = FIT.copy_and_resolve_references()
        config.classes = classes
        try:
            aejax.fit(config, x, label=label, devices=one_device(), quiet=True)
        except ReachedTraining:
            reached += 1
            assert np.all(np.isfinite(np.asarray(x)))
            assert (label is None) or len(np.asarray(label)) == len(x)

    tasks = {}  # made once for each: tracing takes longer than all else

    def make_task_once(config, spec, *arguments):
        known = (config.classes, spec)
        tasks[known] = tasks.get(known) or make_task(config, spec, *arguments)
        return tasks[known]

    monkeypatch.setattr(loop, "make_task", make_task_once)
    monkeypatch.setattr(loop, "init_state", lambda *_: (None, None))  # what compiles
    monkeypatch.setattr(loop, "steps_at_once", train)
    try_all(cases, door, **GIVEN, classes=st.sampled_from([0, 3]))
    assert reached > cases // 100


@pytest.fixture(scope="module")
def runs():
    """Of vectors; of labeled vectors; of images, with discrete codes."""
    images = conv()
    images.bottleneck = aejax.config.module("vq", codes=4)
    found = {
        "vectors": untrained(mlp(), Spec((6,))),
        "standardized": untrained(mlp(), Spec((6,), (1e3,) * 6, (1e-3,) * 6)),
        "labeled": untrained(mlp(classes=3), Spec((6,))),
        "images": untrained(images),
    }
    # What is generated is drawn like the saved latents.
    some = lambda run: np.random.default_rng(0).normal(size=(8, *run.latents.shape[1:])).astype(np.float32)  # noqa: E731
    return {name: dataclasses.replace(run, latents=some(run)) for name, run in found.items()}


def finite(array, length):
    assert len(array) == length
    assert np.all(np.isfinite(array))


@many_cases
@pytest.mark.parametrize("of", ["vectors", "standardized", "labeled", "images"])
def test_run_reads(runs, of, cases):
    run = runs[of]
    calls = ("encode", "indices", "sample_posterior", "reconstruct", "in_users_units")

    def door(call, x, label):
        further = {} if call == "in_users_units" else {"label": label}
        result = getattr(run, call)(x, **further)
        assert not np.ma.is_masked(x)
        finite(result, len(x))

    try_all(max(cases // 4, 25), door, call=st.sampled_from(calls), x=rows_of(*run.spec.shape), label=LABELS)


@many_cases
@pytest.mark.parametrize("of", ["vectors", "standardized", "labeled", "images"])
def test_run_decodes(runs, of, cases):
    run = runs[of]

    def door(call, z, label):
        if call == "decode":
            finite(run.decode(z, label), len(z))
        else:
            finite(run.lookup(z), len(z))
        assert not np.ma.is_masked(z)

    indices = st.one_of(hnp.arrays(np.int64, (2, 4, 4), elements=st.integers(-1, 4)), rows_of(4, 4))
    try_all(
        max(cases // 4, 25),
        door,
        call=st.sampled_from(["decode", "lookup"]),
        z=st.one_of(rows_of(*run.latents.shape[1:]), indices),
        label=LABELS,
    )


@many_cases
@pytest.mark.parametrize("of", ["vectors", "labeled", "images"])
def test_run_generates(runs, of, cases):
    def door(num, seed, label):
        generated = runs[of].generate(num, seed, label)
        finite(generated, num)

    labels = mostly(st.integers(1, 3).map(np.arange), LABELS) if of == "labeled" else LABELS
    # What fits into memory is right to be made, but takes its time.
    quick = lambda num: not (isinstance(num, int | float) and 1e4 < num < 1e12)  # noqa: E731
    try_all(max(cases // 3, 25), door, num=COUNTS.filter(quick), seed=COUNTS, label=labels)
