"""Tables: the likelihood of each column against SciPy, DataFrames in and out, and files of them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mlp, one_device
from scipy import special, stats

import aejax
from aejax.config import module
from aejax.data import Spec, decode_frame, encode_frame, from_frame
from aejax.data.people import COLUMNS, make_people
from aejax.models.autoencoder import expand_levels
from aejax.objectives import Mixed

pd = pytest.importorskip("pandas")
KINDS = ("categorical:3", "gaussian", "bernoulli", "gaussian", "ordinal:3", "poisson", "student_t")


def people(rows=300, seed=0, holes=False):
    frame = decode_frame(make_people(rows, seed).take(np.arange(rows))["x"], COLUMNS)
    if holes:
        for place, name in enumerate(("age", "region", "education")):
            frame.loc[frame.index % 7 == place, name] = None
    return frame


def config_of(**changes):
    given = {"likelihood": module("mixed"), "bottleneck": module("gaussian", features=2), "steps": 8}
    return mlp(**{**given, "objective__weights": {"kl": 1.0}, **changes})


def fit(x, *more, **changes):
    return aejax.fit(config_of(**changes), x, *more, quiet=True, devices=one_device())


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "table"
    choices = ("income=student_t", "visits=poisson")
    fit(people(holes=True), folder, data__missing=True, data__columns=choices)
    return folder


@pytest.fixture(scope="module")
def run(workdir):
    return aejax.load_run(workdir)


def test_each_column_has_its_own_density():
    """What is decoded stands by likelihood: 3 logits, 2 means, a logit, 2 cuts, a log mean, a location."""
    rng = np.random.default_rng(0)
    decoded, log_scale = rng.normal(size=(5, 10)).astype(np.float32), rng.normal(size=7).astype(np.float32)
    x = rng.normal(size=(5, 7))
    x[:, [0, 2, 4, 5]] = np.stack([[0, 2, 1, 1, 2], [0, 1, 1, 0, 1], [0, 1, 2, 2, 1], [0, 3, 1, 0, 7]], 1)
    kind = Mixed(KINDS)
    assert kind.decoded_shape((7,)) == (10,)
    assert kind.scale_shape((7,)) == (7,)
    scale = np.exp(np.float64(log_scale))
    first, gap = decoded[:, 6], np.logaddexp(0, decoded[:, 7])
    below = special.expit(np.stack([first, first + gap], 1))
    levels = np.diff(below, prepend=0, append=1)
    rows = np.arange(5)
    wanted = [
        special.log_softmax(decoded[:, :3], 1)[rows, x[:, 0].astype(int)],
        stats.norm.logpdf(x[:, 1], decoded[:, 3], scale[1]),
        stats.bernoulli.logpmf(x[:, 2], special.expit(decoded[:, 5])),
        stats.norm.logpdf(x[:, 3], decoded[:, 4], scale[3]),
        np.log(levels[rows, x[:, 4].astype(int)]),
        stats.poisson.logpmf(x[:, 5], np.exp(decoded[:, 8])),
        stats.t.logpdf(x[:, 6], 4, decoded[:, 9], scale[6]),
    ]
    found = jax.jit(kind.nll)(decoded, x.astype(np.float32), log_scale)
    np.testing.assert_allclose(-found, np.stack(wanted, 1), rtol=1e-4, atol=1e-5)
    mean = kind.mean(decoded)
    np.testing.assert_array_equal(mean[:, 0], decoded[:, :3].argmax(1))
    np.testing.assert_array_equal(mean[:, 4], levels.argmax(1))
    np.testing.assert_allclose(mean[:, 5], np.exp(decoded[:, 8]), rtol=1e-5)
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = np.array(jax.jit(jax.vmap(lambda key: kind.draw(key, decoded[0], log_scale)))(keys))
    np.testing.assert_allclose((drawn[:, 0] == 1).mean(), special.softmax(decoded[0, :3])[1], atol=0.02)
    np.testing.assert_allclose(drawn[:, 3].mean(), decoded[0, 4], atol=0.05 * scale[3])
    np.testing.assert_allclose(drawn[:, 3].std(), scale[3], rtol=0.05)
    np.testing.assert_allclose((drawn[:, 4] == 2).mean(), levels[0, 2], atol=0.02)


def test_the_encoder_reads_levels_as_one_hot_vectors():
    x = jnp.array([[0.5, 2, 1], [np.nan, np.nan, np.nan], [-1.0, 0, 0]])
    found = expand_levels(x, (0, 3, 2))
    np.testing.assert_array_equal(found, [[0.5, 0, 0, 1, 0, 1], [0] * 6, [-1, 1, 0, 0, 1, 0]])


SERIES = {
    "float32": pd.Series([1.5, 2.5, 3.0], dtype="float32"),
    "float64": pd.Series([1.5, 2.5, 3.0]),
    "int8": pd.Series([-128, 127, 3], dtype="int8"),
    "uint64": pd.Series([0, 5, 9], dtype="uint64"),
    "Int64": pd.Series([1, None, 3], dtype="Int64"),
    "Float32": pd.Series([1.5, None, 3], dtype="Float32"),
    "bool": pd.Series([True, False, True]),
    "boolean": pd.Series([True, None, False], dtype="boolean"),
    "strings": pd.Series(["b", "a", "b"]),
    "objects": pd.Series(["b", None, "a"], dtype=object),
    "string": pd.Series(["b", None, "a"], dtype="string"),
    "category": pd.Series(["x", "z", None], dtype=pd.CategoricalDtype(["z", "y", "x"])),
    "ordered": pd.Series(["low", "high", "mid"], dtype=pd.CategoricalDtype(["low", "mid", "high"], ordered=True)),
    "numbers": pd.Series([3, 1, 3], dtype=pd.CategoricalDtype([1, 3])),
}


@pytest.mark.parametrize("name", SERIES)
def test_a_column_comes_back_with_its_dtype(name):
    frame = pd.DataFrame({"v": SERIES[name].array, "other": [0.0, 1.0, 2.0]}, index=["p", "q", "r"])
    source = from_frame(frame, missing=True)
    spec = Spec.from_dict(json.loads(json.dumps(Spec.of(source, False).to_dict())))
    assert spec.columns == source.columns
    x = encode_frame(frame[["other", "v"]], spec.columns, missing=True)
    np.testing.assert_array_equal(x, source.take(np.arange(3))["x"])
    lacks = frame["v"].isna().to_numpy()
    back = decode_frame(np.nan_to_num(x), spec.columns, frame.index)
    pd.testing.assert_frame_equal(back[~lacks], frame[~lacks])
    assert back.dtypes.equals(frame.dtypes)
    assert np.isnan(x[lacks, 0]).all()


def test_numbers_that_are_decoded_fit_their_dtype():
    frame = pd.DataFrame({"i": np.array([1, 2], "int8"), "u": np.array([1, 2], "uint8"), "b": [True, False]})
    columns = from_frame(frame).columns
    found = decode_frame(np.array([[300.0, -4.0, 0.7], [1.4, 7.6, 0.2]]), columns)
    assert found.to_dict("list") == {"i": [127, 1], "u": [0, 8], "b": [True, False]}


def test_dtypes_and_choices_decide_the_likelihood(run):
    kinds = [column.likelihood for column in run.spec.columns]
    assert kinds == ["gaussian", "student_t", "poisson", "bernoulli", "categorical:4", "ordinal:4"]
    plain = [column.likelihood for column in from_frame(people()).columns]
    assert plain == ["gaussian", "gaussian", "gaussian", "bernoulli", "categorical:4", "ordinal:4"]
    every = from_frame(people(), choices=("*=student_t", "visits=ordinal")).columns
    assert [column.kind for column in every[:3]] == ["student_t", "student_t", "ordinal"]
    assert run.spec.columns[5].categories == ("none", "school", "college", "degree")
    assert run.spec.mean[2:] == (0.0,) * 4
    assert run.spec.deviation[2:] == (1.0,) * 4
    assert run.spec.describe().startswith("rows of 6 columns: 1 gaussian, 1 student_t, 1 poisson, 1 bernoulli, 1 ")


def test_a_run_takes_and_returns_dataframes(run):
    frame = people(holes=True).iloc[5:25]
    z = run.encode(frame)
    np.testing.assert_array_equal(run.encode(frame[frame.columns[::-1]]), z)
    found = run.reconstruct(frame)
    assert found.index.equals(frame.index)
    for table in (found, run.decode(z), run.generate(5), run.impute(frame)):
        assert table.dtypes.equals(people().dtypes)
        assert not table.isna().any().any()
    np.testing.assert_allclose(run.decode(z)["age"], found["age"], rtol=1e-5)
    imputed, there = run.impute(frame), frame.notna()
    for name in frame:
        pd.testing.assert_series_equal(imputed[name][there[name]], frame[name][there[name]])
        pd.testing.assert_series_equal(imputed[name][~there[name]], found[name][~there[name]])
    assert set(run.generate(50)["visits"] % 1) == {0}
    numbers = encode_frame(frame, run.spec.columns, missing=True)
    np.testing.assert_array_equal(run.encode(numbers), z)
    assert np.isfinite(run.elbo(frame)).all()
    assert isinstance(run.in_numbers.reconstruct(frame), np.ndarray)


def test_a_category_that_was_never_seen_counts_as_missing(run):
    frame, lacking = people(4), people(4)
    frame["region"] = frame["region"].astype(object)
    frame.loc[1, "region"], lacking.loc[1, "region"] = "mars", None
    with pytest.warns(UserWarning, match="count as missing: 'region' holds 'mars'"):
        z = run.encode(frame)
    np.testing.assert_array_equal(z, run.encode(lacking))
    with pytest.warns(UserWarning, match="'region' holds 'mars'"):
        np.testing.assert_array_equal(run.elbo(frame), run.elbo(lacking))
    whole = fit(people())  # even where no missing values were announced
    with pytest.warns(UserWarning, match="'region' holds 'mars'"):
        assert np.isfinite(whole.reconstruct(frame)["age"]).all()
    with pytest.raises(aejax.InputError, match="column 'region', row 1, has no value"):
        whole.encode(lacking)


@pytest.mark.slow
def test_two_factors_explain_the_table():
    run = fit(people(2_000), steps=600, batch_size=64, optim__lr=1e-2, encoder__features=(32,), decoder__features=(32,))
    test = people(500, seed=1)
    found = run.reconstruct(test)
    for name in ("member", "region", "education"):
        assert (found[name] == test[name]).mean() > 0.1 + test[name].value_counts(normalize=True).max()
    for name in ("age", "income"):
        assert np.corrcoef(found[name], test[name])[0, 1] > 0.75
    drawn = run.generate(2_000)
    assert abs(drawn["age"].mean() - test["age"].mean()) < 2
    assert abs((drawn["region"] == "east").mean() - (test["region"] == "east").mean()) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_file_is_a_table(suffix, tmp_path):
    frame = people(200)
    write = frame.to_parquet if suffix == "parquet" else frame.to_csv
    write(tmp_path / f"people.{suffix}", index=False)
    config = config_of(data__name=str(tmp_path / f"people.{suffix}"))
    run = aejax.train(config, tmp_path / "run", quiet=True, devices=one_device())
    kinds = [column.kind for column in run.spec.columns]
    last = "ordinal" if suffix == "parquet" else "categorical"
    assert kinds == ["gaussian"] * 3 + ["bernoulli", "categorical", last]
    found = run.evaluate(groups=["reconstruction", "likelihood"])
    assert np.isfinite(found["likelihood"]["elbo"].value)
    assert run.reconstruct(frame.head(3))["region"].isin(frame["region"]).all()
    frame["region"] = frame["region"].str.upper()
    write = frame.to_parquet if suffix == "parquet" else frame.to_csv
    write(tmp_path / f"people.{suffix}", index=False)
    with pytest.raises(aejax.InputError, match="other columns, dtypes or categories"):
        aejax.train(aejax.config.updated(config, {"steps": 12}), tmp_path / "run", quiet=True, change=["steps"])


def changed(**columns):
    return people(40).assign(**columns)


N = np.arange(40)


@pytest.mark.parametrize(
    ("frame", "changes", "message"),
    [
        (people(40, holes=True), {}, "column 'age', row 0, has no value; .* or set data.missing=True"),
        (changed(age=3.0), {}, "column 'age' has only the value 3.0, which tells nothing; leave it out"),
        (changed(region="west"), {}, "column 'region' has only the value 'west'"),
        (changed(age=np.nan), {"data__missing": True}, "column 'age' has no value that is not missing"),
        (changed(when=pd.Timestamp("2020-01-01") + pd.to_timedelta(N, "D")), {}, "column 'when' has dtype datetime64"),
        (changed(mixed=[1, "a"] * 20), {}, "column 'mixed' has dtype object, mixed-integer values"),
        (changed(z=N * 1j), {}, "column 'z' has dtype complex128"),
        (changed(id=[f"id{i}" for i in range(40)] * 1), {"batch_size": 8}, None),
        (pd.concat([people(60).assign(id=[f"{i}" for i in range(60)])]), {}, "60 different strings in 60 rows"),
        (changed(visits=N - 1), {"data__columns": ("visits=poisson",)}, "row 0, is -1, and poisson reads counts"),
        (changed(age=N / 2), {"data__columns": ("age=beta",)}, "row 3, is 1.5, and beta reads numbers from 0 to 1"),
        (people(40), {"data__columns": ("member=poisson",)}, "'member' holds boolean values"),
        (people(40), {"data__columns": ("ages=poisson",)}, "did you mean 'age'"),
        (people(40), {"data__columns": ("age=normal",)}, "data.columns: age= 'normal' is unknown"),
        (people(40), {"data__columns": ("age=ordinal",)}, "is for whole numbers"),
        (people(40)[["age", "age"]], {}, "must have a name of its own"),
        (people(40).iloc[:0], {}, "0 rows and 6 columns"),
        (people(40), {"likelihood": module("mixed", variance="optimal")}, "likelihood.variance 'optimal' is unknown"),
        (
            people(40),
            {"likelihood": module("mixed", columns=("gaussian",))},
            "has 1 columns, and the data holds examples of",
        ),
        (people(40), {"corruption": {"name": "masking", "level": 0.5}}, "would change categories as numbers"),
        (people(40), {"data__normalize": "per_token"}, "for data without tables"),
        (np.zeros((40, 6)), {}, "0 columns, and the data holds examples of"),
        (
            np.zeros((40, 2)),
            {"likelihood": module("mixed", columns=("gaussian", "categorical"))},
            "write categorical:3",
        ),
        (np.zeros((40, 2)), {"likelihood": module("mixed", columns=("gaussian", "normal:3"))}, "'normal' is unknown"),
    ],
)
def test_what_does_not_fit_is_one_line(frame, changes, message):
    if message is None:  # few strings are categories, even if they are all different
        assert from_frame(frame).columns[-1].likelihood == "categorical:40"
        return
    with pytest.raises(aejax.InputError, match=message) as error:
        fit(frame, **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (people(4).drop(columns="age"), "lacks the column 'age'; give all of"),
        (people(4).assign(foo=1), "has a column 'foo', which the run does not know; leave it out"),
        (people(4).assign(age=["a"] * 4), "column 'age' has dtype (object|str), and the run reads float64; convert it"),
        (people(4).assign(region=[1, 2, 3, 4]), "column 'region' has dtype int64, and the run reads object"),
        (people(4).assign(member=[1, 0, 1, 0]), "column 'member' has dtype int64, and the run reads bool"),
        (people(4).assign(age=[1, 2, np.inf, 4]), "column 'age', row 2, is inf, and gaussian reads numbers"),
        (people(4).map(lambda value: None), "row 0 has no value that is not missing"),
    ],
)
def test_a_table_that_the_run_does_not_know_is_one_line(run, frame, message):
    with pytest.raises(aejax.InputError, match=message) as error:
        run.encode(frame)
    assert "\n" not in str(error.value)


def test_a_table_needs_its_likelihood_and_an_array_may_have_it():
    x = np.stack([np.random.default_rng(0).normal(size=40), N % 3], 1)
    run = fit(x, likelihood=module("mixed", columns=("gaussian", "categorical:3")))
    assert set(run.reconstruct(x)[:, 1]) <= {0, 1, 2}
    with pytest.raises(aejax.InputError, match=r"example 2, value 1 is 2, and .*Mixed reads levels from 0 to 1"):
        fit(x, likelihood=module("mixed", columns=("gaussian", "ordinal:2")))
    with pytest.raises(aejax.InputError, match="the data is a table of gaussian"):
        aejax.train(mlp(data__name="people"), "unused", quiet=True)
