"""Sparse matrices as examples: the same runs as of dense arrays, without ever being dense as a whole."""

import numpy as np
import pytest
from conftest import mlp, one_device, section
from scipy import sparse

import aejax
from aejax.config import module
from aejax.data import from_sparse, load


def clicks(n=120, items=30, seed=0):
    rng = np.random.default_rng(seed)
    return sparse.csr_array(rng.poisson(2, (n, items)) * (rng.random((n, items)) < 0.2), dtype=np.int64)


def recommender(**changes):
    config = mlp(likelihood=module("multinomial"), bottleneck=module("gaussian", features=2), **changes)
    config.objective.weights = {"kl": 1.0}
    return config


def fit(x, **changes):
    return aejax.fit(recommender(**changes), x, quiet=True, devices=one_device())


@pytest.fixture(scope="module")
def dense():
    return fit(clicks().toarray())


@pytest.mark.parametrize("memory_mb", [1_024, 0])
def test_a_run_is_that_of_the_dense_array(dense, memory_mb, monkeypatch):
    x, largest = clicks(), [0]
    whole = sparse.csr_array.toarray

    def toarray(self, *args, **options):
        largest[0] = max(largest[0], self.shape[0])
        return whole(self, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(sparse.csr_array, "toarray", toarray)
        run = fit(x, data__memory_mb=memory_mb)
    assert run.fingerprint == dense.fingerprint
    if not memory_mb:  # batches of 16, and what looks at the first examples
        assert largest[0] < 100


@pytest.mark.parametrize("format", ["csr_matrix", "csc_array", "coo_array"])
def test_other_formats_and_repeated_entries_are_read(format):
    x = clicks()
    other = getattr(sparse, format)(x)
    np.testing.assert_array_equal(from_sparse(other).take(np.array([5, 0, 5]))["x"], x.toarray()[[5, 0, 5]])
    twice = sparse.coo_array(([1.0, 2.0, 4.0], ([0, 0, 1], [3, 3, 0])), shape=(2, 5))
    np.testing.assert_array_equal(from_sparse(twice).take(np.arange(2))["x"], twice.toarray())
    repeated = sparse.csr_array((np.ones(3), np.array([1, 1, 0]), np.array([0, 2, 3])), shape=(2, 2))
    np.testing.assert_array_equal(from_sparse(repeated).take(np.arange(2))["x"], [[0, 2], [1, 0]])
    np.testing.assert_array_equal(repeated.data, 1)  # the user's matrix stays as it is


def test_a_trained_run_reads_them(dense):
    x = clicks(seed=1)
    for name in ("encode", "reconstruct", "elbo", "sample_posterior", "in_users_units"):
        method = getattr(dense, name)
        np.testing.assert_allclose(method(x), method(x.toarray()), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        dense.log_likelihood(x[:4], samples=3), dense.log_likelihood(x[:4].toarray(), samples=3), rtol=1e-5
    )


@pytest.mark.slow
def test_standardized_rows_are_those_of_the_dense_array():
    config = mlp(data__standardize=True)
    x = clicks().astype(np.float64)
    runs = [aejax.fit(config, each, quiet=True, devices=one_device()) for each in (x, x.toarray())]
    np.testing.assert_allclose(runs[0].encode(x), runs[1].encode(x.toarray()), rtol=1e-4, atol=1e-5)


def test_a_file_of_scipy_is_data(tmp_path):
    x, file = clicks(), tmp_path / "clicks.npz"
    sparse.save_npz(file, x)
    splits = load(section(name=str(file)))
    assert sum(map(len, splits)) == 120
    assert splits.train.shape == (30,)
    sparse.save_npz(file, x.tocsc())
    with pytest.raises(aejax.InputError, match=r"sparse matrix in the format b'csc'; save x\.tocsr"):
        load(section(name=str(file)))


def test_a_workdir_knows_its_matrix(tmp_path):
    x = clicks()
    for _ in range(2):
        aejax.fit(recommender(), x, workdir=tmp_path / "run", quiet=True, devices=one_device())
    other = x.copy()
    other.data[0] += 1
    with pytest.raises(aejax.InputError, match=r"data\.name"):
        aejax.fit(recommender(), other, workdir=tmp_path / "run", quiet=True, devices=one_device())


def with_value(value):
    x = clicks().astype(np.float64)
    x.data[7] = value
    return x


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (with_value(np.nan), r"example 1, value \d+ is NaN or infinity in float32"),
        (with_value(1e300), r"example 1, value \d+ is NaN or infinity in float32"),
        (with_value(-1.0), r"example 1, value \d+ is -1, and likelihood.name=Multinomial reads counts"),
        (with_value(0.5), r"example 1, value \d+ is 0.5, and likelihood.name=Multinomial reads counts"),
        (clicks().astype(complex), "a sparse array of complex128; give real numbers"),
        (sparse.csr_array((0, 4)), r"a sparse array of shape \(0, 4\); give \[n, features\]"),
    ],
)
def test_what_cannot_be_read_is_one_line(x, message):
    with pytest.raises(aejax.InputError, match=message):
        fit(x, data__train="train", data__validation="train", data__test="train")


def test_other_doors_say_that_they_take_dense_arrays(dense):
    with pytest.raises(aejax.InputError, match=r"takes no sparse arrays; give it dense, x\.toarray"):
        dense.decode(sparse.csr_array(np.eye(2)))
    with pytest.raises(aejax.InputError, match=r"reads examples of \(30,\), the input holds examples of \(29,\)"):
        dense.encode(clicks()[:, :29])
    with pytest.raises(aejax.InputError, match="has 120 examples but 3 labels"):
        aejax.fit(recommender(classes=2), clicks(), label=[0, 1, 0], quiet=True)
