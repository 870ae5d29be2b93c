"""The report of an ablation: one HTML file that reads no other, built like a run's report."""

import datetime
import math
from collections.abc import Mapping, Sequence
from importlib import metadata, resources
from typing import Any

from aejax.ablation.pictures import colors
from aejax.ablation.plan import short
from aejax.ablation.statistics import better, direction
from aejax.ablation.table import Cell, Row, format_count, format_difference, format_mean
from aejax.ablation.trials import Ablation, show
from aejax.evaluation.family import family
from aejax.evaluation.page import Section, Tile, facts, gallery, render, text, words
from aejax.evaluation.pictures import Picture
from aejax.evaluation.pictures.style import CLASSES
from aejax.evaluation.subject import Skipped

_FILES = resources.files("aejax.ablation")


def page(
    ablation: Ablation,
    rows: Sequence[Row],
    pictures: Mapping[str, Picture | Skipped],
    remarks: Sequence[str],
    title: str,
) -> str:
    baseline = next(row.setting for row in rows if row.is_baseline)
    runs, planned = sum(len(row.setting.trials) for row in rows), sum(row.setting.planned for row in rows)
    values = {a: dict.fromkeys(show(row.setting.values[a]) for row in rows) for a in ablation.axes if a != "run"}
    found = {
        "Axes": "; ".join(f"{a}: {', '.join(shown)}" for a, shown in values.items()) or "none",
        "Baseline": baseline.label,
        "Runs": f"{runs:,} finished of {planned:,}, in {len(rows)} settings",
        "Version": f"aejax {metadata.version('aejax')}",
    }
    drawn = gallery(pictures, lambda name: words(name) if name in ("settings", "curves") else f"Along {name}")
    kind = f"{family(baseline.config)} on {baseline.config.get('data.name', 'data of its own')}"
    return render(
        title=title,
        subtitle=f"Baseline: {kind}, {baseline.label}. {datetime.date.today():%d %B %Y}",
        tiles=[*_tiles(ablation, rows), Tile("Runs", f"{runs:,}", f"finished of {planned:,}, in {len(rows)} settings")],
        sections=[
            Section("pictures", "Pictures", drawn),
            _settings(ablation, rows, remarks),
            Section("ablation", "The ablation", facts(found)),
        ],
        config=ablation.config,
        rules=(_FILES / "tables.css").read_text("utf-8"),
    )


def _tiles(ablation: Ablation, rows: Sequence[Row]) -> list[Tile]:
    """Returns the best mean of each metric that has a direction, beside the baseline's."""
    tiles = []
    for metric in rows[0].cells:
        sign = direction(metric, ablation.keys)
        means = {row.setting.label: row.cells[metric].mean for row in rows}
        known = {label: sign * mean for label, mean in means.items() if sign and mean is not None}
        if not known:
            continue
        best = max(rows, key=lambda row, known=known: known.get(row.setting.label, -math.inf))  # type: ignore[misc]
        mean, spread = format_mean(best.cells[metric])
        value, interval = format_difference(best.cells[metric])
        note = "the baseline" if best.is_baseline else best.setting.label
        note += f"; {value} from the baseline" * bool(value) + f", 95% interval {interval}" * bool(interval)
        name = f"{'Lowest' if sign < 0 else 'Highest'} {words(metric.split('/')[-1], start=False)}"
        tiles.append(Tile(name, f"{mean} ± {spread}" if spread else mean, note))
    return tiles[:5]


def _settings(ablation: Ablation, rows: Sequence[Row], remarks: Sequence[str]) -> Section:
    """Returns a table for each metric, and what was left out."""
    metrics = {f"metric-{i}": metric for i, metric in enumerate(rows[0].cells)}
    tables = "".join(_table(ablation, rows, metric, id) for id, metric in metrics.items())
    notes = "".join(f"<li>{text(note)}</li>" for note in ablation.notes)
    lines = "".join(f'<p class="muted">{text(line)}</p>' for line in remarks)
    left_out = f'<div class="card settings" id="left-out"><h3>Left out</h3><ul>{notes}</ul></div>' if notes else ""
    parts = metrics | ({"left-out": "Left out"} if notes else {})
    script = f"<script>\n{(_FILES / 'tables.js').read_text('utf-8')}</script>"
    return Section("settings", "Settings", f"{lines}{tables}{left_out}{script}", parts)


def _table(ablation: Ablation, rows: Sequence[Row], metric: str, id: str) -> str:
    """Returns a card with the table of a metric, which a click on a heading sorts."""
    heads = [*((name, "") for name in short(ablation.axes).values()), ("Mean", "number"), ("n", "number")]
    heads += [("Difference", "number"), ("95% interval", "number"), ("How", "")]
    head = "".join(f'<th scope="col" class="{c}"><button>{text(name)}</button></th>' for name, c in heads)
    color = colors(rows)
    body = "".join(_row(row, row.cells[metric], color[row.setting.label]) for row in rows)
    way = better(metric, ablation.keys)
    title = text(metric) + (f' <span class="muted">{way}</span>' if way else "")
    inside = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    hint = '<p class="muted hint" hidden>More columns: scroll sideways →</p>'
    wide = f'<div class="wide" tabindex="0">{inside}</div>{hint}'
    return f'<div class="card settings" id="{id}"><h3>{title}</h3>{wide}</div>'


def _row(row: Row, cell: Cell, color: str) -> str:
    """Returns the row of a setting, marked with its color."""
    mean, spread = format_mean(cell)
    value, interval = format_difference(cell)
    d = cell.difference
    how = "baseline" if row.is_baseline else d.how if d else ""
    cells: list[tuple[str, Any, str]] = [
        *((show(v), v if isinstance(v, int | float) else show(v), "") for v in row.setting.values.values()),
        (mean, cell.mean, "number best" if cell.best else "number"),
        (format_count(row.setting, cell), len(cell.values), "number"),
        (value, d.value if d else 0.0 if row.is_baseline else None, "number"),
        (interval, d.low if d else None, "number"),
        (how, how, ""),
    ]
    shown = [text(words) for words, *_ in cells]
    shown[0] = f'<i class="c{CLASSES.index(color) if color in CLASSES else -1}"></i>{shown[0]}'
    shown[len(row.setting.values)] += f" <small>± {text(spread)}</small>" if spread else ""
    opened = (f'<td class="{kind}" data-key="{text("" if key is None else key)}">' for _, key, kind in cells)
    return "<tr>" + "".join(f"{tag}{inside}</td>" for tag, inside in zip(opened, shown, strict=True)) + "</tr>"
