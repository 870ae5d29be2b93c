"""Intervals against SciPy and by hand; what the table, the CSVs and the LaTeX say."""

import csv
import io
import math
import re

import numpy as np
import pytest
from scipy import stats
from workdirs import evaluation, run, sweep

from aejax import InputError
from aejax.ablation import as_csv, as_latex, as_text, collect, runs_as_csv, tabulate
from aejax.ablation.statistics import Difference, better, difference, direction
from aejax.ablation.table import Cell, choose_baseline, choose_metrics, format_difference, format_number, write_remarks

LOSS = "validation/loss"
GRID = [{"optim.lr": lr, "ema": ema} for lr in (0.01, 0.001) for ema in (0.0, 0.9)]


def rows_of(root, baseline="", metrics=(LOSS,)):
    found = collect([root])
    return found, tabulate(found, metrics, choose_baseline(found, baseline))


# Statistics


def test_a_paired_interval_by_hand():
    # Differences 1, 2 and 6: mean 3, variance (4 + 1 + 9) / 2 = 7; Student's t of 2 degrees at 97.5% is 4.30265.
    got = difference({0: 11, 1: 22, 2: 36}, {0: 10, 1: 20, 2: 30})
    half = 4.302652729911275 * math.sqrt(7 / 3)
    assert got == Difference(3, pytest.approx(3 - half), pytest.approx(3 + half), "paired, 3 seeds")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [2, 5])
def test_paired_intervals_are_scipys(seed, n):
    a, b = np.random.default_rng(seed).normal([[3], [1]], [[1], [2]], (2, n))
    shuffled = dict(reversed(list(enumerate(b))))  # seeds tell what belongs together, not the order
    got, want = difference(dict(enumerate(a)), shuffled), stats.ttest_rel(a, b).confidence_interval(0.95)
    assert got[:3] == pytest.approx((np.mean(a) - np.mean(b), want.low, want.high))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 6)])
def test_seeds_that_differ_have_welchs_interval(seed, n, m):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(3, 1, n), rng.normal(1, 4, m)
    got = difference(dict(enumerate(a)), dict(enumerate(b, start=n - 1)))  # one seed in common pairs nothing
    want = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert got[:3] == pytest.approx((np.mean(a) - np.mean(b), want.low, want.high))
    assert got.how == f"Welch, {n} and {m} seeds"


def test_only_common_seeds_are_paired():
    got = difference({0: 5, 1: 7, 9: 100}, {0: 4, 1: 4, 8: -100})
    assert (got.value, got.how) == (2, "paired, 2 seeds")


def test_too_few_seeds_have_no_interval():
    assert difference({0: 5}, {0: 4}) == Difference(1, None, None, "one seed, no interval")
    assert difference({0: 5, 1: 6}, {1: 4}).low is None
    assert difference({}, {0: 4}) is None
    assert difference({0: 1, 1: 1}, {2: 3, 3: 3})[:3] == (-2, -2, -2)  # no spread at all


@pytest.mark.parametrize(
    ("metric", "sign"),
    [
        *((m, -1) for m in ("validation/loss", "validation/squared_error", "likelihood/bits_per_dimension")),
        *((m, 1) for m in ("likelihood/elbo", "reconstruction/psnr", "anomaly/auroc_error", "disentanglement/mig")),
        *((m, 0) for m in ("likelihood/rate", "train/kl", "generation/frechet_distance")),
    ],
)
def test_directions(metric, sign):
    assert direction(metric) == sign
    assert better(metric, ()) == {-1: "lower is better", 0: "", 1: "higher is better"}[sign]


@pytest.mark.parametrize(
    ("metric", "axis", "sign"),
    [
        (LOSS, "optim.lr", -1),
        *((LOSS, a, 0) for a in ("objective.weights.kl", "data.standardize", "encoder.mask_ratio", "data.name")),
        ("validation/squared_error", "objective.weights.kl", -1),
        ("validation/squared_error", "data.standardize", -1),  # in the user's units
        *(
            ("validation/squared_error", a, 0)
            for a in ("data.name", "data.size", "data.binarize", "data.held_out", "data.validation")
        ),
        ("representation/knn_accuracy", "likelihood.name", 1),
        ("representation/knn_accuracy", "data.name", 0),
        *((f"likelihood/{m}", "likelihood.name", 0) for m in ("elbo", "log_likelihood", "bits_per_dimension")),
        ("likelihood/elbo", "objective.weights.kl", 1),  # of weight 1, whatever it was trained with
    ],
)
def test_metrics_that_mean_something_else_are_not_compared(metric, axis, sign):
    assert direction(metric, [axis]) == sign


# The table


def test_means_deviations_and_the_best(tmp_path):
    _, rows = rows_of(sweep(tmp_path, GRID[:3], [[3.0, 5.0], [1.0, 2.0], [9.0, 9.5]]), "lr=0.01,ema=0")
    cells = [row.cells[LOSS] for row in rows]
    assert [c.mean for c in cells] == [4, 1.5, 9.25]
    assert [c.deviation for c in cells] == pytest.approx([math.sqrt(2), math.sqrt(0.5), math.sqrt(0.125)])
    assert [c.best for c in cells] == [False] * 3  # paired, 1 to 1.5 apart in two seeds: 0 lies within 95%
    assert [row.is_baseline for row in rows] == [True, False, False]
    assert cells[0].difference is None
    assert cells[1].difference.value == -2.5


def test_settings_that_read_alike_are_two(tmp_path):
    rates = [{"optim.lr": 0.0123456789}, {"optim.lr": 0.0123456780}]
    found, rows = rows_of(sweep(tmp_path, rates, [[3.0], [1.0]]))
    assert found.settings[0].label == found.settings[1].label
    assert [(row.cells[LOSS].mean, row.cells[LOSS].best) for row in rows] == [(3, False), (1, True)]


def test_differences_are_of_settings_that_compare(tmp_path):
    weights = [{"objective.weights.kl": kl, "optim.lr": lr} for kl in (1.0, 4.0) for lr in (0.01, 0.001)]
    _, rows = rows_of(sweep(tmp_path, weights, [[3.0], [1.0], [9.0], [8.0]]), "kl=1,lr=0.01")
    assert [d and d.value for row in rows for d in [row.cells[LOSS].difference]] == [None, -2, None, None]


def test_runs_that_differ_in_much_compare_no_better(tmp_path):
    keys = ("batch_size", "samples", "checkpoint_every", "log_every", "optim.warmup", "optim.clip", "patience")
    for name, value in {"a": 1, "b": 2}.items():
        run(tmp_path / name, [1.0 * value], {"objective.weights.kl": value} | dict.fromkeys(keys, value))
    found, rows = rows_of(tmp_path)
    assert found.axes == ("run",)
    assert [row.cells[LOSS].best for row in rows] == [False, False]
    assert rows[1].cells[LOSS].difference is None


def test_more_is_better_where_it_is(tmp_path):
    for i, (name, psnr) in enumerate({"a": 20.0, "b": 30.0, "c": float("nan")}.items()):
        evaluation(run(tmp_path / name, [1.0], {"ema": i / 10}), 10, reconstruction={"psnr": psnr})
    found, rows = rows_of(tmp_path, metrics=["reconstruction/psnr"])
    assert [row.cells["reconstruction/psnr"].best for row in rows] == [False, True, False]
    assert rows[2].cells["reconstruction/psnr"] == Cell({}, None, None, False, None)
    assert found.notes == ["c: reconstruction/psnr is nan"]


@pytest.mark.parametrize(
    ("wanted", "label"),
    [
        ("", "lr=0.001, ema=0"),  # the plan's own
        ("optim.lr=1e-2", "lr=0.01, ema=0"),  # the rest as in the plan
        ("ema=0.9", "lr=0.001, ema=0.9"),
        ("lr=0.01,ema=0.9", "lr=0.01, ema=0.9"),
        ("lr=0.01,ema=0.9,seed=0", "lr=0.01, ema=0.9"),  # a run
    ],
)
def test_baselines(tmp_path, wanted, label):
    assert choose_baseline(collect([sweep(tmp_path, GRID, [[1.0]] * 4)]), wanted).label == label


def test_a_baseline_of_a_list_and_of_no_plan(tmp_path):
    for name, features in {"a": [8], "b": [16, 8]}.items():
        run(tmp_path / name, [1.0], {"encoder.features": features})
    found = collect([tmp_path])
    assert choose_baseline(found).label == "features=8"
    assert choose_baseline(found, "encoder.features=16, 8").label == "features=16, 8"


@pytest.mark.parametrize("wanted", ["optim.lr=7", "nothing", "optim.rl=0.01", "seed=0", "lr=fast"])
def test_no_such_baseline(tmp_path, wanted):
    found = collect([sweep(tmp_path, GRID, [[1.0]] * 4)])
    with pytest.raises(InputError, match=f"--baseline={wanted} is no setting; name a run, or one of: lr=0.01, ema=0;"):
        choose_baseline(found, wanted)


def test_the_usual_metrics_and_those_that_are_asked_for(tmp_path):
    for i, name in enumerate("ab"):
        folder = run(tmp_path / name, [2.0], {"ema": i / 10}, squared_error=2.0)
        evaluation(folder, 10, likelihood={"elbo": 1.0, "rate": 2.0})
    found = collect([tmp_path])
    assert choose_metrics(found) == [LOSS, "likelihood/elbo"]  # a squared error that is the loss is not said twice
    assert choose_metrics(found, ["likelihood/rate"]) == ["likelihood/rate"]
    with pytest.raises(InputError, match=r"metric 'validation/los' is unknown; did you mean 'validation/loss'\?"):
        choose_metrics(found, ["validation/los"])


def test_remarks_say_what_the_table_cannot(tmp_path):
    weights = [{"objective.weights.kl": w} for w in (1.0, 4.0)]
    found, rows = rows_of(sweep(tmp_path / "a", weights, [[3.0], [1.0]]))
    said = " ".join(write_remarks(found, [LOSS], rows[0].setting, "best"))
    assert "the validation of the least loss" in said
    assert "validation/loss means something else for each objective.weights.kl" in said
    assert "one seed for each setting" in said
    assert not any(row.cells[LOSS].best for row in rows)
    absent = sweep(
        tmp_path / "b", GRID[2:], [[3.0, 2.0], [1.0, 2.0]], ["lr=0.001,ema=0.0,seed=0", "lr=0.001,ema=0.0,seed=1"]
    )
    found, rows = rows_of(absent)
    assert "The baseline ema=0 has no finished run" in " ".join(write_remarks(found, [LOSS], rows[0].setting, "last"))
    assert [row.cells[LOSS].difference for row in rows] == [None, None]


@pytest.mark.parametrize(
    ("value", "spread", "text"),
    [
        (12.3456, 0.123, "12.35"),
        (12.3456, 1.23, "12.3"),
        (12.3456, 12.3, "12"),
        (1234.5, 123.0, "1230"),
        (0.00123456, 0.0000123, "0.001235"),
        (12.3456, None, "12.35"),
        (12.3456, 0.0, "12.35"),
        (1234567.8, 12.3, "1234568"),
        (12345678.9, 12.3, "1.235e+07"),
        (-0.02, 2.4, "-0.0"),  # the sign of an interval's end tells
    ],
)
def test_numbers_end_at_the_second_digit_of_their_spread(value, spread, text):
    assert format_number(value, spread) == text


def test_differences_as_text():
    cell = Cell({}, 0, 0, False, Difference(1.234, 0.234, 2.234, "paired, 2 seeds"))
    assert format_difference(cell) == ("+1.2", "[0.2, 2.2]")
    assert format_difference(cell._replace(difference=Difference(-1.5, None, None, ""))) == ("-1.5", "")
    assert format_difference(cell._replace(difference=None)) == ("", "")


def test_the_text(tmp_path):
    root = sweep(tmp_path, GRID[:2], [[3.0, 5.0], [1.0, 2.0]], absent=["lr=0.01,ema=0.0,seed=1"])
    found, rows = rows_of(root)
    text = as_text(found, rows)
    assert text.splitlines()[0] == "validation/loss (lower is better)"
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()[1:]]
    assert lines == [
        ["ema", "mean", "95% of mean", "n", "difference", "95%"],
        ["0", "3", "1 of 2", "baseline"],
        ["* 0.9", "1.50", "± 0.71", "[-4.85, 7.85]", "2", "-1.5", "one seed, no interval"],
    ]
    bold = as_text(found, rows, bold=True)
    assert re.findall("\033\\[1m(.*?)\033\\[0m", bold) == [text.splitlines()[3]]
    assert "\033" not in text


def test_the_csv_files_hold_all_runs_and_all_figures(tmp_path):
    root = sweep(tmp_path, GRID[:2], [[3.0, 5.0], [1.0, 2.0]], absent=["lr=0.01,ema=0.0,seed=1"])
    found, rows = rows_of(root)
    runs = list(csv.DictReader(io.StringIO(runs_as_csv(found))))
    assert [(r["ema"], r["seed"], r[LOSS], r["validation/squared_error"]) for r in runs] == [
        *(("0.0", "0", "3.0", "1.5"), ("0.0", "1", "", "")),
        *(("0.9", "0", "1.0", "0.5"), ("0.9", "1", "2.0", "1.0")),
    ]
    assert [bool(r["problem"]) for r in runs] == [False, True, False, False]
    first, second = csv.DictReader(io.StringIO(as_csv(found, rows)))
    assert (first["metric"], first["mean"], first["deviation"], first["n"]) == (LOSS, "3.0", "", "1")
    assert (second["mean"], second["n"], second["difference"], second["low"]) == ("1.5", "2", "-1.5", "")
    assert (first["mean_low"], first["mean_high"]) == ("", "")
    np.testing.assert_allclose(
        [float(second["mean_low"]), float(second["mean_high"])], stats.ttest_1samp([1.0, 2.0], 0).confidence_interval()
    )
    assert (second["best"], second["baseline"], first["baseline"]) == ("True", "False", "True")


def test_the_latex_is_escaped_and_balanced(tmp_path):
    for name, decoder in {"a": "x_1&50%", "b": r"\#{$y^2~"}.items():
        for seed in range(2):
            run(tmp_path / f"{name}{seed}", [len(name + decoder) + seed / 10], {"decoder.name": decoder, "seed": seed})
    found, rows = rows_of(tmp_path, metrics=[LOSS, "train/loss"])
    text = as_latex(found, rows)
    assert r"x\_1\&50\%" in text
    assert r"\textbackslash{}\#\{\$y\textasciicircum{}2\textasciitilde{}" in text
    assert r"$\mathbf{8.050 \pm 0.071}$" in text
    assert r"\begin{tabular}{lrrr}" in text
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body.splitlines() if line.endswith(r"\\")} == {3}
    unescaped = re.sub(r"\\[\\{}$%#_&]", "", text)
    assert unescaped.count("{") == unescaped.count("}")
    assert unescaped.count("$") % 2 == 0
