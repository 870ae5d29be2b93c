"""The report of a run in one HTML file that reads no other: figures, pictures, a map of the codes."""

import datetime
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from aejax import config as config_lib
from aejax.evaluation import interactive, latent_page
from aejax.evaluation.family import family
from aejax.evaluation.page import Section, Tile, facts, gallery, render, text, words
from aejax.evaluation.pictures import Picture
from aejax.evaluation.subject import Measure, Measures, Skipped, Subject
from aejax.files import local, write_whole

# A tile for the first metric of each line that was measured.
_HEADLINES = (
    ("squared_error",),
    ("pca_squared_error",),
    ("log_likelihood", "elbo"),
    ("perplexity", "l0", "active_units", "variance_explained"),
    ("linear_probe_accuracy", "mig"),
    ("auroc_squared_error", "frechet_distance"),
)
_FIRST = (
    "reconstructions",
    "error_maps",
    "samples",
    "plane",
    "traversals",
    "interpolations",
)  # of the pictures, in this order


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
      figures: by name; an interactive map replaces the figure named "map".
      projection: of the map, see `pictures.latents.project`.
    """
    run = subject.run
    config = config_lib.to_dict(run.config)
    rules, codes, data = "", "", None
    if isinstance(figures.get("map"), Picture):
        rules, codes, data = interactive.view(subject, projection)
    names = [*(n for n in _FIRST if n in figures), *(n for n in figures if n not in _FIRST)]
    pictures = {n: figures[n] for n in names if n != "map" or not codes}
    sections = [Section("pictures", "Pictures", gallery(pictures, words))] if pictures else []
    sections += [Section("codes", "Map of the codes", codes)] if codes else []
    if not isinstance(latents := latent_page.view(subject), Skipped):
        rules += latents[0]
        sections += [Section("latents", "Latents", latents[1])]
    sections += [_metrics(measures), _about(subject)] if measures else [_about(subject)]
    page = render(
        title=f"{family(config)} on {config['data']['name']}".replace("_", " "),
        subtitle=f"{_shapes(subject)}, step {run.step:,}, {subject.test}, {datetime.date.today():%d %B %Y}",
        tiles=_tiles(measures),
        sections=sections,
        config=config,
        rules=rules,
        data=data,
    )
    file = local(folder) / "report.html"
    write_whole(file, page)
    return file


def _tiles(measures: Mapping[str, Measures]) -> list[Tile]:
    """Returns the headline figures, those of the first metric of each line that was measured."""
    found = {name: m for group in measures.values() for name, m in group.items() if isinstance(m, Measure)}
    chosen = [next((n for n in names if n in found), None) for names in _HEADLINES]
    return [Tile(words(n), f"{found[n].value:.4g}", found[n].unit) for n in chosen if n]


def _metrics(measures: Mapping[str, Measures]) -> Section:
    """Returns a card for each group, whose metrics unfold to their protocols; then what was not measured, and why."""
    cards: list[str] = []
    parts: dict[str, str] = {}
    skipped: dict[str, list[str]] = {}  # metrics by reason
    for group, found in measures.items():
        rows = []
        for name, m in found.items():
            if isinstance(m, Skipped):
                skipped.setdefault(m.reason, []).append(words(name))
                continue
            cells = {"name": words(name), "value": f"{m.value:.4g}", "unit": m.unit}
            line = " ".join(f'<span class="{k}">{text(v)}</span>' for k, v in cells.items())
            protocol = f'<p class="protocol">{text(m.protocol)}</p>'
            rows.append(f'<details class="metric"><summary>{line}</summary>{protocol}</details>')
        if rows:
            parts[f"metrics-{group}"] = words(group)
            title = f"<h3>{text(words(group))}</h3>"
            cards.append(f'<div class="card metrics" id="metrics-{group}">{title}{"".join(rows)}</div>')
    if skipped:
        parts["skipped"] = "Not measured"
        lines = facts({", ".join(names): reason for reason, names in skipped.items()})
        cards.append(f'<div class="card metrics" id="skipped"><h3>Not measured</h3>{lines}</div>')
    hint = '<p class="muted">Each metric unfolds to how it was measured. <button id="unfold">Unfold all</button></p>'
    return Section("metrics", "Metrics", (hint if len(parts) > bool(skipped) else "") + "".join(cards), parts)


def _about(subject: Subject) -> Section:
    """Returns what a reader must know of the run to judge its figures."""
    config = subject.run.config
    modules = {key: config_lib.to_dict(config[key]) for key in ("encoder", "bottleneck", "decoder", "likelihood")}
    weights = config_lib.to_dict(config.objective.weights)
    versions = {p: metadata.version(p) for p in ("aejax", "jax", "flax", "numpy")} | {
        "Python": platform.python_version()
    }
    found = {
        "Data": f"{config.data.name}; {subject.test}, {subject.train}",
        "Shapes": _shapes(subject),
        **{key.capitalize(): _module(module) for key, module in modules.items()},
        "Terms": ", ".join(f"{k} (weight {v:g})" for k, v in weights.items()) or "only the reconstruction",
        **({"Changes": "; ".join(map(str, subject.run.changes))} if subject.run.changes else {}),
        "Versions": ", ".join(f"{k} {v}" for k, v in versions.items()),
        "Device": jax.devices()[0].device_kind,
    }
    return Section("run", "The run", facts(found))


def _shapes(subject: Subject) -> str:
    inputs, code = (" x ".join(map(str, s)) for s in (subject.run.spec.shape, subject.run.latents.shape[1:]))
    return f"{inputs} to {code}"


def _module(section: Mapping[str, Any]) -> str:
    """Returns the name and the options of a module of the config."""
    plain = {k: ", ".join(map(str, v)) if isinstance(v, list) else v for k, v in section.items() if k != "name"}
    rest = "; ".join(f"{k.replace('_', ' ')} {v}" for k, v in plain.items())
    return f"{section['name']} ({rest})" if rest else section["name"]
