"""Folders that another has made: names, keys and figures that would leave the folder, run, or mislead."""

import csv
import io
import json
import os
import warnings

import pytest
from conftest import mostly_slow
from test_ablation_page import compare
from test_ablation_table import LOSS, rows_of
from workdirs import evaluation, run, sweep

from aejax import InputError, StorageError
from aejax.ablation import collect, runs_as_csv
from aejax.ablation.table import _inert


def test_keys_of_a_config_do_not_name_files_outside(tmp_path, monkeypatch):
    for name, value in {"a": 1, "b": 2}.items():
        folder = run(tmp_path / "runs" / name, [1.0 * value])
        config = json.loads((folder / "config.json").read_text())
        config |= {"../../outside": value, str(tmp_path / "absolute"): value}
        (folder / "config.json").write_text(json.dumps(config))
    compare(monkeypatch, tmp_path / "runs")
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
    assert {p.parent for p in tmp_path.rglob("*.png")} == {tmp_path / "runs/compare"}


@pytest.mark.parametrize("name", ["../outside", "/etc", "..", "", "link", 3])
def test_a_plan_names_no_run_outside(tmp_path, name):
    run(tmp_path / "outside", [1.0])
    root = sweep(tmp_path / "sweep", [{"ema": 0.5}], [[1.0]])
    (root / "link").symlink_to(tmp_path / "outside")
    plan = json.loads((root / "sweep.json").read_text())
    plan["runs"][0]["name"] = name
    (root / "sweep.json").write_text(json.dumps(plan))
    with pytest.raises(InputError, match=r"is no plan|leads out of"):
        collect([root])


@pytest.mark.slow
def test_files_are_replaced_and_not_written_through_links(tmp_path, monkeypatch):
    root = sweep(tmp_path / "sweep", [{"ema": 0.5}, {"ema": 0.9}], [[1.0], [2.0]])
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (root / "compare").mkdir()
    for name in ("report.html", "table.csv", "ema.png"):
        (root / "compare" / name).symlink_to(mine)
    compare(monkeypatch, root)
    assert mine.read_text() == "mine"
    assert "<html" in (root / "compare/report.html").read_text()


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        *((text, f"'{text}") for text in ("=1+1", "+cmd", "-2+3", "@x", "\t=1", " =1")),
        *((same, same) for same in (-1.5, "-1.5", "-", "a=1", "lr=-1", "")),
    ],
)
def test_cells_do_not_run_in_a_spreadsheet(cell, written):
    assert _inert(cell) == written


def test_a_run_named_like_a_formula_stays_text(tmp_path):
    run(tmp_path / "=1+1", [-1.0])
    (row,) = csv.DictReader(io.StringIO(runs_as_csv(collect([tmp_path]))))
    assert (row["run"], row[LOSS]) == ("'=1+1", "-1.0")


def test_names_are_no_mathematics(tmp_path, monkeypatch):
    for name, loss in {"$$": 1.0, "$\\foo$": 200.0}.items():
        run(tmp_path / name, [loss, loss], {"ema": loss / 1000, "decoder.name": name})
    compare(monkeypatch, tmp_path)
    assert r"$\foo$" in (tmp_path / "compare/report.html").read_text()


ODD = ["\ud800", "a\nb\x1b[2J", "a,b", "=1+1", "../..", "\u202e"]


@pytest.mark.parametrize("odd", mostly_slow(ODD))
def test_odd_texts_are_printed_written_and_drawn(tmp_path, monkeypatch, capsys, odd):
    """As values and keys of configs, and as names of metrics and of runs."""
    for name, value in {"a": 1, "b": 2, "c" + odd.replace("/", ""): 3}.items():
        folder = run(
            tmp_path / "runs" / os.fsdecode(name.encode(errors="replace")),
            [1.0 * value],
            **{odd: 2.0} if value == 2 else {},
        )
        config = json.loads((folder / "config.json").read_text())
        config["decoder"] |= {"name": odd * value, f"{odd}key": odd}
        (folder / "config.json").write_text(json.dumps(config | {odd: value}))
        evaluation(folder, 10, codes={odd: 1.0})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that records and evaluations are left out
        compare(monkeypatch, tmp_path / "runs")
    assert {p.name for p in tmp_path.iterdir()} == {"runs"}
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out


@pytest.mark.parametrize(("losses", "best"), [([1.0, 2.0, 3.0], False), ([0.1, 0.2, 0.3], True)])
def test_no_best_whose_interval_includes_no_difference(tmp_path, losses, best):
    _, rows = rows_of(sweep(tmp_path, [{"ema": 0.5}, {"ema": 0.9}], [losses, [3.0, 3.1, 2.8]]))
    assert [row.cells[LOSS].best for row in rows] == [best, False]


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff", b"[" * 99_999, b'{"likelihood": {"elbo": 3}}'])
def test_a_damaged_evaluation_is_left_out_with_a_line(tmp_path, content):
    folder = run(tmp_path / "a", [1.0])
    evaluation(folder, 10, likelihood={"elbo": -4.0})
    (folder / "evaluation/10/metrics.json").write_bytes(content)
    with pytest.warns(UserWarning, match=r"metrics\.json is damaged .* evaluate the run again"):
        assert "likelihood/elbo" not in collect([tmp_path]).metrics


@pytest.mark.parametrize("name", ["a/config.json", "sweep.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff", b'{"a":' * 200 + b"1" + b"}" * 200, b'{"runs": 3}'])
def test_json_of_another_form_is_one_line(tmp_path, name, content):
    run(tmp_path / "a", [1.0])
    (tmp_path / name).write_bytes(content)
    with pytest.raises((InputError, StorageError), match=name) as error:
        collect([tmp_path])
    assert "\n" not in str(error.value)
