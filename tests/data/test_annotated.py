"""AnnData objects and .h5ad files: the same runs as of their counts, and one line for what cannot be read."""

import numpy as np
import pytest
from conftest import mlp, one_device, section
from scipy import sparse

import aejax
from aejax.config import module
from aejax.data import load, read_anndata

anndata = pytest.importorskip("anndata")
pd = pytest.importorskip("pandas")
pytestmark = pytest.mark.filterwarnings("ignore:The 'future.infer_string' option")  # which anndata 0.13 reads


def cells(n=120, genes=30, seed=0):
    """Cells of three batches, with log1p of their counts as X, the counts in a layer, and all genes in raw."""
    rng = np.random.default_rng(seed)
    x = sparse.csr_matrix(rng.poisson(2, (n, genes)) * (rng.random((n, genes)) < 0.3), dtype=np.int64)
    obs = pd.DataFrame({"batch": np.array(["b", "a", "c"])[np.arange(n) % 3]}, [f"cell {i}" for i in range(n)])
    adata = anndata.AnnData(x.astype(np.float32), obs, pd.DataFrame(index=[f"gene {i}" for i in range(genes)]))
    adata.raw = adata
    adata = adata[:, : genes - 2].copy()
    adata.layers["counts"] = x[:, : genes - 2]
    adata.X = adata.X.log1p()
    return adata


def config_of_cells(**changes):
    config = mlp(likelihood=module("negative_binomial", library="observed"), inputs="log1p", **changes)
    config.bottleneck = module("gaussian", features=2)
    config.objective.weights = {"kl": 1.0}
    return config


def fit(adata, folder=None, **changes):
    changes = {"data__layer": "counts", "data__batch": "batch"} | changes
    return aejax.fit(config_of_cells(**changes), adata, folder, quiet=True, devices=one_device())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fit(cells(), tmp_path_factory.mktemp("run"), condition__encoder=False)


def test_a_run_is_that_of_the_counts_and_the_numbers_of_batches(run):
    label = np.tile([1, 0, 2], 40)
    x = cells().layers["counts"]
    config = config_of_cells(classes=3, condition__encoder=False)
    same = aejax.fit(config, x, label=label, quiet=True, devices=one_device())
    assert run.fingerprint == same.fingerprint
    assert (run.config.classes, run.spec.batches) == (3, ("a", "b", "c"))
    assert run.spec.genes == tuple(f"gene {i}" for i in range(28))


def test_latents_are_written_into_obsm_and_other_methods_read_cells(run):
    adata = cells(seed=1)
    z = aejax.encode_anndata(run, adata)
    np.testing.assert_array_equal(adata.obsm["X_aejax"], z)
    np.testing.assert_allclose(z, run.encode(adata.layers["counts"].toarray()), rtol=1e-5, atol=1e-6)
    given = aejax.read_anndata(run, adata)
    expected = run.elbo(adata.layers["counts"].toarray(), label=np.tile([1, 0, 2], 40))
    np.testing.assert_allclose(run.elbo(**given), expected, rtol=1e-5)
    with pytest.raises(aejax.InputError, match=r"cells are read from an AnnData object, got .*give x and label"):
        aejax.encode_anndata(run, np.zeros((3, 28)))


def test_genes_are_found_by_name_and_batches_by_theirs(run):
    adata = cells(seed=1)
    mixed = adata[3:, np.random.default_rng(0).permutation(28)].copy()
    mixed = mixed[mixed.obs["batch"] == "c"].copy()
    loaded = aejax.load_run(run.workdir)
    rows = np.flatnonzero(adata.obs["batch"] == "c")[1:]
    for each in (run, loaded):
        of_all, of_mixed = aejax.read_anndata(each, adata), aejax.read_anndata(each, mixed)
        np.testing.assert_array_equal(of_mixed["x"].toarray(), of_all["x"].toarray()[rows])
        np.testing.assert_array_equal(of_mixed["label"], 2)
    with pytest.raises(aejax.InputError, match=r"the cells lack 2 of the run's 28 genes, e.g. gene 0, gene 1; give"):
        aejax.encode_anndata(run, adata[:, 2:].copy())


def test_a_batch_that_was_never_seen_is_encoded_only_where_the_encoder_reads_none(run):
    adata = cells(seed=1)
    expected = aejax.encode_anndata(run, adata)
    adata.obs["batch"] = "new"
    np.testing.assert_array_equal(aejax.encode_anndata(run, adata), expected)
    message = "of a batch 'new', which the run was not trained on; its batches are a, b, c: set theirs to the most"
    with pytest.raises(aejax.InputError, match=message):
        aejax.read_anndata(run, adata)
    reads = fit(cells())
    with pytest.raises(aejax.InputError, match=message):
        aejax.encode_anndata(reads, adata)
    adata.obs["batch"] = "b"
    np.testing.assert_allclose(
        aejax.encode_anndata(reads, adata), reads.encode(adata.layers["counts"], np.ones(120, int)), rtol=1e-6
    )


def with_donors(adata):
    """Adds donors 0 to 3, whose combinations with the batches do not all occur."""
    adata.obs["donor"] = np.array(list("0123"))[np.arange(adata.n_obs) % 4 * (np.arange(adata.n_obs) % 3 > 0)]
    return adata


def test_several_covariates_are_read_each_for_itself():
    """The label is their combination, and what it adds to a layer of the decoder is the sum of what each adds."""
    run = fit(with_donors(cells()), data__batch="batch,donor", condition__encoder=False, steps=2)
    assert (run.config.classes, run.config.condition.categories) == (12, "3,4")
    assert run.spec.batches[:5] == ("a & 0", "a & 1", "a & 2", "a & 3", "b & 0")
    adata = with_donors(cells(seed=1))
    batch, donor = np.tile([1, 0, 2], 40), np.asarray(adata.obs["donor"]).astype(int)
    given = aejax.read_anndata(run, adata)
    np.testing.assert_array_equal(given["label"], 4 * batch + donor)
    layer, z = run.variables["params"]["decoder"]["dense_0"], np.float64(run.encode(**given))
    wanted = z @ layer["kernel"][:2] + layer["kernel"][2:5][batch] + layer["kernel"][5:][donor] + layer["bias"]
    _, found = run.model.apply(
        run.variables, z.astype(np.float32), label=given["label"], method="decode", capture_intermediates=True
    )
    np.testing.assert_allclose(
        found["intermediates"]["decoder"]["dense_0"]["__call__"][0], wanted, rtol=1e-4, atol=1e-5
    )
    some = adata[np.flatnonzero((batch == 2) & (donor == 3))].copy()
    np.testing.assert_array_equal(aejax.read_anndata(run, some)["label"], 11)
    adata.obs["donor"] = ["new"] * 120
    with pytest.raises(aejax.InputError, match="of a batch 'a & new', which the run was not trained on"):
        aejax.read_anndata(run, adata)


def test_embeddings_of_covariates_are_added():
    adata = with_donors(cells())
    run = fit(adata, data__batch="batch,donor", condition__encoder=False, condition__embedding=3, steps=2)
    table, z = run.variables["params"]["label_embedding"], np.ones((2, 2), np.float32)
    assert table.shape == (7, 3)
    vector = table[[1, 2]] + table[[3 + 2, 3 + 3]]
    same = run.model.clone(classes=0).apply(run.variables, np.concatenate([z, vector], 1), method="decode")
    found = run.model.apply(run.variables, z, label=np.array([4 + 2, 8 + 3]), method="decode")
    np.testing.assert_allclose(found, same, rtol=1e-5)


def columns_first(adata):
    adata.layers["counts"] = adata.layers["counts"].tocsc()


def dense(adata):
    adata.layers["counts"] = adata.layers["counts"].toarray()


@pytest.mark.parametrize("change", [lambda adata: None, columns_first, dense])
@pytest.mark.parametrize(("layer", "genes"), [("counts", 28), ("raw", 30)])
def test_a_file_holds_the_same_cells(tmp_path, change, layer, genes):
    adata, file = cells(), tmp_path / "cells.h5ad"
    expected = (adata.layers[layer] if layer == "counts" else adata.raw.X).toarray()
    change(adata)
    adata.write_h5ad(file)
    splits = load(section(name=str(file), layer=layer, batch="batch", train="train", validation="train", test="train"))
    arrays = splits.train.take(np.arange(120))
    np.testing.assert_array_equal(arrays["x"], expected)
    np.testing.assert_array_equal(arrays["label"], np.tile([1, 0, 2], 40))
    assert (splits.train.shape, len(splits.train.genes), splits.train.kinds) == ((genes,), genes, ("a", "b", "c"))
    backed = anndata.read_h5ad(file, backed="r")
    np.testing.assert_array_equal(read_anndata(backed, layer).x.toarray(), expected)
    np.testing.assert_allclose(read_anndata(backed).x.toarray(), adata.X.toarray())
    backed.file.close()


def test_a_dense_file_is_read_in_parts(tmp_path, monkeypatch):
    from aejax.data import annotated

    adata, file, most = cells(), tmp_path / "cells.h5ad", [0]
    dense(adata)
    adata.write_h5ad(file)
    make = sparse.csr_array

    def watch(x, *args, **options):
        most[0] = max(most[0], len(x)) if isinstance(x, np.ndarray) else most[0]
        return make(x, *args, **options)

    monkeypatch.setattr(sparse, "csr_array", watch)
    monkeypatch.setattr(annotated, "_ROWS", 7)
    x = annotated.read_h5ad(file, "counts").x
    assert most[0] == 7
    np.testing.assert_array_equal(x.toarray(), adata.layers["counts"])


def without_batch(adata):
    adata.obs.loc["cell 4", "batch"] = None


def negative(adata):
    adata.layers["counts"].data[0] = -3


def infinite(adata):
    adata.layers["counts"] = adata.layers["counts"].astype(np.float32)
    adata.layers["counts"].data[-1] = np.inf


def no_layers(adata):
    del adata.layers["counts"], adata.raw


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (None, {"data__layer": ""}, r"value \d+ is 1.09.*reads counts.*set data.layer to .* among: counts, raw"),
        (no_layers, {"data__layer": ""}, "give raw counts as X, or keep them in a layer and set data.layer"),
        (no_layers, {}, "the AnnData has no layers; set data.layer=''"),
        (
            None,
            {"data__layer": "count"},
            r"data.layer .count. is unknown; did you mean .counts.\? \(One of: counts, raw\)",
        ),
        (negative, {}, r"is -3, and likelihood.name=NegativeBinomial reads counts.*among: raw"),
        (infinite, {}, "the AnnData, layer 'counts': example 119, value .* is NaN or infinity"),
        (None, {"data__batch": "donor"}, "data.batch: column of obs of the AnnData 'donor' is unknown.*: batch"),
        (without_batch, {}, r"the AnnData: obs\['batch'\] of cell 4 is missing; fill it"),
        (
            None,
            {"data__batch": "batch,donor"},
            "data.batch: column of obs of the AnnData 'donor' is unknown.*: batch",
        ),
        (
            with_donors,
            {"data__batch": "batch, donor", "classes": 12, "condition__categories": "4,3"},
            "condition.categories='4,3' and those of data.batch='batch, donor' are '3,4'; set it to these",
        ),
        (
            with_donors,
            {"data__batch": "batch,donor", "classes": 12, "condition__categories": "4,x"},
            "condition.categories='4,x' are whole numbers, .* whose product is classes, and that is 12; correct one",
        ),
        (None, {"classes": 2}, "data.batch='batch' has 3 batches, and classes=2; set classes=3"),
    ],
)
def test_what_cannot_be_read_is_one_line(change, options, message):
    adata = cells()
    if change:
        change(adata)
    with pytest.raises(aejax.InputError, match=message) as caught:
        fit(adata, **options, data__train="train", data__validation="train", data__test="train")
    assert "\n" not in str(caught.value)


def test_batches_are_those_of_cells_alone():
    with pytest.raises(aejax.InputError, match=r"data.batch=.batch. is a column of AnnData, which"):
        fit(cells().layers["counts"], data__layer="")


def test_files_that_are_no_cells_are_one_line(tmp_path):
    (tmp_path / "text.h5ad").write_text("no HDF5")
    for name, message in (("text.h5ad", "no .h5ad file .*write it again"), ("none.h5ad", "no such file; check data.n")):
        with pytest.raises(aejax.InputError, match=message):
            load(section(name=str(tmp_path / name)))
    adata = cells()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    config = config_of_cells(data__name=str(tmp_path / "cells.h5ad"), data__layer="counts", data__batch="batch")
    with pytest.raises(aejax.InputError, match="has 3 batches, and classes=0; set classes=3"):
        aejax.train(config, tmp_path / "run", quiet=True)
