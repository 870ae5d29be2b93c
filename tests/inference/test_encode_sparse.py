"""Encoding of a split to sparse codes: equal to the dense ones, flat in memory, and the same after an interruption."""

import itertools
import json

import numpy as np
import pytest
from conftest import command, mlp, one_device, vectors

import aejax
from aejax import data
from aejax.config import module
from aejax.inference import encode_sparse as module_under_test
from aejax.inference.encode_sparse import encode_sparse, read_sparse, to_csr
from aejax.inference.encode_split import find_split

FILES = ("offsets.npy", "indices.npy", "values.npy")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sparse")
    data.write_activations(folder / "acts", [vectors(1_000)], shard_rows=300)
    config = mlp(data__name=str(folder / "acts"))
    config.encoder, config.decoder = module("mlp"), module("mlp")
    config.bottleneck, config.likelihood = module("jumprelu", features=40), module("squared_error")
    config.objective.weights.l0 = 0.05
    return aejax.train(config, folder / "run", devices=one_device(), quiet=True)


def everything(run):
    return find_split(run, "train+validation+test")


@pytest.mark.parametrize("block", [1_024, 16])
def test_sparse_codes_are_the_dense_ones(run, tmp_path, monkeypatch, block):
    monkeypatch.setattr(module_under_test, "_BLOCK", block)
    source = everything(run)
    encode_sparse(run, source, tmp_path / "codes.csr", chunk=64)
    z = run.encode(data.read(source)["x"])
    codes = read_sparse(tmp_path / "codes.csr")
    assert codes.shape == (1_000, 40)
    assert codes.has_canonical_format  # ascending indices, no unit twice
    assert codes.nnz == np.count_nonzero(z)
    np.testing.assert_allclose(codes.toarray(), z, rtol=1e-6)  # other batches, other order of sums
    for rows in (
        slice(10, 200),
        slice(990, 2_000),
        slice(5, 5),
        slice(0, 50, 7),
        [7, 3, 3, 999],
        np.arange(1_000) % 3 == 0,
    ):
        np.testing.assert_array_equal(read_sparse(tmp_path / "codes.csr", rows).toarray(), codes.toarray()[rows])
    arrays = [np.load(tmp_path / "codes.csr" / name, mmap_mode="r") for name in FILES]  # files of NumPy's format
    assert [array.dtype for array in arrays] == [np.int64, np.int32, np.float32]
    assert [len(array) for array in arrays] == [1_001, codes.nnz, codes.nnz]


def test_an_interrupted_call_resumes_and_writes_the_same_bytes(run, tmp_path, monkeypatch):
    source, calls = everything(run), itertools.count()
    encode_sparse(run, source, tmp_path / "whole.csr", chunk=64)

    def interrupt(*arguments):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return to_csr(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(module_under_test, "to_csr", interrupt)
        with pytest.raises(KeyboardInterrupt):
            encode_sparse(run, source, tmp_path / "parts.csr", chunk=64)
    partial = tmp_path / "parts.csr.partial"
    assert json.loads((partial / "progress.json").read_text())["examples"] == 5 * 64
    with (partial / "values.npy").open("ab") as file:  # of a chunk that was not completed
        file.write(b"abc")
    with pytest.raises(aejax.InputError, match=r"is of another command \(chunk: 64 -> 32\)"):
        encode_sparse(run, source, tmp_path / "parts.csr", chunk=32)
    encode_sparse(run, source, tmp_path / "parts.csr", chunk=64)
    assert not partial.exists()
    for name in FILES:
        assert (tmp_path / "parts.csr" / name).read_bytes() == (tmp_path / "whole.csr" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "parts.csr").iterdir()) == sorted([*FILES, "about.json"])
    (tmp_path / "parts.csr/progress.json").write_text("{}")  # of a call that was killed at its very end
    encode_sparse(run, source, tmp_path / "parts.csr", chunk=64)  # does nothing else
    assert not (tmp_path / "parts.csr/progress.json").exists()


def test_values_and_indices_become_the_same_matrix():
    """Of bottlenecks that return their few units: zeros are left out, and a unit that occurs twice is added up."""
    values = np.array([[1.0, 2.0, 0.0], [3.0, 0.5, 4.0], [9.0, 9.0, 9.0]], np.float32)
    indices = np.array([[4, 0, 1], [2, 2, 1], [0, 1, 2]])
    codes = to_csr((values, indices), 2, 5)
    wanted = np.array([[2, 0, 0, 0, 1], [0, 4, 3.5, 0, 0]], np.float32)
    np.testing.assert_array_equal(codes.toarray(), wanted)
    assert codes.nnz == 4
    dense = to_csr(np.concatenate([wanted, wanted]), 2, 5)
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(codes, name), getattr(dense, name))
    with pytest.raises(aejax.InputError, match="the code of example 4,097 is NaN or infinite"):
        to_csr((np.where(values == 4, np.nan, values), indices), 2, 5, 4_096)


def test_a_code_that_is_not_finite_is_named_by_its_row_of_the_store(run, tmp_path):
    x = vectors(200)
    x[150] = 3e38
    with pytest.raises(aejax.InputError, match="the code of example 150 is NaN or infinite"):
        encode_sparse(run, data.from_array(x), tmp_path / "codes.csr", chunk=64)


def test_the_command_encodes_a_store(run, tmp_path, monkeypatch, capsys):
    encode = command("encode")
    arguments = ["encode", f"--workdir={run.workdir}", f"--out={tmp_path}/codes.csr", "--split=test"]
    monkeypatch.setattr("sys.argv", [*arguments, "--compilation_cache="])
    encode.main()
    assert "100 examples of test, " in capsys.readouterr().out
    assert read_sparse(tmp_path / "codes.csr").shape == (100, 40)


def test_the_command_encodes_by_a_published_model(run, tmp_path, monkeypatch):
    x = vectors(50)
    data.write_activations(tmp_path / "acts", [x])
    folder = run.save_pretrained(tmp_path / "published")
    encode = command("encode")
    arguments = [f"--workdir={folder}", f"--data.name={tmp_path}/acts", "--split=train+validation+test"]
    monkeypatch.setattr("sys.argv", ["encode", *arguments, f"--out={tmp_path}/codes.csr", "--compilation_cache="])
    encode.main()
    np.testing.assert_allclose(read_sparse(tmp_path / "codes.csr").toarray(), run.encode(x), rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_said_in_one_line(run, tmp_path):
    source = everything(run)
    with pytest.raises(aejax.InputError, match=r"sparse codes are a folder whose name ends with .csr; call it so"):
        encode_sparse(run, source, tmp_path / "codes.npz")
    (tmp_path / "mine.csr").mkdir()
    with pytest.raises(aejax.InputError, match="is there already and not by this command"):
        encode_sparse(run, source, tmp_path / "mine.csr")
    with pytest.raises(aejax.InputError, match=r"the run reads examples of \(6,\), array holds examples of \(5,\)"):
        encode_sparse(run, data.from_array(vectors(10, 5)), tmp_path / "codes.csr")
    with pytest.raises(aejax.InputError, match="no folder of sparse codes; encode a split first"):
        read_sparse(tmp_path / "none.csr")
