"""What the pictures hold, by their artists' data; that the page reads no other file; the command and its slips."""

import html
import re
import sys

import numpy as np
import pytest
from conftest import command, mostly_slow
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from workdirs import run, sweep

from aejax import evaluation
from aejax.ablation import collect, page, pictures, tabulate
from aejax.ablation.table import choose_baseline
from aejax.evaluation import Skipped
from aejax.evaluation.pictures.style import CLASSES

LOSS = "validation/loss"
GRID = [{"optim.lr": lr, "ema": ema} for lr in (0.01, 0.001, 0.1) for ema in (0.0, 0.9)]
VALUES = [[3.0, 5.0], [1.0, 2.0], [9.0, 9.5], [4.0, 4.5], [7.0, 6.0], [2.0, 1.0]]


def of(root, metrics=(LOSS,)):
    found = collect([root])
    return found, tabulate(found, metrics, choose_baseline(found))


@pytest.fixture
def grid(tmp_path):
    return of(sweep(tmp_path, GRID, VALUES))


def written(root):
    """The page of these runs, as a file."""
    found, rows = of(root)
    file = root / "report.html"
    file.write_text(page.page(found, rows, pictures.draw(found, rows), ["a remark"], "Comparison"), encoding="utf-8")
    return file


def bars(axes):
    """Places, means and deviations of each line of error bars."""
    found = [c for c in axes.containers if isinstance(c, ErrorbarContainer)]
    lines = []
    for c in found:
        x, y = c.lines[0].get_data()
        ends = np.array([segment[:, 1] for segment in c.lines[2][0].get_segments()])
        lines.append((np.asarray(x, float), np.asarray(y, float), (ends[:, 1] - ends[:, 0]) / 2))
    return lines


def texts(labels):
    return [label.get_text() for label in labels]


# Pictures


def test_a_line_for_each_setting_of_the_other_axes(grid):
    picture = pictures.along(*grid, "optim.lr")
    (axes,) = picture.figure.axes
    assert axes.get_xscale() == "log"
    (x, y, spread), (_, other, _) = bars(axes)
    np.testing.assert_allclose(np.log10(x), [-3, -2, -1], atol=0.1)
    np.testing.assert_allclose(y, [9.25, 4, 6.5])
    np.testing.assert_allclose(spread, [np.sqrt(0.125), np.sqrt(2), np.sqrt(0.5)])
    np.testing.assert_allclose(other, [4.25, 1.5, 1.5])
    assert texts(picture.figure.legends[0].texts) == ["ema=0", "ema=0.9"]
    assert texts(axes.get_xticklabels()) == ["0.001", "0.01", "0.1"]
    assert axes.get_title("left") == "loss ↓"


def test_the_mean_of_many_lines(tmp_path):
    # Seven settings of ema; one seed of one of them is better than all, so that it must not count alone.
    settings = [{"optim.lr": lr, "ema": e / 10} for lr in (0.1, 0.2) for e in range(7)]
    values = [[1.0 * i, 2.0 * i] for i in range(14)]
    root = sweep(tmp_path, settings, values)
    picture = pictures.along(*of(root), "optim.lr")
    ((x, y, spread),) = bars(picture.figure.axes[0])
    np.testing.assert_allclose(x, [0.1, 0.2])
    first, second = np.array(values[:7]).mean(0), np.array(values[7:]).mean(0)  # [seeds]
    np.testing.assert_allclose(y, [first.mean(), second.mean()])
    np.testing.assert_allclose(spread, [first.std(ddof=1), second.std(ddof=1)])
    assert "mean over 7 settings of the other axes" in picture.caption


def test_as_many_lines_as_there_are_kinds_of_lines(tmp_path):
    count = len(pictures.LINES)
    settings = [{"optim.lr": lr, "ema": e / 10} for lr in (0.1, 0.2) for e in range(count)]
    picture = pictures.along(*of(sweep(tmp_path, settings, [[float(i)] for i in range(2 * count)])), "optim.lr")
    assert [y.tolist() for _, y, _ in bars(picture.figure.axes[0])] == [[i, count + i] for i in range(count)]


def test_a_mean_is_of_seeds_that_all_settings_have(tmp_path):
    settings = [{"optim.lr": lr, "ema": e / 10} for lr in (0.1, 0.2) for e in range(7)]
    root = sweep(tmp_path, settings, [[1.0, 2.0, 900.0]] + [[1.0, 2.0]] * 13)
    ((_, y, _),) = bars(pictures.along(*of(root), "optim.lr").figure.axes[0])
    np.testing.assert_allclose(y, [1.5, 1.5])


def test_a_mean_is_of_settings_that_have_all_values(tmp_path):
    settings = [{"optim.lr": lr, "ema": e / 10} for lr in (0.1, 0.2) for e in range(8)][:-1]
    values = [[1.0]] * 7 + [[900.0]] + [[2.0]] * 7  # of ema=0.7, which lr=0.2 lacks
    settings += [{"optim.lr": 0.3, "ema": e / 10} for e in range(8)]
    ((_, y, _),) = bars(
        pictures.along(*of(sweep(tmp_path, settings, [*values, *[[3.0]] * 8])), "optim.lr").figure.axes[0]
    )
    np.testing.assert_allclose(y, [1, 2, 3])


def test_settings_changed_one_at_a_time_have_one_line_each(tmp_path):
    settings = [{}, {"optim.lr": 0.01}, {"ema": 0.9}, {"encoder.features": [8, 4]}]
    found, rows = of(sweep(tmp_path, settings, [[1.0], [2.0], [3.0], [4.0]]))
    ((x, y, _),) = bars(pictures.along(found, rows, "ema").figure.axes[0])
    np.testing.assert_allclose([x, y], [[0, 0.9], [1, 3]])
    (axes,) = pictures.along(found, rows, "encoder.features").figure.axes
    assert texts(axes.get_xticklabels()) == ["-", "8, 4"]
    assert axes.containers[0].lines[0].get_linestyle() == ":"
    (axes,) = pictures.settings(found, rows).figure.axes
    assert texts(axes.get_yticklabels()) == ["baseline", "lr=0.01", "ema=0.9", "features=8, 4"]


def test_axes_that_change_together_are_not_drawn(tmp_path):
    root = sweep(tmp_path, [{"ema": 0.1, "optim.lr": 0.1}, {"ema": 0.2, "optim.lr": 0.2}], [[1.0], [2.0]])
    assert pictures.along(*of(root), "ema") == Skipped("no two settings differ in ema alone")


def test_zero_has_its_place_on_a_log_scale(tmp_path):
    root = sweep(tmp_path, [{"objective.weights.kl": w} for w in (0.0, 0.1, 10.0)], [[1.0], [2.0], [3.0]])
    (axes,) = pictures.along(*of(root), "objective.weights.kl").figure.axes
    assert axes.get_xscale() == "symlog"
    assert axes.get_title("left") == "loss"  # of no direction: the weight is a part of it
    np.testing.assert_allclose(bars(axes)[0][0], [0, 0.1, 10])


def test_curves_are_means_over_seeds_with_a_band(tmp_path):
    for name, seed, losses in (("a", 0, [9.0, 4.0, 1.0]), ("b", 1, [7.0, 5.0, 3.0])):
        run(tmp_path / name, losses, {"seed": seed})
    for name, seed, losses in (("c", 0, [4.0, 3.0, 2.0]), ("d", 1, [2.0, 1.0])):
        run(tmp_path / name, losses, {"seed": seed, "ema": 0.5, "patience": 1, "steps": 30 if seed == 0 else 20})
    # Steps are an axis now; the curve of each setting has the steps that its seeds share.
    (axes,) = pictures.curves(*of(tmp_path)).figure.axes
    first = axes.lines[0].get_xydata()
    np.testing.assert_allclose(first, [[10, 8], [20, 4.5], [30, 2]])
    band = axes.collections[0].get_paths()[0].vertices
    at_first = sorted({round(float(y), 6) for x, y in band if x == 10})
    np.testing.assert_allclose(at_first, [8 - np.sqrt(2), 8 + np.sqrt(2)], rtol=1e-5)


def test_of_many_settings_the_baseline_and_the_lowest_are_named(tmp_path):
    root = sweep(tmp_path, [{"ema": e / 10} for e in range(9)], [[10.0 - e] for e in range(9)])
    figure = pictures.curves(*of(root)).figure
    want = ["ema=0 (baseline)", *(f"ema=0.{e}" for e in (8, 7, 6, 5, 4, 3, 2))]
    assert texts(figure.legends[0].texts) == want
    assert len(figure.axes[0].lines) == 9


def test_a_setting_has_one_color_in_every_picture_and_in_the_table(tmp_path):
    found, rows = of(sweep(tmp_path, GRID, [*VALUES[:-1], [2.0, 1.2]]))  # no two have the same mean
    color = pictures.colors(rows)
    assert len(set(color.values())) == len(rows)
    assert color["lr=0.001, ema=0"] == CLASSES[0]  # the baseline
    (axes,) = pictures.settings(found, rows).figure.axes
    drawn = [c.lines[0].get_color() for c in axes.containers if isinstance(c, ErrorbarContainer)]
    assert drawn == list(map(color.get, (row.setting.label for row in rows)))
    (axes,) = pictures.curves(found, rows).figure.axes
    last = {round(row.cells[LOSS].mean, 6): color[row.setting.label] for row in rows}
    assert {round(line.get_ydata()[-1], 6): line.get_color() for line in axes.lines} == last
    for axis in found.axes:
        (axes,) = pictures.along(found, rows, axis).figure.axes
        dots = {}
        for line in axes.collections:
            if isinstance(line, PathCollection):
                dots |= {
                    round(y, 6): to_hex(c) for (_, y), c in zip(line.get_offsets(), line.get_facecolors(), strict=True)
                }
        assert dots == last
    text = page.page(found, rows, {}, [], "t")
    swatches = re.findall(r'<i class="c(\d)"></i>', text)
    assert [CLASSES[int(k)] for k in swatches] == [color[row.setting.label] for row in rows]


# The page


def test_the_page_reads_no_other_file_and_nothing_is_markup(tmp_path):
    for name, ema in {"<b>&": 0.1, "b": 0.2}.items():
        run(tmp_path / name, [2.0, ema], {"decoder.name": f"<script>{name}", "ema": ema})
    found, rows = of(tmp_path)
    text = page.page(found, rows, pictures.draw(found, rows), ["a < b"], "<title>")
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"|url\((?!#)[^)]*\)|@import', text)
    assert "<script>b" not in text
    assert text.count("<script") == text.count("</script>") == 3
    assert html.escape("<script>b") in text
    assert "a &lt; b" in text
    assert "<h1>&lt;title&gt;</h1>" in text
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_the_page_holds_the_table_and_what_was_left_out(tmp_path):
    root = sweep(tmp_path, GRID[:2], [[3.0, 5.0], [1.0, 2.0]], absent=["lr=0.01,ema=0.0,seed=1"])
    found, rows = of(root)
    text = page.page(found, rows, pictures.draw(found, rows), [], "t")
    table = re.search(r"<tbody>(.*?)</tbody>", text)[1]
    cells = [re.sub("<[^>]+>", "", c) for c in re.findall(r"<td[^>]*>(.*?)</td>", table)]
    first, second = cells[:6], cells[6:]
    assert first == ["0", "3", "1 of 2", "", "", "baseline"]
    assert second == ["0.9", "1.50 ± 0.71", "2", "-1.5", "", "one seed, no interval"]
    assert re.findall(r'class="number best" data-key="([^"]+)"', text) == ["1.5"]
    assert re.findall(r'data-key="([^"]*)"', table)[3::6] == ["0.0", "-1.5"]  # by which differences are sorted
    assert "<li>lr=0.01,ema=0.0,seed=1: not started; not counted</li>" in text
    assert "3 finished of 4, in 2 settings" in text
    tiles = re.sub("<[^>]+>", " ", text[: text.index('id="pictures"')])
    assert re.search(r"Lowest loss\s+1\.50 ± 0\.71\s+ema=0\.9; -1\.5 from the baseline", tiles), tiles[-2000:]


SCREENS = [(1280, False), (1280, True), (390, False), (390, True)]


@pytest.mark.parametrize(("width", "dark"), mostly_slow(SCREENS))
def test_the_page_fits_can_be_read_and_asks_for_nothing(browser, tmp_path, width, dark):
    root = sweep(tmp_path, GRID, VALUES)
    (root / "lr=0.1,ema=0.9,seed=1/ended.txt").write_text("failed: " + "a long reason " * 20 + "<b>\n")
    browser.open(written(root), width, dark=dark)
    assert browser.value("document.documentElement.scrollWidth") == width
    inside = "[...document.querySelectorAll('.card, dl, pre')].every((e) => e.scrollWidth <= e.clientWidth)"
    assert browser.value(f"document.querySelector('details').open = true, {inside}")
    ratios = browser.contrasts("h1,h3,dt,dd,th button,td,small,li,figcaption,figure svg text,.muted")
    assert len(ratios) == 11
    assert min(ratios.values()) > 4.5, ratios  # WCAG 2.1, AA
    drawn = browser.value("[...document.querySelectorAll('figure svg')].map((s) => s.getBoundingClientRect().height)")
    assert len(drawn) == 4
    assert min(drawn) > 50
    assert "failed: a long reason" in browser.value("document.querySelector('.settings li').innerText")
    tops = "['.tiles', 'nav', 'figure svg'].map((s) => document.querySelector(s).getBoundingClientRect().top)"
    tiles, contents, picture = browser.value(tops)
    assert tiles < contents < picture < (900 if width > 600 else 1200)
    targets = browser.value("[...document.querySelectorAll('nav a')].map((a) => document.querySelector(a.hash)?.id)")
    assert targets == ["pictures", "settings", "metric-0", "left-out", "ablation"]
    hint = "document.querySelector('.hint').checkVisibility()"
    assert browser.value("((w) => w.scrollWidth > w.clientWidth)(document.querySelector('.wide'))") == (width < 600)
    assert browser.value(hint) == (width < 600)
    assert browser.complaints() == []
    assert browser.asked() == {"file"}


@pytest.mark.slow
def test_a_click_on_a_head_sorts_the_table(browser, tmp_path):
    browser.open(written(sweep(tmp_path, GRID, VALUES)))
    means = "[...document.querySelectorAll('.wide tbody tr')].map((r) => Number(r.cells[2].dataset.key))"
    assert browser.value(means) == [4, 1.5, 9.25, 4.25, 6.5, 1.5]
    for want in ([1.5, 1.5, 4, 4.25, 6.5, 9.25], [9.25, 6.5, 4.25, 4, 1.5, 1.5]):
        browser.value("document.querySelectorAll('.wide thead button')[2].click()")
        assert browser.value(means) == want
    assert browser.complaints() == []


def test_the_page_of_one_run(browser, tmp_path):
    browser.open(written(run(tmp_path / "a", [2.0, 1.0])), 390)
    assert browser.value("document.documentElement.scrollWidth") == 390
    assert browser.value("document.querySelectorAll('.wide tbody tr').length") == 1
    assert browser.value("document.querySelectorAll('figure svg').length") == 1  # the curve
    assert browser.complaints() == []


# The command


def compare(monkeypatch, *arguments, draw=None):
    module = command("compare")
    if draw:
        monkeypatch.setattr(evaluation.pictures, "as_png", draw)
    monkeypatch.setattr(sys, "argv", ["compare", *map(str, arguments), "--compilation_cache="])
    module.main()


@pytest.mark.slow
def test_the_command_writes_all_files_and_prints_the_table(tmp_path, monkeypatch, capsys):
    root = sweep(tmp_path, GRID, VALUES)
    compare(monkeypatch, root, "--at=best", "--baseline=ema=0.9", "--metrics=validation/squared_error")
    names = {"report.html", "runs.csv", "table.csv", "table.tex", "settings.png", "curves.png", "ema.png"}
    assert {f.name for f in (root / "compare").iterdir()} == names | {"optim.lr.png"}
    out = capsys.readouterr().out
    assert "validation/squared_error (lower is better)" in out
    assert "Differences are from lr=0.001, ema=0.9" in out
    assert "\033" not in out
    compare(monkeypatch, root)  # again, beside its own results
    assert "not counted" not in capsys.readouterr().out


def test_the_command_draws_each_picture(tmp_path, monkeypatch):
    drawn = []
    compare(monkeypatch, run(tmp_path / "a", [2.0, 1.0]), draw=lambda figure, file: drawn.append(file))
    assert drawn == [tmp_path / "a/compare/curves.png"]


@pytest.mark.slow
def test_workdirs_are_compared_in_the_first_of_them(tmp_path, monkeypatch, capsys):
    for name, loss in {"a": 1.0, "b": 2.0}.items():
        run(tmp_path / name, [loss], {"ema": loss / 10})
    compare(monkeypatch, tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a/compare/report.html").exists()
    assert "Comparison of a, b" in (tmp_path / "a/compare/report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no folder is given; write aejax compare FOLDER"),
        (["{}", "--at=first"], "first"),
        (["{}", "--metrics=loss"], "metric 'loss' is unknown"),
        (["{}", "--baseline=x"], "--baseline=x is no setting"),
        (["{}/x"], "there is no folder"),
        (["{}", "--out={}/a/config.json"], "a file is in its place"),
        (["{}", "--outt=x"], "outt"),
    ],
)
def test_a_slip_is_one_line(tmp_path, monkeypatch, arguments, message):
    run(tmp_path / "a", [1.0])
    with pytest.raises(SystemExit) as left:
        compare(monkeypatch, *(a.format(tmp_path) for a in arguments))
    assert re.fullmatch(rf"error: .*{re.escape(message)}.*", left.value.code)
    assert not (tmp_path / "compare").exists()


def test_other_commands_take_no_arguments(tmp_path, monkeypatch):
    module = command("export")
    monkeypatch.setattr(sys, "argv", ["export", "stray", "--workdir=w", "--out=o"])
    with pytest.raises(SystemExit, match="error: 'stray' is not a flag"):
        module.main()
