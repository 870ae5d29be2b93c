"""The report of an ablation: one HTML file that reads no other, in the manner of a run's report."""

import datetime
import html
import json
from collections.abc import Mapping, Sequence
from importlib import metadata, resources
from string import Template
from typing import Any

from aejax.ablation.plan import short
from aejax.ablation.statistics import better
from aejax.ablation.table import Cell, Row, counted, difference_and_interval, mean_and_spread
from aejax.ablation.trials import Ablation, show
from aejax.evaluation.pictures import Picture
from aejax.evaluation.pictures.style import CLASSES
from aejax.evaluation.report import svg
from aejax.evaluation.subject import Skipped

_RULES = """
.settings { margin-bottom: 16px; overflow-wrap: anywhere; }
.settings ul { margin: 0; padding-left: 20px; }
.wide { overflow-x: auto; }
.wide table { font-variant-numeric: tabular-nums; }
.wide th, .wide td { white-space: nowrap; width: auto; overflow-wrap: normal; padding: 7px 20px 7px 0; }
.wide th:first-child { width: auto; }
.wide thead th { vertical-align: bottom; }
.wide th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
.wide th[aria-sort="ascending"] button::after { content: " ↑"; }
.wide th[aria-sort="descending"] button::after { content: " ↓"; }
.wide .best { font-weight: 700; }
.wide .number { text-align: right; }
.wide small { color: var(--muted); font-size: 13px; font-weight: 400; }
"""
_SORT = """
<script>
for (const button of document.querySelectorAll(".wide thead button")) button.addEventListener("click", () => {
  const head = button.closest("th"), body = head.closest("table").tBodies[0];
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = (row) => row.cells[head.cellIndex].dataset.key;
  const order = (a, b) => {
    if (!a || !b) return (a ? 0 : 1) - (b ? 0 : 1);  // what is missing comes last
    return (up ? 1 : -1) * (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
  };
  body.append(...Array.from(body.rows).sort((a, b) => order(key(a), key(b))));
});
</script>
"""


def page(
    ablation: Ablation,
    rows: Sequence[Row],
    pictures: Mapping[str, Picture | Skipped],
    remarks: Sequence[str],
    title: str,
) -> str:
    """The whole page."""
    runs = sum(len(row.setting.trials) for row in rows)
    facts = {
        "Axes": "; ".join(f"{a}: {', '.join(_values(rows, a))}" for a in ablation.axes if a != "run") or "none",
        "Baseline": next(row.setting.label for row in rows if row.is_baseline),
        "Runs": f"{runs:,} finished of {sum(row.setting.planned for row in rows):,}, in {len(rows)} settings",
        "Version": f"aejax {metadata.version('aejax')}",
    }
    return Template((resources.files("aejax.evaluation") / "report.html").read_text("utf-8")).substitute(
        title=_text(title),
        subtitle=_text(f"{datetime.date.today():%d %B %Y}"),
        facts="".join(f"<dt>{k}</dt><dd>{_text(v)}</dd>" for k, v in facts.items()),
        config=_text(json.dumps(ablation.config, indent=2)),
        colours=" ".join(f"--c{k}: {c};" for k, c in enumerate(CLASSES)),
        fills="",
        sprites=_RULES,
        body=_tables(ablation, rows, remarks) + _figures(pictures) + _SORT,
        data="null",
    )


def _tables(ablation: Ablation, rows: Sequence[Row], remarks: Sequence[str]) -> str:
    tables = "".join(_table(ablation, rows, metric) for metric in rows[0].cells)
    notes = "".join(f"<li>{_text(note)}</li>" for note in ablation.notes)
    lines = "".join(f'<p class="muted">{_text(line)}</p>' for line in remarks)
    left_out = f'<div class="card settings"><h3>Left out</h3><ul>{notes}</ul></div>' if notes else ""
    return f"<section><h2>Settings</h2>{lines}{tables}{left_out}</section>"


def _table(ablation: Ablation, rows: Sequence[Row], metric: str) -> str:
    heads = [*((name, "") for name in short(ablation.axes).values()), ("Mean", "number"), ("n", "number")]
    heads += [("Difference", "number"), ("95% interval", "number"), ("How", "")]
    head = "".join(f'<th scope="col" class="{c}"><button>{_text(name)}</button></th>' for name, c in heads)
    body = "".join(_row(row, row.cells[metric]) for row in rows)
    words = better(metric, ablation.keys)
    title = _text(metric) + (f' <span class="muted">{words}</span>' if words else "")
    inside = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="card settings"><h3>{title}</h3><div class="wide" tabindex="0">{inside}</div></div>'


def _row(row: Row, cell: Cell) -> str:
    mean, spread = mean_and_spread(cell)
    value, interval = difference_and_interval(cell)
    d = cell.difference
    how = "baseline" if row.is_baseline else d.how if d else ""
    cells = [_cell(show(v), v if isinstance(v, int | float) else show(v)) for v in row.setting.values.values()]
    shown = _text(mean) + (f" <small>± {_text(spread)}</small>" if spread else "")
    best = "number best" if cell.best else "number"
    cells.append(_cell(shown, cell.mean, best, escaped=True))
    cells.append(_cell(counted(row.setting, cell), len(cell.values), "number"))
    cells.append(_cell(value, d.value if d else 0.0 if row.is_baseline else None, "number"))
    cells.append(_cell(interval, d.low if d else None, "number"))
    cells.append(_cell(how, how))
    return f"<tr>{''.join(cells)}</tr>"


def _cell(text: str, key: Any, kind: str = "", escaped: bool = False) -> str:
    inside = text if escaped else _text(text)
    return f'<td class="{kind}" data-key="{_text("" if key is None else key)}">{inside}</td>'


def _figures(pictures: Mapping[str, Picture | Skipped]) -> str:
    drawn, skipped = [], []
    for name, p in pictures.items():
        if isinstance(p, Skipped):
            skipped.append(f"<li>{_text(name)}: {_text(p.reason)}</li>")
            continue
        caption = _text(p.caption)
        image = svg(p.figure, name).replace("<svg", f'<svg role="img" aria-label="{caption}"', 1)
        title = _text(name.capitalize() if name in ("settings", "curves") else f"Along {name}")
        drawn.append(f'<figure class="card"><h3>{title}</h3>{image}<figcaption>{caption}</figcaption></figure>')
    left_out = f'<p class="muted">Not drawn:</p><ul class="muted">{"".join(skipped)}</ul>' if skipped else ""
    return f'<section><h2>Pictures</h2><div class="figures">{"".join(drawn)}</div>{left_out}</section>'


def _values(rows: Sequence[Row], axis: str) -> list[str]:
    return list(dict.fromkeys(show(row.setting.values[axis]) for row in rows))


def _text(value: Any) -> str:
    return html.escape(str(value))
