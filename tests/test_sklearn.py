"""The estimators against scikit-learn's own checks, and what the transformer's numbers mean."""

import json
import pickle
import pickletools
from pathlib import Path

import joblib
import numpy as np
import pytest
from conftest import MEANT, conv, mlp, mostly_slow, untrained, vectors
from scipy.sparse import csc_array, csr_matrix, random_array
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import aejax
from aejax.config import module
from aejax.data import Spec
from aejax.sklearn import AutoencoderOutlierDetector, AutoencoderTransformer
from experiments import estimator

SCALE = "ignore:.*root mean squares"  # X is given as it is where a config is
X = vectors() * [1, 10, 100, 1, 1, 1] + 3
NAME = "autoencodertransformer"


# What parametrize_with_checks does; scikit-learn 1.6's own gives pytest 9 a generator, of which it warns.
SMALL = [kind(n_components=1, hidden=(), steps=2) for kind in (AutoencoderTransformer, AutoencoderOutlierDetector)]
CHECKS = [case for small in SMALL for case in estimator_checks_generator(small)]


# The checks that train nothing, and one that trains.
QUICK = """array_api_input complex_data do_not_raise_errors_in_init_or_set_params estimator_cloneable estimator_repr
estimator_sparse_tag estimator_tags_renamed estimators_unfitted
estimators_empty_data_messages estimators_fit_returns_self fit1d get_params_invariance mixin_order set_params
no_attributes_set_in_init parameters_default_constructible transformer_n_iter transformers_unfitted valid_tag_types"""


@pytest.mark.filterwarnings(MEANT)  # the checks' data has few features
@pytest.mark.parametrize(
    ("estimator", "check"),
    mostly_slow(CHECKS, *[case for case in CHECKS if case[1].func.__name__.removeprefix("check_") in QUICK.split()]),
    ids=[f"{type(small).__name__}-{check.func.__name__}" for small, check in CHECKS],
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def fitted():
    return AutoencoderTransformer(hidden=(5,), steps=4, random_state=0).fit(X)


def linear(**changes):
    """Without hidden layers: what PCA does, by gradient descent."""
    given = {"hidden": (), "steps": 400, "learning_rate": 2e-2, "standardize": False, "random_state": 0}
    return AutoencoderTransformer(**given | changes)


def near_a_plane(n=200, seed=0):
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    return (rng.normal(size=(n, 6)) * (2, 1, 0.1, 0.1, 0.1, 0.1) @ axes).astype(np.float32)


def test_a_linear_one_finds_what_pca_finds():
    x = near_a_plane()
    model, pca = linear().fit(x), PCA(2).fit(x)
    error = np.square(x - pca.inverse_transform(pca.transform(x))).sum(1)
    assert -model.score(x) == pytest.approx(error.mean(), rel=0.05)
    np.testing.assert_allclose(model.inverse_transform(model.transform(x)), x, atol=0.6)
    outlier = pca.mean_ + 2 * np.linalg.svd(x - pca.mean_)[2][-1:]  # off the plane, no farther out than others
    assert model.score_samples(outlier) < model.score_samples(x).min()


@pytest.mark.slow
def test_without_a_density_the_score_is_minus_the_squared_error_of_what_the_model_reads(fitted):
    decoded = fitted.inverse_transform(fitted.transform(X))
    expected = -np.square((decoded - X) / X.std(0)).sum(1)
    np.testing.assert_allclose(fitted.score_samples(X), expected, rtol=1e-3)
    assert fitted.score(X) == pytest.approx(expected.mean(), rel=1e-3)
    assert decoded.std(0)[2] > 5  # in X's units, not deviations


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [(), (4,), (9, 5)])
def test_training_starts_from_pca(hidden):
    x = vectors(seed=1) * [1, 2, 3, 1, 1, 1] + 5
    model = AutoencoderTransformer(hidden=hidden, steps=1, learning_rate=1e-9, standardize=False).fit(x)
    pca = PCA(2).fit(x.astype(np.float32))
    np.testing.assert_allclose(np.abs(model.transform(x)), np.abs(pca.transform(x)), atol=1e-4)
    np.testing.assert_allclose(
        model.inverse_transform(model.transform(x)), pca.inverse_transform(pca.transform(x)), atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "expected"), [(1, False), (0.01, True), ([1, 1, 1, 1, 1, 100], True), (100, True)])
def test_columns_are_standardized_where_their_scales_ask_for_it(scale, expected):
    model = AutoencoderTransformer(steps=1).fit(vectors() * scale)
    assert bool(model.run_.spec.mean) == expected


def test_the_committed_figures_are_those_of_the_defaults_and_at_least_pcas():
    """Within the standard error of one cross-validation."""
    file = Path(__file__).parents[1] / "experiments/results/estimator.json"
    cases = json.loads(file.read_text())["cases"]
    sizes = (estimator.CASES | estimator.FURTHER).items()
    assert {(c["data"], c["components"]) for c in cases} == {(name, k) for name, ks in sizes for k in ks}
    goals = json.loads((file.parent / "goals/anydata.json").read_text())
    expected = [{**goal, "command": estimator.COMMAND} for goal in estimator.set_goals(cases)]
    assert [goal for goal in goals if goal["command"] == estimator.COMMAND] == expected
    for case in cases:
        assert case["gain"]["mean"] == pytest.approx(case["aejax"]["score"] - case["pca"]["score"], abs=1e-4)
        assert case["gain"]["mean"] >= -case["gain"]["standard_error"]
        if case["data"] in estimator.CASES:
            assert case["aejax"]["squared_error"] <= case["pca"]["squared_error"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "components"), [("digits", 10), ("wine", 5)])
def test_the_defaults_are_at_least_pca(name, components):
    case = estimator.compare(name, components, repeats=1)
    assert case["aejax"]["score"] >= case["pca"]["score"] - 0.01
    assert case["aejax"]["squared_error"] <= case["pca"]["squared_error"]


@pytest.mark.slow
def test_the_decoder_mirrors_the_encoder():
    params = AutoencoderTransformer(hidden=(5, 3), steps=1).fit(X).run_.variables["params"]
    assert [params["encoder"][f"dense_{i}"]["kernel"].shape for i in range(2)] == [(6, 5), (5, 3)]
    assert [params["decoder"][f"dense_{i}"]["kernel"].shape for i in range(3)] == [(2, 3), (3, 5), (5, 6)]


@pytest.mark.parametrize("seed", mostly_slow(range(3)))
@pytest.mark.parametrize("samples", [1, 3])
def test_with_the_exact_posterior_the_score_is_the_density(seed, samples):
    """Probabilistic PCA (Tipping and Bishop 1999), weights orthogonal: q is p(z|x), and any draw gives log p(x)."""
    rng = np.random.default_rng(seed)
    scale, lengths, centre = 0.5, rng.uniform(0.5, 2, 2), rng.normal(size=4)
    weights = np.linalg.qr(rng.normal(size=(4, 2)))[0] * lengths
    variance = 1 / (1 + lengths**2 / scale**2)
    config = mlp()
    config.encoder, config.decoder = module("mlp", features=()), module("mlp", features=())
    config.bottleneck, config.likelihood = module("gaussian", features=2), module("gaussian", scale=scale)
    config.bottleneck.samples = samples
    spec = Spec((4,), mean=(1.0, -1.0, 0.0, 5.0), deviation=(1.0, 3.0, 0.2, 2.0))
    run = untrained(config, spec)
    to_mean = weights * variance / scale**2
    bottleneck = {
        "mean": {"kernel": to_mean, "bias": -centre @ to_mean},
        "log_std": {"kernel": np.zeros((4, 2)), "bias": np.log(variance) / 2},
    }
    params = {"bottleneck": bottleneck, "decoder": {"dense_0": {"kernel": weights.T, "bias": centre}}}
    object.__setattr__(run, "variables", {"params": params})
    model = AutoencoderTransformer()
    model.run_, model.n_features_in_ = run, 4
    deviation = np.array(spec.deviation)
    covariance = deviation[:, None] * (weights @ weights.T + scale**2 * np.eye(4)) * deviation
    density = multivariate_normal(np.array(spec.mean) + centre * deviation, covariance)
    x = density.rvs(20, random_state=seed)
    np.testing.assert_allclose(model.score_samples(x), density.logpdf(x), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("likelihood", [{"name": "squared_error"}, {"name": "gaussian", "variance": "optimal"}])
def test_what_is_no_density_of_one_example_is_scored_by_its_error(likelihood):
    config = mlp(bottleneck=module("gaussian", features=2))
    config.likelihood = module(**likelihood)
    model = AutoencoderTransformer()
    model.run_, model.n_features_in_ = untrained(config, Spec((6,))), 6
    x = vectors(10)
    np.testing.assert_allclose(model.score_samples(x), -np.square(model.run_.reconstruct(x) - x).sum(1), rtol=1e-4)


@pytest.mark.filterwarnings(SCALE)
@pytest.mark.parametrize("how", mostly_slow(["pickle", "joblib", "config"], "pickle", "joblib"))
def test_copies_transform_alike_and_hold_nothing_compiled(how, fitted, tmp_path):
    if how == "config":
        fitted = AutoencoderTransformer(config=mlp(ema=0.5), random_state=1).fit(X)
    expected = fitted.transform(X), fitted.score_samples(X)
    fitted.inverse_transform(expected[0])
    if how == "joblib":
        joblib.dump(fitted, tmp_path / "model")
        copy = joblib.load(tmp_path / "model")
    else:
        pickled = pickle.dumps(fitted)
        copy = pickle.loads(pickled)
        texts = [arg for _, arg, _ in pickletools.genops(pickled) if isinstance(arg, str)]
        assert not [t for t in texts if t.split(".")[0] in ("jax", "jaxlib", "flax", "ml_collections")]
        assert len(pickled) < 20_000
    np.testing.assert_array_equal(copy.transform(X), expected[0])
    np.testing.assert_array_equal(copy.score_samples(X), expected[1])
    assert repr(copy.get_params()["hidden"]) == repr(fitted.hidden)
    if how == "config":
        assert aejax.config.differences(copy.config, fitted.config) == []
        clone(copy).fit(X[:20])


@pytest.mark.slow
def test_the_state_of_randomness_decides(fitted):
    again = clone(fitted).fit(X)
    np.testing.assert_array_equal(again.transform(X), fitted.transform(X))
    assert not hasattr(clone(fitted), "run_")
    assert np.any(clone(fitted).set_params(random_state=1).fit(X).transform(X) != fitted.transform(X))


@pytest.mark.slow
def test_a_search_in_a_pipeline_finds_how_many_components_the_data_has():
    pipe = make_pipeline(StandardScaler(), linear(steps=200))
    search = GridSearchCV(pipe, {"autoencodertransformer__n_components": [1, 2]}, cv=2)
    search.fit(near_a_plane())
    assert search.best_params_ == {"autoencodertransformer__n_components": 2}
    names = search.best_estimator_.get_feature_names_out()
    assert names.tolist() == ["autoencodertransformer0", "autoencodertransformer1"]


@pytest.mark.slow
@pytest.mark.parametrize("config", [None, "conv"])
def test_images_go_in_and_come_out_flat(config):
    x = np.random.default_rng(0).integers(0, 256, (20, 64), np.uint8)
    given = {"config": conv()} if config else {"hidden": (4,), "steps": 2}
    model = AutoencoderTransformer(image_shape=(8, 8), random_state=0, **given).fit(x)
    z = model.transform(x)
    assert z.shape == ((20, 16) if config else (20, 2))
    np.testing.assert_allclose(model.transform(x / 255), z, rtol=1e-4, atol=1e-5)
    decoded = model.run_.reconstruct(x.reshape(20, 8, 8)).reshape(20, 64)
    np.testing.assert_allclose(model.inverse_transform(z), decoded, atol=1e-5)
    np.testing.assert_allclose(model.score_samples(x), -np.square(decoded - x / 255).sum(1), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings(SCALE)
def test_all_rows_are_trained_on_and_batches_are_no_larger_than_the_data():
    config = mlp()
    run = AutoencoderTransformer(config=config).fit(X[:10]).run_
    assert (run.config.batch_size, run.config.data.train, len(run.inputs)) == (10, "train", 8)
    config.data.train, config.data.validation, config.data.test = "train[:60%]", "train[60%:]", "train[60%:]"
    run = AutoencoderTransformer(config=config).fit(X[:10]).run_
    assert (run.config.batch_size, len(run.inputs)) == (6, 4)
    assert (config.batch_size, config.data.name) == (16, "digits")  # the given one is as it was


@pytest.mark.slow
def test_nothing_is_printed_and_nothing_stays(capfd, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = AutoencoderTransformer(hidden=(5,), steps=4, random_state=0).fit(X)
    model.score_samples(model.inverse_transform(model.transform(X)))
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    model.set_params(verbose=1).fit(X)
    assert "encoder/dense_0" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_components": 0}, "bottleneck.features must be a whole number above 0, got 0"),
        ({"hidden": (0,)}, "encoder.features must be whole numbers above 0"),
        ({"steps": 0}, r"steps must be a whole number above 0 and below 2\*\*31, got 0"),
        ({"learning_rate": -1}, "optim.lr must be above 0, got -1"),
        ({"image_shape": (2, 2)}, r"image_shape=\(2, 2\) does not make 6 features"),
        ({"image_shape": (2, 3)}, r"float images must lie in \[0, 1\], found -\d"),
        (
            {"config": mlp(), "steps": 5, "hidden": (3,)},
            r"config= replaces hidden, steps: set them in the config",
        ),
        ({"config": mlp(classes=3)}, r"config.classes=3 makes the model conditional; set it to 0"),
    ],
)
def test_what_cannot_be_is_one_line(changes, message):
    with pytest.raises(aejax.InputError, match=message):
        AutoencoderTransformer(**changes).fit(X)


@pytest.mark.parametrize("kind", [AutoencoderTransformer, AutoencoderOutlierDetector])
def test_sparse_rows_are_read_as_dense_ones_are(kind):
    """Adam's first step follows the signs of rounding errors, so the learning rate is too small to matter."""
    x = vectors() * (vectors(seed=1) > 0)
    model = kind(2, hidden=(4,), steps=1, learning_rate=1e-9, standardize=True, random_state=0)
    dense, sparse = clone(model).fit(x), clone(model).fit(csr_matrix(x))
    np.testing.assert_allclose(sparse.score_samples(csc_array(x)), dense.score_samples(x), rtol=1e-3)
    np.testing.assert_allclose(dense.score_samples(csr_matrix(x)), dense.score_samples(x), rtol=1e-4)
    if kind is AutoencoderTransformer:
        np.testing.assert_allclose(np.abs(sparse.transform(csr_matrix(x))), np.abs(dense.transform(x)), atol=1e-4)


@pytest.mark.slow
def test_wide_sparse_rows_start_from_pca():
    x = random_array((80, 1_200), density=0.05, format="csr", rng=0, dtype=np.float32)
    model = AutoencoderTransformer(3, steps=1, learning_rate=1e-9, standardize=False, random_state=0).fit(x)
    expected = PCA(3, svd_solver="full").fit_transform(x.toarray())
    np.testing.assert_allclose(np.abs(model.transform(x)), np.abs(expected), atol=1e-3)
    assert len(AutoencoderOutlierDetector(steps=1).fit(x).run_.latents[0]) < 64


@pytest.mark.slow
def test_frames_go_in_and_come_out():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcdef"))
    model = AutoencoderTransformer(hidden=(5,), steps=4, random_state=0).set_output(transform="pandas").fit(frame)
    assert model.feature_names_in_.tolist() == list("abcdef")
    codes = model.transform(frame[:7])
    assert codes.columns.tolist() == model.get_feature_names_out().tolist() == [f"{NAME}{i}" for i in range(2)]
    assert codes.index.equals(frame.index[:7])
    plain = AutoencoderTransformer(hidden=(5,), steps=4, random_state=0).fit(X).transform(X[:7])
    np.testing.assert_array_equal(codes.to_numpy(), plain)
    with pytest.raises(ValueError, match="feature names should match"):
        model.transform(frame[list("bacdef")])
    frame.loc[3, "c"] = np.nan
    with pytest.raises(aejax.InputError, match="X: row 3, column 'c' is NaN; fill missing values first"):
        model.transform(frame)


def _with(value, row=3, column=2):
    x = X.copy()
    x[row, column] = value
    return x


@pytest.mark.parametrize(
    ("changes", "x", "message"),
    [
        ({}, _with(np.nan), "X: row 3, column 2 is NaN; fill missing values first"),
        ({}, csr_matrix(_with(np.inf)), "X: row 3, column 2 is infinity in float32; scale or remove"),
        ({}, _with(1e300), "X: row 3, column 2 is infinity in float32; scale or remove"),
        ({}, _with(np.nan, column=slice(None)), "X: row 3 has no value, all are NaN; leave it out"),
        ({"n_components": 7}, X, "n_components=7 exceeds n_features=6; give at most 6"),
        ({"standardize": True}, np.ones((9, 2)), "X: all rows are alike, every column has one value"),
    ],
)
def test_x_that_cannot_be_is_one_line(changes, x, message):
    with np.errstate(over="ignore"), pytest.raises(aejax.InputError, match=message) as raised:
        AutoencoderTransformer(**changes).fit(x)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_columns_of_one_value_are_named():
    with pytest.warns(UserWarning, match=r"X: 1 columns have one value \(4\), which cannot be standardized"):
        AutoencoderTransformer(steps=1, standardize=True).fit(_with(7, row=slice(None), column=4))


def test_codes_of_another_width_are_named(fitted):
    with pytest.raises(aejax.InputError, match="codes have 2 components, the given ones 3"):
        fitted.inverse_transform(np.zeros((1, 3)))
