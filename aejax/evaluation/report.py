"""A report of a run in one HTML file that reads no other: metrics, pictures and a map of the codes."""

import datetime
import html
import io
import json
import platform
import re
from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path
from string import Template
from typing import Any

import jax
import matplotlib
from matplotlib.figure import Figure

from aejax import config as config_lib
from aejax.evaluation import interactive
from aejax.evaluation.pictures import Picture
from aejax.evaluation.pictures.style import CLASSES, INK, MUTED, style
from aejax.evaluation.subject import Measures, Skipped, Subject
from aejax.files import local, write_whole

# Words of the names of metrics that are written in capitals.
ACRONYMS = {"auroc", "dci", "elbo", "kl", "knn", "mig", "pca", "psnr", "sap", "ssim"}


def write(
    subject: Subject,
    measures: Mapping[str, Measures],
    figures: Mapping[str, Picture | Skipped],
    folder: str | Path,
    projection: str = "pca",
) -> Path:
    """Writes `report.html` to the folder and returns its path.

    Args:
      measures: by group, as `evaluate` yields them.
      figures: by name; "map" stands as an interactive map in the place of its figure.
      projection: of the map, see `pictures.latents.project`.
    """
    run = subject.run
    config = config_lib.to_dict(run.config)
    title = f"{config['bottleneck']['name']} autoencoder on {config['data']['name']}".replace("_", " ")
    mapped = isinstance(figures.get("map"), Picture)
    view = interactive.view(subject, projection) if mapped else interactive.View("", "", {})
    pictures = {name: p for name, p in figures.items() if name != "map" or isinstance(p, Skipped)}
    page = Template((resources.files("aejax.evaluation") / "report.html").read_text("utf-8")).substitute(
        title=_text(title[0].upper() + title[1:]),
        subtitle=_text(f"Step {run.step:,}, {datetime.date.today():%d %B %Y}"),
        facts="".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in _facts(subject).items()),
        config=_text(json.dumps(config, indent=2)),
        colours=" ".join(f"--c{k}: {c};" for k, c in enumerate(CLASSES)) + " --c-1: var(--muted);",
        fills="\n".join(f".c{k} {{ fill: var(--c{k}); background: var(--c{k}); }}" for k in range(-1, len(CLASSES))),
        sprites=view.rules,
        body=_tables(measures) + view.section + _figures(pictures),
        # In a script nothing is unescaped, so that no "<" may stand there.
        data=json.dumps(view.data).replace("<", "\\u003c"),
    )
    file = local(folder) / "report.html"
    write_whole(file, page)
    return file


def svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element in the page's own ink, text as text."""
    buffer = io.StringIO()
    with style(), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", bbox_inches="tight", transparent=True, metadata=nothing)
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(INK, "currentColor").replace(MUTED, "var(--muted)")
    # Matplotlib numbers its groups in every figure alike, and nothing refers to them; what is referred to has a hash.
    return re.sub(r' id="[A-Za-z.]+(2d)?_\d+"', "", drawn)


def _text(value: Any) -> str:
    return html.escape(str(value))


def _words(name: str) -> str:
    """A metric's or a picture's name as one reads it."""
    words = [w.upper() if w in ACRONYMS else w for w in name.split("_")]
    return _text(" ".join([words[0][:1].upper() + words[0][1:], *words[1:]]))


def _facts(subject: Subject) -> dict[str, str]:
    """What one must know of a run to read its figures."""
    run, config = subject.run, subject.run.config
    sections = {key: config_lib.to_dict(config[key]) for key in ("encoder", "bottleneck", "decoder", "likelihood")}
    weights = config_lib.to_dict(config.objective.weights)
    versions = {p: metadata.version(p) for p in ("aejax", "jax", "flax", "numpy")} | {
        "Python": platform.python_version()
    }
    return {
        "Data": f"{config.data.name}; {subject.test}, {subject.train}",
        "Shapes": f"{_shape(run.spec.shape)} to {_shape(run.latents.shape[1:])}",
        **{key.capitalize(): _section(section) for key, section in sections.items()},
        "Terms": ", ".join(f"{k} (weight {v:g})" for k, v in weights.items()) or "none but the reconstruction",
        "Versions": ", ".join(f"{k} {v}" for k, v in versions.items()),
        "Device": jax.devices()[0].device_kind,
    }


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _section(section: dict[str, Any]) -> str:
    plain = {k: ", ".join(map(str, v)) if isinstance(v, list) else v for k, v in section.items() if k != "name"}
    rest = "; ".join(f"{k.replace('_', ' ')} {v}" for k, v in plain.items())
    return f"{section['name']} ({rest})" if rest else section["name"]


def _tables(measures: Mapping[str, Measures]) -> str:
    """A table for each group, then what was skipped."""
    parts: list[str] = []
    skipped: dict[str, list[str]] = {}  # metrics by reason
    for group, found in measures.items():
        rows = []
        for name, m in found.items():
            if isinstance(m, Skipped):
                skipped.setdefault(m.reason, []).append(_words(name))
                continue
            cells = {"value": f"{m.value:.4g}", "unit": m.unit, "protocol": m.protocol}
            columns = "".join(f'<td class="{k}">{_text(v)}</td>' for k, v in cells.items())
            rows.append(f'<tr><th scope="row">{_words(name)}</th>{columns}</tr>')
        if rows:
            heads = "".join(f'<th scope="col">{h}</th>' for h in ("Metric", "Value", "Unit", "How it was measured"))
            parts.append(_table(_words(group), f"<thead><tr>{heads}</tr></thead>", rows))
    if skipped:
        rows = [
            f'<tr><th scope="row">{", ".join(names)}</th><td class="reason">{_text(reason)}</td></tr>'
            for reason, names in skipped.items()
        ]
        parts.append(_table("Not measured", "", rows))
    return f"<section><h2>Metrics</h2>{''.join(parts)}</section>" if parts else ""


def _table(title: str, head: str, rows: list[str]) -> str:
    return f'<div class="card metrics"><h3>{title}</h3><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _figures(figures: Mapping[str, Picture | Skipped]) -> str:
    drawn, skipped = [], []
    for name, p in figures.items():
        if isinstance(p, Skipped):
            skipped.append(f"<li>{_words(name)}: {_text(p.reason)}</li>")
            continue
        caption = _text(p.caption)
        image = svg(p.figure, name).replace("<svg", f'<svg role="img" aria-label="{caption}"', 1)
        drawn.append(f'<figure class="card"><h3>{_words(name)}</h3>{image}<figcaption>{caption}</figcaption></figure>')
    left_out = f'<p class="muted">Left out:</p><ul class="muted">{"".join(skipped)}</ul>' if skipped else ""
    return f'<section><h2>Pictures</h2><div class="figures">{"".join(drawn)}</div>{left_out}</section>'
